"""Provider Hosted: a control plane as pods of a meta cluster, kube-on-kube."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from clusters import etcd, hosted_data, hosted_members, placing
from clusters.hosted_manifests import DIGEST, START, VERSION, count, difference, member_hosts, objects
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.meta import WORKLOADS, Live, bring, delete, is_ready, look, meta_cluster
from clusters.placing import placing_of, standing
from clusters.planes import APISERVER, COMPONENTS, ETCD, ComponentSeen, Plane, Snapshot
from fleet.control import clock
from fleet.control.addresses import Network
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, ReconcileError, TemporaryError
from fleet.control.kinds import Json

log = logging.getLogger("fleet.clusters")

STOP_SECONDS: Final = 30.0
_NO_IMAGE: Final = "the ClusterPackageVersion names no image, which a Hosted control plane needs"


class Hosted:
    """`networks`: where Fleet may connect to. `tools`: an image with a shell, for what is done to volumes."""

    def __init__(self, networks: Callable[[], Sequence[Network]], tools: str) -> None:
        self._networks, self._tools = networks, tools

    # -- the port ---------------------------------------------------------------------------------------------------

    async def place(self, plane: Plane, *, restoring: bool = False) -> Mapping[str, str]:
        """See `Provider.place`. A place that was chosen stays, but for members whose node is gone; the last one waits for a snapshot."""
        before = placing_of(plane)
        if before is not None and plane.etcd_replicas == 1 and not restoring:
            return {}
        try:
            async with meta_cluster(plane, self._networks()) as kube:
                found = await hosted_data.choose(kube, plane)
        except ReconcileError as error:
            if before is None or restoring:
                raise
            log.info("the control plane of %s stays where it stands: %s", plane.name, error.message)
            return {}
        return {} if found == before else {placing.FILE: found.text()}

    def etcd_names(self, plane: Plane) -> Sequence[str]:
        """See `Provider.etcd_names`."""
        return ("127.0.0.1", "localhost", *member_hosts(plane).values())

    async def observe(self, plane: Plane) -> Sequence[ComponentSeen]:
        """See `Provider.observe`. A meta cluster that does not answer says nothing about its pods."""
        try:
            async with meta_cluster(plane, self._networks()) as kube:
                live = await look(kube, plane)
        except ReconcileError as error:
            return [ComponentSeen(name, ready=None, message=error.message) for name in COMPONENTS]
        answers = any(is_ready(p) for p in live.pods(APISERVER))
        silent = await self._silent(plane) if answers else "no pod of it is ready"
        found = (seen_of(plane, name, live, silent) for name in COMPONENTS)
        return [replace(seen, nodes=nodes_of(plane, seen.name, live)) for seen in found if seen is not None]

    async def apply(self, plane: Plane, component: str) -> None:
        """See `Provider.apply`. The meta cluster replaces pods one at a time, each ready before the next."""
        if not plane.components[component].image:
            raise PermanentError("NoImage", f"{component}: {_NO_IMAGE}")
        async with meta_cluster(plane, self._networks()) as kube:
            live = await look(kube, plane)
            if component == ETCD:
                await hosted_members.replace_lost(kube, plane, live, self._networks(), self._tools)
                await hosted_data.clear_tools(kube, live)
            for wanted in objects(plane, component):
                if wanted["metadata"]["name"] == START and live.of(wanted):
                    continue  # what members started from is changed only when one is replaced
                if wanted["kind"] == "StatefulSet":
                    _guard_quorum(plane, live)  # after the volumes: a member that is replaced waits for its own
                await bring(kube, plane, wanted)
            for pod in live.pods(component):
                if _digest(pod) != plane.digest(component) and not is_ready(pod):
                    await kube.delete(f"/api/v1/namespaces/{standing(plane).namespace}/pods/{pod['metadata']['name']}")

    async def stop(self, plane: Plane, component: str) -> None:
        """See `Provider.stop`: the workload and the keys of its pods go, volumes and addresses stay."""
        if placing_of(plane) is None:
            return
        async with meta_cluster(plane, self._networks()) as kube:
            live = await look(kube, plane)
            await delete(kube, live, *WORKLOADS, "Secret", component=component)
            end = asyncio.get_running_loop().time() + STOP_SECONDS
            while asyncio.get_running_loop().time() < end:
                live = await look(kube, plane)
                if not live.count(component, *WORKLOADS, "Pod"):
                    return
                await asyncio.sleep(0.5)
        raise TemporaryError("StillRunning", f"pods of {component} do not end")

    async def snapshot(self, plane: Plane, target: Path) -> Snapshot:
        """See `Provider.snapshot`: asked of a member that is ready, at its node."""
        async with meta_cluster(plane, self._networks()) as kube:
            live = await look(kube, plane)
        endpoint = hosted_members.client(plane, live.pods(ETCD))
        return await etcd.snapshot(endpoint, target, self._networks())

    async def restore(self, plane: Plane, source: Snapshot) -> None:
        """See `Provider.restore`: each member's volume is filled by a pod while etcd does not run."""
        etcd.check(source)
        await self.stop(plane, ETCD)
        async with meta_cluster(plane, self._networks()) as kube:
            await hosted_data.fill(kube, plane, source, self._tools)

    async def remove(self, plane: Plane) -> bool:
        """See `Provider.remove`."""
        if placing_of(plane) is None:
            return True  # nothing is made before its place is kept
        async with meta_cluster(plane, self._networks()) as kube:
            live = await look(kube, plane)
            await delete(kube, live, *WORKLOADS, "Secret", "ConfigMap", "Service", "PodDisruptionBudget")
            return await hosted_data.clear(kube, plane, live, self._tools)

    def endpoint(self, plane: Plane) -> Endpoint:
        """See `Provider.endpoint`."""
        return Endpoint(
            f"https://{plane.host}:{plane.port}", ca=plane.files["ca.crt"], certificate=plane.files["admin.crt"], key=plane.files["admin.key"]
        )  # fmt: skip

    def lacking(self, plane: Plane) -> Sequence[str]:
        """See `Foresees.lacking`."""
        return [f"{name}: {_NO_IMAGE}" for name in COMPONENTS if not plane.components[name].image]

    async def _silent(self, plane: Plane) -> str:
        """Why the API server gives Fleet no answer at its stable name, "" = it answers.

        One of several that is about to end says that it is not ready and answers all the same: whether it lives is asked. And
        one that has just lost its power is led to until its balancer knows: of several another one is asked as well.
        """
        why = ""
        for _ in range(min(plane.replicas, 2)):
            try:
                async with Kube(self.endpoint(plane), networks=self._networks()) as kube:
                    await kube.send("GET", "/livez", seconds=3)
                return ""
            except (KubeError, KubeUnreachable) as error:
                why = str(error)[:200]
        return why


