"""A meta cluster as Fleet works in it: objects of one control plane found by their label, applied, put right and taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from clusters.hosted_manifests import COMPONENT, PLANE, difference
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.placing import standing
from clusters.planes import Plane
from fleet.control.addresses import Network
from fleet.control.errors import PermanentError, TemporaryError
from fleet.control.kinds import Json

_CORE: Final = "/api/v1"
_ATTEMPTS: Final = 5
_GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    "Pod": (_CORE, "pods"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Service": (_CORE, "services"),
    "Secret": (_CORE, "secrets"),
    "ConfigMap": (_CORE, "configmaps"),
    "PersistentVolumeClaim": (_CORE, "persistentvolumeclaims"),
}
WORKLOADS: Final = ("Deployment", "StatefulSet")
KINDS: Final = tuple(_GROUPS)  # of a namespace; pods of workloads end with these
_WIDE: Final[Mapping[str, str]] = {"Namespace": "namespaces", "PersistentVolume": "persistentvolumes"}


def collection(kind: str, namespace: str) -> str:
    """Path of all objects of a kind."""
    if kind in _WIDE:
        return f"{_CORE}/{_WIDE[kind]}"
    prefix, plural = _GROUPS[kind]
    return f"{prefix}/namespaces/{namespace}/{plural}"


def path_of(obj: Json) -> str:
    """Path of an object."""
    meta = obj["metadata"]
    return f"{collection(obj['kind'], meta.get('namespace', ''))}/{meta['name']}"


@asynccontextmanager
async def meta_cluster(plane: Plane, networks: Sequence[Network]) -> AsyncIterator[Kube]:
    """A client of the plane's meta cluster; what it refuses and when it does not answer become sentences."""
    meta = plane.meta
    assert meta is not None
    if meta.endpoint is None:
        raise TemporaryError(
            "MetaClusterNotReachable", f"the meta cluster {meta.name} has no API server that answers yet"
        )
    try:
        async with Kube(meta.endpoint, networks=networks) as kube:
            yield kube
    except KubeUnreachable as error:
        raise TemporaryError(
            "MetaClusterNotReachable", f"the meta cluster {meta.name} does not answer: {error}"
        ) from error
    except KubeError as error:
        text = f"the meta cluster {meta.name} refuses: {error.message}"
        if error.code in (400, 422):
            raise PermanentError("MetaClusterRefused", text) from error
        raise TemporaryError("MetaClusterRefused", text) from error


@dataclass(frozen=True, slots=True)
class Live:
    """What is there of a plane, by kind and name."""

    objects: Mapping[tuple[str, str], Json] = field(default_factory=dict)

    def of(self, wanted: Json) -> Json | None:
        """The live one of an object."""
        return self.objects.get((wanted["kind"], wanted["metadata"]["name"]))

    def count(self, component: str, *kinds: str) -> int:
        """How many objects of these kinds a component has."""
        return sum(
            k in kinds and o["metadata"]["labels"].get(COMPONENT) == component for (k, _), o in self.objects.items()
        )

    def pods(self, component: str) -> list[Json]:
        """Pods of a component, by name; those that are being deleted are gone already."""
        found = [
            o for (kind, _), o in sorted(self.objects.items())
            if kind == "Pod" and o["metadata"]["labels"].get(COMPONENT) == component
        ]  # fmt: skip
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]


def is_ready(pod: Json) -> bool:
    """Whether a pod is Ready."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


async def look(kube: Kube, plane: Plane) -> Live:
    """Everything of a plane; one request a kind, side by side."""
    namespace = standing(plane).namespace

    async def listed(kind: str) -> list[Json]:
        page = await kube.get(collection(kind, namespace), labelSelector=f"{PLANE}={plane.uid}")
        return [{**item, "kind": kind} for item in page["items"]]

    found = await asyncio.gather(*(listed(kind) for kind in (*KINDS, *_WIDE)))
    return Live({(o["kind"], o["metadata"]["name"]): o for page in found for o in page})


async def bring(kube: Kube, plane: Plane, wanted: Json) -> None:
    """One object as it shall be. Nothing of another's is taken over."""
    path = path_of(wanted)
    live = await kube.find(path)
    if live is not None and live["metadata"].get("labels", {}).get(PLANE) != plane.uid:
        raise PermanentError(
            "NotOurs", f"{_named(wanted)} of the meta cluster is not Fleet's for this cluster; it is left alone"
        )
    if live is not None and not difference(wanted, live):
        return
    stored = await kube.apply(path, wanted)
    if difference(wanted, stored):
        stored = await _replace(kube, path, wanted, stored)
    still = difference(wanted, stored)
    if still:
        raise PermanentError(
            "Altered", f"something in the meta cluster gives {_named(wanted)} another {still} than Fleet applies"
        )


async def _replace(kube: Kube, path: str, wanted: Json, stored: Json) -> Json:
    """Fields that others added beside ours in lists go only when the whole is written: the spec as it is wanted, defaults made anew."""
    for attempt in range(_ATTEMPTS):
        kept = {k: v for k in ("annotations", "finalizers", "resourceVersion") if (v := stored["metadata"].get(k))}
        whole = {**wanted, "metadata": {**kept, **wanted["metadata"]}}
        try:
            await kube.send("PUT", path, body=whole, params={"fieldManager": "fleet-repair"})
            break
        except KubeError as error:
            if error.code != 409 or attempt == _ATTEMPTS - 1:
                raise
            stored = await kube.get(path)  # its controller wrote the status in between
    return await kube.apply(path, wanted)


def _named(obj: Json) -> str:
    return f"{obj['kind']} {obj['metadata']['name']}"


async def delete(kube: Kube, live: Live, *kinds: str, component: str = "") -> int:
    """Delete what there is of these kinds, of one component or of all; how many there were."""
    found = [
        o for (kind, _), o in live.objects.items()
        if kind in kinds and (not component or o["metadata"]["labels"].get(COMPONENT) == component)
    ]  # fmt: skip
    for obj in found:
        if "deletionTimestamp" not in obj["metadata"]:
            # A workload stays until its pods are gone: one that is deleted at once may still make another pod.
            how = "Foreground" if obj["kind"] in WORKLOADS else "Background"
            await kube.delete(path_of(obj), uid=obj["metadata"]["uid"], propagation=how)
    return len(found)
