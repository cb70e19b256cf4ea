"""Writing events from outside into the log: each once, a whole request or nothing, one statement for up to 1,000.

What is about something that Fleet does not know, or of a time that cannot be, is set aside as a dead letter and not lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from fleet.control import clock
from fleet.control.db import Connection
from fleet.control.kinds import CLUSTER
from fleet.events.incoming import Incoming

# An event may come this late; as long it is known what came already, so that a repetition is never stored again.
LATEST: Final = timedelta(days=7)
_REMEMBERED: Final = LATEST + timedelta(days=1)
EARLY: Final = timedelta(minutes=5)  # by which a publisher's clock may be ahead
MOST_LETTERS: Final = 20_000  # set aside and waiting; then publishers are told to wait
_FORGET_CHUNK: Final = 5_000

UNKNOWN_SUBJECT, FUTURE_TIME, TOO_LATE = "UnknownSubject", "FutureTime", "TooLate"
_SENTENCES: Final = {
    UNKNOWN_SUBJECT: "there is no such object; it comes in once that is declared",
    FUTURE_TIME: f"it was observed more than {EARLY.seconds // 60} minutes from now: a clock is wrong",
    TOO_LATE: f"it was observed more than {LATEST.days} days ago",
}

# A look-up by key for each, whatever statistics say of the tables behind the view.
_RESOLVE = """
SELECT r.kind, r.name, t.id, t.cluster_id FROM unnest(%(kinds)b::smallint[], %(names)b::text[]) AS r(kind, name),
  LATERAL (SELECT e.id, e.cluster_id FROM event_target e WHERE e.kind = r.kind AND e.name = r.name LIMIT 1) t
"""

# Arrays go in binary (%b): as text each quote of a JSON document is escaped, which takes longer than everything else together.
# `seen` decides which are new; a hashed subplan (IS TRUE keeps it one) where a join of two CTEs would loop.
_STORE = """
WITH r AS MATERIALIZED (
  SELECT * FROM unnest(%(keys)b::uuid[], %(whys)b::text[], %(objects)b::bigint[], %(clusters)b::int[], %(kinds)b::smallint[], %(severities)b::smallint[],
    %(types)b::text[], %(sources)b::text[], %(ids)b::text[], %(subjects)b::text[], %(data)b::text[])
  WITH ORDINALITY AS r(key, why, object_id, cluster_id, kind, severity, type, source, source_id, subject, data, ord)),
seen AS (INSERT INTO event_seen (key) SELECT key FROM r ORDER BY key ON CONFLICT DO NOTHING RETURNING key),
fresh AS MATERIALIZED (SELECT r.* FROM r WHERE (r.key IN (SELECT key FROM seen)) IS TRUE),
p AS MATERIALIZED (SELECT fleet_pos(%(count)s) AS base),
ev AS (INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, source_id, data)
  SELECT (SELECT base FROM p) + ord - 1, 0, object_id, cluster_id, kind, severity, type, source, source_id, data::jsonb FROM fresh WHERE why = ''),
dl AS (INSERT INTO dead_letter (consumer, reason, message, cluster_id, kind, severity, type, source, source_id, subject, data, publisher, clusters)
  SELECT '', why, %(sentences)s::jsonb ->> why, cluster_id, kind, severity, type, source, source_id, subject, data::jsonb, %(by)s, %(scope)s::text[] FROM fresh WHERE why <> '')
