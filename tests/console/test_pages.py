"""Pages of the console: who sees what, how many queries they take, what they say to bad input."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control.kinds import API_VERSION

Browser = Callable[[str], Client]
PAGES = ["/", "/kit", "/clusters", "/clusters/a", "/machines", "/machines/a1", "/packages", "/safety", "/events"]
TABS = [f"/machines/a1/{tab}" for tab in ("why", "plan", "packages", "conditions", "facts", "events", "yaml")]
BUDGET = 13  # with session, user, roles and guard, which every page asks for


@pytest.mark.parametrize("path", PAGES + TABS + ["/audit"])
def test_an_admin_sees_every_page_within_its_budget_of_queries(
    small_fleet: list[str], browser_of: Browser, path: str
) -> None:
    client = browser_of("admin")
    client.get(path)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = client.get(path)
    assert response.status_code == 200
    assert len(queries) <= BUDGET, [q["sql"][:120] for q in queries.captured_queries]


@pytest.mark.parametrize("path", PAGES + TABS)
def test_pages_ask_strangers_to_log_in(small_fleet: list[str], path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/login?next=")


def test_a_user_without_a_role_is_told_who_grants_one(small_fleet: list[str], browser_of: Browser) -> None:
    response = browser_of("stranger").get("/")
    assert response.status_code == 403
    assert "has no role yet. An admin grants one" in response.content.decode()


def test_an_operator_of_one_cluster_sees_nothing_of_another(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    text = client.get("/machines").content.decode()
    assert "row-a1" in text
    assert "row-b1" not in text
    assert client.get("/machines/b1").status_code == 403
    assert client.get("/clusters/b").status_code == 403
    assert ">b1<" not in client.get("/events").content.decode()
    assert client.get("/audit").status_code == 403


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("cluster:a", ["a1", "a2"]),
        ("-cluster:a", ["b1"]),
        ("a", ["a1", "a2"]),
        ("10.9.0.3", ["b1"]),
        ("SN1", ["a2"]),
        ("state:unknown", ["a1", "a2", "b1"]),
        ("state:bad", []),
        ("a cluster:b", []),
    ],
)
def test_the_filter_language_finds_what_it_says(
    small_fleet: list[str], browser_of: Browser, q: str, names: list[str]
) -> None:
    text = browser_of("viewer").get("/machines", {"q": q}).content.decode()
    assert [n for n in small_fleet if f'id="row-{n}"' in text] == names


@pytest.mark.parametrize(
    ("q", "sentence"),
    [
        ("stat:bad", "Did you mean “state”?"),
        ("state:broken", "is no state. States are"),
        ("a b", "One bare word at a time"),
        ('"a', "A quote is not closed"),
        ("label:a(b", "The label cannot be read"),
        ("x" * 501, "at most 500"),
    ],
)
def test_a_filter_that_cannot_be_read_says_what_would_be_right(
    small_fleet: list[str], browser_of: Browser, q: str, sentence: str
) -> None:
    response = browser_of("viewer").get("/machines", {"q": q})
    assert response.status_code == 200
    assert sentence in response.content.decode()


@pytest.mark.parametrize("path", ["/machines/nobody", "/clusters/nobody", "/machines/a1/nothing"])
def test_what_is_not_there_is_said_in_a_sentence(small_fleet: list[str], browser_of: Browser, path: str) -> None:
    response = browser_of("admin").get(path)
    assert response.status_code == 404
    assert "There is no" in response.content.decode() or "has no tab" in response.content.decode()


def test_acts_need_the_csrf_token_and_a_role(small_fleet: list[str], people: object) -> None:
    from django.contrib.auth import get_user_model

    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.get(username="admin"))
    assert strict.post("/machines/a1/do", {"verb": "hold", "reason": "x"}).status_code == 403
    viewer = Client()
    viewer.force_login(get_user_model().objects.get(username="viewer"))
    response = viewer.post("/machines/a1/do", {"verb": "hold", "reason": "x"})
    assert response.status_code == 403
    assert storage_for("holds").page(__import__("fleet.api.storage", fromlist=["ListQuery"]).ListQuery()).objects == []


def test_an_operator_holds_and_releases_a_machine_of_its_cluster(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    done = client.post("/machines/a1/do", {"verb": "hold", "reason": "forensics", "hours": "4"})
    assert done.status_code == 303, done.content.decode()[-2000:]
    assert "forensics" in browser_of("admin").get("/safety").content.decode()
    refused = client.post("/machines/b1/do", {"verb": "hold", "reason": "forensics", "hours": "4"})
    assert refused.status_code == 403
    assert client.post("/machines/a1/do", {"verb": "release"}).status_code == 303
    assert "forensics" not in browser_of("admin").get("/safety").content.decode()


def test_versions_are_changed_only_on_the_object_that_was_shown(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    stored = storage_for("machines").read("a1")
    assert stored is not None
    shown = stored.obj["metadata"]["resourceVersion"]
    form = {"verb": "versions", "versions": "pouch = 1.1\nkubelet = 1.37.2", "resourceVersion": shown}
    assert client.post("/machines/a1/do", form).status_code == 303
    again = client.post("/machines/a1/do", form)
    assert again.status_code == 409
    assert "has been modified" in again.content.decode()
    now = storage_for("machines").read("a1")
    assert now is not None
    assert now.obj["spec"]["versions"] == {"pouch": "1.1", "kubelet": "1.37.2"}


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"verb": "explode"}, "there is no act"),
        ({"verb": "hold", "hours": "4"}, "a reason is needed"),
        ({"verb": "hold", "reason": "x", "hours": "9999"}, "the end of a hold"),
        ({"verb": "reboot", "reason": "x", "count": "2"}, "type 1"),
        ({"verb": "versions", "versions": "nonsense line"}, "is no line of the form"),
        ({"verb": "restart", "reason": "x", "unit": "a b; reboot"}, "spec.units"),
    ],
)
def test_a_bad_form_is_refused_with_a_sentence_and_changes_nothing(
    small_fleet: list[str], browser_of: Browser, form: dict[str, str], sentence: str
) -> None:
    before = storage_for("machines").read("a1")
    response = browser_of("admin").post("/machines/a1/do", form)
    assert 400 <= response.status_code < 500
    assert sentence in response.content.decode()
    assert storage_for("machines").read("a1") == before


def test_only_a_fleet_admin_moves_the_kill_switch_and_it_shows_on_every_page(
    small_fleet: list[str], browser_of: Browser
) -> None:
    assert (
        browser_of("oper-a").post("/safety/do", {"verb": "stop", "reason": "x", "count": "3", "told": "3"}).status_code
        == 403
    )
    admin = browser_of("admin")
    assert (
        admin.post("/safety/do", {"verb": "stop", "reason": "bad package seen", "count": "3", "told": "3"}).status_code
        == 303
    )
    assert "All changes are stopped by admin: bad package seen" in admin.get("/machines").content.decode()
    assert admin.post("/safety/do", {"verb": "resume", "count": "3", "told": "3"}).status_code == 303
    assert "All changes are stopped" not in admin.get("/machines").content.decode()


def test_reading_a_page_changes_nothing(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    counted = "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM event), (SELECT count(*) FROM change), (SELECT max(rv) FROM machine_state)"
    with connection.cursor() as cursor:
        cursor.execute(counted)
        before = cursor.fetchone()
        for path in [*PAGES, *TABS, "/audit"]:
            client.get(path)
        cursor.execute(counted)
        assert cursor.fetchone() == before


def test_text_from_people_is_shown_as_text(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    client.post("/machines/a1/do", {"verb": "hold", "reason": "<script>alert(1)</script>", "hours": "1"})
    text = client.get("/safety").content.decode()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_overview_shows_the_newest_operations_that_run(small_fleet: list[str], browser_of: Browser) -> None:
    for name in small_fleet:
        spec = {"machine": name, "verb": "Reboot", "reason": "test"}
        obj = {"apiVersion": API_VERSION, "kind": "Operation", "metadata": {"name": f"reboot-{name}"}, "spec": spec}
        create_object("operations", obj, write=Write(by=SYSTEM))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE machines_operation SET started_at = now() WHERE name <> 'reboot-a2'")
    shown = [_doing(browser_of(who)) for who in ("admin", "oper-a")]
    assert shown == [["b1", "a1"], ["a1"]]


def _doing(client: Client) -> list[str]:
    """Machines whose Operations the overview shows, the newest first."""
    panel = client.get("/").content.decode().split('id="o-doing"')[1].split("</section>")[0]
    return re.findall(r"/machines/(\w+)/why", panel)
