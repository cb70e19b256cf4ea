"""Policies: what one says and means now, and changes that tell first what they would mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.api.safety_status import refresh_policies
from fleet.api.storage import storage_for
from fleet.console.policies import PolicyView, sentence
from fleet.control.kinds import API_VERSION, Json
from tests.console.test_safety import sql

Browser = Callable[[str], Client]
PATH = "/safety/policies/pay"
FORM = {"generation": "1", "spec.maxUnavailable.count": "1", "spec.breaker.percent": "10"}
SPEC: Json = {
    "scope": {"cluster": "a"}, "maxUnavailable": {"count": 1}, "breaker": {"percent": 20, "podSuccess": {"percent": 70}},
    "windows": [{"days": ["Mon"], "start": "22:30", "durationMinutes": 60}], "rates": [{"verb": "Reboot", "count": 4, "windowSeconds": 600}],
}  # fmt: skip


@pytest.fixture
def pay(small_fleet: list[str]) -> None:
    """A policy of cluster a, whose machines are in service."""
    sql("UPDATE capacity SET in_service = true, down = false")
    create_object("safetypolicies", {"apiVersion": API_VERSION, "kind": "SafetyPolicy", "metadata": {"name": "pay"}, "spec": SPEC}, write=Write(by=SYSTEM))  # fmt: skip
    refresh_policies()


def spec(name: str = "pay") -> Json:
    stored = storage_for("safetypolicies").read(name)
    assert stored is not None
    return dict(stored.obj["spec"])


def test_its_page_says_what_it_says_and_means_within_its_budget(pay: None, browser_of: Browser) -> None:
    client = browser_of("viewer")
    client.get(PATH)
    with CaptureQueriesContext(connection) as found:
        text = client.get(PATH).content.decode()
    assert len(found) <= 12
    for said in ("at most 1 may be", "opens at 20 %", "when under 70 % of pods start", "Reboot: 4 within 10 min", "Mon 22:30–23:30 UTC"):  # fmt: skip
        assert said in text, said
    assert "a policy is changed by an admin of the whole fleet" in text and 'id="do-change"' not in text
    assert f'href="{PATH}"' in client.get("/safety/policies").content.decode()
    assert client.get("/safety/policies/nobody").status_code == 404


def test_a_change_tells_what_it_would_mean_beside_what_it_means(pay: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    answer = client.post(f"{PATH}/foresee", FORM | {"spec.breaker.count": "1", "spec.rates": "Reboot = 9 in 600"}).json()  # fmt: skip
    assert answer["may"] and answer["must"] == ""
    assert "<b>Breaker</b> It would open at 1 machine, and 0 are" in answer["html"] and "Now: It would open at 2 machines" in answer["html"]  # fmt: skip
    assert "<b>Rate of Reboot</b> 0 begun of 9 within 600 s." in answer["html"] and "kubectl patch safetypolicy pay" in answer["html"]  # fmt: skip
    assert spec() == SPEC


def test_a_change_is_saved_and_what_has_no_field_stays(pay: None, browser_of: Browser) -> None:
    done = browser_of("admin").post(f"{PATH}/do", FORM | {"spec.rates": "Drain = 5 in 60\n"}, follow=True)
    assert "Policy pay is changed" in done.content.decode()
    assert spec() == SPEC | {
        "breaker": {"percent": 10, "podSuccess": {"percent": 70}},
        "rates": [{"verb": "Drain", "count": 5, "windowSeconds": 60}],
    }
    assert sql("SELECT actor, verb FROM audit WHERE kind = 'SafetyPolicy' AND actor = 'admin'") == [("admin", "patch")]


def test_what_it_says_already_is_no_change(pay: None, browser_of: Browser) -> None:
    same = {"generation": "1", "spec.maxUnavailable.count": "1", "spec.breaker.percent": "20", "spec.rates": "Reboot = 4 in 600"}  # fmt: skip
    answer = browser_of("admin").post(f"{PATH}/foresee", same).json()
    assert not answer["may"] and "This is what it says already." in answer["html"]


def test_a_breaker_is_switched_off_by_the_count_of_its_machines(pay: None, browser_of: Browser) -> None:
    client, off = browser_of("admin"), FORM | {"spec.breaker.disabled": "1"}
    answer = client.post(f"{PATH}/foresee", off).json()
    machines = answer["must"]
    assert machines == "2" and "Without a breaker nothing stops a storm of repairs" in answer["html"]
    assert client.post(f"{PATH}/do", off).status_code == 400
    assert client.post(f"{PATH}/do", off | {"count": "9", "told": "9"}).status_code == 409
    assert spec() == SPEC
    assert client.post(f"{PATH}/do", off | {"count": machines, "told": machines}).status_code == 303
    assert spec()["breaker"]["disabled"] is True


def test_who_saw_another_policy_is_told_so_and_status_is_no_reason(pay: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    refresh_policies()
    assert client.post(f"{PATH}/do", FORM).status_code == 303
    answer = client.post(f"{PATH}/do", FORM)
    assert answer.status_code == 409 and "Somebody changed it since you opened it" in answer.content.decode()


@pytest.mark.parametrize(
    ("form", "field", "said"),
    [
        ({"spec.maxUnavailable.percent": "many"}, "spec.maxUnavailable.percent", "It must be a number."),
        ({"spec.maxUnavailable.count": "1.5"}, "spec.maxUnavailable.count", "integer"),
        ({"spec.maxUnavailable.percent": "101"}, "spec.maxUnavailable.percent", "100"),
        ({"spec.breaker.windowSeconds": "1"}, "spec.breaker.windowSeconds", "60"),
        ({"spec.rates": "Reboot often"}, "spec.rates", "is no line of the form Reboot = 20 in 600"),
        ({"spec.rates": "Reboot = 1 in 0"}, "spec.rates", "1"),
    ],
)
def test_a_problem_stands_at_its_field(
    pay: None, browser_of: Browser, form: dict[str, str], field: str, said: str
) -> None:
    answer = browser_of("admin").post(f"{PATH}/foresee", FORM | form).json()
    assert not answer["may"] and said in answer["fields"][field], answer


def test_a_new_one_is_made_of_what_is_filled_in(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    form = {"metadata.name": "racks", "scope": "rack", "spec.scope.rack": "iad1/r1", "spec.maxUnavailable.count": "2"}
    assert client.post("/do/policies/foresee", form).json()["may"]
    assert client.post("/do/policies", form).status_code == 303
    assert spec("racks") == {"scope": {"rack": "iad1/r1"}, "maxUnavailable": {"count": 2}}
    answer = client.post("/do/policies/foresee", {"metadata.name": "x", "scope": "cluster"}).json()
    assert not answer["may"] and "spec.scope.cluster" in answer["fields"]
    assert "a policy is of one of" in client.post("/do/policies", {"scope": "x"}).content.decode()


@pytest.mark.parametrize("who", ["viewer", "oper-a"])
def test_others_change_nothing(pay: None, browser_of: Browser, who: str) -> None:
    client = browser_of(who)
    assert client.post(f"{PATH}/do", FORM).status_code == 403
    assert client.post(f"{PATH}/foresee", FORM).status_code == 403
    assert "a policy is made by an admin of the whole fleet" in client.get("/safety/policies").content.decode()
    assert spec() == SPEC


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, "No machine in service belongs to cluster a now: it guards nothing."),
        ({"total": 78, "unavailable": 1, "limit": 2}, "1 of 78 machines of cluster a is unavailable, and at most 2 may be."),
        ({"total": 78, "unavailable": 2}, "2 of 78 machines of cluster a are unavailable; how many may be, others say."),
        ({"total": 9, "unavailable": 0, "limit": 1, "breaker": {"state": "off"}}, "at most 1 may be. Its breaker is switched off."),
        ({"total": 9, "unavailable": 0, "limit": 1, "breaker": {"state": "open"}}, "at most 1 may be. Its breaker is open."),
    ],
)  # fmt: skip
def test_its_sentence_says_what_it_allows_now(status: Json, said: str) -> None:
    view = PolicyView({"metadata": {"name": "pay"}, "spec": {"scope": {"cluster": "a"}}, "status": status})
    assert said in "".join(w.text for w in sentence(view))
