"""The end of a pass: conditions, phase, next time, and what is kept for the next look. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from fleet.control.conditions import Condition, Status, find, is_true
from fleet.control.work import backoff
from machines import health, phases
from machines.analyze import config_met, kernel_met, packages_met, removal_hash, unverifiable
from machines.decommission import abandoned, untouched
from machines.host_reasons import CONNECTION
from machines.judge import Judgement, Memory
from machines.models import OwnerClass
from machines.news import news_of
from machines.operation_moves import PERMANENT, Move
from machines.plan import RECOVER
from machines.rows import OperationRow, Record, Row
from machines.scheduled import Scheduled, masks
from machines.scheduled import conditions as scheduling
from machines.shown import facts_json, plan_json, seen_json

REST_SECONDS: Final = 600.0  # a machine at rest is looked at again, with jitter
UNKNOWN_REASONS: Final = frozenset(
    {"HostKeyNotEnrolled", "NoCredential", "CredentialRefused", "CredentialInvalid", "Throttled"}
)
FAILURES: Final = 5  # Operations that fail in a row before a person is asked
SHOWN: Final = 5
# Seconds until a node is looked at again whose act did not reach it, or was not permitted.
RETRIED: Final[Mapping[str, float]] = {
    "GateWouldClose": 30.0,
    "NotBegun": 10.0,
    "ApiUnreachable": 10.0,
    "ApiRefused": 10.0,
    "Conflict": 2.0,
    "NodeReplaced": 5.0,
    "NodeGone": 5.0,
    "ClosedOtherwise": 5.0,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the pass did to the Operation after judging: none open, open, or ended. `refusal`: why no step began."""

    operation: OperationRow | None = None
    move: Move | None = None
    refusal: tuple[str, str] = ("", "")
    granted: bool = False


def remember(judged: Judgement, outcome: Outcome) -> Memory:
    """What is known for the next pass."""
    memory = judged.memory
    if judged.met:
        return replace(
            memory, met=judged.chosen.hash, failures=0, failed=("", ""), stalled=("", ""), stalled_at=0, adopted=False
        )
    move = outcome.move
    if move is not None and move.reason == "Cancelled" and move.status.get("why") in ("change", "repair"):
        return replace(
            memory, stalled=("Cancelled", move.message), stalled_at=judged.chosen.hash
        )  # not to be opened again
    if move is None or move.ended != "Failed" or move.status.get("why") == RECOVER:
        return memory  # of a repair that failed recovery makes what is to be made of it
    failures = memory.failures + 1
    memory = replace(memory, failures=failures, failed=(move.reason, move.message))
    if move.reason in PERMANENT or failures >= FAILURES:
        more = "" if move.reason in PERMANENT else f" ({failures} tries in a row)"
        memory = replace(memory, stalled=(move.reason, move.message + more), stalled_at=judged.chosen.hash)
    return memory


def conditions(row: Row, judged: Judgement, outcome: Outcome, memory: Memory) -> tuple[Condition, ...]:
    """The Machine-Operator's whole set."""
    out: list[Condition | None] = [_reachable(judged), *_set_conditions(row, judged), *_looks(judged)]
    out += [_preflight(judged), _drifted(judged), _held(judged), _removal(judged), _allowed(row, outcome)]
    out += [_components(judged, outcome), *health.pressures(judged.facts, row.conditions), health.faultless(row.fault)]
    out += [_decommissioned(row, judged, outcome, memory)] if row.deleted_at is not None else []
    stalled = _stalled(judged, memory)
    work = _working(judged, outcome, memory)
    out += [stalled, work, _ready(judged, stalled, work)]
    return tuple(c for c in out if c is not None)


def _condition(type_: str, status: bool | None, reason: str, message: str = "") -> Condition:
    said: Status = "Unknown" if status is None else "True" if status else "False"
    return Condition(type_, said, reason, message)


def _reachable(judged: Judgement) -> Condition:
    facts = judged.facts
    if judged.identity[0]:
        return _condition("Reachable", False, *judged.identity)
    if facts.seen:
        return _condition("Reachable", True, "Seen", "The host answers.")
    message = facts.message or CONNECTION.get(facts.reason, "The host was not seen.")
    return _condition("Reachable", None if facts.reason in UNKNOWN_REASONS else False, facts.reason, message)


