"""Reading the event log: filtered, bounded by the reader's rights, by position without gap and without repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg

BATCH = 500
SEVERITIES = ("normal", "warning", "error")


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event as it lies in the log."""

    pos: int
    n: int
    at: datetime
    object_id: int
    cluster_id: int
    kind: int
    severity: int
    type: str
    source: str
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the object that it is about."""
        return str(self.data.get("name", ""))

    @property
    def observed_at(self) -> datetime:
        """When it was observed, where its publisher said so; else when it was received. Events may come late and out of order."""
        try:
            told = datetime.fromisoformat(str(self.data.get("time", "")))
        except ValueError:
            return self.at
        return told if told.utcoffset() is not None else self.at


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody may see: events of these clusters, and those outside every cluster of the kinds that belong to none."""

    clusters: tuple[int, ...]
    fleet_wide_kinds: tuple[int, ...]

    def allows(self, row: EventRow) -> bool:
        return row.cluster_id in self.clusters or (row.cluster_id == 0 and row.kind in self.fleet_wide_kinds)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a reader wants, and what it may see (`sight`; None = all)."""

    kind: int | None = None
    name: str = ""
    type: str = ""  # a prefix
    types: tuple[str, ...] = ()  # any of these prefixes; none = all
    severity: int = 0  # at least
    cluster: int | None = None
    clusters: tuple[int, ...] | None = None  # any of these; None = all
    sight: Sight | None = None

    def allows(self, row: EventRow) -> bool:
        """The same as the SQL, for rows that are in memory."""
        return (
            row.severity >= self.severity
            and (self.kind is None or row.kind == self.kind)
            and row.type.startswith(self.type)
            and (not self.types or row.type.startswith(self.types))
            and (not self.name or row.name == self.name)
            and (self.cluster is None or row.cluster_id == self.cluster)
            and (self.clusters is None or row.cluster_id in self.clusters)
            and (self.sight is None or self.sight.allows(row))
        )


_READ = """
WITH h AS MATERIALIZED (SELECT fleet_horizon() AS horizon)
SELECT h.horizon, e.pos, e.n, e.at, e.object_id, e.cluster_id, e.kind, e.severity, e.type, e.source, e.data FROM h LEFT JOIN LATERAL (
  SELECT * FROM event WHERE pos > %(after)s AND pos < h.horizon AND severity >= %(severity)s AND (%(kind)s::int IS NULL OR kind = %(kind)s)
    AND (%(type)s = '' OR starts_with(type, %(type)s)) AND (%(name)s = '' OR data ->> 'name' = %(name)s)
    AND (%(types)s::text[] IS NULL OR EXISTS (SELECT FROM unnest(%(types)s::text[]) p WHERE starts_with(type, p)))
    AND (%(cluster)s::int IS NULL OR cluster_id = %(cluster)s) AND (%(only)s::int[] IS NULL OR cluster_id = ANY (%(only)s))
    AND (%(clusters)s::int[] IS NULL OR cluster_id = ANY (%(clusters)s) OR (cluster_id = 0 AND kind = ANY (%(open)s::int[])))
  ORDER BY pos FETCH FIRST %(limit)s ROWS WITH TIES) e ON true
ORDER BY e.pos, e.n
"""


async def read_rows(
    connection: psycopg.AsyncConnection[Any], after: int, wanted: EventFilter, limit: int = BATCH
) -> tuple[list[EventRow], int]:
    """Events after a position, and the position that they reach to (never less than `after`)."""
    sight = wanted.sight
    values = {
        "after": after, "severity": wanted.severity, "kind": wanted.kind, "type": wanted.type, "name": wanted.name, "cluster": wanted.cluster,
        "clusters": list(sight.clusters) if sight else None, "open": list(sight.fleet_wide_kinds) if sight else [], "limit": limit,
        "types": list(wanted.types) or None, "only": None if wanted.clusters is None else list(wanted.clusters),
    }  # fmt: skip
    cursor = await connection.execute(_READ, values)
    rows = await cursor.fetchall()
    found = [row_of(r[1:]) for r in rows if r[1] is not None]
    reached = found[-1].pos if len(found) >= limit else int(rows[0][0]) - 1
    return found, max(after, reached)


def row_of(values: Sequence[Any]) -> EventRow:
    """From (pos, n, at, object_id, cluster_id, kind, severity, type, source, data)."""
    pos, n, at, object_id, cluster_id, kind, severity, type_, source, data = values
    data = orjson.loads(data) if isinstance(data, str | bytes) else data or {}
    return EventRow(pos, n, at, object_id, cluster_id, kind, severity, type_, source or "", data)


def cloud_event(row: EventRow) -> bytes:
    """The event as a CloudEvent, in JSON."""
    return orjson.dumps(
        {
            "specversion": "1.0", "id": f"{row.pos}-{row.n}", "type": row.type, "source": row.source or "/", "time": row.at.isoformat(),
            "subject": row.name, "position": str(row.pos), "severity": SEVERITIES[min(row.severity, 2)], "fleetkind": row.kind, "data": row.data,
        }
    )  # fmt: skip
