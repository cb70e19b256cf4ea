"""Drain of a node: which pods must go, what keeps them, which are evicted next. Pure: pods as they are seen and a clock in, a turn out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from fleet.control.kinds import Json
from machines.gates import JOINING_TAINT
from machines.watch.seen import ListMeta, Node

RULE: Final = "fleet.dev/drain"  # label or annotation of a pod: skip, wait, or its order
HAND_OFF: Final = "fleet.dev/hand-off"  # annotation "owner": somebody moves the pod; label "requested": now
DECLARED: Final = "owner"
REQUESTED: Final = "requested"
MIRROR: Final = "kubernetes.io/config.mirror"
TIMEOUT_SECONDS: Final = 1_800
HAND_OFF_SECONDS: Final = 300
ROUND: Final = 40  # evictions that one turn asks for at most
_WORD: Final = re.compile(r"skip|wait|-?\d{1,6}", re.ASCII)

# Stays: nothing is asked of it and nobody waits for it. All others must be gone before the node is drained.
Why = Literal[
    "Stays", "Leaving", "Completes", "HandOff", "Asked", "Evict", "Later", "Unmanaged", "EmptyDirData", "RuleUnknown",
]  # fmt: skip
BLOCKS: Final = frozenset({"Unmanaged", "EmptyDirData", "RuleUnknown"})


# -- what is seen -------------------------------------------------------------------------------------------------------


class Owner(Struct, frozen=True, gc=False):
    """One of `metadata.ownerReferences`."""

    kind: str = ""
    controller: bool = False


class Volume(Struct, frozen=True):
    """One of `spec.volumes`; data in a hostPath stays on the host and is no concern of a drain."""

    name: str = ""
    empty_dir: dict[str, Any] | None = msgspec.field(default=None, name="emptyDir")


class PodMeta(Struct, frozen=True):
    """Metadata of a pod; one without name, namespace and uid is none that can be evicted."""

    name: str
    namespace: str
    uid: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owners: tuple[Owner, ...] = msgspec.field(default=(), name="ownerReferences")
    deleted: str | None = msgspec.field(default=None, name="deletionTimestamp")


class PodSpec(Struct, frozen=True):
    """Where it runs, how much it matters, what it keeps."""

    node: str = msgspec.field(default="", name="nodeName")
    priority: int = 0
    volumes: tuple[Volume, ...] = ()


class PodStatus(Struct, frozen=True, gc=False):
    """How far it is."""

    phase: str = ""


class Pod(Struct, frozen=True):
    """A pod as a drain sees it."""

    metadata: PodMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class PodPage(Struct, frozen=True):
    """One page of a list. An answer without `items` is no list, and so no proof that there are none."""

    metadata: ListMeta
    items: list[Pod]


class Taint(Struct, frozen=True, gc=False):
    """One of a node's `spec.taints`."""

    key: str = ""


pod_page: Final = msgspec.json.Decoder(PodPage).decode
_taints: Final = msgspec.json.Decoder(list[Taint]).decode


# -- what is wanted -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with the pods of a namespace, with these labels, or both: skip, wait, or an order. One that names neither fits no pod."""

    drain: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def fits(self, pod: Pod) -> bool:
        """Whether it says something about the pod."""
        if not self.namespace and not self.labels:
            return False
        has = pod.metadata.labels
        return self.namespace in ("", pod.metadata.namespace) and all(has.get(k) == v for k, v in self.labels.items())


@dataclass(frozen=True, slots=True)
class Options:
    """`spec.drain` of an Operation."""

    delete_empty_dir_data: bool = False
    evict_unmanaged: bool = False
    timeout_seconds: int = TIMEOUT_SECONDS
    hand_off_seconds: int = HAND_OFF_SECONDS  # 0: nobody is asked to move pods
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, spec: Json) -> Options:
        """From the spec of an Operation."""
        said: Json = spec.get("drain") or {}
        rules = (Rule(r["drain"], r.get("namespace", ""), r.get("labels", {})) for r in said.get("rules", ()))
        return cls(
            said.get("deleteEmptyDirData", False),
            said.get("evictUnmanaged", False),
            said.get("timeoutSeconds", TIMEOUT_SECONDS),
            said.get("handOffSeconds", HAND_OFF_SECONDS),
            tuple(rules),
        )

    def word(self, pod: Pod) -> str:
        """skip, wait or an order: by the first rule of the Operation that fits, else by the pod's own label, else its annotation."""
        for rule in self.rules:
            if rule.fits(pod):
                return rule.drain
        return pod.metadata.labels.get(RULE) or pod.metadata.annotations.get(RULE) or "0"


