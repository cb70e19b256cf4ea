"""Policies: what one says and means now, and changes that tell first what they would mean."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.openings import openings
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.api.safety_status import refresh_policies
from fleet.api.storage import storage_for
from fleet.console.policies import PolicyView, sentence
from fleet.console.policy_fields import spec_of
from fleet.console.windows import end_of, minutes_between, window_words
from fleet.control import clock
from fleet.control.kinds import API_VERSION, Json
from tests.console.test_safety import sql

Browser = Callable[[str], Client]
PATH = "/safety/policies/pay"
AT = "spec.windows[{}].{}"
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


def window(row: int, start: str = "22:30", end: str = "23:30", was: str = "", **more: Any) -> dict[str, Any]:
    """A row of the form as the page sends it."""
    return {"spec.windows": "rows", AT.format(row, "start"): start, AT.format(row, "end"): end, AT.format(row, "was"): was} | {AT.format(row, key): value for key, value in more.items()}  # fmt: skip


def spec(name: str = "pay") -> Json:
    stored = storage_for("safetypolicies").read(name)
    assert stored is not None
    return dict(stored.obj["spec"])


def store(**more: Any) -> None:
    """The policy with that in its spec."""
    patch_object("safetypolicies", "pay", lambda o: merge_patch(o, {"spec": more}), write=Write(by=SYSTEM))


def query(form: dict[str, Any]) -> QueryDict:
    """The form as a view reads it."""
    found = QueryDict(mutable=True)
    for key, value in form.items():
        found.setlist(key, value if isinstance(value, list) else [value])
    return found


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


def test_windows_are_added_changed_and_taken_out(pay: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    rows = window(0, "9:00", "17:00", "0", days=["Tue", "Mon"]) | window(7, "22:00", "04:00", timeZone="Europe/Berlin", jitterMinutes="20")  # fmt: skip
    assert client.post(f"{PATH}/do", FORM | rows).status_code == 303
    assert spec()["windows"] == [
        {"start": "09:00", "durationMinutes": 480, "days": ["Mon", "Tue"]},
        {"start": "22:00", "durationMinutes": 360, "timeZone": "Europe/Berlin", "jitterMinutes": 20},
    ]
    assert client.post(f"{PATH}/do", FORM | {"generation": "2"} | window(1, "22:00", "22:00", "1")).status_code == 303
    assert spec()["windows"] == [{"start": "22:00", "durationMinutes": 1440}]
    assert client.post(f"{PATH}/do", FORM | {"generation": "3", "spec.windows": "rows"}).status_code == 303
    assert "windows" not in spec()


def test_what_no_field_asks_for_and_what_is_not_sent_stays() -> None:
    old = {"breaker": {"new": 1, "disabled": False, "podSuccess": {"new": 2, "percent": 70}}, "minSchedulable": 3,
           "windows": [{"start": "01:00", "durationMinutes": 60}, {"start": "02:00", "durationMinutes": 60, "days": ["Tue", "Mon"], "new": 4}]}  # fmt: skip
    assert spec_of(query({}), old) == {}
    form = {"spec.breaker.percent": "", "spec.breaker.disabled": "", "spec.breaker.podSuccess.percent": ""} | window(1, "02:30", "03:30", "1", days=["Mon", "Tue"])  # fmt: skip
    after = merge_patch(old, spec_of(query(form), old))
    assert after["breaker"] == {"new": 1, "disabled": False, "podSuccess": {"new": 2}} and after["minSchedulable"] == 3
    assert after["windows"] == [{"start": "02:30", "durationMinutes": 60, "days": ["Tue", "Mon"], "new": 4}]


def test_a_change_of_windows_tells_when_the_next_opens_and_for_how_many_machines(pay: None, browser_of: Browser) -> None:  # fmt: skip
    client = browser_of("admin")
    later = (clock.now() + timedelta(hours=2)).astimezone(ZoneInfo("Asia/Tokyo"))
    soon = window(0, f"{later:%H:%M}", f"{later + timedelta(hours=1):%H:%M}", timeZone="Asia/Tokyo")
    told = client.post(f"{PATH}/foresee", FORM | soon).json()["html"]
    assert f"<b>Windows</b> All are shut now. The next opens {later:%a %-d %b %H:%M} Asia/Tokyo (" in told
    assert "until then planned changes of 2 machines wait." in told
    open_now = window(0, f"{later - timedelta(hours=3):%H:%M}", f"{later:%H:%M}", timeZone="Asia/Tokyo")
    told = client.post(f"{PATH}/foresee", FORM | open_now).json()["html"]
    assert f"<b>Windows</b> Open now until {later:%a %-d %b %H:%M} Asia/Tokyo (" in told
    none = client.post(f"{PATH}/foresee", FORM | {"spec.windows": "rows"}).json()["html"]
    assert "<b>Windows</b> None any more: as far as this policy says, planned changes may begin at any time." in none
    assert "windows&quot;:null" in none


def test_windows_that_go_over_into_one_another_are_open_until_the_last_ends(pay: None) -> None:
    now = clock.now()
    pieces = [{"start": f"{now + timedelta(hours=h):%H:%M}", "durationMinutes": 120} for h in (-1, 1, 5)]
    store(windows=pieces)
    found = openings("pay")[0]
    minute = now.replace(second=0, microsecond=0)
    assert found.open and found.until == minute + timedelta(hours=3)
    assert found.next == minute + timedelta(hours=5)
    store(windows=[{"start": "00:00", "durationMinutes": 1440}])
    assert openings("pay")[0].tell(2) == "open at all times."


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ({}, "None was tried lately."),
        ({"tried": 40, "failed": 4, "windowSeconds": 600}, "Of 40 tried within 10 min 36 started, 90 %: it would open now, if they failed on two nodes or more."),
        ({"tried": 40, "failed": 1, "windowSeconds": 600}, "Of 40 tried within 10 min 39 started, 97.5 %: it stays closed."),
        ({"tried": 29, "failed": 29, "windowSeconds": 90}, "Of 29 tried within 90 s 0 started, 0 %: it stays closed, for too few were tried."),
    ],
    ids=["none", "too many failed", "few failed", "few tried"],
)  # fmt: skip
def test_limits_on_pods_tell_what_the_present_numbers_would_do(
    pay: None, browser_of: Browser, starts: Json, said: str
) -> None:
    sql("UPDATE clusters_cluster SET status = status || jsonb_build_object('podStarts', %s::jsonb) WHERE name = 'a'", orjson.dumps(starts).decode())  # fmt: skip
    limits = {"spec.breaker.podSuccess.percent": "95", "spec.breaker.podSuccess.atLeast": "30", "spec.breaker.podSuccess.windowSeconds": ""}  # fmt: skip
    told = browser_of("admin").post(f"{PATH}/foresee", FORM | limits).json()["html"]
    assert f"<b>Pods</b> Opens the breaker when under 95 % start, of at least 30 tried within 10 min. {said}" in told
    assert "Now: Opens the breaker when under 70 % start, of at least 20 tried" in told
    line = "{&quot;podSuccess&quot;:{&quot;atLeast&quot;:30,&quot;percent&quot;:95}}"
    assert line in told.replace("{&quot;percent&quot;:10,", "{")


def test_limits_on_pods_of_the_whole_fleet_name_the_clusters_that_would_stop(pay: None, browser_of: Browser) -> None:
    sql(
        """UPDATE clusters_cluster SET status = status || '{"podStarts": {"tried": 40, "failed": 20, "windowSeconds": 600}}'"""
    )
    client, form = browser_of("admin"), {"metadata.name": "all", "scope": "matchAll", "spec.breaker.podSuccess.percent": "60"}  # fmt: skip
    told = client.post("/do/policies/foresee", form).json()["html"]
    assert "It would open now in 1 of 1 cluster without limits of its own, if pods failed on two nodes or more there: b (50 %)." in told  # fmt: skip
    calm = client.post("/do/policies/foresee", form | {"spec.breaker.podSuccess.percent": "40"}).json()["html"]
    assert "It would open in none of 1 cluster without limits of its own." in calm


def test_pods_are_told_to_open_no_breaker_and_limits_taken_out_one_by_one(pay: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    off = FORM | {"spec.breaker.podSuccess.percent": "70", "spec.breaker.podSuccess.disabled": "1"}
    answer = client.post(f"{PATH}/foresee", off).json()
    assert answer["may"] and "Off: pods that do not start open no breaker." in answer["html"]
    assert "Nothing is noticed here of nodes or a control plane that start no pods" in answer["html"]
    assert client.post(f"{PATH}/do", off).status_code == 303
    assert spec()["breaker"]["podSuccess"] == {"percent": 70, "disabled": True}
    emptied = FORM | {"generation": "2", "spec.breaker.podSuccess.percent": "", "spec.breaker.podSuccess.disabled": "1"}
    line = client.post(f"{PATH}/foresee", emptied).json()["html"]
    assert "{&quot;podSuccess&quot;:{&quot;percent&quot;:null}}" in line
    none = emptied | {"spec.breaker.podSuccess.disabled": ""}
    assert client.post(f"{PATH}/do", none).status_code == 303
    assert spec()["breaker"] == {"percent": 10}


def test_a_policy_is_deleted_by_the_count_of_its_machines(pay: None, browser_of: Browser) -> None:
    client, gone = browser_of("admin"), {"verb": "delete"}
    answer = client.post(f"{PATH}/foresee", gone).json()
    assert answer["must"] == "2" and "kubectl delete safetypolicy pay" in answer["html"]
    assert "<b>Budget</b> This policy says nothing of it any more" in answer["html"] and "Now: 1 may be" in answer["html"]  # fmt: skip
    assert client.post(f"{PATH}/do", gone).status_code == 400
    assert browser_of("oper-a").post(f"{PATH}/foresee", gone).status_code == 403
    assert browser_of("oper-a").post(f"{PATH}/do", gone | {"count": "2"}).status_code == 403
    assert spec() == SPEC
    done = client.post(f"{PATH}/do", gone | {"count": "2", "told": "2"}, follow=True).content.decode()
    assert "Policy pay is gone" in done and storage_for("safetypolicies").read("pay") is None
    assert client.post(f"{PATH}/do", gone).status_code == 404


def test_the_form_shows_what_the_policy_says(pay: None, browser_of: Browser) -> None:
    text = browser_of("admin").get(PATH).content.decode()
    for shown in ('name="spec.windows[0].start" maxlength="5" placeholder="22:30" value="22:30"', 'value="23:30"', 'value="Mon" checked', 'name="spec.windows[new].start"', 'placeholder="80, as by default" value="70"'):  # fmt: skip
        assert shown in text, shown
    assert 'value="Tue" checked' not in text


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
        ({"spec.breaker.podSuccess.percent": "101"}, "spec.breaker.podSuccess.percent", "100"),
        ({"spec.breaker.podSuccess.atLeast": "1"}, "spec.breaker.podSuccess.atLeast", "2"),
        ({"spec.breaker.podSuccess.windowSeconds": "60"}, "spec.breaker.podSuccess.windowSeconds", "120"),
        (window(3, start=""), "spec.windows[3].start", "It is needed, such as 22:30."),
        (window(3, start="24:10"), "spec.windows[3].start", "It must be a time of day such as 22:30."),
        (window(0) | window(5, end="7 pm"), "spec.windows[5].end", "It must be a time of day such as 22:30."),
        (window(2, timeZone="europe berlin"), "spec.windows[2].timeZone", "did you mean Europe/Berlin?"),
        (
            window(2, timeZone="Mars/Olympus"),
            "spec.windows[2].timeZone",
            "is no time zone; write one such as Europe/Berlin",
        ),
        (window(2, jitterMinutes="some"), "spec.windows[2].jitterMinutes", "It must be a number."),
        (
            window(1) | window(4, jitterMinutes="60"),
            "spec.windows[4].jitterMinutes",
            "less than the 60 minutes that the window lasts",
        ),
        ({key: value for n in range(21) for key, value in window(n).items()}, "spec.windows", "20"),
    ],
)
def test_a_problem_stands_at_its_field(
    pay: None, browser_of: Browser, form: dict[str, Any], field: str, said: str
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


@pytest.mark.parametrize(
    ("window", "end", "said"),
    [
        ({"start": "22:30", "durationMinutes": 360}, "04:30", "every day 22:30–04:30 UTC"),
        ({"start": "22:00", "durationMinutes": 120, "jitterMinutes": 5}, "00:00", "every day 22:00–00:00 UTC, up to 5 min later"),
        ({"start": "00:00", "durationMinutes": 1440, "days": ["Sat", "Sun"]}, "24:00", "Sat, Sun 00:00–24:00 UTC"),
        ({"start": "06:00", "durationMinutes": 1440, "timeZone": "Asia/Tokyo"}, "06:00", "every day 06:00–06:00 (24 h) Asia/Tokyo"),
        ({"start": "06:00", "durationMinutes": 1}, "06:01", "every day 06:00–06:01 UTC"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_a_window_has_a_beginning_and_an_end_and_loses_nothing_by_it(window: Json, end: str, said: str) -> None:
    assert (end_of(window), window_words(window)) == (end, said)
    assert minutes_between(window["start"], end) == window["durationMinutes"]


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


@given(start=st.integers(0, 1439), duration=st.integers(1, 1440))
def test_an_end_is_read_as_the_window_that_it_was_shown_for(start: int, duration: int) -> None:
    window: Json = {"start": f"{start // 60:02}:{start % 60:02}", "durationMinutes": duration}
    assert minutes_between(window["start"], end_of(window)) == duration