def nodes_of(plane: Plane, component: str, live: Live) -> frozenset[str]:
    """Nodes that carry it now. A member of etcd belongs to the node of its data, also while its pod is away."""
    found = {p["spec"].get("nodeName", "") for p in live.pods(component)}
    if component == ETCD:
        found |= {m.node for m in standing(plane).members}
    return frozenset(found - {""})


def seen_of(plane: Plane, component: str, live: Live, silent: str) -> ComponentSeen | None:
    """A component from its objects; None = it is not there. Its digest is another one while any of them is not as it shall be."""
    wanted = objects(plane, component)
    workload = live.of(wanted[-1])
    if workload is None:
        return None
    template = workload["spec"]["template"]["metadata"].get("annotations", {})
    digest, version = template.get(DIGEST, ""), template.get(VERSION, "")
    pods = live.pods(component)
    ready, total = sum(is_ready(p) for p in pods), count(plane, component)
    serves = ready >= (total // 2 + 1 if component == ETCD else 1) and not (component == APISERVER and silent)
    if digest == plane.digest(component):
        changed = _changed(wanted, live)
        if changed:
            return ComponentSeen(component, "changed", version, False, ready, total, changed, serves)
        lost = hosted_members.lost(plane, live, clock.now()) if component == ETCD else {}
        if lost:
            return ComponentSeen(component, "lost", version, False, ready, total, "; ".join(lost.values()), serves)
    trouble = "" if ready == total else f"{ready} of {total} pods are ready{_why(pods)}"
    is_up: bool | None = serves and is_rolled_out(workload)
    if component == APISERVER and ready and silent:
        trouble = f"its pods are ready, but it does not answer at {plane.host}:{plane.port}: {silent}"
        is_up = None if is_rolled_out(workload) else False
    return ComponentSeen(component, digest, version, is_up, ready, total, trouble, serves)


def _changed(wanted: Sequence[Json], live: Live) -> str:
    for obj in wanted:
        name = f"{obj['kind']} {obj['metadata']['name']}"
        found = live.of(obj)
        if found is None:
            return f"{name} is gone"
        if obj["metadata"]["name"] == START:
            continue
        where = difference(obj, {**found, "apiVersion": obj["apiVersion"]})
        if where:
            return f"{name} was changed: {where}"
    return ""


def is_rolled_out(workload: Json) -> bool:
    """Whether the controller has brought all pods to the template, once; pods that fail later change nothing of that."""
    status = workload.get("status", {})
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return False
    if workload["kind"] == "StatefulSet":
        done = status.get("currentRevision") == status.get("updateRevision")
        return bool(done) and status.get("replicas") == workload["spec"]["replicas"]
    progress: Json = next((c for c in status.get("conditions", []) if c["type"] == "Progressing"), {})
    return progress.get("reason") == "NewReplicaSetAvailable"


def _digest(pod: Json) -> str:
    return str(pod["metadata"].get("annotations", {}).get(DIGEST, ""))


def _why(pods: Sequence[Json]) -> str:
    """What the first pod that is not ready says."""
    for pod in pods:
        if is_ready(pod):
            continue
        for words in (*_container_words(pod), *_condition_words(pod)):
            return f": {pod['metadata']['name']} {words}"[:400]
    return ""


def _container_words(pod: Json) -> list[str]:
    out = []
    for each in pod.get("status", {}).get("containerStatuses", []):
        state, last = each.get("state", {}), each.get("lastState", {}).get("terminated")
        ended = state.get("terminated") or last
        if ended:
            said = str(ended.get("message", "")).strip().splitlines()
            out.append(f"ended with {ended.get('exitCode')}: {said[-1] if said else ended.get('reason', '')}")
        elif "waiting" in state and state["waiting"].get("reason") not in ("ContainerCreating", "PodInitializing"):
            out.append(f"waits: {state['waiting'].get('reason')}: {state['waiting'].get('message', '')}")
    return out


def _condition_words(pod: Json) -> list[str]:
    found = pod.get("status", {}).get("conditions", [])
    return [f"waits: {c['message']}" for c in found if c["status"] == "False" and c.get("message")][:1]


def _guard_quorum(plane: Plane, live: Live) -> None:
    """A member that is ready is not restarted while another one is not."""
    pods = live.pods(ETCD)
    restarts = [p for p in pods if is_ready(p) and _digest(p) != plane.digest(ETCD)]
    ready = sum(is_ready(p) for p in pods)
    if restarts and plane.etcd_replicas > 1 and ready < plane.etcd_replicas:
        raise TemporaryError(
            "EtcdDegraded",
            f"{ready} of {plane.etcd_replicas} members of etcd are ready; none is restarted until all are",
        )
