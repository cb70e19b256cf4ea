"""What becomes of a remediation in one pass. Pure: its case and a clock in, a move out.

Level-based: everything is decided from the rows as they are now, so that a pass that died is made again without harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from fleet.control.kinds import Json
from recovery.playbooks import Ladder, Rung, task_of
from recovery.types import (
    CANCELLED,
    CONFIRMED,
    ESCALATED,
    NEEDS_PERSON,
    PROBATION,
    REPAIRING,
    RESOLVED,
    SUCCEEDED,
    VERIFYING,
    WAITING,
)

POLL_SECONDS: Final = 5.0
WORSE: Final = (
    "worse fault "  # begins the word by which recovery itself ends a remediation for a worse fault of its machine
)
ONLY_SILENCE: Final = (
    "OnlySilence",
    "Only silence speaks for it, and a cut network looks the same: its controller, or another who sees the machine, must say so too.",
)
BY_RECOVERY: Final = "recovery"  # who cancelled an Operation whose fault went away before it began


@dataclass(frozen=True, slots=True)
class OperationSeen:
    """The Operation of the present rung."""

    name: str
    phase: str
    started: bool
    message: str = ""
    reason: str = ""
    cancelled_by: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a move is decided from."""

    phase: str
    rung: int
    ladder: Ladder
    status: Json
    phase_at: datetime
    fault_phase: str
    fault_cleared_since: datetime | None
    fault_message: str = ""
    declared: bool = False  # a person or a tool declared the fault: nothing but the machine's own health takes it back
    well: bool = False  # the machine's host and node are well
    sources: tuple[str, ...] = ()
    operation: OperationSeen | None = None
    blind: str = ""
    cordoned: str = ""  # a sentence, when a person closed the node
    machine_gone: bool = False
    cancelled_by: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """The remediation as it shall stand. `ask`: the rung that needs a permit and then its Operation. `fault`: its next phase, or ""."""

    phase: str
    rung: int
    status: Json
    wait: float = POLL_SECONDS
    fault: str = ""
    fault_reason: str = ""
    fault_message: str = ""
    ask: Rung | None = None
    cancel_operation: str = ""  # who cancels it
    told: tuple[str, str] = field(default=("", ""))  # (reason, message) worth an event


def advance(case: Case, now: datetime) -> Step:
    """The next move."""
    operation = case.operation
    running = operation is not None and operation.phase in ("Pending", "Running")
    if case.cancelled_by:
        if running and operation is not None and not operation.cancelled_by:
            return _stay(case, "Cancelling", "Ends before the next step.", cancel=case.cancelled_by)
        if running:
            return _stay(case, "Cancelling", "Ends before the next step.")
        if case.cancelled_by.startswith(WORSE):
            text = f"Ended for the {case.cancelled_by}, which is repaired first."
            return Step(
                CANCELLED,
                case.rung,
                _said(case, "Outranked", text),
                0,
                CONFIRMED,
                "Outranked",
                text,
                told=("Outranked", text),
            )
        return _person(case, CANCELLED, "Cancelled", f"{case.cancelled_by} cancelled the repair.")
    if case.machine_gone and not running:
        text = "The machine is taken out of service."
        return Step(
            CANCELLED,
            case.rung,
            _said(case, "MachineGone", text),
            0,
            RESOLVED,
            "MachineGone",
            text,
            told=("MachineGone", text),
        )
    if case.fault_phase == RESOLVED and not running:
        text = "The fault is over."
        return Step(CANCELLED, case.rung, _said(case, "FaultOver", text), 0, told=("FaultOver", text))
    return _PHASES[case.phase](case, now)


def _repairing(case: Case, now: datetime) -> Step:
    operation = case.operation
    if operation is None:
        return Step(WAITING, case.rung, _said(case, "OperationGone", "Its Operation is not there any more."), 1.0)
    status = _with_rung(case, operation, now)
    if operation.phase in ("Pending", "Running"):
        gone = _cleared(case)
        if gone and not operation.started and not operation.cancelled_by:
            return Step(REPAIRING, case.rung, status, 1.0, cancel_operation=BY_RECOVERY)
        return Step(REPAIRING, case.rung, status | _words("RungRuns", operation.message or "It waits for its turn."))
    if operation.phase == "Succeeded":
        text = f"{_name(case)} is done; whether it helped is seen next."
        return Step(VERIFYING, case.rung, status | _words("RungDone", text), 1.0, told=("RungDone", text))
    if operation.phase == "Cancelled" or (operation.cancelled_by and operation.cancelled_by != BY_RECOVERY):
        if operation.cancelled_by == BY_RECOVERY:
            return Step(
                PROBATION, case.rung, status | _words("NotNeeded", "The fault went away before anything was done."), 1.0
            )
        case_now = _restated(case, status)
        return _person(case_now, CANCELLED, operation.reason or "Cancelled", operation.message or "A person took over.")
    return _next_rung(_restated(case, status), operation.reason or "RungFailed", operation.message or "It failed.")


