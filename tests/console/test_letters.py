"""Events that were set aside, in the console: seen with their reason by whom they concern, tried again or given up by whom may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client

Browser = Callable[[str], Client]


def letter(cluster: str, reason: str = "UnknownSubject", consumer: str = "", n: int = 1) -> int:
    """One event about a machine of that cluster; its number."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO dead_letter (consumer, reason, message, pos, n, at, object_id, cluster_id, kind, severity, type, source, source_id, subject, data)
            SELECT %s, %s, 'there is no such object', 0, 0, now(), 0, c.id, 1, 1, 'com.example.' || %s, '/test', %s, 'machine/x1', '{"note": "<b>bold</b>"}' FROM clusters_cluster c WHERE c.name = %s RETURNING id""",
            [consumer, reason, cluster, str(n), cluster],
        )
        return int(cursor.fetchone()[0])


def states() -> dict[int, int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, state FROM dead_letter ORDER BY id")
        return dict(cursor.fetchall())


def test_each_sees_those_of_their_clusters_with_the_reason(small_fleet: list[str], browser_of: Browser) -> None:
    letter("a"), letter("b", "Late")
    page = browser_of("admin").get("/events/dead-letters").content.decode()
    assert "2 events" in page
    assert "com.example.a" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert 'name="verb" value="retry"' in page
    own = browser_of("oper-a").get("/events/dead-letters").content.decode()
    assert "com.example.a" in own
    assert "com.example.b" not in own
    looked = browser_of("viewer").get("/events/dead-letters").content.decode()
    assert "com.example.b" in looked
    assert 'value="retry"' not in looked
    late = browser_of("admin").get("/events/dead-letters?reason=Late&consumer=ingest").content.decode()
    assert "com.example.a" not in late


@pytest.mark.parametrize(
    ("who", "form", "code", "tried"),
    [
        ("admin", {"verb": "retry"}, 303, 1),
        ("oper-a", {"verb": "retry"}, 303, 1),
        ("oper-b", {"verb": "retry"}, 303, 0),
        ("viewer", {"verb": "retry"}, 403, 0),
        ("admin", {"verb": "burn"}, 400, 0),
        ("admin", {"verb": "retry", "id": "x"}, 400, 0),
        ("admin", {"verb": "retry", "id": ""}, 400, 0),
    ],
)
def test_who_may_try_one_again(small_fleet: list[str], browser_of: Browser, who: str, form: dict[str, str], code: int, tried: int) -> None:  # fmt: skip
    number = letter("a")
    done = browser_of(who).post("/do/letters", {"id": str(number)} | form)
    assert done.status_code == code
    assert states() == {number: tried}


def test_all_of_a_cause_at_once_and_one_given_up(small_fleet: list[str], browser_of: Browser) -> None:
    first, second, other = letter("a", n=1), letter("b", n=2), letter("a", "Late", n=3)
    client = browser_of("admin")
    done = client.post("/do/letters", {"verb": "retry", "consumer": "ingest", "reason": "UnknownSubject"})
    assert done["Location"] == "/events/dead-letters?did=2+events+are+tried+again."
    assert states() == {first: 1, second: 1, other: 0}
    assert "Is tried again" in client.get("/events/dead-letters").content.decode()
    client.post("/do/letters", {"verb": "discard", "id": str(other)})
    assert states() == {first: 1, second: 1}
    with connection.cursor() as cursor:
        cursor.execute("SELECT verb, kind FROM audit WHERE kind = 'DeadLetter' ORDER BY pos")
        assert cursor.fetchall() == [("retry", "DeadLetter"), ("discard", "DeadLetter")]


def test_readers_say_how_far_behind_they_are(small_fleet: list[str], browser_of: Browser) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO event_consumer (name, pos, lost) VALUES ('keeps-up', fleet_horizon() - 1, 0), ('lost', fleet_horizon() - 1, 7)")  # fmt: skip
    page = browser_of("viewer").get("/events/readers").content.decode()
    assert "keeps-up" in page
    assert "Missed events" in page
    assert "All 2 readers keep up" in page
