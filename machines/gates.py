"""The final state of a node: which gates a machine has, what they answer, and whether its node is to open or to close. Pure.

A closed node opens when every gate holds. An open one is closed only by a gate that is freshly False; Unknown closes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from fleet.control.conditions import Condition
from fleet.control.kinds import Json
from fleet.control.times import format_time

REQUIRE_TRUE: Final = "RequireTrue"
FORBID_TRUE: Final = "ForbidTrue"
CONTINUOUS: Final = "Continuous"
BOOTSTRAP_ONLY: Final = "BootstrapOnly"
WHILE_CLOSED: Final = "WhileClosed"  # Fleet's own: counts whenever a node is to open, never closes one

JOINING_TAINT: Final = "fleet.dev/joining"
CLOSED_BY: Final = "fleet.dev/closed-by"
JOIN: Final = "join"  # the cause of the first closing
_GATE: Final = "gate:"
_OPERATION: Final = "operation:"

State = Literal["NotANode", "Joining", "Open", "Closed", "CordonedByPerson"]
Act = Literal["", "admit", "open", "close"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition that has a say in whether the node takes workloads. `source`: who asks for it, as people read it."""

    type: str
    polarity: str = REQUIRE_TRUE
    mode: str = CONTINUOUS
    source: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate says now. `holds` None: nobody knows. `since`: when the condition changed last."""

    gate: Gate
    holds: bool | None
    reason: str = ""
    message: str = ""
    since: datetime | None = None

    def json(self, owner: str = "") -> Json:
        """As in `Machine.status.readinessGates[]`."""
        said = "Unknown" if self.holds is None else "True" if self.holds else "False"
        gate = self.gate
        out: Json = {
            "conditionType": gate.type,
            "polarity": gate.polarity,
            "mode": gate.mode,
            "source": gate.source,
            "status": said,
        }
        out |= {"reason": self.reason} if self.reason else {}
        out |= {"message": self.message} if self.message else {}
        out |= {"since": format_time(self.since)} if self.since else {}
        out |= {"owner": owner} if owner else {}
        return out | ({"dryRun": True} if gate.dry_run else {})


@dataclass(frozen=True, slots=True)
class NodeRow:
    """The machine's node as the watcher saw it."""

    name: str
    uid: str
    unschedulable: bool = False
    closed_by: str = ""
    taints: tuple[Mapping[str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    boot_id: str = ""
    kubelet_version: str = ""
    rv: str = ""

    @property
    def joining(self) -> bool:
        """It carries the taint that the kubelet registered with."""
        return any(t.get("key") == JOINING_TAINT for t in self.taints)

    @property
    def open(self) -> bool:
        """The scheduler may use it, as far as Fleet and people have a say."""
        return not self.unschedulable and not self.joining


@dataclass(frozen=True, slots=True)
class Memory:
    """What Fleet remembers of the node's scheduling. `rv`: of the node after Fleet's last patch; an older sight of it is no news.

    `opened`: uid of the node that has been open once. `overruled`: causes that a person opened the node against.
    `dressed`: which labels and taints of the machine were put on it last.
    """

    state: str = ""
    reason: str = ""
    message: str = ""
    since: datetime | None = None
    node_uid: str = ""
    cause: str = ""
    rv: str = ""
    opened: str = ""
    overruled: frozenset[str] = frozenset()
    dressed: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What stands around a decision. `enforced`: gates of this cluster bind; `fresh`: the view of the cluster can be believed."""

    enforced: bool = True
    fresh: bool = True
    is_member: bool = True  # the machine's cluster has nodes at all
    held: tuple[str, str] = ("", "")  # (reason, sentence)
    operation: str = ""  # name of the open Operation
    draining: bool = False  # and it wants the node closed
    leaving: bool = False  # the machine was deleted: nothing opens any more


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the node is, and what is to be done. `cause` goes with an act; `opened_by_person` ends the Operation that closed it."""

    state: State
    reason: str
    message: str = ""
    act: Act = ""
    cause: str = ""
    opened: str = ""
    overruled: frozenset[str] = frozenset()
    opened_by_person: bool = False


def gate_cause(type_: str) -> str:
    """What `fleet.dev/closed-by` says of a node that a gate closed."""
    return _GATE + type_


def operation_cause(name: str) -> str:
    """What it says of a node that an Operation closed."""
    return _OPERATION + name


def gates_from(specs: Iterable[Json], source: str) -> tuple[Gate, ...]:
    """Gates as people write them in `readinessGates`."""
    return tuple(
        Gate(s["conditionType"], s.get("polarity", REQUIRE_TRUE), s.get("mode", CONTINUOUS), source) for s in specs
    )


def merged(*groups: Iterable[Gate]) -> tuple[Gate, ...]:
    """All of them; of equal ones (type and polarity) the first binding one counts, and a dry run beside it is shown too."""
    out: dict[tuple[str, str, bool], Gate] = {}
    for gate in (g for group in groups for g in group):
        out.setdefault((gate.type, gate.polarity, gate.dry_run), gate)
    return tuple(out.values())


def answer(gate: Gate, found: Condition | None) -> Answer:
    """What one gate says."""
    if found is None or found.status == "Unknown":
        reason = found.reason if found is not None else "NotReported"
        message = found.message if found is not None else "Nobody has reported it yet."
        return Answer(gate, None, reason, message, found.since if found is not None else None)
    holds = (found.status == "True") == (gate.polarity == REQUIRE_TRUE)
    return Answer(gate, holds, found.reason, found.message, found.since)


def answers(gates: Sequence[Gate], conditions: Iterable[Condition]) -> tuple[Answer, ...]:
    """What all of them say, in their order."""
    by_type = {c.type: c for c in conditions}
    return tuple(answer(gate, by_type.get(gate.type)) for gate in gates)


def waits_for(found: Sequence[Answer], *, bootstrap: bool) -> tuple[Answer, ...]:
    """Gates that keep a closed node closed; those that count until the first opening only before it."""
    return tuple(
        a for a in found if not a.gate.dry_run and a.holds is not True and (bootstrap or a.gate.mode != BOOTSTRAP_ONLY)
    )


def closers(found: Sequence[Answer], overruled: Collection[str]) -> tuple[Answer, ...]:
    """Gates that would close an open node: binding ones that are freshly False, and that no person overruled."""
    return tuple(
        a
        for a in found
        if not a.gate.dry_run
        and a.gate.mode == CONTINUOUS
        and a.holds is False
        and gate_cause(a.gate.type) not in overruled
    )


def _sentence(found: Sequence[Answer]) -> str:
    """For people: the first, and how many more."""
    first = found[0]
    word = "is not known" if first.holds is None else "says no"
    more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
    said = f": {first.message or first.reason}" if first.message or first.reason else ""
    return f"{first.gate.type} ({first.gate.source}) {word}{said}{more}"[:900]


def decide(node: NodeRow | None, found: Sequence[Answer], memory: Memory, view: View) -> Verdict:
    """Open, close, or leave alone."""
    if node is None:
        return _absent(memory, view)
    overruled = _overruled(found, memory)
    opened = memory.opened if memory.opened == node.uid else ""
    kept = Verdict("Open", "", opened=opened, overruled=overruled)
    if not view.fresh:
        state = _state_of(node)
        return _said(kept, state, "ViewStale", "The view of the cluster is not fresh: nothing is decided from it.")
    if behind(node, memory):
        return _said(kept, _known(memory.state, node), memory.reason, memory.message)
    if node.joining:
        return _joining(kept, node, view)
    if node.unschedulable and not node.closed_by:
        return _said(
            kept, "CordonedByPerson", "CordonedByPerson", "Somebody cordoned the node; Fleet leaves that alone."
        )
    if node.unschedulable:
        return _closed(kept, node, found, view)
    return _open(kept, node, found, memory, view)


def _said(kept: Verdict, state: State, reason: str, message: str = "", act: Act = "", cause: str = "") -> Verdict:
    return Verdict(state, reason, message, act, cause, kept.opened, kept.overruled, kept.opened_by_person)


def _absent(memory: Memory, view: View) -> Verdict:
    if not view.is_member:
        return Verdict("NotANode", "NoCluster", "The machine belongs to no cluster with nodes.")
    if not view.fresh:
        return Verdict("Joining", "ViewStale", "The view of the cluster is not fresh.", opened=memory.opened)
    return Verdict("Joining", "NotJoined", "The cluster has no node of this machine.", overruled=memory.overruled)


def _state_of(node: NodeRow) -> State:
    if node.open:
        return "Open"
    return "CordonedByPerson" if node.unschedulable and not node.closed_by and not node.joining else "Closed"


def _known(state: str, node: NodeRow) -> State:
    return "Open" if state == "Open" else "Closed" if state == "Closed" else _state_of(node)


def opened_against(node: NodeRow | None, memory: Memory) -> bool:
    """Somebody opened the node that Fleet had closed."""
    if node is None or not node.open or behind(node, memory):
        return False
    return memory.state == "Closed" and memory.node_uid == node.uid and bool(memory.cause)


def behind(node: NodeRow, memory: Memory) -> bool:
    """The node was seen as it was before Fleet's last patch of it."""
    if memory.node_uid != node.uid or not (memory.rv.isdecimal() and node.rv.isdecimal()):
        return False
    return int(node.rv) < int(memory.rv)


def _overruled(found: Sequence[Answer], memory: Memory) -> frozenset[str]:
    """A cause that a person opened against counts again once its gate has held."""
    held = {gate_cause(a.gate.type) for a in found if a.holds is True}
    return frozenset(c for c in memory.overruled if c not in held)


def _joining(kept: Verdict, node: NodeRow, view: View) -> Verdict:
    """The first patch: from the kubelet's taint to a cordon of Fleet's, so that reporting DaemonSets can run."""
    if node.unschedulable and not node.closed_by:  # a person cordoned it before: theirs stays, the taint goes
        return _said(kept, "CordonedByPerson", "CordonedByPerson", "Somebody cordoned the node.", "admit", "")
    message = "The node has just joined; it opens when every gate holds."
    return _said(kept, "Closed", "Joined", message, "admit", JOIN)


def _closed(kept: Verdict, node: NodeRow, found: Sequence[Answer], view: View) -> Verdict:
    cause = node.closed_by
    if view.leaving:
        return _said(kept, "Closed", "Leaving", "The machine was deleted; its node is not opened again.")
    if view.draining and cause == operation_cause(view.operation):
        return _said(kept, "Closed", "OperationOpen", f"Closed for the Operation {view.operation}.")
    missing = waits_for(found, bootstrap=not kept.opened) if view.enforced else ()
    if missing:
        return _said(kept, "Closed", "GatesMissing" if missing[0].holds is None else "GateClosed", _sentence(missing))
    return Verdict("Open", "GatesHold", "Every gate holds.", "open", cause, node.uid, kept.overruled)


def _open(kept: Verdict, node: NodeRow, found: Sequence[Answer], memory: Memory, view: View) -> Verdict:
    overruled, by_person = kept.overruled, False
    if opened_against(node, memory):
        overruled, by_person = overruled | {memory.cause}, True
        overruled |= {gate_cause(a.gate.type) for a in found if a.holds is False}
    kept = Verdict("Open", "", opened=node.uid, overruled=overruled, opened_by_person=by_person)
    if by_person:
        return _said(
            kept, "Open", "OpenedByPerson", f"Somebody opened the node, which Fleet had closed ({memory.cause})."
        )
    closing = closers(found, overruled)
    if view.leaving or not closing:
        if overruled:
            return _said(kept, "Open", "OpenedByPerson", "Somebody opened the node against a gate that says no.")
        return _said(kept, "Open", "Open")
    if not view.enforced:
        return _said(kept, "Open", "GateWouldClose", f"{_sentence(closing)}; spec.enforceGates is not true.")
    if view.held[0]:
        return _said(kept, "Open", "GateWouldClose", f"{_sentence(closing)}; nothing is closed: {view.held[1]}")
    return _said(kept, "Closed", "GateClosed", _sentence(closing), "close", gate_cause(closing[0].gate.type))


def refused(verdict: Verdict, why: str) -> Verdict:
    """The closing was not permitted: the node stays open."""
    message = f"{verdict.message}; it stays open: {why}"[:900]
    return Verdict("Open", "GateWouldClose", message, opened=verdict.opened, overruled=verdict.overruled)


def failed(verdict: Verdict, node: NodeRow, reason: str, message: str) -> Verdict:
    """The act did not reach the node: it is what it was."""
    return Verdict(
        _state_of(node), reason, message[:900], opened=verdict.opened if node.open else "", overruled=verdict.overruled
    )
