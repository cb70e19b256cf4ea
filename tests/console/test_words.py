"""Words, filters, differences: what people read, from plain data."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.console import filters, machine_page, words
from fleet.console.diffs import lines, of_objects
from fleet.console.overview import Doing, needs_of, sentence, stuck
from fleet.console.queries import Budget, Guard

FREE = Guard(False, "", "", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a1-12: 01-stage-package-npd runs.", "Fetch npd is under way."),
        ("06-install-package-kubelet: kubelet: script returned 1.", "Install kubelet: script returned 1."),
        ("23-reboot runs.", "Reboot is under way."),
        ("02-permit: Hold x covers it", "Permit: Hold x covers it"),
        ("a1 failed: 01-stage-package-npd: No space left.", "a1 failed: Fetch npd: No space left."),
        ("No route to 10.0.0.1:22.", "No route to 10.0.0.1:22."),
    ],
)
def test_a_sentence_about_a_step_is_said_plainly(text: str, said: str) -> None:
    assert words.plainly(text) == said


def _step(verb: str, status: str, subject: str = "", **more: str) -> dict[str, str]:
    return {"verb": verb, "status": status, "subject": subject, **more}


def test_steps_of_one_subject_are_one_stage() -> None:
    steps = [
        _step("stage-package", "True", "a"), _step("stage-package", "True", "b"), _step("permit", "True", reason="Granted"),
        _step("install-package", "True", "a"), _step("write-files", "Unknown", "a", startTime="x"), _step("post-check", "Unknown"),
    ]  # fmt: skip
    found = [(s.name, s.state, s.note) for s in words.stages(steps)]
    assert found == [
        ("Fetch", "done", "2 of 2"), ("Permit", "done", "Granted"), ("a", "now", "1 of 2"), ("Verify", "later", ""),
    ]  # fmt: skip


def test_a_refused_permit_waits_and_a_failed_step_has_failed() -> None:
    steps = [_step("permit", "False", reason="Held"), _step("install-package", "False", "a", reason="DiskFull")]
    assert [(s.state, s.note) for s in words.stages(steps)] == [("wait", "Held"), ("failed", "DiskFull")]


def _said(**phases: int) -> str:
    return "".join(
        w.text for w in sentence(Counter(phases), phases.get("Failed", 0), [], FREE, Doing(phases.get("Updating", 0)))
    )


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ({}, "No machine is declared yet."),
        ({"Running": 3}, "Nothing needs you. All run as declared."),
        ({"Running": 2, "Failed": 1}, "1 machine needs you. 2 of 3 run as declared."),
        ({"Running": 2, "Updating": 1_000}, "Nothing needs you; Fleet works on 1,000 machines. 2 of 1,002 run as declared."),
    ],
)  # fmt: skip
def test_the_sentence_of_the_overview_follows_from_the_counters(phases: dict[str, int], said: str) -> None:
    assert _said(**phases) == said


def test_a_stopped_fleet_says_so_before_all_else() -> None:
    stopped = Guard(True, "bad kernel", "olga", 0)
    said = "".join(w.text for w in sentence(Counter(Failed=9), 9, [], stopped, Doing()))
    assert said == "All changes are stopped by olga: bad kernel. Fleet only looks."


def test_what_is_refused_and_rolled_out_is_in_the_sentence() -> None:
    said = "".join(w.text for w in sentence(Counter(Running=1), 0, [], FREE, Doing(2, 1, 3)))
    assert (
        said
        == "Nothing needs you; Fleet works on 2 machines and rolls out 1 layer; 3 changes wait for a permit. All run as declared."
    )


def _needy(name: str, reason: str, cluster: str) -> dict[str, Any]:
    return {"name": name, "why": "x", "spec": {"clusterName": cluster}, "status": {"phase": "Failed"}, "conditions": {"Stalled": {"reason": reason}}}  # fmt: skip


def test_machines_with_one_cause_are_one_need_the_widest_first() -> None:
    needy = [_needy("a", "DiskFull", "c"), _needy("b", "InstallFailed", "c"), _needy("d", "InstallFailed", "c")]
    found = needs_of(needy, [], 3)
    assert [(n.title, n.n) for n in found] == [("2 machines: InstallFailed", 2), ("a", 1)]
    assert found[1].next == "free space on the host; Fleet tries again by itself"


def test_clusters_layers_and_machines_that_need_somebody_are_said_together() -> None:
    since = "2026-11-25T20:00:00Z"
    layer = {
        "name": "c",
        "layer": "cluster",
        "state": "Stopped",
        "message": "",
        "failed_machine": "m",
        "updated_at": since,
    }
    stuck_one = {"name": "a", "reason": "PreflightFailed", "message": "etcd is ill", "since": since}
    needs = [*stuck([stuck_one]), *needs_of([_needy("m", "DiskFull", "c")], [layer], 1)]
    assert needs[0].said == "Etcd is ill."
    said = "".join(w.text for w in sentence(Counter(Running=1, Failed=1), 1, needs, FREE, Doing()))
    assert said == "1 cluster needs you, 1 layer has stopped and 1 machine needs you. 1 of 2 run as declared."


def test_needs_beyond_those_looked_at_are_said() -> None:
    found = needs_of([_needy(f"m{n}", "DiskFull", "c") for n in range(100)], [], 4_244)
    assert [n.n for n in found] == [100, 4_144]


def test_the_lines_of_a_difference_carry_the_numbers_of_both_sides() -> None:
    text = "--- x on the host\n+++ x wanted\n@@ -3,3 +3,3 @@\n a\n-b\n+c\n d"
    found = [(each.old, each.new, each.text, each.kind) for each in lines(text)]
    assert found == [
        ("", "", "@@ -3,3 +3,3 @@", "hunk"), ("3", "3", "  a", ""), ("4", "", "- b", "del"), ("", "4", "+ c", "add"), ("5", "5", "  d", ""),
    ]  # fmt: skip


def test_a_difference_of_objects_leaves_out_status_and_positions() -> None:
    before = {"metadata": {"name": "x", "resourceVersion": "1"}, "spec": {"ip": "10.0.0.1"}, "status": {"a": 1}}
    after = {"metadata": {"name": "x", "resourceVersion": "2"}, "spec": {"ip": "10.0.0.2"}, "status": {"a": 2}}
    changed = [each.text.strip() for each in of_objects(before, after) if each.kind in ("add", "del")]
    assert changed == ["-   ip: 10.0.0.1", "+   ip: 10.0.0.2"]


def test_silences_between_events_are_said_and_days_are_kept_apart() -> None:
    noon = datetime(2026, 3, 5, 12, tzinfo=UTC)
    told = [{"at": noon - timedelta(hours=h)} for h in (0, 1, 6, 20)]
    found = machine_page.days(told)
    assert [d.day for d in found] == ["Thursday 5 March", "Wednesday 4 March"]
    assert [e.get("gap") for e in found[0].entries] == [None, None, "no events 06:00–11:00", None]


@pytest.mark.parametrize(
    ("gone", "tone", "width"), [(10, "s-ink", 16), (80, "s-warn", 128), (100, "s-bad", 160), (400, "s-bad", 200)]
)
def test_a_budget_turns_amber_from_80_percent_and_red_at_the_limit(gone: int, tone: str, width: int) -> None:
    budget = Budget("cluster", "a", 100, 1_000, gone, "")
    assert (budget.tone, budget.width) == (tone, width)


@pytest.mark.parametrize("text", ["cluster:a -phase:Failed x", "label:pool=gpu", "ip:10.0.0.1", "cluster:''"])
def test_a_filter_survives_being_written_out_and_read_again(text: str) -> None:
    once = filters.parse(text)
    assert filters.parse(filters.join(once.tokens, once.words)) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("phase:failed", "Did you mean “Failed”?"),
        ("rack>3", "has no order. Write rack:value."),
        ("clustr:a", "Did you mean “cluster”?"),
        ("zzzzzz:1", "Keys are state, phase, cluster"),
        ("a\x00b", "plain text"),
    ],
)
def test_a_filter_that_means_nothing_says_what_would(text: str, said: str) -> None:
    with pytest.raises(filters.FilterError, match=".*" + said.replace("?", r"\?").replace(".", r"\.")):
        filters.parse(text)


def test_an_installation_of_a_system_has_words_of_its_own() -> None:
    steps = [
        {"verb": "reinstall", "status": "True"},
        {"verb": "delete-node", "status": "True"},
        {"verb": "provision", "status": "Unknown", "startTime": "2026-11-26T15:00:00Z"},
    ]
    assert [(s.name, s.state) for s in words.stages(steps)] == [
        ("Install system", "done"),
        ("Delete node", "done"),
        ("Plan the set", "now"),
    ]
    assert "by hand" in words.next_step("NoProvisioner")
