"""What a pass found out about the scheduling of a machine's node, as conditions and as bits for the sweep. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.control.conditions import Condition
from machines import gates
from machines.conditions import BIT, NEVER
from machines.gates import BOOTSTRAP_ONLY, CONTINUOUS, FORBID_TRUE, REQUIRE_TRUE, Answer, Gate, Verdict


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What became of the machine's node in this pass."""

    verdict: Verdict
    answers: tuple[Answer, ...]
    enforced: bool

    @property
    def open(self) -> bool:
        """As `machine_state.open` holds it: a machine that is no node is not closed."""
        return self.verdict.state in ("Open", "NotANode")


def masks(scheduled: Scheduled | None) -> tuple[int, int, int, int]:
    """Bits by which the sweep finds a machine whose gates ask for a look: what opens a closed node, what closes an open one."""
    if scheduled is None or scheduled.verdict.state == "NotANode":
        return 0, 0, 0, 0
    binding = [a.gate for a in scheduled.answers if not a.gate.dry_run]
    if scheduled.verdict.state != "Open":
        bootstrap = not scheduled.verdict.opened
        counted = [g for g in binding if bootstrap or g.mode != BOOTSTRAP_ONLY]
        true, false = _bits(counted, REQUIRE_TRUE), _bits(counted, FORBID_TRUE)
        told = all(g.type in BIT for g in counted) and scheduled.verdict.state == "Closed" and bool(counted)
        return (true if told else true | NEVER), false, 0, 0
    if not scheduled.enforced:
        return 0, 0, 0, 0
    closing = [
        g for g in binding if g.mode == CONTINUOUS and gates.gate_cause(g.type) not in scheduled.verdict.overruled
    ]
    return 0, 0, _bits(closing, REQUIRE_TRUE), _bits(closing, FORBID_TRUE)


def _bits(wanted: Sequence[Gate], polarity: str) -> int:
    return sum({1 << BIT[g.type] for g in wanted if g.polarity == polarity and g.type in BIT})


def conditions(scheduled: Scheduled | None) -> tuple[Condition, ...]:
    """`Schedulable` and `GatesHold` of a machine that is, or shall be, a node."""
    if scheduled is None or scheduled.verdict.state == "NotANode":
        return ()
    verdict = scheduled.verdict
    if verdict.state == "Joining" and verdict.reason == "ViewStale":
        said = Condition("Schedulable", "Unknown", verdict.reason, verdict.message)
    else:
        said = Condition("Schedulable", "True" if verdict.state == "Open" else "False", verdict.reason, verdict.message)
    missing = gates.waits_for(scheduled.answers, bootstrap=not verdict.opened)
    if not missing:
        return said, Condition("GatesHold", "True", "AllHold", "Every gate holds.")
    known = any(a.holds is False for a in missing)
    names = ", ".join(a.gate.type for a in missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return said, Condition("GatesHold", "False" if known else "Unknown", "GatesMissing", f"It waits for {names}.")
