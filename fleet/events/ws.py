"""`/ws/events?after=<position>`: the event stream as JSON, resumable by position, filtered, bounded by the reader's rights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import psycopg

BATCH = 500


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a reader wants. `clusters`: ids, None = all."""

    kind: int | None = None
    name: str = ""
    type: str = ""
    severity: int = 0
    clusters: tuple[int, ...] | None = None


_READ = """
WITH h AS MATERIALIZED (SELECT fleet_horizon() AS horizon)
SELECT h.horizon, e.pos, e.n, e.at, e.kind, e.severity, e.type, e.source, e.data FROM h LEFT JOIN LATERAL (
  SELECT * FROM event WHERE pos > %(after)s AND pos < h.horizon AND severity >= %(severity)s AND (%(kind)s::int IS NULL OR kind = %(kind)s)
    AND (%(type)s = '' OR type LIKE %(type)s || '%%') AND (%(name)s = '' OR data ->> 'name' = %(name)s)
    AND (%(clusters)s::int[] IS NULL OR cluster_id = 0 OR cluster_id = ANY (%(clusters)s)) ORDER BY pos, n FETCH FIRST %(limit)s ROWS WITH TIES) e ON true
ORDER BY e.pos, e.n
"""


async def read_events(
    connection: psycopg.AsyncConnection[Any], after: int, wanted: EventFilter
) -> tuple[list[bytes], int]:
    """CloudEvents after a position as JSON lines, and the position that they reach to. Without gap and without repeat."""
    values = {
        "after": after, "severity": wanted.severity, "kind": wanted.kind, "type": wanted.type, "name": wanted.name,
        "clusters": list(wanted.clusters) if wanted.clusters is not None else None, "limit": BATCH,
    }  # fmt: skip
    cursor = await connection.execute(_READ, values)
    rows = await cursor.fetchall()
    found = [r for r in rows if r[1] is not None]
    reached = int(found[-1][1]) if len(found) >= BATCH else int(rows[0][0]) - 1
    return [_cloud_event(r) for r in found], reached


def _cloud_event(row: tuple[Any, ...]) -> bytes:
    _, pos, n, at, kind, severity, type_, source, data = row
    data = orjson.loads(data) if isinstance(data, str | bytes) else data or {}
    return orjson.dumps(
        {
            "specversion": "1.0", "id": f"{pos}-{n}", "type": type_, "source": source or "/", "time": at.isoformat(), "subject": data.get("name", ""),
            "position": str(pos), "severity": ("normal", "warning", "error")[min(int(severity), 2)], "fleetkind": kind, "data": data,
        }
    )  # fmt: skip
