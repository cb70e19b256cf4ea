"""Where a Hosted control plane stands in its meta cluster: chosen once, kept beside its keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import orjson

from clusters.planes import Plane
from fleet.control.errors import PermanentError, TemporaryError
from fleet.control.kinds import Json

FILE: Final = "place.json"  # its name among the files of a plane
_HOSTNAME: Final = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of etcd. `node` and `address` "" = its volume is a claim that goes where its pod goes."""

    node: str = ""
    hostname: str = ""  # the node's label, which volumes are bound by
    address: str = ""


@dataclass(frozen=True, slots=True)
class Placing:
    """`front`: the node that has the address of the API server, "" = no one node has it."""

    namespace: str
    front: str = ""
    members: Sequence[Member] = field(default_factory=tuple)

    def text(self) -> str:
        """As it is kept."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()


def placing_of(plane: Plane) -> Placing | None:
    """What was chosen; None = nothing yet."""
    kept = plane.files.get(FILE)
    if not kept:
        return None
    found = orjson.loads(kept)
    return Placing(found["namespace"], found["front"], tuple(Member(**m) for m in found["members"]))


def standing(plane: Plane) -> Placing:
    """As `placing_of`, where one must be there."""
    found = placing_of(plane)
    if found is None:
        raise PermanentError("NotPlaced", f"the control plane of {plane.name} has no place in a meta cluster")
    return found


def place(
    plane: Plane, nodes: Sequence[Json], carried: Mapping[str, int], lost: frozenset[int] = frozenset()
) -> Placing:
    """Nodes for the members of etcd: those of before stay, but those in `lost`. TemporaryError when there are too few.

    `carried`: members of other control planes by node; who carries least is taken first.
    """
    meta, before = plane.meta, placing_of(plane)
    assert meta is not None
    namespace = before.namespace if before else meta.namespace
    gone = {before.members[i].node for i in lost} if before else set()
    front = before.front if before and before.front not in gone else _front(plane, nodes)
    if meta.storage_class:
        return Placing(namespace, front, tuple(Member() for _ in range(plane.etcd_replicas)))
    kept = {i: m for i, m in enumerate(before.members if before else ()) if i not in lost}
    taken = {m.node for m in (before.members if before else ())}
    free = [n for n in nodes if n["metadata"]["name"] not in taken and not why_not(n, meta.selector)]
    free.sort(
        key=lambda n: (n["metadata"]["name"] != front, carried.get(n["metadata"]["name"], 0), n["metadata"]["name"])
    )
    missing = [i for i in range(plane.etcd_replicas) if i not in kept]
    if len(free) < len(missing):
        raise TemporaryError("NoNode", _too_few(plane, nodes, taken, len(missing), len(free)))
    fresh = dict(zip(missing, (_member(n) for n in free), strict=False))
    return Placing(namespace, front, tuple(kept.get(i) or fresh[i] for i in range(plane.etcd_replicas)))


def why_not(node: Json, selector: Mapping[str, str]) -> str:
    """Why a node may not carry a member, "" = it may."""
    labels, spec = node["metadata"].get("labels", {}), node.get("spec", {})
    missing = [f"{k}={v}" for k, v in sorted(selector.items()) if labels.get(k) != v]
    if missing:
        return f"lacks the label {missing[0]}"
    ready: Json = next((c for c in node.get("status", {}).get("conditions", []) if c["type"] == "Ready"), {})
    if ready.get("status") != "True":
        return "is not Ready"
    taint = next((t for t in spec.get("taints", []) if t["effect"] != "PreferNoSchedule"), None)
    if spec.get("unschedulable") or taint:
        return f"has the taint {taint['key']}" if taint else "is cordoned"
    return "" if _address(node) else "has no address"


def _too_few(plane: Plane, nodes: Sequence[Json], taken: set[str], wanted: int, found: int) -> str:
    assert plane.meta is not None
    others = [n for n in nodes if n["metadata"]["name"] not in taken]
    whys = [f"{n['metadata']['name']} {why}" for n in others if (why := why_not(n, plane.meta.selector))]
    shown = ": " + ", ".join(sorted(whys)[:3]) if whys else ""
    return f"the meta cluster {plane.meta.name} has {found} nodes for {wanted} members of etcd{shown}"


def _address(node: Json) -> str:
    found = node.get("status", {}).get("addresses", [])
    return next((str(a["address"]) for a in found if a["type"] == "InternalIP"), "")


def _member(node: Json) -> Member:
    name = node["metadata"]["name"]
    return Member(name, node["metadata"].get("labels", {}).get(_HOSTNAME, name), _address(node))


def _front(plane: Plane, nodes: Sequence[Json]) -> str:
    """An address of a node can be served there only; a name, or the address of a balancer, from everywhere."""
    assert plane.meta is not None
    if plane.meta.exposure != "HostPort" or plane.replicas > 1:
        return ""
    return next((n["metadata"]["name"] for n in nodes if _address(n) == plane.host), "")