def _set_conditions(row: Row, judged: Judgement) -> list[Condition]:
    chosen = judged.chosen
    if chosen.problem is not None:
        out = [_condition("VersionsResolved", False, *chosen.problem)]
    else:
        out = [_condition("VersionsResolved", True, "Resolved", "Every version names one package version.")]
    bare = unverifiable(chosen.body) if chosen.body else []
    if bare:
        out.append(
            _condition("Verifiable", False, "NoChecksum", f"{_some(bare)}: neither checksum nor key; never installed.")
        )
    else:
        out.append(_condition("Verifiable", True, "Verifiable", "Each artifact has a checksum or a key."))
    newer = chosen.body is not None and chosen.latest != chosen.hash
    out.append(
        _condition(
            "UpdateAvailable",
            newer,
            "NewerSet" if newer else "Newest",
            "A shared layer has a newer set; a rollout brings it." if newer else "",
        )
    )
    pins = sorted(row.spec.get("versions", {}))
    message = f"The machine itself names {_some(pins)}." if pins else ""
    out.append(_condition("Pinned", bool(pins), "OwnVersions" if pins else "NoOwnVersions", message))
    return out


def _looks(judged: Judgement) -> list[Condition]:
    """Conditions that need a look at the host; not seen = Unknown, never "not so"."""
    parts = ("PackagesUpToDate", "ConfigUpToDate", "KernelUpToDate", "UpToDate", "HostHealthy")
    if not judged.seen:
        reason = judged.identity[0] or "NotSeen"
        return [_condition(p, None, reason, "The host was not seen.") for p in parts]
    if judged.chosen.body is None:
        reason, message = judged.chosen.problem or ("NothingAccepted", "No set has been accepted yet.")
        return [_condition(p, False, reason, message) for p in parts[:4]] + [_healthy(judged)]
    diffs = judged.diffs
    checks = (
        ("PackagesUpToDate", packages_met(diffs)),
        ("ConfigUpToDate", config_met(diffs)),
        ("KernelUpToDate", kernel_met(diffs)),
    )
    message = f"{len(diffs)} differ: {'; '.join(d.sentence for d in diffs[:SHOWN])}." if diffs else ""
    out = [_condition(name, ok, "AsAccepted" if ok else "Differs", "" if ok else message[:900]) for name, ok in checks]
    if judged.met:
        up = _condition("UpToDate", True, "AsAccepted", "Everything is as accepted.")
    elif judged.chosen.problem is not None and not diffs:
        up = _condition("UpToDate", False, *judged.chosen.problem)
    else:
        up = _condition("UpToDate", False, "Differs", message[:900])
    return [*out, up, _healthy(judged)]


def _healthy(judged: Judgement) -> Condition:
    sick = [d for d in judged.diffs if d.kind == "health"]
    if sick:
        return _condition("HostHealthy", False, "HealthCheckFailed", f"{sick[0].name}: {sick[0].seen}")
    return _condition("HostHealthy", True, "Healthy", "The host answers and its health checks hold.")


def _components(judged: Judgement, outcome: Outcome) -> Condition:
    """While an Operation works on the host nobody knows: it stops and starts units itself."""
    if not judged.seen or judged.chosen.body is None:
        return _condition("ComponentsHealthy", None, "NotSeen", "The host was not seen.")
    if judged.why == "change":
        return _condition("ComponentsHealthy", None, "Changing", "A new set is not reached yet.")
    if not judged.trouble[0]:
        return _condition("ComponentsHealthy", True, "Running", "What shall run does.")
    operation = outcome.operation
    if operation is not None and operation.started_at is not None and operation.owner_class != OwnerClass.REMEDIATION:
        return _condition("ComponentsHealthy", None, "OperationOpen", f"{operation.name} works on the host.")
    return _condition("ComponentsHealthy", False, *judged.trouble)


def _preflight(judged: Judgement) -> Condition:
    if not judged.seen:
        return _condition("Preflight", None, "NotSeen", "The host was not seen.")
    if judged.preflight[0]:
        return _condition("Preflight", False, *judged.preflight)
    message = (
        "unattended-upgrades is on: it may change packages that Fleet declares."
        if judged.facts.unattended_upgrades
        else ""
    )
    return _condition("Preflight", True, "Fit", message or "OS, disk, clock and package database are fit for changes.")


def _drifted(judged: Judgement) -> Condition:
    if not judged.seen:
        return _condition("Drifted", None, "NotSeen", "The host was not seen.")
    if judged.why != "repair" and not judged.memory.adopted:
        return _condition("Drifted", False, "NoDrift")
    sentence = "; ".join(d.sentence for d in judged.diffs[:SHOWN])
    return _condition("Drifted", bool(judged.diffs), "ChangedOnHost" if judged.diffs else "NoDrift", sentence[:900])


def _held(judged: Judgement) -> Condition:
    return _condition("Held", bool(judged.halt[0]), judged.halt[0] or "NotHeld", judged.halt[1])