# -- what follows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stand:
    """What holds of one pod. `message` says why, of those that block."""

    pod: Pod
    why: Why
    order: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do now. `left`: all that must still go; `ask`: pods whose owner is told now; `evict`: in this order."""

    left: tuple[Stand, ...]
    skipped: int
    ask: tuple[Pod, ...] = ()
    evict: tuple[Pod, ...] = ()


def keeps_from(node: Node | None, name: str) -> tuple[str, str]:
    """Why a node cannot be drained at all: (reason, sentence), or nothing."""
    if node is None or not name or node.metadata.name != name:
        return "NodeNotFound", f"There is no node {name!r}: what runs on its host is not known."
    ready = next((c.status for c in node.status.conditions if c.type == "Ready"), "")
    if ready == "Unknown":
        return "NodeUnreachable", f"Node {name} is silent: what is evicted from it may run on."
    if not node.spec.unschedulable and not any(t.key == JOINING_TAINT for t in _taints(node.spec.taints)):
        return "NodeOpen", f"Node {name} is open to new pods: it is closed first, then drained."
    return "", ""


def decide(pods: Sequence[Pod], options: Options, progress: Json, now: datetime) -> Turn:
    """All pods of the node to what is done with them. While one blocks, nothing else is begun: no node is drained by half."""
    stands = [_stand(p, options, progress, now) for p in sorted(pods, key=_turn)]
    left = [s for s in stands if s.why != "Stays"]
    skipped = len(stands) - len(left)
    if overdue(options, progress, now) or any(s.why in BLOCKS for s in left):
        return Turn(tuple(left), skipped)
    first = min((s.order for s in left if s.why != "Completes"), default=0)
    left = [Stand(s.pod, "Later", s.order) if s.why == "Evict" and s.order > first else s for s in left]
    ask = tuple(s.pod for s in left if s.why == "HandOff")
    evict = _after([s.pod for s in left if s.why == "Evict"], progress.get("after", ""))
    return Turn(tuple(left), skipped, ask, tuple(evict[:ROUND]))


def overdue(options: Options, progress: Json, now: datetime) -> bool:
    """Whether the time for the whole drain is over."""
    return waited(progress, now) >= options.timeout_seconds


def waited(progress: Json, now: datetime) -> float:
    """Seconds since the drain began."""
    start = progress.get("startTime")
    return (now - datetime.fromisoformat(start)).total_seconds() if start else 0.0


def moment(now: datetime) -> str:
    """A time as it stands in the progress."""
    return now.astimezone(UTC).isoformat(timespec="seconds")


def _turn(pod: Pod) -> tuple[int, str]:
    """What matters least goes first."""
    return pod.spec.priority, pod.key


def _after(pods: list[Pod], last: str) -> list[Pod]:
    """Begin behind the one tried last, so that a few that are always refused do not keep the others from their turn."""
    at = next((i for i, p in enumerate(pods) if p.key == last), -1) + 1
    return pods[at:] + pods[:at] if len(pods) > ROUND else pods


def is_at_home(pod: Pod) -> bool:
    """Static pods and daemons belong to their node: nobody would run them elsewhere."""
    meta = pod.metadata
    return MIRROR in meta.annotations or any(o.controller and o.kind == "DaemonSet" for o in meta.owners)


def has_ended(pod: Pod) -> bool:
    """It runs no more, and holds nothing."""
    return pod.status.phase in ("Succeeded", "Failed")


def nobody_makes_anew(pod: Pod, options: Options) -> bool:
    """Whether it would be gone for good, and nobody said that it may be."""
    return not options.evict_unmanaged and not any(o.controller for o in pod.metadata.owners)


def data_at_stake(pod: Pod, options: Options) -> str:
    """Names of its volumes whose data would be lost, where nobody said that it may be; "" = none."""
    return (
        "" if options.delete_empty_dir_data else ", ".join(v.name for v in pod.spec.volumes if v.empty_dir is not None)
    )


def _stand(pod: Pod, options: Options, progress: Json, now: datetime) -> Stand:
    meta = pod.metadata
    word = options.word(pod)
    if is_at_home(pod) or has_ended(pod) or word == "skip":
        return Stand(pod, "Stays")
    if not _WORD.fullmatch(word):
        return Stand(pod, "RuleUnknown", 0, f"{RULE} is {word[:63]!r}; it may be skip, wait or a number")
    order = 0 if word == "wait" else int(word)
    if meta.deleted is not None:
        return Stand(pod, "Leaving", order)
    if word == "wait":
        return Stand(pod, "Completes")
    late = ""
    if meta.annotations.get(HAND_OFF) == DECLARED and options.hand_off_seconds:
        asked = progress.get("handOff", {}).get(pod.uid)
        if asked is None:
            return Stand(pod, "HandOff", order)
        if (now - datetime.fromisoformat(asked)).total_seconds() < options.hand_off_seconds:
            return Stand(pod, "Asked", order)
        late = f"its owner did not move it in {options.hand_off_seconds} s; "
    if nobody_makes_anew(pod, options):
        return Stand(pod, "Unmanaged", order, f"{late}it has no controller that would make it anew")
    data = data_at_stake(pod, options)
    if data:
        return Stand(pod, "EmptyDirData", order, f"{late}its data in emptyDir ({data}) would be lost")
    return Stand(pod, "Evict", order)
