"""What becomes of a remediation, move by move: a state machine against a plain model of the world around it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from recovery.advance import BY_RECOVERY, Case, OperationSeen, Step, advance
from recovery.phases import fault_moves, remediation_moves
from recovery.playbooks import Ladder, ladder_of
from recovery.types import (
    CANCELLED,
    CONFIRMED,
    ENDED,
    ESCALATED,
    NEEDS_PERSON,
    RECOVERING,
    REPAIRING,
    RESOLVED,
    SUCCEEDED,
    VERIFYING,
    WAITING,
)

LADDER: Ladder = ladder_of(
    "fix",
    {
        "rungs": [
            {"name": "restart", "steps": [{"action": "RestartUnits"}], "verifySeconds": 60},
            {"name": "reboot", "steps": [{"action": "Drain"}, {"action": "Reboot"}], "verifySeconds": 60},
            {"name": "ask", "steps": [{"action": "AskPerson", "task": "Look."}]},
        ],
        "probationSeconds": 30,
    },
)
START = datetime(2026, 1, 1, tzinfo=UTC)


def case(phase: str = REPAIRING, **more: object) -> Case:
    plain = Case(
        phase,
        0,
        LADDER,
        {"rungs": [{"name": "restart", "operation": "m1-1", "phase": "Pending"}]},
        START,
        RECOVERING,
        None,
        sources=("fleet",),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def operation(phase: str, **more: object) -> OperationSeen:
    return OperationSeen("m1-1", phase, phase != "Pending", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "phase", "fault"),
    [
        pytest.param(case(operation=operation("Running")), REPAIRING, "", id="it runs"),
        pytest.param(case(operation=operation("Succeeded")), VERIFYING, "", id="it is done"),
        pytest.param(case(operation=operation("Failed", reason="UnitFailed")), WAITING, "", id="it failed"),
        pytest.param(
            case(operation=operation("Cancelled", cancelled_by="olga", reason="Cancelled")),
            CANCELLED,
            NEEDS_PERSON,
            id="a person cancelled it",
        ),
        pytest.param(
            case(operation=operation("Cancelled", reason="OpenedByPerson")),
            CANCELLED,
            NEEDS_PERSON,
            id="a person opened the node",
        ),
        pytest.param(
            case(operation=operation("Failed", cancelled_by="olga")),
            CANCELLED,
            NEEDS_PERSON,
            id="a person cancelled it and its step failed",
        ),
        pytest.param(case(VERIFYING, fault_cleared_since=START), "Probation", "", id="it helped"),
        pytest.param(case(VERIFYING, phase_at=START - timedelta(hours=1)), WAITING, "", id="it did not help"),
        pytest.param(
            case(VERIFYING, rung=1, phase_at=START - timedelta(hours=1)),
            WAITING,
            "",
            id="the last of Fleet's own did not help",
        ),
        pytest.param(case(WAITING, rung=2), ESCALATED, NEEDS_PERSON, id="a person's rung"),
        pytest.param(
            case("Probation", fault_cleared_since=START, phase_at=START - timedelta(hours=1)),
            SUCCEEDED,
            RESOLVED,
            id="it stayed away",
        ),
        pytest.param(case("Probation"), WAITING, "", id="it came back"),
        pytest.param(case(machine_gone=True), CANCELLED, RESOLVED, id="the machine is gone"),
        pytest.param(case(cancelled_by="worse fault x"), CANCELLED, CONFIRMED, id="a worse fault"),
    ],
)
def test_each_situation_has_one_way_on(seen: Case, phase: str, fault: str) -> None:
    step = advance(seen, START + timedelta(seconds=40) if phase == SUCCEEDED else START)
    assert (step.phase, step.fault) == (phase, fault)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        pytest.param({"blind": "Silent."}, "ViewBroken", id="blind"),
        pytest.param({"cordoned": "A person closed it."}, "CordonedByPerson", id="cordoned"),
        pytest.param({"rung": 1}, "OneSource", id="a reboot on one word"),
    ],
)
def test_a_rung_that_may_not_begin_waits_and_says_why(more: dict[str, object], reason: str) -> None:
    step = advance(case(WAITING, **more), START)
    assert (step.phase, step.status["reason"], step.ask) == (WAITING, reason, None)


class Remediations(RuleBasedStateMachine):
    """A remediation in a world where anything happens at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.case = case(operation=operation("Pending"))
        self.fault = RECOVERING
        self.begun: list[int] = [0]  # rungs whose Operation was made, in order
        self.person = False  # a person has spoken

    def _take(self, step: Step) -> None:
        moved = f"{self.case.phase}>{step.phase}"
        assert step.phase == self.case.phase or moved in remediation_moves(), moved
        if step.fault and step.fault != self.fault:
            assert f"{self.fault}>{step.fault}" in fault_moves()
            self.fault = step.fault
        seen = self.case.operation
        if step.cancel_operation and seen is not None:
            seen = replace(seen, cancelled_by=step.cancel_operation)
        if step.ask is not None:
            rung = self.case.rung
            assert not self.case.blind and not self.case.cordoned
            assert len(self.case.sources) >= step.ask.sources
            assert not step.ask.of_people
            assert not (seen is not None and seen.phase in ("Pending", "Running")), "two Operations at once"
            self.begun.append(rung)
            entries = [
                *self.case.status.get("rungs", []),
                {"name": step.ask.name, "operation": f"m1-{len(self.begun)}", "phase": "Pending"},
            ]
            self.case = replace(
                self.case, phase=REPAIRING, status=self.case.status | {"rungs": entries}, phase_at=self.now,
                operation=OperationSeen(f"m1-{len(self.begun)}", "Pending", False),
            )  # fmt: skip
            return
        at = self.now if step.phase != self.case.phase else self.case.phase_at
        self.case = replace(
            self.case, phase=step.phase, rung=step.rung, status=step.status, phase_at=at, operation=seen
        )

    @rule(seconds=st.sampled_from([1, 5, 29, 31, 61, 600]))
    def a_pass(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        if self.case.phase not in ENDED:
            self._take(advance(self.case, self.now))

    @rule()
    def the_same_pass_twice(self) -> None:
        """What a process that died decided, another decides again."""
        if self.case.phase not in ENDED:
            assert advance(self.case, self.now) == advance(self.case, self.now)

    @rule(phase=st.sampled_from(["Running", "Succeeded", "Failed"]))
    def the_operation_goes_on(self, phase: str) -> None:
        seen = self.case.operation
        if seen is None or seen.phase not in ("Pending", "Running"):
            return
        if seen.cancelled_by:
            phase = "Cancelled"
        self.case = replace(
            self.case, operation=replace(seen, phase=phase, started=True, reason="X" if phase == "Failed" else "")
        )

    @rule(gone=st.booleans())
    def the_fault_goes_and_comes(self, gone: bool) -> None:
        self.case = replace(self.case, fault_cleared_since=self.now if gone else None)

    @rule(text=st.sampled_from(["", "Silent."]))
    def the_view(self, text: str) -> None:
        self.case = replace(self.case, blind=text)

    @rule(text=st.sampled_from(["", "A person closed it."]))
    def a_cordon(self, text: str) -> None:
        self.case = replace(self.case, cordoned=text)

    @rule(sources=st.sampled_from([("fleet",), ("fleet", "kubelet")]))
    def sources(self, sources: tuple[str, ...]) -> None:
        self.case = replace(self.case, sources=sources)

    @rule()
    def a_person_cancels(self) -> None:
        if self.case.phase not in ENDED:
            self.case, self.person = replace(self.case, cancelled_by="olga"), True

    @invariant()
    def rungs_only_go_up_and_none_is_done_again_after_a_person_spoke(self) -> None:
        assert self.begun == sorted(set(self.begun))

    @invariant()
    def what_has_ended_has_told_its_fault(self) -> None:
        if self.case.phase == SUCCEEDED:
            assert self.fault == RESOLVED
        if self.case.phase == ESCALATED:
            assert self.fault == NEEDS_PERSON

    @invariant()
    def a_persons_word_ends_it(self) -> None:
        if self.person and self.case.phase in ENDED:
            assert self.case.phase in (CANCELLED, SUCCEEDED, ESCALATED)

    def teardown(self) -> None:
        """When the faults of the world stop, it ends in bounded time."""
        self.case = replace(self.case, blind="", cordoned="", sources=("fleet", "kubelet"))
        for _ in range(60):
            if self.case.phase in ENDED:
                return
            self.the_operation_goes_on("Failed")
            self.a_pass(61)
        raise AssertionError(f"it never ends: {self.case}")


Remediations.TestCase.settings = settings(stateful_step_count=40)
TestRemediations = Remediations.TestCase


def test_an_operation_whose_fault_went_away_before_it_began_is_taken_back() -> None:
    step = advance(case(operation=operation("Pending"), fault_cleared_since=START), START)
    assert step.cancel_operation == BY_RECOVERY
    step = advance(case(operation=operation("Cancelled", cancelled_by=BY_RECOVERY), fault_cleared_since=START), START)
    assert (step.phase, step.fault) == ("Probation", "")


def test_no_power_is_switched_for_silence_alone() -> None:
    power = ladder_of(
        "power",
        {
            "rungs": [
                {"name": "cycle", "steps": [{"action": "PowerCycle"}]},
                {"name": "ask", "steps": [{"action": "AskPerson"}]},
            ]
        },
    )
    cut = case(WAITING, ladder=power, sources=("fleet", "kubelet"))
    step = advance(cut, START)
    assert (step.status["reason"], step.ask) == ("OnlySilence", None)
    assert advance(replace(cut, sources=("bmc", "fleet")), START).ask is not None
