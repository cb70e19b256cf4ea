"""All that match: counted and frozen by the server, acted on only as long as they are the same, never by accident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.models import RoleBinding
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.api.storage import ListQuery, storage_for
from fleet.console import forms, matching, queries
from fleet.control.kinds import API_VERSION

Browser = Callable[[str], Client]
HOLD = {"verb": "hold", "reason": "row is moved", "hours": "4"}


def ask(client: Client, **query: str) -> dict[str, Any]:
    response = client.get("/do/matching", query)
    assert response.status_code == 200, response.content
    found: dict[str, Any] = response.json()
    return found


def held() -> list[str]:
    return sorted(h["spec"]["target"]["machine"] for h in storage_for("holds").page(ListQuery()).objects)


def machine(name: str, cluster: str, number: int) -> None:
    spec = {"clusterName": cluster, "idc": "iad1", "ip": f"10.9.1.{number}"}
    obj = {"apiVersion": API_VERSION, "kind": "Machine", "metadata": {"name": name}, "spec": spec}
    create_object("machines", obj, write=Write(by=SYSTEM))


@pytest.mark.parametrize(
    ("query", "n"),
    [
        ({"q": "cluster:a"}, 2),
        ({"q": "cluster:a ip:10.9.0.1"}, 1),
        ({"q": "a"}, 2),
        ({"q": "SN2"}, 1),
        ({"q": "state:unknown"}, 3),
        ({"q": "", "all": "1"}, 3),
    ],
)
def test_what_matches_is_counted_and_held_by_its_hash(
    small_fleet: list[str], browser_of: Browser, query: dict[str, str], n: int
) -> None:
    client = browser_of("admin")
    found = ask(client, **query)
    assert found["n"] == n
    done = client.post("/do/machines", HOLD | query | {"hash": found["hash"], "back": "/machines?q=x"})
    assert done.status_code == 303, done.content.decode()[-1500:]
    assert done["Location"].startswith(f"/machines?q=x&did={n}+machine")
    assert len(held()) == n


@pytest.mark.parametrize("change", ["one more", "one less", "another of the same name", "none left", "too many"])
def test_another_set_than_was_counted_is_refused_and_changes_nothing(
    small_fleet: list[str], browser_of: Browser, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser_of("oper-a")
    found = ask(client, q="cluster:a")
    write = Write(by=SYSTEM)
    changes: dict[str, Callable[[], Any]] = {
        "one more": lambda: machine("a3", "a", 3),
        "one less": lambda: patch_object(
            "machines", "a2", lambda o: merge_patch(o, {"spec": {"clusterName": "b"}}), write=write
        ),
        "another of the same name": lambda: _sql("UPDATE machine SET id = 900 WHERE name = 'a2'; UPDATE machine_state SET id = 900 WHERE name = 'a2'"),
        "none left": lambda: _sql("UPDATE machine SET cluster_id = 0; UPDATE machine_state SET cluster_id = 0"),
        "too many": lambda: monkeypatch.setattr(matching, "MOST", 1),
    }  # fmt: skip
    changes[change]()
    refused = client.post("/do/machines", HOLD | {"q": "cluster:a", "hash": found["hash"], "n": str(found["n"])})
    text = refused.content.decode()
    assert refused.status_code == 409
    assert "The machines that match are no longer those that you selected" in text
    assert "Nothing was changed." in text
    assert held() == []


def test_rows_and_all_that_match_are_not_mixed(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    form = HOLD | {"q": "cluster:a", "hash": ask(client, q="cluster:a")["hash"], "name": "b1"}
    refused = client.post("/do/machines", form)
    assert refused.status_code == 400
    assert "select rows or all that match, not both" in refused.content.decode()
    assert held() == []


def test_the_refusal_says_how_many_there_were_and_are(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    found = ask(client, q="cluster:a")
    machine("a3", "a", 3)
    refused = client.post("/do/machines", HOLD | {"q": "cluster:a", "hash": found["hash"], "n": "2"})
    assert "selected: 3 machines now, 2 when you selected them." in refused.content.decode()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"q": ""},
        {"q": "", "hash": ""},
        {"q": "cluster:a"},
        {"hash": "0123456789abcdef"},
        {"q": "cluster:a", "hash": ""},
        {"q": "label:", "hash": "x"},
        {"q": "''", "hash": "x"},
        {"q": "cluster:a", "hash": "x", "name": "a1"},
        {"q": "cluster:", "all": "1"},
    ],
    ids=str,
)
def test_what_was_left_empty_never_means_every_machine(
    small_fleet: list[str], browser_of: Browser, form: dict[str, str]
) -> None:
    client = browser_of("admin")
    whole = ask(client, q="", all="1")["hash"]
    for more in ({}, {"hash": whole} if "hash" in form and "all" not in form else {}):
        refused = client.post("/do/machines", HOLD | form | more)
        assert refused.status_code in (400, 409)
        assert held() == []


@pytest.mark.parametrize("query", [{}, {"q": ""}, {"q": "  "}, {"q": "label:"}, {"q": "''"}, {"q": "stat:bad"}, {"q": "\x00"}], ids=str)  # fmt: skip
def test_a_question_without_a_filter_is_refused(
    small_fleet: list[str], browser_of: Browser, query: dict[str, str]
) -> None:
    response = browser_of("admin").get("/do/matching", query)
    assert response.status_code == 400
    assert (response.json()["n"], response.json()["hash"]) == (None, "")
    assert response.json()["why"].endswith(".")


def test_more_than_an_act_may_reach_asks_for_a_narrower_filter(
    small_fleet: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MOST_OF_BATCH", 2)
    client = browser_of("admin")
    assert ask(client, q="cluster:a")["n"] == 2
    assert ask(client, q="state:unknown") == {"n": None, "hash": "", "why": "More than 2 machines match: narrow the filter to act on all of them."}  # fmt: skip


def test_a_word_that_begins_too_many_names_asks_for_a_longer_one(
    small_fleet: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "BY_NAME", 1)
    assert "a longer word is needed" in ask(browser_of("admin"), q="a")["why"]


def test_looking_for_what_no_index_answers_ends_in_time(
    small_fleet: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")

    monkeypatch.setattr(matching, "matching", slow)
    monkeypatch.setattr(matching, "SECONDS", 0.1)
    assert "narrow the filter, by a cluster first" in ask(browser_of("admin"), q="rack:r1")["why"]


def test_many_are_acted_on_only_with_their_exact_count(
    small_fleet: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "MANY", 1)
    client = browser_of("admin")
    form = HOLD | {"q": "cluster:a", "hash": ask(client, q="cluster:a")["hash"]}
    refused = client.post("/do/machines", form | {"count": "3"})
    assert refused.status_code == 400
    assert "type 2, the number of machines" in refused.content.decode()
    assert held() == []
    assert client.post("/do/machines", form | {"count": "2"}).status_code == 303
    assert held() == ["a1", "a2"]


def test_more_than_a_page_is_reached_at_once(
    small_fleet: list[str], browser_of: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MACHINE_PAGE", 1)
    client = browser_of("admin")
    assert client.post("/do/machines", HOLD | {"name": ["a1", "a2"]}).status_code == 400
    form = HOLD | {"q": "cluster:a", "hash": ask(client, q="cluster:a")["hash"]}
    assert client.post("/do/machines", form).status_code == 303
    assert held() == ["a1", "a2"]


@pytest.mark.parametrize("who", ["viewer", "stranger"])
def test_who_acts_on_nothing_is_not_asked(small_fleet: list[str], browser_of: Browser, who: str) -> None:
    client = browser_of(who)
    assert client.get("/do/matching", {"q": "cluster:a"}).status_code == 403
    hash_ = ask(browser_of("admin"), q="cluster:a")["hash"]
    assert client.post("/do/machines", HOLD | {"q": "cluster:a", "hash": hash_}).status_code in (403, 409)
    assert held() == []


def test_an_operator_of_one_cluster_means_only_what_it_sees(small_fleet: list[str], browser_of: Browser) -> None:
    found = ask(browser_of("oper-a"), q="", all="1")
    assert found == ask(browser_of("admin"), q="cluster:a")
    assert ask(browser_of("oper-a"), q="cluster:b")["why"] == "No machine matches."


def test_what_may_only_be_looked_at_is_refused_before_anything_is_done(
    small_fleet: list[str], browser_of: Browser
) -> None:
    user = get_user_model().objects.get(username="oper-a")
    RoleBinding.objects.create(user=user, role="viewer", cluster="")
    client = browser_of("oper-a")
    why = ask(client, q="state:unknown")["why"]
    assert why.startswith("oper-a may look at 1 of the 3 that match and not act on them (b)")
    hash_ = ask(browser_of("admin"), q="state:unknown")["hash"]
    assert client.post("/do/machines", HOLD | {"q": "state:unknown", "hash": hash_}).status_code == 403
    assert held() == []
    assert ask(client, q="cluster:a")["n"] == 2


def test_a_question_keeps_a_small_budget_and_strangers_log_in(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("admin")
    ask(client, q="cluster:a")
    with CaptureQueriesContext(connection) as asked:
        ask(client, q="cluster:a")
    assert len(asked) <= 8, [q["sql"][:100] for q in asked.captured_queries]
    assert Client().get("/do/matching", {"q": "cluster:a"})["Location"].startswith("/login")
    assert client.post("/do/matching", {"q": "cluster:a"}).status_code == 405


def _sql(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text)