def _removal(judged: Judgement) -> Condition:
    names = judged.held_removals
    if not names:
        return _condition("RemovalHeld", False, "NothingHeld")
    word = removal_hash(names)
    message = f"{_some(names)} would be removed; confirm by the annotation fleet.dev/confirm-removal: {word}"
    return _condition("RemovalHeld", True, "NeedsConfirmation", message)


def _decommissioned(row: Row, judged: Judgement, outcome: Outcome, memory: Memory) -> Condition:
    if abandoned(row):
        return _condition("Decommissioned", True, "Abandoned", "An approver gave the host up: nothing was cleaned.")
    if retired(row, outcome):
        return _condition("Decommissioned", True, "Clean", "What Fleet installed is gone.")
    if judged.seen and memory.failed[0]:
        return _condition("Decommissioned", False, *memory.failed)
    if judged.seen:
        return _condition("Decommissioned", False, "Cleaning", "What Fleet installed is being removed.")
    message = f"The host must answer, or an approver gives it up by the annotation fleet.dev/abandon: {row.name}"
    return _condition("Decommissioned", False, judged.identity[0] or judged.facts.reason or "NotSeen", message)


def _allowed(row: Row, outcome: Outcome) -> Condition | None:
    if outcome.granted:
        return _condition("ChangeAllowed", True, "Granted", "The last permit asked for was granted.")
    if outcome.refusal[0]:
        return _condition("ChangeAllowed", False, *outcome.refusal)
    return find(row.conditions, "ChangeAllowed")


def _stalled(judged: Judgement, memory: Memory) -> Condition:
    if judged.identity[0]:
        return _condition("Stalled", True, *judged.identity)
    if memory.stalled[0]:
        return _condition("Stalled", True, *memory.stalled)
    if judged.chosen.problem is not None:
        return _condition("Stalled", True, *judged.chosen.problem)
    if judged.held_removals:
        return _condition(
            "Stalled", True, "RemovalHeld", f"The removal of {_some(judged.held_removals)} waits for a person."
        )
    if judged.blocked[0] in ("Adopted", "NotVerifiable"):
        return _condition("Stalled", True, *judged.blocked)
    return _condition("Stalled", False, "NotStalled")


def _working(judged: Judgement, outcome: Outcome, memory: Memory) -> Condition:
    operation = outcome.operation
    if operation is not None:
        said = outcome.move.message or outcome.move.status.get("message", "") if outcome.move else ""
        return _condition(
            "Reconciling",
            True,
            "OperationOpen",
            f"{operation.name}: {outcome.refusal[1] or said or operation.phase}"[:900],
        )
    if judged.plan is not None and not judged.blocked[0]:
        reason, said = (
            judged.halt
            if judged.halt[0]
            else judged.brake
            if judged.brake[0]
            else memory.failed
            if memory.failed[0]
            else ("Planned", "The change is planned.")
        )
        return _condition("Reconciling", True, reason, said)
    return _condition("Reconciling", False, judged.blocked[0] or "AtRest", judged.blocked[1])


def _ready(judged: Judgement, stalled: Condition, work: Condition) -> Condition:
    if not judged.seen:
        reason, message = judged.identity if judged.identity[0] else (judged.facts.reason, judged.facts.message)
        return _condition("Ready", False if judged.identity[0] else None, reason or "NotSeen", message)
    if judged.met and judged.healthy and stalled.status != "True":
        return _condition("Ready", True, "AsAccepted", "The machine is at its final state.")
    first = stalled if stalled.status == "True" else work
    return _condition("Ready", False, first.reason, first.message or "The machine differs from what was accepted.")


def with_scheduling(found: tuple[Condition, ...], scheduled: Scheduled | None) -> tuple[Condition, ...]:
    """The conditions with what is so of the node: a machine whose node is kept closed is not at its final state."""
    more = scheduling(scheduled)
    if not more:
        return found
    ready, said = find(found, "Ready"), more[0]
    if ready is not None and ready.status == "True" and said.status != "True" and scheduled and scheduled.enforced:
        closed = _condition("Ready", None if said.status == "Unknown" else False, said.reason, said.message)
        found = tuple(closed if c.type == "Ready" else c for c in found)
    return (*found, *more)


