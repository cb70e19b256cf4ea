"""Members of etcd of a Hosted control plane: how Fleet reaches them, and how one that is lost for good is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from clusters import etcd
from clusters.hosted_data import hostname_of, wiped
from clusters.hosted_manifests import (
    claim_name,
    hosting,
    member_names,
    objects,
    peer_url,
    start_map,
    volume_name,
    volumes,
)
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.meta import Live, bring, collection, is_ready
from clusters.placing import standing
from clusters.planes import ETCD, Plane
from fleet.control import clock
from fleet.control.addresses import Network
from fleet.control.endpoint import Endpoint
from fleet.control.errors import TemporaryError
from fleet.control.kinds import Json
from fleet.control.times import parse_time

BROKEN_AFTER: Final = timedelta(minutes=10)  # that a member does not get ready while others are, on a node that is
_STARTS: Final = 3  # that it failed in the meantime
_REPLACED: Final = "fleet.dev/replaced"  # on the volume of a member whose data is given up


def client(plane: Plane, pods: Sequence[Json]) -> Endpoint:
    """How Fleet reaches etcd: a member that is ready, at the address of its node."""
    found = [p["status"]["hostIP"] for p in pods if is_ready(p)]
    if not found:
        raise TemporaryError("EtcdNotReady", "no member of etcd is ready")
    files, port = plane.files, hosting(plane).port + 1
    return Endpoint(
        f"https://{found[0]}:{port}", ca=files["etcd-ca.crt"], certificate=files["apiserver-etcd-client.crt"],
        key=files["apiserver-etcd-client.key"], server_name="localhost",
    )  # fmt: skip


def lost(plane: Plane, live: Live, now: datetime) -> dict[str, str]:
    """Members that have to be replaced, and why. Never the last one, nor one whose node is only away."""
    if plane.etcd_replicas == 1:
        return {}
    out = {}
    for name, wanted in zip(member_names(plane), volumes(plane), strict=False):
        volume = live.of(wanted)
        if volume is None:
            continue
        if hostname_of(volume) != hostname_of(wanted):
            out[name] = f"the node of {name} is gone"
        elif _REPLACED in volume["metadata"].get("annotations", {}) or _is_broken(live, name, now):
            out[name] = f"the data of {name} is of no use"
    return out


def _is_broken(live: Live, name: str, now: datetime) -> bool:
    """Whether it was started again and again and never got ready: its node and the other members are well."""
    pods = {p["metadata"]["name"]: p for p in live.pods(ETCD)}
    pod = pods.pop(name, None)
    if pod is None or is_ready(pod) or not pods or not all(is_ready(p) for p in pods.values()):
        return False
    starts = sum(c.get("restartCount", 0) for c in pod["status"].get("containerStatuses", []))
    begun = parse_time(pod["status"].get("startTime", ""))
    return starts >= _STARTS and begun is not None and now - begun >= BROKEN_AFTER


async def replace_lost(kube: Kube, plane: Plane, live: Live, networks: Sequence[Network], tools: str) -> None:
    """Removed, added anew at its place, its claim and volume made afresh. Only with a quorum of the others.

    The volume goes last: as long as it is there, whoever passes next begins here again.
    """
    for name, why in lost(plane, live, clock.now()).items():
        pods = [p for p in live.pods(ETCD) if p["metadata"]["name"] != name]
        ready = sum(is_ready(p) for p in pods)
        if ready <= plane.etcd_replicas // 2:
            text = f"{why} and {ready} of {plane.etcd_replicas} members of etcd are ready: a person has to restore a snapshot"
            raise TemporaryError("NoQuorum", text)
        volume = live.objects[("PersistentVolume", volume_name(plane, name))]
        is_new = _REPLACED not in volume["metadata"].get("annotations", {})
        await _change_membership(plane, name, pods, networks, is_new=is_new)
        if is_new:
            path = f"{collection('PersistentVolume', '')}/{volume_name(plane, name)}"
            await kube.patch(path, {"metadata": {"annotations": {_REPLACED: "true"}}})
        for wanted in (*(o for o in objects(plane, ETCD) if o["kind"] == "Secret"), start_map(plane, "existing")):
            await bring(kube, plane, wanted)
        await _clear(kube, plane, name, volume, tools)


async def _change_membership(
    plane: Plane, name: str, pods: Sequence[Json], networks: Sequence[Network], *, is_new: bool
) -> None:
    """The old one counts no longer, one at its place may join. Once only: the fresh one has the name of the old."""
    try:
        async with Kube(client(plane, pods), networks=networks) as members:
            peer, known = peer_url(plane, name), await etcd.members(members)
            for member in [m for m in known if m.name == name and (is_new or peer not in m.peers)]:
                await etcd.remove_member(members, member)
                known.remove(member)
            if not any(peer in member.peers for member in known):
                await etcd.add_member(members, peer)
    except (KubeError, KubeUnreachable) as error:
        raise TemporaryError("EtcdRefused", f"etcd does not replace {name} now: {error}") from error


async def _clear(kube: Kube, plane: Plane, name: str, volume: Json, tools: str) -> None:
    namespace = standing(plane).namespace
    nodes = (await kube.get("/api/v1/nodes"))["items"]
    there = [
        n["metadata"]["name"]
        for n in nodes
        if n["metadata"].get("labels", {}).get("kubernetes.io/hostname") == hostname_of(volume)
    ]
    await kube.delete(f"{collection('PersistentVolumeClaim', namespace)}/{claim_name(name)}")
    await kube.delete(f"{collection('Pod', namespace)}/{name}", grace_seconds=None if there else 0)
    if there and not await wiped(kube, plane, volume, there[0], tools):
        raise TemporaryError(
            "MemberReplaced", f"{name} is replaced: its old folder on node {there[0]} is being cleared"
        )
    path = f"{collection('PersistentVolume', '')}/{volume_name(plane, name)}"
    await kube.delete(path)
    if await kube.find(path) is not None:
        raise TemporaryError("MemberReplaced", f"{name} is replaced: its old volume is going")
