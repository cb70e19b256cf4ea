"""Writing to the log, in the transaction of the change that it tells."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

ADDED, MODIFIED, DELETED = 1, 2, 3
NORMAL, WARNING, ERROR = 0, 1, 2
CHANNEL = "fleet_log"


class Cursor(Protocol):
    """What Django's and psycopg's cursors have in common here."""

    def execute(self, sql: Any, params: Any = None) -> Any: ...

    def fetchone(self) -> Any: ...


def note_change(
    cursor: Cursor, rv: int, object_id: int, cluster_id: int, kind: int, op: int, old: dict[str, Any] | None = None
) -> None:
    """One row of the watch. `old`: {"labels": …, "fields": {path: text}} of before, as far as they changed."""
    cursor.execute(
        "INSERT INTO change (rv, object_id, cluster_id, kind, op, old) VALUES (%s, %s, %s, %s, %s, %s::jsonb)",
        [rv, object_id, cluster_id, kind, op, orjson.dumps(old).decode() if old else None],
    )


def publish(
    cursor: Cursor,
    *,
    pos: int,
    kind: int,
    object_id: int,
    cluster_id: int,
    type: str,
    severity: int = NORMAL,
    source: str,
    data: dict[str, Any],
    n: int = 0,
) -> None:
    """One event. `data` holds reason, message, name and, where they apply, from, to and by."""
    cursor.execute(
        "INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)",
        [pos, n, object_id, cluster_id, kind, severity, type, source, orjson.dumps(data).decode()],
    )


def hint(cursor: Cursor) -> None:
    """Tell listeners to look, as a statement of its own after the commit: inside, it would make commits serial."""
    cursor.execute(f"NOTIFY {CHANNEL}")
