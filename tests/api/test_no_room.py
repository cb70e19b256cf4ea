"""What PostgreSQL refuses for lack of room, told by its own error: writes are 503 with that reason, reads go on. (A disk that really is full: tests/lab.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.db import connection

from tests.api.http import BASE, Http
from tests.api.world import cluster
from tests.servers import People, Server

FULL = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file "base/1/2": No space left on device' USING ERRCODE = '53100'; END $$
"""


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def fill(server: Server) -> Iterator[Callable[[str], None]]:
    """No row more, and no newer one, has room in these tables."""
    filled: list[str] = []
    run(FULL)

    def fill(table: str) -> None:
        run(f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION no_room()")
        filled.append(table)

    yield fill
    for table in filled:
        run(f"DROP TRIGGER no_room ON {table}")
    run("DROP FUNCTION no_room()")


@pytest.fixture
def http(server: Server, people: People) -> Iterator[Http]:
    with Http(server.http, people.headers("admin")) as made:
        yield made


@pytest.mark.parametrize(
    ("table", "path", "body"),
    [
        ("clusters_cluster", f"{BASE}/clusters", cluster("c")),
        ("event", "/api/events", {"specversion": "1.0", "id": "1", "source": "/t", "type": "com.example.disk"}),
    ],
    ids=["kind", "event"],
)
def test_a_write_is_refused_with_the_reason(
    http: Http, fill: Callable[[str], None], table: str, path: str, body: object
) -> None:
    fill(table)
    reply = http("POST", path, body, Content_Type="application/json")
    assert (reply.status, reply.json["reason"]) == (503, "ServiceUnavailable")
    assert "no room left on its disk: nothing of this request was stored" in reply.json["message"]
    assert int(reply.headers["Retry-After"]) > 0
    assert b"base/" not in reply.data and b"Traceback" not in reply.data


def test_the_use_of_a_token_that_cannot_be_noted_keeps_nobody_from_reading(
    http: Http, fill: Callable[[str], None]
) -> None:
    fill("fleet_api_token")
    assert http("GET", f"{BASE}/clusters").status == 200
