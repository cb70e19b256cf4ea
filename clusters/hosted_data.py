"""What etcd of a Hosted control plane lies on: nodes chosen, volumes filled from a snapshot, folders cleared."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from clusters import etcd, kube_exec, placing
from clusters.hosted_manifests import (
    FOLDERS,
    PLANE,
    claim_name,
    hosting,
    labels,
    member_names,
    objects,
    peer_url,
    place,
    pod_basics,
    security,
    volumes,
)
from clusters.kube import Kube
from clusters.meta import Live, bring, collection, delete, path_of
from clusters.placing import Placing, placing_of, standing
from clusters.planes import ETCD, Plane, Snapshot
from fleet.control.errors import PermanentError, TemporaryError
from fleet.control.kinds import Json

FILL_SECONDS: Final = 40.0  # of one pass; the next one goes on
_TOOLS: Final = "etcd-data"  # component of the pods that work on volumes
_HERE: Final = "/var/lib/fleet"  # where they have the volume
_HOSTNAME: Final = "kubernetes.io/hostname"


# -- places ---------------------------------------------------------------------------------------------------------------


async def choose(kube: Kube, plane: Plane) -> Placing:
    """The place of a plane, new or as it was; a member is placed anew only when its node is gone and others are left."""
    before, meta = placing_of(plane), hosting(plane)
    nodes = (await kube.get("/api/v1/nodes"))["items"]
    there = {n["metadata"]["name"] for n in nodes}
    lost: set[int] = set()
    if before is None:
        await _check_namespace(kube, plane)
    elif not meta.storage_class:
        for i, member in enumerate(before.members):
            # A list that lacks a node is not believed at once.
            if member.node not in there and await kube.find(f"/api/v1/nodes/{member.node}") is None:
                lost.add(i)
    if before is not None and not lost:
        return before
    return placing.place(plane, nodes, await _carried(kube, nodes), frozenset(lost))


async def _check_namespace(kube: Kube, plane: Plane) -> None:
    meta = hosting(plane)
    found = await kube.find(f"/api/v1/namespaces/{meta.namespace}")
    if meta.shared and found is None:
        text = f"the meta cluster {meta.name} has no namespace {meta.namespace}; make it, or leave spec.controlPlane.namespace out"
        raise TemporaryError("NoNamespace", text)
    if not meta.shared and found is not None and found["metadata"].get("labels", {}).get(PLANE) != plane.uid:
        text = f"the namespace {meta.namespace} of the meta cluster {meta.name} is there already and not Fleet's for this cluster"
        raise PermanentError("NamespaceTaken", text)


async def _carried(kube: Kube, nodes: Sequence[Json]) -> dict[str, int]:
    """Members of all Hosted control planes by node."""
    found = (await kube.get(collection("PersistentVolume", ""), labelSelector=PLANE))["items"]
    by_hostname = Counter(hostname_of(volume) for volume in found)
    return {n["metadata"]["name"]: by_hostname[n["metadata"].get("labels", {}).get(_HOSTNAME, "")] for n in nodes}


def hostname_of(volume: Json) -> str:
    """The label of the node that a volume of Fleet's is bound to."""
    terms = volume["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", [])
    return str(terms[0]["matchExpressions"][0]["values"][0]) if terms else ""


# -- volumes --------------------------------------------------------------------------------------------------------------


async def fill(kube: Kube, plane: Plane, source: Snapshot, tools: str) -> None:
    """The data of all members from a snapshot; what was there before stays beside it. TemporaryError while it goes on."""
    end = asyncio.get_running_loop().time() + FILL_SECONDS
    await _drop_moved(kube, plane)
    for wanted in [o for o in objects(plane, ETCD) if o["kind"] in ("Namespace", "PersistentVolume", "ConfigMap")]:
        await bring(kube, plane, wanted)
    for name in member_names(plane):
        await bring(kube, plane, _claim(plane, name))
        pod = _fill_pod(plane, name, source, tools)
        await bring_pod(kube, pod)
        while not await _filled(kube, pod, source):
            if asyncio.get_running_loop().time() > end:
                raise TemporaryError("Restoring", f"the volume of {name} is being filled")
            await asyncio.sleep(0.5)


async def _drop_moved(kube: Kube, plane: Plane) -> None:
    """Volumes on nodes that are gone cannot be filled: their claims are made anew, at the member's new place."""
    for name, wanted in zip(member_names(plane), volumes(plane), strict=False):
        found = await kube.find(path_of(wanted))
        if found is None or hostname_of(found) == hostname_of(wanted):
            continue
        await kube.delete(path_of(_claim(plane, name)))
        await kube.delete(path_of(wanted))
        if await kube.find(path_of(wanted)) is not None:
            raise TemporaryError("Restoring", f"the old volume of {name} is going")


async def clear_tools(kube: Kube, live: Live) -> None:
    """Pods that worked on volumes are of no use once etcd is to run."""
    await delete(kube, live, "Pod", component=_TOOLS)


async def bring_pod(kube: Kube, pod: Json) -> None:
    """A pod, unless it is there."""
    if await kube.find(path_of(pod)) is None:
        await kube.create(path_of(pod).rpartition("/")[0], pod)


