"""Safety: breakers with their window, holds, permits, refusals and policies; what is far-reaching takes a count or a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from clusters.models import Cluster
from fleet.api.actions import Write, create_object
from fleet.api.models import RoleBinding
from fleet.api.rights import SYSTEM, Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import safety_page
from fleet.console.breakers import MINUTES, Dial, breakers
from fleet.console.safety_forms import hold_of
from fleet.control.kinds import API_VERSION, Json
from fleet.safety.breakers import Breaker

Browser = Callable[[str], Client]
BUDGET = 12
TABS = ("", "/policies", "/holds", "/windows", "/permits", "/refusals")
ADMIN = Actor("admin", bindings=(("admin", ""),))
HOLD = {"verb": "hold", "target": "cluster", "spec.target.cluster": "a", "spec.reason": "quarter close", "hours": "4"}
RESET = {"verb": "reset", "breaker": "cluster/a", "confirm": "cluster/a"}


def sql(statement: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        return list(cursor.fetchall()) if cursor.description else []


def trip(
    dim: str = "cluster", name: str = "a", why: str = "2 machines were taken by faults within 10 minutes."
) -> None:
    key = Cluster.objects.get(name=name).pk if dim == "cluster" else 0
    sql("SELECT breaker_trip(%s, %s, %s)", dim, key, why)


def strike(machine: str, minutes: int) -> None:
    sql("INSERT INTO breaker_strike (machine_id, cluster_id, idc_id, rack_id, at, failed) SELECT c.machine_id, c.cluster_id, c.idc_id, c.rack_id, now() - %s * interval '1 min', false FROM capacity c JOIN machine m ON m.id = c.machine_id WHERE m.name = %s", minutes, machine)  # fmt: skip


def refuse(machine: str, reason: str, minutes: int = 5) -> None:
    sql("INSERT INTO refusal (machine_id, cluster_id, verb, owner, reason, message, since) SELECT id, cluster_id, 'Reboot', 'x', %s, 'The breaker of cluster a is <open>.', now() - %s * interval '1 min' FROM machine WHERE name = %s", reason, minutes, machine)  # fmt: skip


def holds() -> list[Json]:
    return storage_for("holds").page(ListQuery()).objects


def state(name: str = "a") -> str:
    return str(sql("SELECT state FROM breaker WHERE dim = 'cluster' AND key = %s", Cluster.objects.get(name=name).pk)[0][0])  # fmt: skip


@pytest.fixture
def busy(small_fleet: list[str], settings: Any) -> None:
    """An open breaker in a, two refusals, a policy; one person is enough to reset."""
    settings.FLEET_REQUIRE_APPROVAL = False
    strike("a1", 3)
    strike("a2", 12)
    trip()
    refuse("a1", "ClusterBreaker")
    refuse("b1", "Held", 9)
    policy = {"apiVersion": API_VERSION, "kind": "SafetyPolicy", "metadata": {"name": "pay"}, "spec": {"scope": {"cluster": "a"}, "maxUnavailable": {"count": 1}}}  # fmt: skip
    create_object("safetypolicies", policy, write=Write(by=SYSTEM))


@pytest.mark.parametrize("tab", TABS)
def test_each_tab_stays_within_its_budget(busy: None, browser_of: Browser, tab: str) -> None:
    client = browser_of("admin")
    client.post("/safety/do", HOLD)
    client.get(f"/safety{tab}")
    with CaptureQueriesContext(connection) as found:
        response = client.get(f"/safety{tab}")
    assert response.status_code == 200
    assert len(found) <= BUDGET, [q["sql"][:100] for q in found.captured_queries]


def test_an_open_breaker_leads_the_page_and_says_what_passes(busy: None, browser_of: Browser) -> None:
    text = browser_of("admin").get("/safety").content.decode()
    assert '<a href="#s-breakers" class="bad">The breaker of cluster a</a> is open since' in text
    panel = text[text.index('id="s-breakers"') : text.index('id="o-refused"')]
    assert panel.index("Cluster a") < panel.index("Fleet")
    assert "Nothing that takes a machine away starts here; healing goes on." in panel
    assert 'data-set-breaker="cluster/a">Half-open now…' in panel
    assert "1 open, 2 closed" in panel or "1 open" in panel
    assert ">1 breaker open<" in text.replace("</span>", "<") or "1 breaker open" in text
    assert '<span class="count bad">1</span>' in text


def test_the_chart_counts_unique_machines_of_the_moving_window(busy: None) -> None:
    strike("a1", 4)  # the same machine counts once
    found = next(b for b in breakers(ADMIN) if b.id == "cluster/a")
    assert (found.breaker.count, found.threshold, found.window) == (1, 2, "10 min")
    assert len(found.series) == MINUTES
    assert found.series[-1] == 1  # a1
    assert found.series[MINUTES - 1 - 8] == 1  # a2, eight minutes ago
    assert found.series[MINUTES - 1 - 3] == 2 and found.series[0] == 0


def dial(dim: str = "rack", name: str = "iad1/r7", state: str = "closed", *, threshold: int = 4, series: tuple[int, ...] = (), allow: int = 0, under_way: int = 0, policy: str = "") -> Dial:  # fmt: skip
    return Dial(Breaker(dim, 7, name, state, threshold, 3, 600, allow, under_way, None, None, "It was too much.", policy, "", ()), series)  # fmt: skip


def test_bars_turn_red_at_the_limit() -> None:
    shown = dial(series=(0, 2, 4, 9))
    assert [bar[0] for bar in shown.bars] == ["s-ink3", "s-ink3", "s-bad", "s-bad"]
    assert float(shown.bars[2][4]) == pytest.approx(64, abs=0.1)  # at the line
    assert float(shown.bars[3][4]) == 88
    assert shown.counted == "3 of 4 in 10 min"
    assert "the start of the 4th machine" in shown.said


@pytest.mark.parametrize(
    ("state", "part"),
    [("open", "lets one through once 10 min passed"), ("half-open", "lets 2 machines through at a time (1 under way)"), ("off", "Switched off by pay")],
)  # fmt: skip
def test_each_state_says_what_passes(state: str, part: str) -> None:
    assert part in dial("idc", "iad1", state, allow=2, under_way=1, policy="pay").said
    assert "Only a person frees it." in dial("fleet", "", "open").said


def test_windows_tell_when_they_open_in_their_own_words(small_fleet: list[str], browser_of: Browser) -> None:
    spec = {"scope": {"cluster": "a"}, "windows": [{"start": "22:30", "durationMinutes": 360, "timeZone": "Europe/Berlin", "days": ["Mon", "Tue"], "jitterMinutes": 20}]}  # fmt: skip
    policy = {"apiVersion": API_VERSION, "kind": "SafetyPolicy", "metadata": {"name": "nights"}, "spec": spec}
    create_object("safetypolicies", policy, write=Write(by=SYSTEM))
    text = browser_of("viewer").get("/safety/windows").content.decode()
    assert "Mon, Tue 22:30–04:30 Europe/Berlin, up to 20 min later" in text
    assert "nights" in text and "UTC" in text and "data-local=" in text
    assert "No window is declared" not in text


def test_who_sees_another_cluster_sees_its_breaker_only(busy: None, browser_of: Browser) -> None:
    text = browser_of("oper-b").get("/safety").content.decode()
    panel = text[text.index('id="s-breakers"') : text.index('id="o-refused"')]
    assert "Cluster a" not in panel and "1 breaker is closed and counted nothing" in panel
    trip("fleet")
    assert "Only a person frees it." in browser_of("oper-b").get("/safety").content.decode()


def test_a_reset_takes_the_name_a_reason_and_one_step_at_a_time(busy: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    assert client.post("/safety/do", RESET | {"confirm": "cluster/b"}).status_code == 400
    assert state() == "open"
    done = client.post("/safety/do", RESET, follow=True)
    assert "cluster/a: It lets one through at a time" in done.content.decode()
    assert state() == "half-open"
    client.post("/safety/do", RESET)
    assert state() == "closed"
    assert sql("SELECT actor, verb, name FROM audit WHERE kind = 'Breaker' ORDER BY pos") == [("admin", "reset", "cluster/a")] * 2  # fmt: skip


def test_a_reset_waits_for_a_second_person_where_that_is_asked(busy: None, browser_of: Browser, settings: Any) -> None:
    settings.FLEET_REQUIRE_APPROVAL = True
    user = get_user_model().objects.create_user(username="anna", password=None)
    RoleBinding.objects.create(user=user, role="approver", cluster="a")
    assert "A second approver must say the same" in browser_of("admin").post("/safety/do", RESET, follow=True).content.decode()  # fmt: skip
    text = browser_of("anna").get("/safety").content.decode()
    assert "<b>admin</b> asked for its reset; that word lapses at" in text
    assert 'data-set-breaker="cluster/a" data-not-for="admin">Say the same…' in text
    assert "Two approvers must say so within an hour" in text
    assert (
        "You asked for the reset of cluster/a yourself"
        in browser_of("admin").post("/safety/do", RESET).content.decode()
    )
    assert state() == "open"
    browser_of("anna").post("/safety/do", RESET)
    assert state() == "half-open"


@pytest.mark.parametrize(("who", "code"), [("viewer", 403), ("oper-a", 403), ("oper-b", 403)])
def test_who_is_no_approver_resets_nothing(busy: None, browser_of: Browser, who: str, code: int) -> None:
    client = browser_of(who)
    assert 'data-open="#do-reset"' not in client.get("/safety").content.decode()
    assert client.post("/safety/do", RESET).status_code == code
    assert state() == "open"


# -- kill switch ----------------------------------------------------------------------------------------------------------


def test_the_kill_switch_takes_the_count_that_was_shown(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    for tab in TABS:
        text = client.get(f"/safety{tab}").content.decode()
        assert 'name="told" value="3"' in text and 'data-must="3" data-arms="#stop-go"' in text, tab
    form = {"verb": "stop", "reason": "bad kernel", "told": "3"}
    for count in ("", "2", "30"):
        assert client.post("/safety/do", form | {"count": count}).status_code == 400
    assert sql("SELECT stopped FROM ledger") == [(False,)]
    assert client.post("/safety/do", form | {"count": "3"}).status_code == 303
    assert sql("SELECT stopped FROM ledger") == [(True,)]
    assert "All changes are stopped" in client.get("/safety").content.decode()
    assert client.post("/safety/do", {"verb": "resume", "told": "3", "count": "1"}).status_code == 400
    assert client.post("/safety/do", {"verb": "resume", "told": "3", "count": "3"}).status_code == 303


# -- holds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "covers"),
    [
        ({"target": "cluster", "spec.target.cluster": "a"}, "It covers 2 machines now."),
        ({"target": "machine", "spec.target.machine": "b1"}, "It covers 1 machine now."),
        ({"target": "selector", "spec.target.selector.matchLabels": "rack=r7"}, "It covers no machine now"),
        ({"target": "matchAll"}, "It covers 3 machines now."),
    ],
)
def test_a_hold_is_told_and_made(small_fleet: list[str], browser_of: Browser, target: dict[str, str], covers: str) -> None:  # fmt: skip
    client = browser_of("admin")
    form = {"verb": "hold", "spec.reason": "quarter close", "hours": "24"} | target
    found = client.post("/safety/foresee", form).json()
    assert found["may"], found
    assert covers in found["html"] and "kubectl create -f -" in found["html"]
    assert holds() == []
    assert client.post("/safety/do", form).status_code == 303
    (made,) = holds()
    assert made["spec"]["owner"] == "admin"
    assert client.get("/safety/holds").content.decode().count("quarter close") == 1


@pytest.mark.parametrize(
    ("form", "field", "said"),
    [
        ({"spec.target.cluster": ""}, "spec.target.cluster", ""),
        ({"spec.reason": ""}, "spec.reason", ""),
        ({"target": "selector", "spec.target.selector.matchLabels": ""}, "spec.target.selector.matchLabels", "empty selector"),
    ],
)  # fmt: skip
def test_each_problem_of_a_hold_stands_at_its_field(small_fleet: list[str], browser_of: Browser, form: dict[str, str], field: str, said: str) -> None:  # fmt: skip
    client = browser_of("admin")
    found = client.post("/safety/foresee", HOLD | form).json()
    assert not found["may"]
    assert said in found["fields"][field], found
    assert client.post("/safety/do", HOLD | form).status_code == 422
    assert holds() == []


@pytest.mark.parametrize(("form", "said"), [({"hours": "9"}, "the end of a hold"), ({"target": "x"}, "a hold covers one of"), ({"target": "selector", "spec.target.selector.matchLabels": "a"}, "no label of the form")])  # fmt: skip
def test_a_hold_that_cannot_be_read_is_refused(small_fleet: list[str], browser_of: Browser, form: dict[str, str], said: str) -> None:  # fmt: skip
    client = browser_of("admin")
    assert said in client.post("/safety/foresee", HOLD | form).json()["html"].lower()
    assert client.post("/safety/do", HOLD | form).status_code == 400


def test_holds_are_made_in_the_own_cluster_only(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    assert client.post("/safety/foresee", HOLD | {"spec.target.cluster": "b"}).status_code == 403
    assert client.post("/safety/do", HOLD | {"target": "matchAll"}).status_code == 403
    assert client.post("/safety/do", HOLD).status_code == 303
    assert browser_of("viewer").post("/safety/do", HOLD).status_code == 403
    assert "New hold…" not in browser_of("viewer").get("/safety").content.decode()
    assert len(holds()) == 1


def test_an_overdue_hold_says_so_and_is_extended(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    client.post("/safety/do", HOLD)
    name = holds()[0]["metadata"]["name"]
    sql(
        'UPDATE safety_hold SET spec = jsonb_set(spec, \'{until}\', \'"2026-01-01T00:00:00Z"\'), status = \'{"phase": "Overdue", "overdue": true}\''
    )
    text = client.get("/safety").content.decode()
    assert "Overdue by" in text and "Extend it or release it." in text
    assert '<a href="/safety/holds" class="warn">1 hold</a> is overdue' in text
    assert browser_of("oper-b").post("/safety/do", {"verb": "extend", "hold": name, "hours": "24"}).status_code == 403
    done = client.post("/safety/do", {"verb": "extend", "hold": name, "hours": "24", "back": "holds"})
    assert done["Location"].startswith("/safety/holds?did=")
    assert "Overdue by" not in client.get("/safety/holds").content.decode()


def test_the_name_of_a_hold_comes_from_what_it_covers() -> None:
    from django.http import QueryDict

    form = QueryDict(mutable=True)
    form.update({"target": "selector", "spec.target.selector.matchLabels": "pool=gpu, rack=R7", "hours": "1"})
    assert hold_of(form, "olga")["metadata"]["generateName"] == "pool-gpu-rack-r7-"


# -- refusals, permits, policies ------------------------------------------------------------------------------------------


def test_each_refusal_has_its_reason_and_what_frees_it(busy: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    text = client.get("/safety/refusals").content.decode()
    rows = text[text.index("<tbody") :]
    assert rows.index("/machines/a1/why") < rows.index("/machines/b1/why")
    assert "The breaker of cluster a is &lt;open&gt;." in rows
    assert "the breaker of the cluster cools down, or is reset" in rows
    only = client.get("/safety/refusals?reason=Held").content.decode().split("<tbody")[1]
    assert "/machines/a1/why" not in only and "/machines/b1/why" in only
    assert client.get("/safety/refusals?reason=Nonsense").status_code == 404
    assert client.get("/safety/refusals?after=x~y").status_code == 200
    assert "/machines/a1/why" not in browser_of("oper-b").get("/safety/refusals").content.decode()


def test_pages_of_refusals_follow_each_other(busy: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety_page, "PAGE", 1)
    client = browser_of("admin")
    first = client.get("/safety/refusals").content.decode()
    assert "/machines/a1/why" in first and "/machines/b1/why" not in first
    more = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    second = client.get(more).content.decode()
    assert "/machines/b1/why" in second and "/machines/a1/why" not in second and 'rel="next"' not in second


def test_policies_tell_what_they_mean_in_machines(busy: None, browser_of: Browser) -> None:
    text = browser_of("viewer").get("/safety/policies").content.decode()
    assert "cluster/a" in text and ">pay<" in text


def test_permits_are_counted_by_verb(busy: None, browser_of: Browser) -> None:
    sql("INSERT INTO permit (machine_id, verb, unplanned, cost, draws, cluster_id, idc_id, model_id, rack_id, owner, expires_at) SELECT machine_id, 'Reboot', true, 1, true, cluster_id, idc_id, model_id, rack_id, 'x', now() + interval '1 h' FROM capacity")  # fmt: skip
    text = browser_of("admin").get("/safety/permits").content.decode()
    assert "Reboot · repair" in text and "3 count as unavailable" in text
    assert "1 count as unavailable" in browser_of("oper-b").get("/safety/permits").content.decode()


def test_a_tab_or_an_act_that_there_is_not_is_a_sentence(small_fleet: list[str], browser_of: Browser) -> None:
    assert "Tabs are now" in browser_of("admin").get("/safety/nothing").content.decode()
    assert "there is no act of that name" in browser_of("admin").post("/safety/do", {"verb": "x"}).content.decode().lower()  # fmt: skip


def test_at_rest_the_page_says_so(small_fleet: list[str], browser_of: Browser) -> None:
    assert "Nothing is refused and nobody holds anything" in browser_of("viewer").get("/safety").content.decode()
