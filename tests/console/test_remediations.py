"""Remediations and playbooks in the console: the ladder with what became of it, evidence, what was tried before, how well a ladder does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.console import repair
from fleet.console.fault_queries import lengths_of, rungs_of
from recovery.figures import refresh_figures
from recovery.models import Remediation
from recovery.playbooks import ACTIONS
from tests.console.recovery_world import fault, operation, playbook, remediation

Browser = Callable[[str], Client]
BUDGET = 12
UID = str(uuid.uuid4())


@pytest.fixture
def repairs(small_fleet: list[str]) -> None:
    """a1 is at its second rung after a restart that did not help; before it was repaired once; b1 waits."""
    playbook()
    old = fault("a1", "DiskPressure", phase="Resolved", minutes=900)
    remediation(old, "Succeeded", name="a1-old", tried=[{"name": "restart", "operation": "a1-5", "phase": "Succeeded"}], minutes=3, message="Restart repaired it.", serial_number="SN0")  # fmt: skip
    operation("a1", "a1-7", UID)
    new = fault("a1", phase="Recovering", remediation="a1-new")
    remediation(new, "Repairing", rung=1, name="a1-new", tried=[{"name": "restart", "operation": "a1-7", "phase": "Succeeded", "outcome": "DidNotHelp", "message": "90 s after restart the fault is <still> seen."}], serial_number="SN0")  # fmt: skip
    waits = fault("b1", phase="Recovering", remediation="b1-new")
    remediation(waits, "Waiting", name="b1-new", message="The budget of b is used up.")


def names(text: str) -> list[str]:
    body = text[text.index("<tbody") :] if "<tbody" in text else ""
    return [part.split('"')[0] for part in body.split('href="/remediations/')[1:]]


def test_the_list_shows_what_runs_with_the_phase_in_words(repairs: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    client.get("/remediations")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/remediations").content.decode()
    assert len(found) <= BUDGET
    assert names(text) == ["b1-new", "a1-new"]
    assert "Fleet repairs 2 machines: 1 waiting for their turn, 1 at work." in text
    assert "2 of 3" in text
    assert names(browser_of("oper-b").get("/remediations").content.decode()) == ["b1-new"]


@pytest.mark.parametrize(
    ("q", "expected"),
    [("phase:Succeeded", ["a1-old"]), ("machine:a1", ["a1-new", "a1-old"]), ("serial:SN0", ["a1-new", "a1-old"]), ("cluster:b", ["b1-new"]), ("playbook:fix -phase:Waiting", ["a1-new", "a1-old"]), ("budget", ["b1-new"])],
)  # fmt: skip
def test_remediations_are_filtered(repairs: None, browser_of: Browser, q: str, expected: list[str]) -> None:
    assert names(browser_of("admin").get(f"/remediations?q={quote(q)}").content.decode()) == expected


def test_a_filter_that_cannot_be_read_is_told(repairs: None, browser_of: Browser) -> None:
    assert "Did you mean “phase”?" in browser_of("admin").get("/remediations?q=phas:x").content.decode()
    assert browser_of("admin").get("/remediations?after=zzz").status_code == 200


def test_a_remediation_shows_its_ladder_steps_evidence_and_history(repairs: None, browser_of: Browser) -> None:
    client = browser_of("oper-a")
    client.get("/remediations/a1-new")
    with CaptureQueriesContext(connection) as found:
        text = client.get("/remediations/a1-new").content.decode()
    assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    assert "Rung 2 of 3: Restart is under way." in text
    ladder = text[text.index('id="x-ladder"') : text.index('id="m-operation"')]
    assert ladder.index("restart") < ladder.index("reboot") < ladder.index("ask")
    assert "90 s after restart the fault is &lt;still&gt; seen." in ladder and "did not help" in ladder
    assert "asks for a permit to reboot" in ladder and "Restart units: kubelet.service" in ladder
    assert "Reseat the card." in ladder
    assert "a1-7" in text[text.index('id="m-operation"') :]
    before = text[text.index('id="x-before"') : text.index('id="x-evidence"')]
    assert "/remediations/a1-old" in before and "/remediations/a1-new" not in before
    assert f"/remediations/a1-new/evidence/{UID}/03-collect-evidence-1" in text


def test_what_was_tried_on_the_same_serial_number_is_told_too(repairs: None, browser_of: Browser) -> None:
    Remediation.objects.filter(name="a1-old").update(machine_id=999)
    text = browser_of("admin").get("/remediations/a1-new").content.decode()
    assert "/remediations/a1-old" in text[text.index('id="x-before"') :]


def test_evidence_is_downloaded_as_text_by_who_may_see_the_machine(repairs: None, browser_of: Browser) -> None:
    path = f"/remediations/a1-new/evidence/{UID}/03-collect-evidence-1"
    answer = browser_of("oper-a").get(path)
    assert answer.content == b"dmesg: <nothing>"
    assert answer["Content-Type"].startswith("text/plain")
    assert answer["Content-Disposition"] == 'attachment; filename="a1-7-evidence.txt"'
    assert browser_of("oper-b").get(path).status_code == 403
    assert browser_of("admin").get(f"/remediations/a1-new/evidence/{UID}/other").status_code == 404
    assert browser_of("admin").get(f"/remediations/b1-new/evidence/{UID}/03-collect-evidence-1").status_code == 404
    assert browser_of("admin").get("/remediations/a1-new/evidence/not-a-uid/x").status_code == 404


def test_a_repair_is_cancelled_by_an_operator_there(repairs: None, browser_of: Browser) -> None:
    for who in ("viewer", "oper-b"):
        assert browser_of(who).post("/remediations/a1-new/do", {"verb": "cancel"}).status_code == 403
    assert "do-cancel" not in browser_of("viewer").get("/remediations/a1-new").content.decode()
    client = browser_of("oper-a")
    assert client.post("/remediations/a1-new/do", {"verb": "cancel"}).status_code == 303
    assert Remediation.objects.get(name="a1-new").spec["cancelledBy"] == "oper-a"
    answer = browser_of("admin").post("/remediations/a1-old/do", {"verb": "cancel"})
    assert answer.status_code == 409 and "It has ended already" in answer.content.decode()


@pytest.mark.parametrize(("who", "name", "code"), [("oper-b", "a1-new", 403), ("admin", "nobody", 404)])
def test_others_are_refused_with_a_sentence(repairs: None, browser_of: Browser, who: str, name: str, code: int) -> None:  # fmt: skip
    assert browser_of(who).get(f"/remediations/{name}").status_code == code


@pytest.mark.parametrize(
    ("phase", "rung", "states"),
    [
        ("Waiting", 1, ["failed", "wait", "later"]),
        ("Verifying", 0, ["now", "later", "later"]),
        ("Succeeded", 1, ["failed", "done", "later"]),
        ("Escalated", 2, ["failed", "done", "failed"]),
    ],
)
def test_each_rung_is_drawn_as_it_ended(small_fleet: list[str], phase: str, rung: int, states: list[str]) -> None:
    from fleet.api.storage import storage_for

    playbook()
    tried = [{"name": "restart", "operation": "x-1", "phase": "Succeeded", "outcome": "DidNotHelp"}] if rung else []
    remediation(fault("a1", phase="Recovering"), phase, rung=rung, name="r", tried=tried)
    stored = storage_for("remediations").read("r")
    assert stored is not None
    assert [r.state for r in repair.rungs_of(stored.obj)] == states


# -- playbooks ------------------------------------------------------------------------------------------------------------


def test_a_playbook_tells_its_success_and_which_rung_helps(repairs: None, browser_of: Browser) -> None:
    given_up = fault("a2", phase="NeedsPerson")
    remediation(given_up, "Escalated", rung=2, name="a2-old", tried=[{"name": "restart", "operation": "a2-1"}, {"name": "reboot", "operation": "a2-2"}])  # fmt: skip
    refresh_figures()
    client = browser_of("viewer")
    for path in ("/playbooks", "/playbooks/fix"):
        client.get(path)
        with CaptureQueriesContext(connection) as found:
            text = client.get(path).content.decode()
        assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]
    assert "In 30 days it repaired 1 of 2 machines; " in text
    assert "50 %" in text and "3 min" in text
    did = rungs_of("fix")
    assert (did["restart"]["tried"], did["restart"]["helped"], did["restart"]["running"]) == (3, 1, 0)
    assert (did["reboot"]["tried"], did["reboot"]["helped"]) == (1, 0)
    assert lengths_of("fix") == [0, 1, 0, 0, 0, 0]


def test_a_rung_that_runs_has_neither_helped_nor_failed(small_fleet: list[str], browser_of: Browser) -> None:
    playbook()
    ended = [{"name": "restart", "operation": "x-1", "outcome": "DidNotHelp"}]
    remediation(fault("a1", phase="Recovering"), "Repairing", rung=1, name="r1", tried=[*ended, {"name": "reboot", "operation": "x-2"}])  # fmt: skip
    remediation(fault("a2", phase="Recovering"), "Waiting", rung=1, name="r2", tried=ended)
    remediation(fault("b1", phase="Resolved"), "Succeeded", rung=0, name="r3", tried=[{"name": "restart", "operation": "x-3"}])  # fmt: skip
    did = rungs_of("fix")
    assert {k: did["restart"][k] for k in ("tried", "helped", "running")} == {"tried": 3, "helped": 1, "running": 0}
    assert {k: did["reboot"][k] for k in ("tried", "helped", "running")} == {"tried": 0, "helped": 0, "running": 1}
    text = browser_of("viewer").get("/playbooks/fix").content.decode()
    assert "33 %" in text and "1 runs now" in text


def test_a_playbook_that_is_not_there_is_a_sentence(repairs: None, browser_of: Browser) -> None:
    assert "There is no playbook nobody." in browser_of("admin").get("/playbooks/nobody").content.decode()


def test_each_action_of_a_playbook_has_a_word() -> None:
    assert set(repair._ACTIONS) == set(ACTIONS)


def test_a_rung_that_reinstalls_shows_the_hardest_that_it_asks_for() -> None:
    rungs = [{"name": "reinstall", "steps": [{"action": "Drain"}, {"action": "Reinstall"}]}]
    (shown,) = repair.rungs_of({"spec": {"ladder": {"rungs": rungs}}, "status": {"phase": "Repairing", "rung": 1}})
    assert (shown.verb, shown.steps) == ("Reinstall", ("Drain", "Reinstall the system"))
