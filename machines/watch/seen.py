"""What the watcher takes from an API server, decoded to the few fields that Fleet needs. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from clusters.schema_gates import DAEMON_SET_TYPE
from fleet.control.conditions import Condition, Status
from machines.conditions import TYPES

PROVIDER_PREFIX: Final = "fleet://"
NODE_READY: Final = "NodeReady"
_TYPE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9./_-]{0,126}[A-Za-z0-9])?")
_REASON: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_,:-]{0,126}[A-Za-z0-9_])?")
_MOST_CONDITIONS: Final = 40  # more than that on one node is somebody's mistake
_MESSAGE: Final = 400
_STATUSES: Final[dict[str, Status]] = {"True": "True", "False": "False", "Unknown": "Unknown"}


class NodeCondition(Struct, frozen=True, gc=False):
    """One of `status.conditions`; its times are the node's own and are not taken."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Address(Struct, frozen=True, gc=False):
    """One of `status.addresses`."""

    type: str
    address: str


class NodeInfo(Struct, frozen=True, gc=False):
    """What the kubelet says of its host."""

    boot_id: str = field(default="", name="bootID")
    kubelet_version: str = field(default="", name="kubeletVersion")


class NodeStatus(Struct, frozen=True, gc=False):
    """What the kubelet reports."""

    conditions: tuple[NodeCondition, ...] = ()
    addresses: tuple[Address, ...] = ()
    node_info: NodeInfo = field(default_factory=NodeInfo, name="nodeInfo")


class NodeSpec(Struct, frozen=True, gc=False):
    """`taints` as JSON text."""

    provider_id: str = field(default="", name="providerID")
    unschedulable: bool = False
    taints: Raw = Raw(b"[]")


class Annotations(Struct, frozen=True, gc=False):
    """Those that Fleet reads."""

    closed_by: str = field(default="", name="fleet.dev/closed-by")


class Meta(Struct, frozen=True, gc=False):
    """`labels` as JSON text."""

    name: str = ""
    uid: str = ""
    version: str = field(default="", name="resourceVersion")
    created: str | None = field(default=None, name="creationTimestamp")
    labels: Raw = Raw(b"{}")
    annotations: Annotations = field(default_factory=Annotations)


class Node(Struct, frozen=True, gc=False):
    """A Kubernetes node."""

    metadata: Meta
    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus = field(default_factory=NodeStatus)


class NodeEvent(Struct, frozen=True, gc=False):
    """One line of the watch; a bookmark's object has metadata only."""

    type: str
    object: Node


class ListMeta(Struct, frozen=True, gc=False):
    """Metadata of a list."""

    version: str = field(default="", name="resourceVersion")
    go_on: str = field(default="", name="continue")


class NodePage(Struct, frozen=True):
    """One page of a list. `unreadable`: names of nodes in another form than expected; no server sends that field."""

    metadata: ListMeta
    items: list[Node] | None = None
    unreadable: list[str] = []


class RawPage(Struct, frozen=True):
    """A page whose items are taken one by one."""

    metadata: ListMeta
    items: list[Raw] | None = None


class NameOnly(Struct, frozen=True):
    """The name in an object's metadata."""

    name: str


class Named(Struct, frozen=True):
    """An object of which only the name is taken."""

    metadata: NameOnly


class MapMeta(Struct, frozen=True):
    """Metadata of a ConfigMap."""

    name: str = ""
    namespace: str = ""
    version: str = field(default="", name="resourceVersion")
    annotations: dict[str, str] = field(default_factory=dict)


class ConfigMap(Struct, frozen=True):
    """A ConfigMap."""

    metadata: MapMeta
    data: dict[str, str] = field(default_factory=dict)


class MapEvent(Struct, frozen=True):
    """One line of the watch of ConfigMaps."""

    type: str
    object: ConfigMap


class MapPage(Struct, frozen=True):
    """One page of ConfigMaps."""

    metadata: ListMeta
    items: list[ConfigMap] | None = None


class Involved(Struct, frozen=True):
    """What an Event is about."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Source(Struct, frozen=True, gc=False):
    """Who says so: `host` is a kubelet's node."""

    host: str = ""


