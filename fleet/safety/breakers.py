"""Breakers: what they count comes in here, what people say to them, and how they stand. They are decided in SQL, under the ledger's lock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection
from psycopg import AsyncConnection

Connection = AsyncConnection[Any]

TURN_SECONDS: Final = 5.0
_KEEP: Final = "1 day"  # longer than any window, and than the chart of the last hour
_KEEP_RATES: Final = "2 days"


async def strike(conn: Connection, failed: Sequence[tuple[int, str]]) -> int:
    """Machines that failed the post-check of a change, with a sentence each; how many the ledger knew. `conn` is in autocommit.

    They count in the breakers of their cluster, rack, idc and fleet; a half-open one opens again.
    """
    if not failed:
        return 0
    cursor = await conn.execute(
        "SELECT breaker_failed(%s::bigint[], %s::text[])", ([m for m, _ in failed], [why for _, why in failed])
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def trip(conn: Connection, dim: str, key: int, why: str) -> None:
    """Open the breaker of a place because of what is seen there, such as pods that cannot be created. It cools down like any other."""
    await conn.execute("SELECT breaker_trip(%s, %s, %s)", (dim, key, why))


async def turn(conn: Connection) -> int:
    """Move what is not closed along with the clock, and forget old strikes; how many breakers moved. Permits do it too, when asked for."""
    await conn.execute(
        "DELETE FROM breaker_strike WHERE id IN (SELECT id FROM breaker_strike WHERE at < now() - %s::interval ORDER BY at LIMIT 1000)",
        (_KEEP,),
    )
    await conn.execute(
        "DELETE FROM verb_start WHERE ctid = ANY (ARRAY(SELECT ctid FROM verb_start WHERE at < now() - %s::interval LIMIT 1000))",
        (_KEEP_RATES,),
    )
    row = await (await conn.execute("SELECT breaker_tick()")).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Breaker:
    """How a breaker stands. `series`: unique machines in each of the last sixty minutes, the oldest first."""

    dim: str
    key: int
    name: str
    state: str  # closed, open, half-open, off
    threshold: int
    count: int
    window_seconds: int
    allow: int
    under_way: int
    since: datetime | None
    tries_at: datetime | None  # when an open one lets the first through; None for the fleet's, which waits for people
    why: str
    policy: str
    asked_by: str  # who asked for a reset that a second person must confirm, "" = nobody
    series: tuple[int, ...]
    lapses_at: datetime | None = None  # when that word counts no more

    @property
    def place(self) -> str:
        """As people name it: fleet, cluster/a, rack/i1/r7, idc/i1; cluster/ for machines without cluster."""
        return self.dim if self.dim == "fleet" else f"{self.dim}/{self.name}"


_READ: Final = """
WITH places AS (
  SELECT 'fleet' AS dim, 0 AS key UNION SELECT p.dim, p.key FROM safety_place p WHERE p.dim = 'cluster' UNION SELECT 'cluster', t.cluster_id FROM capacity_total t WHERE t.n > 0
  UNION SELECT b.dim, b.key FROM breaker b WHERE b.state <> 'closed'
  UNION SELECT v.dim, v.key FROM breaker_strike s, LATERAL (VALUES ('cluster', s.cluster_id), ('idc', s.idc_id::int), ('rack', s.rack_id)) AS v(dim, key)
    WHERE s.at > now() - interval '1 hour' AND (v.dim = 'cluster' OR v.key <> 0)),
minutes AS MATERIALIZED (
  SELECT v.dim, v.key, floor(extract(epoch FROM now() - s.at) / 60)::int AS ago, count(DISTINCT s.machine_id)::int AS n
  FROM breaker_strike s, LATERAL (VALUES ('fleet', 0), ('cluster', s.cluster_id), ('idc', s.idc_id::int), ('rack', s.rack_id)) AS v(dim, key) WHERE s.at > now() - interval '1 hour' GROUP BY 1, 2, 3)
SELECT r.dim, r.key, r.name, CASE WHEN r.off THEN 'off' ELSE r.state END, r.most, r.hit, r.seconds, r.allow, r.let, r.since,
  CASE WHEN r.state = 'open' AND r.dim <> 'fleet' THEN r.last_at + make_interval(secs => r.seconds) END, r.why, r.policy, coalesce(CASE WHEN b.asked_at > now() - interval '1 hour' THEN b.asked_by END, ''),
  coalesce(m.series, '{}'), CASE WHEN b.asked_at > now() - interval '1 hour' AND b.asked_by <> '' THEN b.asked_at + interval '1 hour' END
FROM breaker_read((SELECT array_agg(dim) FROM places), (SELECT array_agg(key) FROM places), now(), true) r LEFT JOIN breaker b ON b.dim = r.dim AND b.key = r.key
LEFT JOIN (SELECT dim, key, jsonb_object_agg(ago, n) AS series FROM minutes GROUP BY 1, 2) m ON m.dim = r.dim AND m.key = r.key
ORDER BY breaker_code(r.dim, 0), r.name, r.key"""


def read_breakers() -> list[Breaker]:
    """The fleet's, every cluster's, and those of racks and idcs where something was counted within the hour or that are not closed."""
    with connection.cursor() as cursor:
        cursor.execute(_READ)
        rows = cursor.fetchall()
    return [Breaker(*(*row[:14], _series(row[14]), row[15])) for row in rows]


def _series(found: Any) -> tuple[int, ...]:
    counts: dict[str, int] = json.loads(found) if isinstance(found, str) else found
    return tuple(counts.get(str(ago), 0) for ago in range(59, -1, -1))


def find_place(text: str) -> tuple[str, int] | None:
    """(dim, key) of a place as `Breaker.place` writes it; None when there is none of that name."""
    dim, _, name = text.partition("/")
    if dim == "fleet" and not name:
        return "fleet", 0
    if dim == "cluster" and not name:
        return "cluster", 0
    if dim not in ("cluster", "idc", "rack"):
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT key FROM safety_place WHERE dim = %s AND name = %s", [dim, name])
        row = cursor.fetchone()
    return (dim, int(row[0])) if row else None


def reset(dim: str, key: int, by: str, *, two_people: bool) -> str:
    """People's word: an open breaker becomes half-open, a half-open one closed; the new state.

    "asked": a second person must say the same within the hour; "same": the first one said it again; "closed already".
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT breaker_reset(%s, %s, %s, %s)", [dim, key, by, two_people])
        return str(cursor.fetchone()[0])