SELECT count(*) FILTER (WHERE why = ''), count(*) FILTER (WHERE why <> '') FROM fresh
"""

_FORGET = """
DELETE FROM event_seen WHERE ctid = ANY (ARRAY(SELECT ctid FROM event_seen WHERE at < now() - %s::interval ORDER BY at LIMIT %s))
"""

_COLUMNS: Final = ("keys", "whys", "objects", "clusters", "kinds", "severities", "types", "sources", "ids", "subjects", "data")  # fmt: skip

_FULL = "SELECT count(*) >= %s FROM (SELECT FROM dead_letter WHERE consumer = '' LIMIT %s) q"


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes, and for which clusters they may speak (name → id); None = the whole fleet."""

    name: str
    clusters: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the events of a request."""

    accepted: int
    duplicates: int
    quarantined: int


class Forbidden(Exception):
    """The publisher may not speak for what an event is about."""


class Full(Exception):
    """Nothing more is taken for now."""


def settled_subjects(events: Sequence[Incoming], by: Publisher) -> list[Incoming]:
    """An event about nothing that has a name belongs to the one cluster that its publisher speaks for. Raises Forbidden."""
    if by.clusters is None:
        return list(events)
    if not by.clusters:
        raise Forbidden(f"{by.name} has the role operator nowhere; publishing takes it")
    only = next(iter(by.clusters)) if len(by.clusters) == 1 else ""
    out = []
    for number, event in enumerate(events):
        if not event.kind and not only:
            raise Forbidden(
                f"events[{number}].subject is missing: an event about no machine and no cluster takes the role operator of the whole fleet"
            )
        out.append(event if event.kind else replace(event, kind=CLUSTER, name=only))
    return out


async def store(conn: Connection, events: Sequence[Incoming], by: Publisher, now: datetime | None = None) -> Outcome:
    """Store what is new. Raises Forbidden or Full, and then nothing was stored."""
    if not events:
        return Outcome(0, 0, 0)
    now = now or clock.now()
    once: dict[UUID, Incoming] = {}
    for event in settled_subjects(events, by):
        once.setdefault(event.key, event)
    targets = await resolve(conn, {(e.kind, e.name) for e in once.values() if e.kind})
    for number, event in enumerate(once.values()):
        check_scope(event, targets.get((event.kind, event.name)), by, f"events[{number}]")
    rows = [_row(key, event, targets.get((event.kind, event.name)), by, now) for key, event in once.items()]
    if any(row[1] for row in rows) and await _letters_full(conn):
        raise Full(f"{MOST_LETTERS} events are set aside already; somebody must look at the dead letters first")
    values: dict[str, Any] = {n: list(c) for n, c in zip(_COLUMNS, zip(*rows, strict=True), strict=True)}
    values |= {
        "count": len(rows),
        "sentences": orjson.dumps(_SENTENCES).decode(),
        "by": by.name,
        "scope": None if by.clusters is None else sorted(by.clusters),
    }
    found = await (await conn.execute(_STORE, values, prepare=True)).fetchone()
    accepted, quarantined = (int(found[0]), int(found[1])) if found else (0, 0)
    return Outcome(accepted, len(events) - accepted - quarantined, quarantined)


async def resolve(conn: Connection, subjects: Iterable[tuple[int, str]]) -> dict[tuple[int, str], tuple[int, int]]:
    """(id, cluster id) of those that exist, by (kind, name)."""
    wanted = sorted(subjects)
    if not wanted:
        return {}
    values = {"kinds": [k for k, _ in wanted], "names": [n for _, n in wanted]}
    rows = await (await conn.execute(_RESOLVE, values, prepare=True)).fetchall()
    return {(int(k), str(n)): (int(i), int(c)) for k, n, i, c in rows}


def check_scope(event: Incoming, target: tuple[int, int] | None, by: Publisher, path: str) -> None:
    """Forbidden for what lies in a cluster that the publisher may not speak for."""
    if by.clusters is not None and target is not None and target[1] not in by.clusters.values():
        raise Forbidden(
            f"{path}.subject: {event.subject} lies in no cluster that {by.name} may publish for; it takes the role operator there"
        )


def _why(event: Incoming, target: tuple[int, int] | None, now: datetime) -> str:
    """Reason to set an event aside, or "" for the log."""
    if event.time is not None and event.time > now + EARLY:
        return FUTURE_TIME
    if event.time is not None and event.time < now - LATEST:
        return TOO_LATE
    return UNKNOWN_SUBJECT if event.kind and target is None else ""


def _row(key: UUID, event: Incoming, target: tuple[int, int] | None, by: Publisher, now: datetime) -> tuple[Any, ...]:
    object_id, cluster_id = target or (0, 0)
    return (
        key, _why(event, target, now), object_id, cluster_id, event.kind, event.severity, event.type, event.source, event.id, event.subject,
        event.stored(by.name).decode(),
    )  # fmt: skip


async def _letters_full(conn: Connection) -> bool:
    found = await (await conn.execute(_FULL, [MOST_LETTERS, MOST_LETTERS])).fetchone()
    return found is not None and bool(found[0])


async def forget_seen(conn: Connection) -> int:
    """What came in so long ago that a repetition is refused as too late needs no memory; in short transactions."""
    gone = 0
    while True:
        done = await conn.execute(_FORGET, [_REMEMBERED, _FORGET_CHUNK])
        gone += done.rowcount
        if done.rowcount < _FORGET_CHUNK:
            return gone