def _verifying(case: Case, now: datetime) -> Step:
    if _cleared(case):
        text = f"The fault is not seen any more; it must stay away for {case.ladder.probation_seconds} s."
        return Step(PROBATION, case.rung, _said(case, "Cleared", text), 1.0, told=("Cleared", text))
    limit = case.ladder.rungs[case.rung].verify_seconds
    waited = (now - case.phase_at).total_seconds()
    if waited < limit:
        return _stay(
            case, "Verifying", f"The fault is still seen; {_name(case)} has {limit - waited:.0f} s left to help."
        )
    return _next_rung(case, "DidNotHelp", f"{limit} s after {_name(case)} the fault is still seen.")


def _probation(case: Case, now: datetime) -> Step:
    if not _cleared(case):
        return _next_rung(case, "CameBack", "The fault came back in its probation.")
    since = max(case.phase_at, case.fault_cleared_since or case.phase_at)
    rest = case.ladder.probation_seconds - (now - since).total_seconds()
    if rest > 0:
        return _stay(case, "Probation", f"The fault must stay away for {rest:.0f} s more.", min(rest + 0.1, 10.0))
    text = f"{_name(case)} repaired it." if case.operation is not None else "It went away by itself."
    return Step(
        SUCCEEDED, case.rung, _said(case, "Repaired", text), 0, RESOLVED, "Repaired", text, told=("Repaired", text)
    )


def _waiting(case: Case, now: datetime) -> Step:
    if _cleared(case):
        return Step(PROBATION, case.rung, _said(case, "Cleared", "The fault is not seen any more."), 1.0)
    if case.rung >= len(case.ladder.rungs):
        return _person(case, ESCALATED, "LadderEnded", f"Every rung was tried: {_tried(case.status)}.")
    rung = case.ladder.rungs[case.rung]
    if rung.of_people:
        return _person(case, ESCALATED, "PersonAsked", task_of(rung))
    refusal = refused(rung, case)
    if refusal[0]:
        return _stay(case, *refusal, 10.0)
    return Step(WAITING, case.rung, case.status, 10.0, ask=rung)


_PHASES: Final = {REPAIRING: _repairing, VERIFYING: _verifying, PROBATION: _probation, WAITING: _waiting}


def refused(rung: Rung, case: Case) -> tuple[str, str]:
    """Why a rung may not begin now, apart from the ledger's word."""
    if case.blind:
        return "ViewBroken", case.blind
    if case.cordoned:
        return "CordonedByPerson", case.cordoned
    if rung.only_silence(case.sources):
        return ONLY_SILENCE
    if len(case.sources) < rung.sources:
        who = ", ".join(case.sources) or "nobody"
        return (
            "OneSource",
            f"{rung.verb} asks for {rung.sources} independent sources; only {who} says that there is a fault.",
        )
    return "", ""


def _cleared(case: Case) -> bool:
    return case.well if case.declared else case.fault_cleared_since is not None


def _next_rung(case: Case, reason: str, message: str) -> Step:
    """Up the ladder; at its end a person."""
    status = _closed(case, reason, message)
    if case.rung + 1 < len(case.ladder.rungs):
        text = f"{message} Next: {case.ladder.rungs[case.rung + 1].name}."
        return Step(WAITING, case.rung + 1, status | _words(reason, text), 1.0, told=(reason, text))
    return _person(
        _restated(case, status), ESCALATED, "LadderEnded", f"{message} Every rung was tried: {_tried(status)}."
    )


def _person(case: Case, phase: str, reason: str, message: str) -> Step:
    """The remediation ends and a person is asked."""
    return Step(
        phase, case.rung, _said(case, reason, message), 0, NEEDS_PERSON, reason, message, told=(reason, message)
    )


def _stay(case: Case, reason: str, message: str, wait: float = POLL_SECONDS, cancel: str = "") -> Step:
    return Step(case.phase, case.rung, _said(case, reason, message), wait, cancel_operation=cancel)


def _words(reason: str, message: str) -> Json:
    return {"reason": reason, "message": message[:900]}


def _said(case: Case, reason: str, message: str) -> Json:
    return case.status | _words(reason, message)


def _name(case: Case) -> str:
    return case.ladder.rungs[min(case.rung, len(case.ladder.rungs) - 1)].name


def _restated(case: Case, status: Json) -> Case:
    return replace(case, status=status)


def _with_rung(case: Case, operation: OperationSeen, now: datetime) -> Json:
    """The entry of the present rung, as its Operation stands."""
    entries = [dict(e) for e in case.status.get("rungs", [])]
    for entry in entries:
        if entry["operation"] == operation.name:
            entry.update(phase=operation.phase, message=operation.message[:400])
    return case.status | {"rungs": entries}


def _closed(case: Case, reason: str, message: str) -> Json:
    """The status with the reason why the last rung did not do."""
    entries = [dict(e) for e in case.status.get("rungs", [])]
    if entries:
        entries[-1].update(outcome=reason, message=message[:400])
    return case.status | {"rungs": entries}


def _tried(status: Json) -> str:
    found = [f"{e['name']} ({e.get('outcome') or e.get('phase', '')})" for e in status.get("rungs", [])]
    return ", ".join(found) or "nothing"
