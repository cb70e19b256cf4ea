"""Nodes of clusters, changed through their API servers: each write looks at the live node first and is bound to what it saw."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, Protocol

from clusters.access import endpoints
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.ways import networks_of
from fleet.control.db import Connection
from fleet.control.digests import hex64
from fleet.control.kinds import Json
from machines.gates import CLOSED_BY, JOINING_TAINT, NodeRow

log = logging.getLogger(__name__)

NODES: Final = "/api/v1/nodes"
OUR_LABELS: Final = "fleet.dev/labels"
OUR_TAINTS: Final = "fleet.dev/taints"
NO_ACCESS: Final = ("NoAccess", "No way to the cluster's API server is known.")
TRIES: Final = 3  # of one change whose node moved meanwhile
REQUESTS: Final = 20  # of one worker to one API server at a time
_STAMP: Final[LiteralString] = """
SELECT a.updated_at, coalesce(c.spec ->> 'provider', '') FROM cluster_access a JOIN clusters_cluster c ON c.id = a.cluster_id WHERE a.cluster_id = %s
"""


@dataclass(frozen=True, slots=True)
class Dress:
    """Labels and taints that a Machine wants on its node. Taints as (key, effect) -> value."""

    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Json) -> Dress:
        """From the spec of a Machine."""
        return cls(
            spec.get("nodeLabels", {}),
            {(t["key"], t["effect"]): t.get("value", "") for t in spec.get("nodeTaints", ())},
        )

    def fits(self, node: NodeRow) -> bool:
        """Everything wanted stands on the node; what was put there before and is wanted no more is told by `digest`."""
        taints = {(t.get("key", ""), t.get("effect", "")): t.get("value", "") for t in node.taints}
        return self.labels.items() <= node.labels.items() and self.taints.items() <= taints.items()

    @property
    def digest(self) -> str:
        """Another one = something else is wanted; "" = nothing."""
        wanted = [sorted(self.labels.items()), sorted(self.taints.items())]
        return hex64(wanted) if self.labels or self.taints else ""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to one node. `cause` stands in its annotation while Fleet keeps it closed.

    admit: the kubelet's taint becomes a cordon of Fleet's (none when `cause` is ""). open, close: schedulable or not.
    dress: `dress`, the machine's labels and taints, stand on it and those that Fleet put there before do not.
    """

    cluster_id: int
    node: NodeRow
    verb: str
    cause: str = ""
    dress: Dress = Dress()


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of it. `rv` of the node that the patch made, "" without one; `reason` "" when it is as wanted."""

    rv: str = ""
    reason: str = ""
    message: str = ""


class Clusters(Protocol):
    """API servers by cluster id."""

    async def kube(self, conn: Connection, cluster_id: int) -> Kube | None:
        """The client of a cluster, None where no way to it is known."""
        ...


@dataclass(slots=True)
class KeptClusters:
    """Clients that outlive a pass; made anew when the way to a cluster changes."""

    _kept: dict[int, tuple[Any, Kube]] = field(default_factory=dict)

    async def kube(self, conn: Connection, cluster_id: int) -> Kube | None:
        found = await (await conn.execute(_STAMP, [cluster_id], prepare=True)).fetchone()
        kept = self._kept.get(cluster_id)
        if kept is not None and kept[0] != found:
            await kept[1].close()
            del self._kept[cluster_id]
            kept = None
        if found is None:
            return None
        if kept is None:
            opened = await endpoints(conn, [cluster_id])
            kube = Kube(opened[cluster_id], networks=networks_of(found[1]), requests=REQUESTS, agent="fleet-worker")
            self._kept[cluster_id] = kept = (found, kube)
        return kept[1]

    async def close(self) -> None:
        """At the end of the process."""
        for _, kube in self._kept.values():
            await kube.close()
        self._kept.clear()


def trouble(error: KubeError | KubeUnreachable, doing: str = "refused") -> tuple[str, str]:
    """(reason, sentence) of a request that came to nothing. `doing`: what the API server did, in the sentence."""
    if isinstance(error, KubeError):
        return "ApiRefused", f"The API server {doing}: {error.reason}: {error.message}"
    return "ApiUnreachable", str(error)


async def change_all(conn: Connection, clusters: Clusters, changes: Sequence[Change]) -> list[Changed]:
    """All of them side by side, as many at a time as each API server may get. Never raises for one node's sake."""
    kubes = {c: await clusters.kube(conn, c) for c in sorted({c.cluster_id for c in changes})}
    return list(await asyncio.gather(*(_guarded(kubes[c.cluster_id], c) for c in changes)))