def _some(names: Sequence[str]) -> str:
    items = list(names)
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def signs_of(row: Row, judged: Judgement, outcome: Outcome, memory: Memory, now: datetime) -> phases.Signs:
    """What the phase is computed from."""
    operation = outcome.operation
    open_ = operation is not None
    if row.deleted_at is not None:
        return phases.Signs(deleted=True, retired=retired(row, outcome))
    if not judged.seen and judged.facts.reason == "NoCredential" and row.node is not None:
        # A node of a cluster that others made, without a way to its host: it is in service once it was Ready, and counts in budgets.
        return phases.Signs(met=is_true(row.conditions, "NodeReady"))
    why = str(operation.status.get("why", "")) if operation is not None else ""
    wanted = judged.why if judged.plan is not None and not judged.blocked[0] else ""
    if judged.seen:
        work = why if open_ else wanted
    else:  # an unseen host keeps its phase, unless an Operation goes on
        work = why if open_ else ""
    return phases.Signs(
        stalled=bool(memory.stalled[0]),
        met=judged.met and judged.healthy and not open_,
        ever_met=memory.met != 0,
        begun=open_ and outcome.move is not None and "startTime" in outcome.move.status,
        work="repair" if work == RECOVER else work if work in ("change", "repair") else "",
        calm_seconds=(now - row.phase_since).total_seconds(),
    )


def retired(row: Row, outcome: Outcome) -> bool:
    """Out of service for good: cleaned, given up by an approver, or never touched."""
    move = outcome.move
    clean = move is not None and move.ended == "Succeeded" and move.status.get("why") == "decommission"
    return clean or abandoned(row) or untouched(row)


def next_look(
    row: Row, judged: Judgement, outcome: Outcome, memory: Memory, phase: str, attempts: int
) -> tuple[float, bool]:
    """(seconds until the next pass, at rest)."""
    move = outcome.move
    if row.deleted_at is not None and retired(row, outcome):
        return 0.2, False  # through Decommissioning and Retired to its end, whether the host answers or not
    if move is not None and not move.ended:
        if outcome.refusal[0] and not move.start:
            return random.uniform(8, 20), False
        return move.wait * random.uniform(0.9, 1.2), False
    if not judged.seen:  # an Operation that is open waits for its host: it may be booting
        return backoff(attempts, first=5, most=10 if outcome.operation is not None else 300), False
    if (judged.halt[0] == "Held" or judged.brake[0]) and judged.plan is not None:
        return random.uniform(20, 40), False  # a hold ends without a word, and so does what is waited for elsewhere
    if judged.diffs and not row.drift & 2 and not judged.halt[0]:
        return 1.0, False  # newly seen: the next look brings the texts for the difference
    if phase == phases.PROBATION:
        return phases.PROBATION_SECONDS / 3, False
    if move is not None and move.ended == "Failed":
        return backoff(memory.failures, first=5, most=600), False
    if move is not None or (
        judged.plan is not None and not judged.blocked[0] and not judged.halt[0] and not memory.failed[0]
    ):
        return 0.2, False
    return REST_SECONDS, True


def standing(outcome: Outcome) -> Outcome:
    """The outcome as conditions see it: an Operation that ended is no longer open."""
    ended = outcome.move is not None and outcome.move.ended
    return replace(outcome, operation=None) if ended else outcome


def conclude(
    row: Row,
    judged: Judgement,
    outcome: Outcome,
    now: datetime,
    rest_seconds: float = REST_SECONDS,
    scheduled: Scheduled | None = None,
) -> Record:
    """The record of the pass."""
    memory = remember(judged, outcome)
    found = with_scheduling(conditions(row, judged, outcome, memory), scheduled)
    phase = phases.phase_of(row.phase, signs_of(row, judged, outcome, memory, now))
    failed = not judged.seen or (outcome.move is not None and outcome.move.ended == "Failed")
    attempts = row.attempts + 1 if failed else 0
    seconds, resting = next_look(row, judged, outcome, memory, phase, attempts)
    if scheduled is not None and scheduled.verdict.reason in RETRIED:
        seconds, resting = min(seconds, RETRIED[scheduled.verdict.reason] * random.uniform(0.8, 1.2)), False
    if resting:
        seconds = rest_seconds * random.uniform(0.9, 1.1)
    observed = judged.chosen.hash if judged.met else 0
    if not judged.seen and not row.drift & 2:
        observed = row.desired_hash  # not seen is no news
    return Record(
        id=row.id, epoch=row.epoch, generation=row.generation, want=judged.chosen.hash, observed=observed, phase=phase, open=scheduled is None or scheduled.open,
        conditions=found, next_seconds=seconds, attempts=attempts, resting=resting,
        seen=seen_json(judged) if judged.seen else None, facts=facts_json(judged.facts, memory) if judged.seen else None,
        plan=plan_json(judged) if judged.seen else None, in_service=phase not in phases.NOT_IN_SERVICE,
        events=news_of(row, found), before=row.packed, masks=masks(scheduled),
    )  # fmt: skip