class KubeEvent(Struct, frozen=True):
    """A core/v1 Event. `instance`: the host of who writes Events in the newer way; `count`: how often it was said."""

    metadata: Meta
    involved: Involved = field(default_factory=Involved, name="involvedObject")
    reason: str = ""
    message: str = ""
    type: str = ""
    source: Source = field(default_factory=Source)
    instance: str = field(default="", name="reportingInstance")
    count: int | None = None


class KubeEventLine(Struct, frozen=True):
    """One line of the watch of Events."""

    type: str
    object: KubeEvent


class EventPage(Struct, frozen=True):
    """One page of Events: only where to watch from."""

    metadata: ListMeta


class Refusal(Struct, frozen=True):
    """A Status."""

    code: int = 0
    reason: str = ""
    message: str = ""


class RefusalLine(Struct, frozen=True):
    """An ERROR line of a watch."""

    type: str
    object: Refusal


node_line: Final = msgspec.json.Decoder(NodeEvent).decode
node_page: Final = msgspec.json.Decoder(NodePage).decode
raw_page: Final = msgspec.json.Decoder(RawPage).decode
named: Final = msgspec.json.Decoder(Named).decode
one_node: Final = msgspec.json.Decoder(Node).decode
map_line: Final = msgspec.json.Decoder(MapEvent).decode
map_page: Final = msgspec.json.Decoder(MapPage).decode
event_line: Final = msgspec.json.Decoder(KubeEventLine).decode
event_page: Final = msgspec.json.Decoder(EventPage).decode
refusal_line: Final = msgspec.json.Decoder(RefusalLine).decode


@dataclass(frozen=True, slots=True)
class ConditionMap:
    """A Condition ConfigMap as received. `data`: node name → JSON text; `rv` its resourceVersion."""

    cluster_id: int
    namespace: str
    name: str
    reporter: str
    rv: str
    data: dict[str, str]


def is_error(line: bytes) -> bool:
    """Whether a line of a watch is an ERROR; every API server writes the type first."""
    return line.startswith(b'{"type":"ERROR"')


def internal_ip(node: Node) -> str:
    """The first internal address, "" where there is none."""
    return next((a.address for a in node.status.addresses if a.type == "InternalIP"), "")


def fields_print(node: Node) -> int:
    """A number that moves with everything of a node that the table `node` holds, resourceVersion apart. Of this process only."""
    spec, status, meta = node.spec, node.status, node.metadata
    return hash(
        (
            meta.uid, spec.provider_id, spec.unschedulable, bytes(spec.taints), bytes(meta.labels), meta.annotations, status.node_info,
            status.addresses,
        )
    )  # fmt: skip


def conditions_of(seen: Sequence[NodeCondition], others: Set[str] = frozenset()) -> list[Condition]:
    """A node's conditions as a Machine shows them: `Ready` is `NodeReady`; types that others own are left out, so are malformed ones."""
    out: dict[str, Condition] = {}
    for each in seen[:_MOST_CONDITIONS]:
        type_ = NODE_READY if each.type == "Ready" else each.type
        if type_ in others or _owned_elsewhere(type_) or each.type == NODE_READY or _TYPE.fullmatch(type_) is None:
            continue
        reason = each.reason if _REASON.fullmatch(each.reason) else "Reported"
        message = each.message[:_MESSAGE].replace("\x00", "")
        out[type_] = Condition(type_, _STATUSES.get(each.status, "Unknown"), reason, message)
    out.setdefault(NODE_READY, Condition(NODE_READY, "Unknown", "NeverReported", "The kubelet has not reported yet."))
    return list(out.values())


def _owned_elsewhere(type_: str) -> bool:
    known = TYPES.get(type_)
    return known[1] != "watcher" if known is not None else type_.startswith(DAEMON_SET_TYPE)


def clean_json(raw: Raw, otherwise: str) -> str:
    """JSON text for a jsonb column, which takes no NUL."""
    text = bytes(raw).decode()
    return text if text != "null" and "\\u0000" not in text else otherwise


def machine_uid(node: Node) -> str | None:
    """The uid in `fleet://<uid>`; None for any other provider id."""
    found = node.spec.provider_id
    return found[len(PROVIDER_PREFIX) :] if found.startswith(PROVIDER_PREFIX) and _UID.fullmatch(found, 8) else None


_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def decode_error(line: bytes) -> Refusal:
    """The Status of an ERROR line; one that cannot be read is an empty one."""
    try:
        return refusal_line(line).object
    except msgspec.DecodeError:
        return Refusal()
