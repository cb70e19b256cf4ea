"""What an approver who may not write does in the console: gives a word where one is asked, and is told whose the rest is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from fleet.api.models import RoleBinding
from fleet.console import machine_page
from fleet.console.templatetags.fleet import rung_actions
from fleet.control.kinds import Json
from machines.models import Machine
from tests.console.recovery_world import fault, playbook, rule
from tests.console.test_safety import trip

Browser = Callable[[str], Client]
HASH = "4961c15e30dfbdba"
WORD = {"annotation": "fleet.dev/confirm-removal", "value": HASH}
AGAIN = {"verb": "reconcile", "text": "Try again"}


@pytest.fixture
def anna(small_fleet: list[str], browser_of: Browser) -> Client:
    """An approver of cluster a."""
    user = get_user_model().objects.create_user(username="anna", password=None)
    RoleBinding.objects.create(user=user, role="approver", cluster="a")
    return browser_of("anna")


def words_of(name: str = "a1") -> Json:
    found: Json = Machine.objects.get(name=name).annotations
    return found


def leaving(monkeypatch: pytest.MonkeyPatch, name: str = "a1") -> None:
    """It was deleted, and its host does not answer."""
    Machine.objects.filter(name=name).update(deleted_at=timezone.now(), finalizers=["fleet.dev/machine"])
    monkeypatch.setattr(machine_page, "_lost", lambda obj, conditions: "deletionTimestamp" in obj["metadata"])


@pytest.mark.parametrize("annotation", ["fleet.dev/accept-diff", "fleet.dev/confirm-removal"])
def test_an_approver_gives_a_word_for_a_hash(anna: Client, annotation: str) -> None:
    assert 'id="do-confirm"' in anna.get("/machines/a1/why").content.decode()
    form = {"verb": "confirm", "annotation": annotation, "value": HASH}
    assert anna.post("/machines/a1/do", form).status_code == 303
    assert words_of()[annotation] == HASH
    assert anna.post("/machines/b1/do", form).status_code == 403


def test_an_approver_writes_nothing_else(anna: Client) -> None:
    text = anna.get("/machines/a1/why").content.decode()
    assert "gives a word where one is asked; the rest takes the role operator" in text
    assert 'id="do-reboot"' not in text and 'data-open="#do-hold"' not in text
    for form in (
        {"verb": "hold", "reason": "x"},
        {"verb": "reconcile"},
        {"verb": "reboot", "reason": "x", "count": "1"},
    ):
        assert anna.post("/machines/a1/do", form).status_code == 403


def test_a_machine_that_leaves_and_does_not_answer_is_given_up_by_its_count(
    anna: Client, browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Give it up…" not in anna.get("/machines/a1/why").content.decode()
    assert anna.post("/machines/a1/do", {"verb": "abandon", "count": "1"}).status_code == 400
    leaving(monkeypatch)
    assert 'data-open="#do-abandon">Give it up…' in anna.get("/machines/a1/why").content.decode()
    assert (
        "it stays until it does, or until an approver gives it up."
        in browser_of("oper-a").get("/machines/a1/why").content.decode()
    )
    assert browser_of("oper-a").post("/machines/a1/do", {"verb": "abandon", "count": "1"}).status_code == 403
    assert anna.post("/machines/a1/do", {"verb": "abandon", "count": ""}).status_code == 400
    assert "fleet.dev/abandon" not in words_of()
    assert anna.post("/machines/a1/do", {"verb": "abandon", "count": "1"}).status_code == 303
    assert words_of()["fleet.dev/abandon"] == "a1"


@pytest.mark.parametrize(
    ("conditions", "lost"),
    [
        pytest.param({"Decommissioned": {"status": "False"}, "Reachable": {"status": "Unknown"}}, True, id="silent"),
        pytest.param({"Decommissioned": {"status": "False"}, "Reachable": {"status": "True"}}, False, id="cleaning"),
        pytest.param({"Decommissioned": {"status": "True"}, "Reachable": {"status": "Unknown"}}, False, id="given up"),
        pytest.param({}, False, id="not looked at yet"),
    ],
)
def test_only_a_leaving_machine_that_does_not_answer_is_lost(conditions: dict[str, Json], lost: bool) -> None:
    assert machine_page._lost({"metadata": {"deletionTimestamp": "2026-01-31T18:00:00Z"}}, conditions) is lost
    assert machine_page._lost({"metadata": {}}, conditions) is False


def test_of_a_fault_an_approver_is_told_whose_it_is(anna: Client) -> None:
    playbook()
    rule()
    fault("a1", phase="NeedsPerson")
    text = anna.get("/faults/a1-componentcrash").content.decode()
    assert "an operator of a says that it is over, or tries again" in text and 'data-open="#do-clear"' not in text
    assert anna.post("/faults/a1-componentcrash/do", {"verb": "clear"}).status_code == 403


@pytest.mark.parametrize(
    ("actions", "write", "approve", "shown", "told"),
    [
        pytest.param([WORD], False, True, ["#do-confirm"], "", id="approver"),
        pytest.param([WORD], True, False, [], "“Confirm the removal” takes the role approver here.", id="operator"),
        pytest.param([WORD, AGAIN], True, False, ["f-reconcile"], "“Confirm the removal” takes the role approver here.", id="an operator's part"),
        pytest.param([WORD, AGAIN], False, False, [], "takes the role operator or approver here.", id="viewer"),
        pytest.param([{"href": "/faults/x", "text": "Look at the fault"}], False, False, ["/faults/x"], "", id="everybody looks"),
    ],
)  # fmt: skip
def test_a_rung_has_buttons_for_whom_they_work_and_else_one_sentence(
    actions: list[Any], write: bool, approve: bool, shown: list[str], told: str
) -> None:
    text = rung_actions(actions, write, approve)
    assert all(each in text for each in shown) and told in text
    assert text.count('class="sub"') == bool(told) and text.count("btn") == len(shown)


def test_an_approver_resets_the_breaker_of_the_own_cluster_and_no_other(anna: Client, settings: Any) -> None:
    settings.FLEET_REQUIRE_APPROVAL = False
    trip()
    trip("fleet")
    text = anna.get("/safety").content.decode()
    assert 'data-set-breaker="cluster/a"' in text and 'data-set-breaker="fleet"' not in text
    assert "An approver of the whole fleet resets it." in text
    reset = {"verb": "reset", "breaker": "cluster/a", "confirm": "cluster/a"}
    assert anna.post("/safety/do", reset).status_code == 303
    assert anna.post("/safety/do", {"verb": "reset", "breaker": "fleet", "confirm": "fleet"}).status_code == 403
