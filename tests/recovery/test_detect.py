"""What counts as a fault: the pure rules of detection, one machine at a time."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api import schema
from recovery.builtins import PLAYBOOKS, RULES
from recovery.detect import Evidence, Finding, Known, Sight, look
from recovery.phases import fault_moves
from recovery.playbooks import ACTIONS, HARDNESS, ladder_of
from recovery.rules import EVENT, Rule, rule_of
from recovery.schema_rules import FAULT_RULE_KIND, PLAYBOOK_KIND
from recovery.types import CONFIRMED, LIVE, NEEDS_PERSON, OPEN, RECOVERING, RESOLVED, SUSPECTED, TYPES

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def rule(**spec: object) -> Rule:
    plain = {
        "faultType": "DiskFailure", "when": [{"condition": "DiskBad"}], "holdSeconds": 30, "clearSeconds": 30, "mode": "Active",
        "target": {"matchAll": True}, "playbook": "hardware",
    }  # fmt: skip
    made = rule_of("r", {**plain, **spec})
    assert made is not None
    return made


def said(
    type_: str = "DiskBad", status: str = "True", *, source: str = "node-agent", age: float = 60, reason: str = "Smart"
) -> Evidence:
    return Evidence(type_, status, reason, "", source, NOW - timedelta(seconds=age))


def sight(*evidence: Evidence, blind: str = "", cluster: str = "", labels: dict[str, str] | None = None) -> Sight:
    return Sight(1, "m1", 7, cluster, labels or {}, evidence, blind)


def known(phase: str = CONFIRMED, **more: object) -> dict[str, Known]:
    plain = {
        "id": 5, "type": "DiskFailure", "phase": phase, "rule": "r", "shadow": False, "severity": 2, "count": 1,
        "held_since": NOW - timedelta(seconds=60), "cleared_since": None, "sources": ("node-agent",), "seen": (("DiskBad", "Smart"),),
    }  # fmt: skip
    return {"DiskFailure": Known(**{**plain, **more})}  # type: ignore[arg-type]


def one(rules: list[Rule], seen: Sight, there: dict[str, Known] | None = None) -> Finding:
    (found,) = look(rules, seen, there or {}, NOW)
    return found


def test_what_has_held_for_its_time_is_confirmed() -> None:
    found = one([rule()], sight(said(age=30)))
    assert (found.phase, found.reason, found.sources) == (CONFIRMED, "Confirmed", ("node-agent",))


def test_what_is_seen_for_a_moment_only_waits_for_its_time_and_says_when() -> None:
    found = one([rule()], sight(said(age=12)))
    assert (found.phase, found.reason, found.due_seconds) == (OPEN, "Holding", 18.0)


def test_with_one_source_where_two_are_asked_for_it_is_suspected_only() -> None:
    found = one([rule(sources=2)], sight(said()))
    assert (found.phase, found.reason) == (SUSPECTED, "OneSource")
    assert "2 independent sources" in found.message


def test_two_sources_confirm_and_fleets_own_two_eyes_are_one() -> None:
    twice = rule(sources=2, when=[{"condition": "DiskBad"}, {"condition": "Probe/disk", "status": "False"}])
    assert one([twice], sight(said(), said("Probe/disk", "False", source="prober"))).phase == CONFIRMED
    assert one([twice], sight(said(source="fleet"), said("Probe/disk", "False", source="prober"))).phase == SUSPECTED


def test_what_only_speaks_along_makes_no_fault_by_itself() -> None:
    along = rule(sources=2, also=[{"condition": "NodeReady", "status": "Unknown"}])
    assert look([along], sight(said("NodeReady", "Unknown", source="kubelet")), {}, NOW) == []
    assert one([along], sight(said(), said("NodeReady", "Unknown", source="kubelet"))).phase == CONFIRMED


def test_unknown_is_not_unhealthy() -> None:
    assert look([rule()], sight(said(status="Unknown")), {}, NOW) == []


def test_unknown_is_not_well_either_and_takes_no_fault_back() -> None:
    found = one([rule()], sight(said(status="Unknown")), known())
    assert (found.phase, found.reason, found.cleared_since) == (CONFIRMED, "Unknown", None)
    assert one([rule()], sight(), known()).phase == CONFIRMED


def test_what_another_fault_explains_is_left_to_that() -> None:
    guarded = rule(unless=[{"condition": "Reachable", "status": "False"}])
    assert look([guarded], sight(said(), said("Reachable", "False", source="fleet")), {}, NOW) == []


def test_a_fault_is_over_only_after_it_has_been_away_for_its_time() -> None:
    away = sight(said(status="False"))
    first = one([rule()], away, known())
    assert (first.phase, first.reason, first.cleared_since) == (CONFIRMED, "Clearing", NOW)
    later = one([rule()], away, known(cleared_since=NOW - timedelta(seconds=31)))
    assert (later.phase, later.reason) == (RESOLVED, "Cleared")


def test_a_fault_under_repair_is_not_ended_by_detection() -> None:
    found = one([rule()], sight(said(status="False")), known(RECOVERING, cleared_since=NOW - timedelta(hours=1)))
    assert (found.phase, found.reason) == (RECOVERING, "Cleared")


def test_what_comes_back_before_it_counted_holds_anew() -> None:
    found = one([rule()], sight(said(age=300)), known(OPEN, cleared_since=NOW - timedelta(seconds=5)))
    assert (found.phase, found.held_since, found.count) == (OPEN, NOW, 2)


def test_a_hundred_flips_are_one_fault_that_counts_them() -> None:
    flapping = rule(flaps={"count": 3, "withinSeconds": 600})
    there: dict[str, Known] = {}
    phases = []
    for flip in range(100):
        now = NOW + timedelta(seconds=flip)
        seen = sight(Evidence("DiskBad", "True" if flip % 2 == 0 else "False", "Smart", "", "node-agent", now))
        (found,) = look([flapping], seen, there, now)
        there = known(
            found.phase,
            id=5,
            cleared_since=found.cleared_since,
            held_since=found.held_since,
            count=found.count,
            flips=found.flips,
        )
        phases.append(found.phase)
    assert found.count == 50
    assert CONFIRMED in phases and RESOLVED not in phases
    assert len(found.flips) <= 100
    calm = one(
        [flapping],
        sight(said(status="False")),
        known(CONFIRMED, cleared_since=NOW - timedelta(seconds=599), flips=(NOW, NOW, NOW)),
    )
    assert calm.phase == CONFIRMED  # what comes and goes is over after a long calm only


@pytest.mark.parametrize("phase", [OPEN, SUSPECTED, CONFIRMED])
def test_where_fleet_is_blind_nothing_is_concluded_and_the_time_counts_anew(phase: str) -> None:
    found = one([rule()], sight(said(), blind="12 of 12 are silent."), known(phase))
    assert (found.phase, found.reason, found.held_since) == (OPEN, "ViewBroken", NOW)
    fresh = one([rule(holdSeconds=0)], sight(said(), blind="12 of 12 are silent."))
    assert (fresh.phase, fresh.reason) == (OPEN, "ViewBroken")
    after = one([rule()], sight(said(age=300)), known(OPEN, held_since=NOW))
    assert (after.phase, after.reason) == (OPEN, "Holding")


def test_where_fleet_is_blind_a_repair_under_way_and_a_persons_fault_stay() -> None:
    for phase in (RECOVERING, NEEDS_PERSON):
        assert one([rule()], sight(said(), blind="Silent."), known(phase)).phase == phase


def test_what_a_person_declared_no_rule_takes_back() -> None:
    assert look([rule()], sight(said(status="False")), known(rule=""), NOW) == []


def test_the_fault_of_a_rule_that_is_gone_is_over() -> None:
    found = one([], sight(said()), known())
    assert (found.phase, found.reason) == (RESOLVED, "RuleGone")


def test_a_rule_on_trial_lends_nothing_to_one_that_acts() -> None:
    trial = rule(mode="Shadow", when=[{"condition": "Other"}], holdSeconds=0)
    active = rule(sources=2)
    found = one([trial, active], sight(said(), said("Other", source="x")))
    assert (found.phase, found.rule and found.rule.shadow) == (SUSPECTED, False)
    alone = one([trial], sight(said("Other")))
    assert (alone.phase, alone.rule and alone.rule.shadow) == (CONFIRMED, True)


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ({"matchAll": True}, True),
        ({"clusters": ["a"]}, True),
        ({"clusters": ["b"]}, False),
        ({"selector": {"matchLabels": {"pool": "gpu"}}}, True),
        ({"selector": {"matchLabels": {"pool": "cpu"}}}, False),
        ({"selector": {"matchLabels": {}}}, False),
        ({}, False),
    ],
)
def test_a_rule_means_whom_it_names_and_nobody_by_default(target: dict[str, object], meant: bool) -> None:
    found = look([rule(target=target)], sight(said(), cluster="a", labels={"pool": "gpu"}), {}, NOW)
    assert bool(found) == meant


def test_events_speak_by_the_beginning_of_their_type_and_their_reason() -> None:
    of_events = rule(when=[{"event": "redfish.drive", "reasons": ["PredictiveFailure"]}], holdSeconds=0)
    assert (
        one([of_events], sight(said(EVENT + "redfish.drive.alert", reason="PredictiveFailure", source="bmc"))).phase
        == CONFIRMED
    )
    assert look([of_events], sight(said(EVENT + "redfish.drive.alert", reason="Other")), {}, NOW) == []
    assert look([of_events], sight(said("redfish.drive.alert", reason="PredictiveFailure")), {}, NOW) == []


@given(
    phase=st.sampled_from(LIVE),
    status=st.sampled_from(["True", "False", "Unknown", "absent"]),
    age=st.floats(0, 1000),
    cleared=st.one_of(st.none(), st.floats(0, 1000)),
    sources=st.integers(1, 3),
    blind=st.booleans(),
    flaps=st.booleans(),
)
def test_every_move_of_a_fault_is_legal(
    phase: str, status: str, age: float, cleared: float | None, sources: int, blind: bool, flaps: bool
) -> None:
    there = known(
        phase,
        held_since=NOW - timedelta(seconds=age),
        cleared_since=None if cleared is None else NOW - timedelta(seconds=cleared),
    )
    evidence = () if status == "absent" else (said(status=status, age=age),)
    rules = [rule(sources=sources, **({"flaps": {"count": 2, "withinSeconds": 60}} if flaps else {}))]
    found = one(rules, sight(*evidence, blind="x" if blind else ""), there)
    assert found.phase == phase or f"{phase}>{found.phase}" in fault_moves()
    if status in ("Unknown", "absent"):
        assert found.phase != RESOLVED and found.phase != CONFIRMED or phase == CONFIRMED


# -- what Fleet brings ----------------------------------------------------------------------------------------------------


def test_every_fault_that_fleet_knows_has_a_rule_and_a_playbook() -> None:
    assert {r["faultType"] for r in RULES.values()} == set(TYPES)
    assert {t.playbook for t in TYPES.values()} <= set(PLAYBOOKS)


def test_a_host_that_is_installed_anew_begins_no_fault() -> None:
    assert look([rule()], replace(sight(said(age=600)), reinstalled=True), {}, NOW) == []


@pytest.mark.parametrize("phase", [OPEN, SUSPECTED, CONFIRMED])
def test_a_fault_of_a_host_that_is_installed_anew_waits_until_that_is_over(phase: str) -> None:
    for seen in (sight(said(age=600)), sight(said(status="False"))):
        found = one([rule()], replace(seen, reinstalled=True), known(phase))
        assert (found.phase, found.reason, found.held_since) == (OPEN, "BeingReinstalled", NOW)


def test_the_fault_that_is_repaired_by_it_is_over_only_afterwards() -> None:
    gone = sight(said(status="False"))
    assert one([rule()], replace(gone, reinstalled=True), known(RECOVERING)).cleared_since is None
    assert one([rule()], gone, known(RECOVERING)).cleared_since == NOW


def _refused(*actions: str, **more: int) -> list[str]:
    """Fields for which a playbook is refused whose first rung has these actions, each with these values."""
    rungs = [
        {"name": "r", "steps": [{"action": a, **more} for a in actions]},
        {"name": "ask", "steps": [{"action": "AskPerson"}]},
    ]
    obj = {"apiVersion": "fleet.dev/v1", "kind": "Playbook", "metadata": {"name": "p"}, "spec": {"rungs": rungs}}
    return [p.field for p in schema.validate(PLAYBOOK_KIND, obj, None)]


@pytest.mark.parametrize(
    ("actions", "fields"),
    [
        (["Drain", "Reinstall"], []),
        (["Isolate", "Drain", "Reinstall"], []),
        (["Reinstall"], ["spec.rungs[0].steps[0].action"]),
        (["Isolate", "Reinstall"], ["spec.rungs[0].steps[1].action"]),
        (["Reinstall", "Drain"], ["spec.rungs[0].steps[0].action"]),
        (["Drain", "Reboot", "Reinstall"], ["spec.rungs[0].steps[1].action"]),
        (["Drain", "Reinstall", "RestartUnits"], ["spec.rungs[0].steps[2].action"]),
        (["Drain", "Reinstall", "Reinstall"], ["spec.rungs[0].steps[2].action"]),
    ],
)
def test_a_rung_that_reinstalls_drains_before_and_does_nothing_else(actions: list[str], fields: list[str]) -> None:
    assert _refused(*actions) == fields


def test_how_long_it_may_take_can_be_said_of_what_boots() -> None:
    assert _refused("Drain", "Reboot") == [] == _refused("Reboot", timeoutSeconds=30)
    assert _refused("PowerCycle", timeoutSeconds=7200) == []
    assert _refused("Drain", "Reboot", timeoutSeconds=60) == ["spec.rungs[0].steps[0].timeoutSeconds"]
    assert _refused("Reboot", timeoutSeconds=29) == ["spec.rungs[0].steps[0].timeoutSeconds"]


def test_a_rung_that_reinstalls_asks_no_person() -> None:
    assert "spec.rungs[0].steps" in _refused("Drain", "Reinstall", "AskPerson")


def test_a_rung_that_reinstalls_is_harder_than_a_power_cycle_and_asks_for_more_than_silence() -> None:
    ladder = ladder_of("p", {"rungs": [{"name": "r", "steps": [{"action": "Drain"}, {"action": "Reinstall"}]}]})
    (rung,) = ladder.rungs
    assert (rung.verb, rung.sources) == ("Reinstall", 2)
    assert HARDNESS.index("PowerCycle") < HARDNESS.index("Reinstall") < HARDNESS.index("Replace")
    assert rung.only_silence(["fleet", "kubelet"])
    assert not rung.only_silence(["fleet", "bmc"])


def test_no_playbook_that_fleet_brings_wipes_a_disk() -> None:
    assert not [n for n, p in PLAYBOOKS.items() for r in p["rungs"] for s in r["steps"] if s["action"] == "Reinstall"]


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_that_fleet_brings_passes_its_own_checks(name: str) -> None:
    obj = {"apiVersion": "fleet.dev/v1", "kind": "FaultRule", "metadata": {"name": name}, "spec": RULES[name]}
    assert not [*schema.validate(FAULT_RULE_KIND, obj, None)]
    made = rule_of(name, RULES[name])
    assert made is not None and made.playbook in PLAYBOOKS


@pytest.mark.parametrize("name", sorted(PLAYBOOKS))
def test_a_playbook_that_fleet_brings_passes_its_own_checks_and_ends_with_a_person(name: str) -> None:
    obj = {"apiVersion": "fleet.dev/v1", "kind": "Playbook", "metadata": {"name": name}, "spec": PLAYBOOKS[name]}
    assert not [*schema.validate(PLAYBOOK_KIND, obj, None)]
    ladder = ladder_of(name, PLAYBOOKS[name])
    assert ladder.rungs[-1].of_people
    hardness = [["None", "Cordon", "Restart", "Drain", "Reboot", "PowerCycle"].index(r.verb) for r in ladder.rungs[:-1]]
    assert hardness == sorted(hardness)


@pytest.mark.parametrize("name", ["pressure", "disk-space"])
def test_for_pressure_nothing_is_ever_restarted_rebooted_or_killed(name: str) -> None:
    actions = {s["action"] for r in PLAYBOOKS[name]["rungs"] for s in r["steps"]}
    assert actions <= {"Isolate", "CleanDisk", "AskPerson"}


def test_no_reboot_on_the_word_of_one_source() -> None:
    hard = [
        r for p in PLAYBOOKS for r in ladder_of(p, PLAYBOOKS[p]).rungs if r.verb in ("Reboot", "PowerCycle", "Replace")
    ]
    assert hard and all(r.sources == 2 for r in hard)
    assert set(ACTIONS) >= {s["action"] for p in PLAYBOOKS.values() for r in p["rungs"] for s in r["steps"]}


def test_detection_is_pure() -> None:
    for module in ("detect", "rules", "advance", "playbooks", "types"):
        tree = ast.parse((Path(__file__).parents[2] / "recovery" / f"{module}.py").read_text())
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not [n for n in names if n.startswith(("django", "psycopg", "asyncio"))]