async def _filled(kube: Kube, pod: Json, source: Snapshot) -> bool:
    """Whether it is done; the snapshot is sent when the pod waits for it."""
    found = await kube.get(path_of(pod))
    status = found.get("status", {})
    if status.get("phase") == "Succeeded":
        return True
    if status.get("phase") == "Failed":
        await kube.delete(path_of(pod))
        raise TemporaryError("RestoreFailed", f"{pod['metadata']['name']}: {_last_words(status)}")
    receive: Json = next((c for c in status.get("initContainerStatuses", []) if c["name"] == "receive"), {})
    if "running" in receive.get("state", {}):
        meta = pod["metadata"]
        text = f"head -c {source.size} > {_HERE}/part && mv {_HERE}/part {_HERE}/snapshot.db"
        await kube_exec.run(
            kube, meta["namespace"], meta["name"], "receive", ["sh", "-c", text], stdin=source.path, seconds=FILL_SECONDS
        )  # fmt: skip
    return False


def _last_words(status: Json) -> str:
    for each in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        ended = each.get("state", {}).get("terminated", {})
        if ended.get("exitCode"):
            said = str(ended.get("message", "")).strip().splitlines()
            return f"{each['name']} ended with {ended['exitCode']}: {said[-1] if said else ended.get('reason', '')}"[
                :300
            ]
    return str(status.get("message", "ended early"))


def _claim(plane: Plane, name: str) -> Json:
    """As the StatefulSet makes it."""
    (workload,) = (o for o in objects(plane, ETCD) if o["kind"] == "StatefulSet")
    template = workload["spec"]["volumeClaimTemplates"][0]
    meta = {"name": claim_name(name), "namespace": standing(plane).namespace, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": template["spec"]}


def _tool(name: str, image: str, words: Sequence[str]) -> Json:
    return {
        "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": list(words), "securityContext": security(),
        "terminationMessagePolicy": "FallbackToLogsOnError", "volumeMounts": [{"name": "data", "mountPath": _HERE}],
    }  # fmt: skip


def _pod(plane: Plane, name: str, spec: Json) -> Json:
    meta = {"name": name, "namespace": standing(plane).namespace, "labels": labels(plane, _TOOLS)}
    whole = {**pod_basics(), "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": whole}


def _fill_pod(plane: Plane, name: str, source: Snapshot, tools: str) -> Json:
    wait = f"rm -rf {_HERE}/fresh {_HERE}/part {_HERE}/snapshot.db; until [ -e {_HERE}/snapshot.db ]; do sleep 1; done"
    peers = place(plane, ETCD).peers()
    load = etcd.restore_words(f"{_HERE}/snapshot.db", f"{_HERE}/fresh", name, peers, peer_url(plane, name))
    swap = f"cd {_HERE} && rm -rf before && if [ -e data ]; then mv data before; fi && mv fresh data && rm snapshot.db"
    return _pod(
        plane,
        f"{name}-fill-{source.sha256[:8]}",
        {
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim_name(name)}}],
            "initContainers": [
                _tool("receive", tools, ["sh", "-c", wait]),
                _tool("load", plane.components[ETCD].image, ["etcdutl", *load]),
            ],
            "containers": [_tool("swap", tools, ["sh", "-c", swap])],
        },
    )


def _wipe_pod(plane: Plane, volume: Json, node: str, tools: str) -> Json:
    """Takes the folder of a member away, and the plane's own once it is empty."""
    path = volume["spec"]["hostPath"]["path"]
    member = path.rpartition("/")[2]
    assert path == f"{FOLDERS}/{plane.uid}/{member}" and member, path
    own = f"{_HERE}/{plane.uid}"
    words = f"rm -rf {own}/{member} && (rmdir {own} 2>/dev/null || true)"
    return _pod(
        plane,
        f"wipe-{member}",
        {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": "data", "hostPath": {"path": FOLDERS, "type": "DirectoryOrCreate"}}],
            # Others' folders lie beside it: what is taken away is named in full.
            "containers": [_tool("wipe", tools, ["sh", "-c", words])],
        },
    )


async def clear(kube: Kube, plane: Plane, live: Live, tools: str) -> bool:
    """Once no pod of the plane runs: claims, folders on nodes, volumes, the namespace where Fleet made it. True = nothing is left."""
    working = [o for (kind, _), o in live.objects.items() if kind == "Pod"]
    if any(p["metadata"]["labels"].get("app.kubernetes.io/component") != _TOOLS for p in working):
        return False
    await delete(kube, live, "PersistentVolumeClaim")
    remain = [o for (kind, _), o in live.objects.items() if kind == "PersistentVolume"]
    if remain:
        nodes = {
            n["metadata"].get("labels", {}).get(_HOSTNAME, n["metadata"]["name"]): n["metadata"]["name"]
            for n in (await kube.get("/api/v1/nodes"))["items"]
        }
        for volume in remain:
            await _clear_volume(kube, plane, volume, nodes.get(hostname_of(volume), ""), tools)
        return False
    await delete(kube, live, "Pod", "Namespace")
    return not live.objects


async def _clear_volume(kube: Kube, plane: Plane, volume: Json, node: str, tools: str) -> None:
    """Its folder is wiped by a pod on its node, then it goes; a node that is gone took the folder along."""
    if not node or await wiped(kube, plane, volume, node, tools):
        await kube.delete(path_of({**volume, "kind": "PersistentVolume"}))


async def wiped(kube: Kube, plane: Plane, volume: Json, node: str, tools: str) -> bool:
    """Whether the folder of a volume is gone; a pod is at it until then, and stays to tell so."""
    pod = _wipe_pod(plane, volume, node, tools)
    await bring_pod(kube, pod)
    status = (await kube.get(path_of(pod))).get("status", {})
    if status.get("phase") == "Failed":
        await kube.delete(path_of(pod))
        text = f"the folder of {volume['metadata']['name']} on node {node}: {_last_words(status)}"
        raise TemporaryError("NotWiped", text)
    return bool(status.get("phase") == "Succeeded")
