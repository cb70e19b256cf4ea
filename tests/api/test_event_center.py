"""Looking for events, seeing to dead letters, and how far readers are behind, over HTTP and within everybody's rights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection

from fleet.events import search as searching
from fleet.events.search import Search, search
from tests.api.http import Http
from tests.servers import People, Server

EVENTS, LETTERS = "/api/events", "/api/events/dead-letters"


@pytest.fixture
def http(server: Server, people: People, small_fleet: list[str]) -> Iterator[Http]:
    with Http(server.http, people.headers("admin")) as made:
        yield made


def publish(http: Http, *subjects: str, type_: str = "com.example.disk", **changes: Any) -> Any:
    """One event about each."""
    body = [
        {"specversion": "1.0", "id": f"{type_}-{i}", "source": "/test", "type": type_, "subject": s, **changes}
        for i, s in enumerate(subjects)
    ]
    reply = http("POST", EVENTS, body, Content_Type="application/json")
    assert reply.status == 202, reply.data
    return reply.json


def found(http: Http, **query: str) -> list[str]:
    reply = http("GET", f"{EVENTS}?{urlencode(query)}")
    assert reply.status == 200, reply.data
    return [e["subject"] for e in reply.json["events"] if e["type"].startswith("com.")]


def test_events_are_found_by_what_people_ask(http: Http) -> None:
    publish(http, "a1", "b1", data={"message": "Sector 7 is bad"})
    publish(http, "a2", type_="com.example.fan", severity="error", data={"reason": "FanStopped"})
    assert found(http) == ["a2", "b1", "a1"]  # the newest first
    assert found(http, machine="a1") == ["a1"]
    assert found(http, cluster="a") == ["a2", "a1"]
    assert found(http, cluster="nowhere") == []
    assert found(http, type="com.example.fan") == ["a2"]
    assert found(http, severity="warning") == ["a2"]
    assert found(http, text="sector 7") == ["b1", "a1"]
    assert found(http, text="fanstopped", cluster="a") == ["a2"]
    assert found(http, text="100%") == []  # no pattern, plain text
    assert found(http, since="2020-01-01T00:00:00Z", until="2099-01-01T00:00:00+01:00") == ["a2", "b1", "a1"]
    assert found(http, since="2099-01-01T00:00:00Z") == []
    assert found(http, until="2020-01-01T00:00:00Z") == []


def test_pages_go_on_where_the_last_one_ended(http: Http) -> None:
    publish(http, *(["a1"] * 7))
    seen, before = list[str](), ""
    while True:
        body = http("GET", f"{EVENTS}?type=com.&limit=3&before={before}").json
        seen += [e["id"] for e in body["events"]]
        before = body["next"]
        if not before:
            break
    assert len(seen) == len(set(seen)) == 7


def test_one_search_reads_a_stretch_and_says_how_far_it_came(
    people: People, small_fleet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_EDGE", searching._EDGE.replace(f"OFFSET {searching.STRETCH}", "OFFSET 10"))
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO event (pos, object_id, kind, type, data) SELECT fleet_pos(), 0, 0, CASE WHEN i = 1 THEN 'rare' ELSE 'often' END, "
            "'{}' FROM generate_series(1, 35) i"
        )
        first = search(cursor, Search(type="rare"))
        assert (first.rows, first.back_to is not None) == ([], True)
        stretches, at = 1, first
        while at.next is not None and not at.rows:
            at = search(cursor, Search(type="rare", before=at.next))
            stretches += 1
        assert [row.type for row in at.rows] == ["rare"]
        assert stretches == 4


@pytest.mark.parametrize(
    ("query", "sentence"),
    [("kind=Pod", "kind: there is no kind Pod"), ("severity=loud", "severity: is one of"), ("since=now", "since: must be a time"),
     ("before=x", "before: must be what"), ("colour=red", "colour: no such filter"), ("text=%00", "text: may have"), ("limit=-1", "limit must be"),
     (f"text={'x' * 600}", "text: may have")],
)  # fmt: skip
def test_a_search_that_cannot_be_read_is_told_why(query: str, sentence: str, http: Http) -> None:
    reply = http("GET", f"{EVENTS}?{query}")
    assert reply.status == 400
    assert sentence in reply.json["message"]


def test_a_reader_of_one_cluster_finds_nothing_of_another(server: Server, people: People, http: Http) -> None:
    publish(http, "a1", "b1")
    with Http(server.http, people.headers("oper-b")) as other:
        assert found(other) == ["b1"]
        assert found(other, machine="a1") == []


def letters(http: Http, query: str = "") -> list[tuple[str, str]]:
    return [(e["event"]["subject"], e["reason"]) for e in http("GET", f"{LETTERS}{query}").json["items"]]


def test_dead_letters_are_listed_counted_tried_again_and_discarded(http: Http) -> None:
    assert publish(http, "x", "y", "a1")["quarantined"] == 2
    assert letters(http) == [("machine/y", "UnknownSubject"), ("machine/x", "UnknownSubject")]
    assert letters(http, "?reason=TooLate") == []
    assert letters(http, "?consumer=ingest&limit=1") == [("machine/y", "UnknownSubject")]
    body = http("GET", LETTERS).json
    assert body["counts"] == [{"consumer": "ingest", "reason": "UnknownSubject", "count": 2}]
    first, second = (item["id"] for item in body["items"])
    assert http("POST", f"{LETTERS}/retry", {"ids": [first, "999"]}).json == {"done": [first]}
    assert [item["state"] for item in http("GET", LETTERS).json["items"]] == ["Retrying", "Waiting"]
    assert http("POST", f"{LETTERS}/discard", {"ids": [second]}).json == {"done": [second]}
    assert len(letters(http)) == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT actor, verb FROM audit WHERE kind = 'DeadLetter' ORDER BY pos")
        assert cursor.fetchall() == [("admin", "retry"), ("admin", "discard")]


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": "1"}, {"ids": [True]}, {"ids": ["x"]}, {"ids": [-1]}, [], {"ids": [1] * 1_001}])  # fmt: skip
def test_ids_that_are_none_are_refused(body: Any, http: Http) -> None:
    reply = http("POST", f"{LETTERS}/retry", body)
    assert reply.status == 400
    assert reply.json["message"].startswith("ids: ")


def test_a_publisher_of_one_cluster_sees_to_the_own_letters_and_those_of_the_cluster(
    server: Server, people: People, http: Http
) -> None:
    publish(http, "x")
    with Http(server.http, people.headers("oper-a")) as a, Http(server.http, people.headers("oper-b")) as b:
        publish(a, "y", type_="com.example.other")
        assert letters(a) == [("machine/y", "UnknownSubject")]
        assert letters(b) == []
        ids = [item["id"] for item in http("GET", LETTERS).json["items"]]
        assert b("POST", f"{LETTERS}/discard", {"ids": ids}).json == {"done": []}
        assert a("POST", f"{LETTERS}/discard", {"ids": ids}).json == {"done": [max(ids, key=int)]}


def test_readers_say_how_far_they_are_behind(http: Http) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO event_consumer (name, pos) VALUES ('recovery', fleet_horizon())")
    assert http("GET", f"{EVENTS}/consumers").json["items"][0] == {
        "name": "recovery", "position": http("GET", f"{EVENTS}/consumers").json["items"][0]["position"],
        "lagSeconds": 0, "failures": 0, "deadLetters": 0, "gaps": 0, "lostEvents": 0,
    }  # fmt: skip
