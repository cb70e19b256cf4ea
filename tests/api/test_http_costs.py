"""What a request costs in statements, whatever the fleet's size; and that reading writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.http.response import HttpResponseBase
from django.test import RequestFactory

from fleet.api import answers, authentication, views
from fleet.api.actions import Write, create_object
from fleet.api.core_events import events_view
from fleet.api.rights import SYSTEM
from fleet.control.kinds import kinds
from tests.api.http import BASE, MERGE, Http
from tests.api.test_http_permissions import ADDRESSES
from tests.servers import People, Server

Ask = Callable[..., int]


@pytest.fixture
def cost(people: People, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Statements of one request as admin, transaction marks left out. The token is known already."""
    monkeypatch.setattr(answers, "close_old_connections", lambda: None)
    monkeypatch.setattr(authentication, "REMEMBER_SECONDS", 3600.0)
    seen: list[str] = []
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(query if isinstance(query, str) else "statement")
        return execute(self, query, *args, **kwargs)

    # Below Django: the hot paths do not go through its cursor.
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)

    def ask(method: str, path: str, body: Any = None, content_type: str = "application/json") -> int:
        extra: dict[str, Any] = {"HTTP_AUTHORIZATION": people.headers("admin")["Authorization"]}
        request = RequestFactory().generic(
            method, path, json.dumps(body) if body is not None else b"", content_type, **extra
        )
        where = path.partition("?")[0]
        seen.clear()
        answer = answers.guarded(view_of(where))(request)
        assert answer.status_code < 300, getattr(answer, "content", b"")
        return len([text for text in seen if text.split()[0] not in ("SAVEPOINT", "RELEASE", "ROLLBACK")])

    ask("GET", f"{BASE}/idcs")
    return ask


def view_of(where: str) -> Callable[..., HttpResponseBase]:
    if where == "/api/v1/events":
        return events_view
    return lambda request: views._dispatch(request, where.removeprefix(f"{BASE}/"))


def classes(count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        manifest = {
            "apiVersion": "fleet.dev/v1",
            "kind": "MachineClass",
            "metadata": {"name": f"c{number:03}", "labels": {"n": "1"}},
            "spec": {},
        }
        create_object("machineclasses", manifest, write=Write(by=SYSTEM))


# Statements: reading one, a page, a page by label, writing.
BUDGETS: list[tuple[str, str, Any, int]] = [
    ("GET", f"{BASE}/machineclasses/c000", None, 1),
    ("GET", f"{BASE}/machineclasses?limit=500", None, 2),
    ("GET", f"{BASE}/machineclasses?labelSelector=n%3D1", None, 2),
    ("GET", f"{BASE}/machines?limit=500", None, 1),
    ("GET", f"{BASE}/machines/a1", None, 1),
    ("GET", f"{BASE}/machines/a1/why", None, 4),  # with the live faults
    ("GET", f"{BASE}/machines/a1/conditions", None, 2),
    ("GET", f"{BASE}/clusters?limit=500", None, 2),
    ("GET", "/api/v1/events", None, 2),
    ("GET", "/api/v1/events?fieldSelector=involvedObject.kind%3DMachine,involvedObject.name%3Da1", None, 3),
    ("POST", f"{BASE}/machineclasses", {"apiVersion": "fleet.dev/v1", "kind": "MachineClass", "metadata": {"name": "new"}, "spec": {}}, 7),
    ("PATCH", f"{BASE}/machineclasses/c001", {"metadata": {"labels": {"n": "2"}}}, 9),
    ("PATCH", f"{BASE}/machines/a1", {"metadata": {"labels": {"n": "2"}}}, 15),
    ("DELETE", f"{BASE}/machineclasses/c002", None, 10),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "budget"), BUDGETS, ids=[f"{m} {p.removeprefix(BASE)}" for m, p, _, _ in BUDGETS]
)
def test_a_request_keeps_its_budget_of_statements(method: str, path: str, body: Any, budget: int, cost: Ask, small_fleet: list[str]) -> None:  # fmt: skip
    classes(30)
    content_type = MERGE if method == "PATCH" else "application/json"
    assert cost(method, path, body, content_type) <= budget


@pytest.mark.parametrize(
    "path", ["/machineclasses", "/machineclasses?labelSelector=n%3D1", "/machineclasses?limit=500"]
)
def test_a_list_costs_the_same_for_few_and_for_many(path: str, cost: Ask) -> None:
    classes(2)
    few = cost("GET", BASE + path)
    classes(60, start=2)
    assert cost("GET", BASE + path) == few


def everything() -> dict[str, list[str]]:
    """All rows by table; when a token was last used is no state of the fleet, and sessions are the browser's."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
        )
        tables = sorted(row[0] for row in cursor.fetchall())
        out = {}
        for table in tables:
            cursor.execute(f"""SELECT (to_jsonb(t) - 'last_used_at')::text FROM "{table}" t ORDER BY 1""")
            out[table] = [row[0] for row in cursor.fetchall()]
    return out


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_changes_nothing(method: str, server: Server, people: People, small_fleet: list[str]) -> None:
    paths = [path for how, path, _ in ADDRESSES.values() if how == "GET"]
    for plural, kind in kinds().items():
        paths += [f"{BASE}/{plural}", f"{BASE}/{plural}?limit=1", f"{BASE}/{plural}/{kind.singular}"]
    paths += [
        f"{BASE}/machines/{name}{sub}"
        for name in small_fleet
        for sub in ("", "/status", "/why", "/plan", "/conditions")
    ]
    before = everything()
    with Http(server.http, people.headers("admin")) as http:
        for path in paths:
            assert http(method, path).status < 500, path
    assert everything() == before
