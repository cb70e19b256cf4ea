"""Places: idc, rack and hardware model as small numbers, for typed columns. 0 = none given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

from fleet.control.kinds import Json

Dim = Literal["idc", "rack", "model"]


class Cursor(Protocol):
    """A cursor of Django or psycopg."""

    def execute(self, sql: Any, params: Any = None) -> Any: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> Any: ...


def place_ids(cursor: Cursor, dim: Dim, names: Iterable[str]) -> dict[str, int]:
    """Numbers of places by name, made where missing; "" is 0."""
    wanted = sorted({n for n in names if n})
    out = {"": 0}
    if not wanted:
        return out
    read = "SELECT name, id FROM place WHERE dim = %s AND name = ANY (%s)"
    cursor.execute(read, [dim, wanted])
    out |= {name: int(number) for name, number in cursor.fetchall()}
    missing = [n for n in wanted if n not in out]
    if missing:
        cursor.execute(
            "INSERT INTO place (dim, name) SELECT %s, n FROM unnest(%s::text[]) AS n ORDER BY n ON CONFLICT DO NOTHING",
            [dim, missing],
        )
        cursor.execute(read, [dim, missing])  # also those that another writer was first with
        out |= {name: int(number) for name, number in cursor.fetchall()}
    return out


def place_id(cursor: Cursor, dim: Dim, name: str) -> int:
    """The number of one place."""
    return place_ids(cursor, dim, [name])[name]


def known_ids(cursor: Cursor, dim: Dim, names: Iterable[str]) -> list[int]:
    """Numbers of those places that exist; nothing is made."""
    cursor.execute("SELECT id FROM place WHERE dim = %s AND name = ANY (%s)", [dim, sorted(set(names))])
    return [int(row[0]) for row in cursor.fetchall()]


def rack_name(spec: Json) -> str:
    """A rack's name among places, from a machine's spec: racks of two idcs may share a name."""
    return f"{spec.get('idc') or ''}/{spec['rack']}" if spec.get("rack") else ""