async def _guarded(kube: Kube | None, change: Change) -> Changed:
    if kube is None:
        return Changed("", *NO_ACCESS)
    try:
        return await perform(kube, change)
    except (KubeError, KubeUnreachable) as error:
        return Changed("", *trouble(error))


async def perform(kube: Kube, change: Change) -> Changed:
    """One change of one node: read, compare, patch bound to the version that was read."""
    path = f"{NODES}/{change.node.name}"
    for _ in range(TRIES):
        live = await kube.find(path)
        if live is None:
            return Changed(reason="NodeGone", message=f"The cluster has no node {change.node.name} any more.")
        if live["metadata"]["uid"] != change.node.uid:
            return Changed(reason="NodeReplaced", message=f"The node {change.node.name} is another one by now.")
        wanted = patch_of(live, change)
        if isinstance(wanted, Changed):
            return wanted
        try:
            stored = await kube.patch(path, wanted)
        except KubeError as error:
            if error.code != 409:
                raise
            continue  # somebody wrote it meanwhile: look again
        return Changed(str(stored["metadata"]["resourceVersion"]))
    return Changed(
        reason="Conflict", message=f"The node {change.node.name} changed {TRIES} times while it was written."
    )


def patch_of(live: Json, change: Change) -> Json | Changed:
    """The merge patch that makes the live node as wanted, or what is so already."""
    meta, spec = live["metadata"], live.get("spec", {})
    by = meta.get("annotations", {}).get(CLOSED_BY, "")
    cordoned = bool(spec.get("unschedulable"))
    taints = spec.get("taints") or []
    left = [t for t in taints if t.get("key") != JOINING_TAINT]
    body: Json = {"metadata": {"resourceVersion": meta["resourceVersion"]}}
    if change.verb == "dress":
        return _dressed(live, change.dress, body)
    if change.verb == "admit":
        if len(left) == len(taints):
            return Changed()
        body["spec"] = {"taints": left}
        if change.cause and not (cordoned and not by):
            body["spec"]["unschedulable"] = True
            body["metadata"]["annotations"] = {CLOSED_BY: change.cause}
        return body
    if cordoned and not by:
        return Changed("", "CordonedByPerson", "Somebody cordoned the node; Fleet leaves that alone.")
    if change.verb == "close":
        if cordoned:
            return Changed()
        body["spec"] = {"unschedulable": True}
        body["metadata"]["annotations"] = {CLOSED_BY: change.cause}
        return body
    if not cordoned:
        return Changed()
    if by != change.cause:
        return Changed("", "ClosedOtherwise", f"The node is closed for another cause by now: {by}.")
    body["spec"] = {"unschedulable": None}
    body["metadata"]["annotations"] = {CLOSED_BY: None}
    return body


def _dressed(live: Json, wanted: Dress, body: Json) -> Json | Changed:
    """What Fleet put on the node is named in an annotation of it: only that is ever taken off again."""
    meta, taints = live["metadata"], live.get("spec", {}).get("taints") or []
    before = meta.get("annotations", {})
    labels: dict[str, str | None] = {k: None for k in _words(before, OUR_LABELS) if k in meta.get("labels", {})}
    labels |= wanted.labels
    ours = {tuple(word.rsplit(":", 1)) for word in _words(before, OUR_TAINTS)} | set(wanted.taints)
    kept = [t for t in taints if (t.get("key"), t.get("effect")) not in ours]
    added = [{"key": k, "effect": e} | ({"value": v} if v else {}) for (k, e), v in sorted(wanted.taints.items())]
    names = {
        OUR_LABELS: " ".join(sorted(wanted.labels)),
        OUR_TAINTS: " ".join(f"{k}:{e}" for k, e in sorted(wanted.taints)),
    }
    body["metadata"] |= {"labels": labels, "annotations": {k: v or None for k, v in names.items()}}
    body["spec"] = {"taints": kept + added}
    return body


def _words(annotations: Json, name: str) -> list[str]:
    return str(annotations.get(name, "")).split()
