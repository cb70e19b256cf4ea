"""What is decided about a node, whatever its gates say and whatever was remembered: the rules that nothing may break."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.control.conditions import Condition
from machines import gates
from machines.gates import Answer, Gate, Memory, NodeRow, View

TYPES = ("A", "B", "C")
GATES = st.builds(
    Gate, st.sampled_from(TYPES), st.sampled_from([gates.REQUIRE_TRUE, gates.FORBID_TRUE]),
    st.sampled_from([gates.CONTINUOUS, gates.BOOTSTRAP_ONLY, gates.WHILE_CLOSED]), st.just("Cluster web"), st.booleans(),
)  # fmt: skip
ANSWERS = st.lists(st.builds(Answer, GATES, st.sampled_from([True, False, None])), max_size=5)
CAUSES = st.sampled_from(["", "join", "gate:A", "gate:B", "operation:op-1"])
TAINT = {"key": gates.JOINING_TAINT, "effect": "NoSchedule"}
NODES = st.builds(
    NodeRow, st.just("n"), st.sampled_from(["u1", "u2"]), st.booleans(), CAUSES, st.sampled_from([(), (TAINT,)]),
    rv=st.sampled_from(["5", "9", ""]),
)  # fmt: skip
MEMORIES = st.builds(
    Memory, st.sampled_from(["", "Open", "Closed", "Opening", "Closing", "CordonedByPerson", "Joining"]), node_uid=st.sampled_from(["", "u1"]),
    cause=CAUSES, rv=st.sampled_from(["", "7"]), opened=st.sampled_from(["", "u1"]), overruled=st.frozensets(CAUSES),
)  # fmt: skip
VIEWS = st.builds(
    View, st.booleans(), st.booleans(), st.just(True), st.sampled_from([("", ""), ("Held", "an audit")]), st.just("op-1"), st.booleans(), st.booleans(),
)  # fmt: skip


@given(NODES, ANSWERS, MEMORIES, VIEWS)
def test_no_rule_of_the_final_state_is_ever_broken(
    node: NodeRow, found: list[Answer], memory: Memory, view: View
) -> None:
    verdict = gates.decide(node, found, memory, view)
    binding = [a for a in found if not a.gate.dry_run]
    if not view.fresh:
        assert verdict.act == "", "nothing is decided from a view that is not fresh"
    if verdict.act == "close":
        assert node.open
        assert view.enforced
        assert not view.held[0]
        assert not view.leaving
        said_no = [a for a in binding if a.holds is False and a.gate.mode == gates.CONTINUOUS]
        assert said_no, "only a Continuous gate that is freshly False closes"
        assert any(verdict.cause == gates.gate_cause(a.gate.type) for a in said_no)
        assert verdict.cause not in memory.overruled or any(
            a.holds is True and gates.gate_cause(a.gate.type) == verdict.cause for a in found
        ), "a cause that a person opened against counts only after having held"
    if verdict.act == "open":
        assert node.unschedulable
        assert node.closed_by, "what Fleet did not close it does not open"
        assert not view.leaving
        bootstrap = memory.opened != node.uid
        missing = [a for a in binding if a.holds is not True and (bootstrap or a.gate.mode != gates.BOOTSTRAP_ONLY)]
        assert not (view.enforced and missing), "a closed node opens when every gate holds"
        assert not (view.draining and node.closed_by == gates.operation_cause(view.operation))
    if node.unschedulable and not node.closed_by and not node.joining:
        assert verdict.act == "", "a person's cordon stays"
    if verdict.act == "admit":
        assert node.joining


@given(ANSWERS)
def test_what_cannot_be_read_is_unknown(found: list[Answer]) -> None:
    for each in found:
        assert gates.answer(each.gate, None).holds is None
        assert gates.answer(each.gate, Condition(each.gate.type, "Unknown", "X")).holds is None
        yes = gates.answer(each.gate, Condition(each.gate.type, "True", "X")).holds
        assert yes is (each.gate.polarity == gates.REQUIRE_TRUE)


def test_a_machine_without_a_node_says_what_is_missing() -> None:
    assert gates.decide(None, (), Memory(), View()).reason == "NotJoined"
    assert gates.decide(None, (), Memory(), View(is_member=False)).state == "NotANode"
    assert gates.decide(None, (), Memory(), View(fresh=False)).reason == "ViewStale"


def test_fleets_own_cordon_is_no_persons_uncordon_while_the_watcher_is_behind() -> None:
    closed = Memory("Closed", "GateClosed", "", None, "u1", "gate:A", "9", "u1")
    behind = NodeRow("n", "u1", rv="7")
    assert not gates.opened_against(behind, closed)
    assert gates.decide(behind, (), closed, View()).state == "Closed"
    seen = NodeRow("n", "u1", rv="11")
    assert gates.opened_against(seen, closed)
    assert gates.decide(seen, (), closed, View()).opened_by_person
