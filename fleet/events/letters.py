"""Dead letters: looked at, tried again, discarded. Shared by the API, the console and fleetctl; each act goes to those that its asker may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from fleet.control.db import Connection
from fleet.control.times import format_time
from fleet.events.ingest import UNKNOWN_SUBJECT
from fleet.events.publish import Cursor

MOST: Final = 500
_CHUNK: Final = 1_000
_STATES: Final = ("Waiting", "Retrying", "Retrying")


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose letters: of these clusters (name → id; None = all), and besides those that this publisher sent."""

    clusters: Mapping[str, int] | None = None
    publisher: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """One event that was set aside."""

    id: int
    consumer: str
    state: str
    reason: str
    message: str
    attempts: int
    first_at: datetime
    last_at: datetime
    type: str
    source: str
    source_id: str
    subject: str
    data: dict[str, Any]
    publisher: str

    def json(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            "id": str(self.id), "consumer": self.consumer or "ingest", "state": self.state, "reason": self.reason, "message": self.message,
            "attempts": self.attempts, "firstTime": format_time(self.first_at), "lastTime": format_time(self.last_at), "publisher": self.publisher,
            "event": {"type": self.type, "source": self.source, "id": self.source_id, "subject": self.subject, "data": self.data},
        }  # fmt: skip


_MINE = "(%(clusters)s::int[] IS NULL OR cluster_id = ANY (%(clusters)s::int[]) OR (publisher <> '' AND publisher = %(publisher)s))"
_COLUMNS = "id, consumer, state, reason, message, attempts, first_at, last_at, type, source, source_id, subject, data, publisher"
_LIST = f"""
SELECT {_COLUMNS} FROM dead_letter WHERE {_MINE} AND id < %(before)s AND (%(consumer)s::text IS NULL OR consumer = %(consumer)s)
  AND (%(reason)s = '' OR reason = %(reason)s) ORDER BY id DESC LIMIT %(limit)s
"""
_COUNT = f"SELECT consumer, reason, count(*) FROM dead_letter WHERE {_MINE} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
_PICK = f"SELECT id FROM dead_letter WHERE {_MINE} AND id = ANY (%(ids)s::bigint[]) ORDER BY id FOR NO KEY UPDATE"
# Whoever wants it tried again vouches for it: what came in speaks for their clusters from then on.
_RETRY = f"""
WITH t AS MATERIALIZED ({_PICK}) UPDATE dead_letter d SET state = 1, clusters = CASE WHEN d.consumer = '' THEN %(names)s::text[] ELSE d.clusters END
FROM t WHERE d.id = t.id AND d.state = 0 RETURNING d.id
"""
_DISCARD = f"WITH t AS MATERIALIZED ({_PICK}) DELETE FROM dead_letter d USING t WHERE d.id = t.id RETURNING d.id"


def _reach(reach: Reach) -> dict[str, Any]:
    names = None if reach.clusters is None else sorted(reach.clusters)
    return {
        "clusters": None if reach.clusters is None else list(reach.clusters.values()),
        "names": names,
        "publisher": reach.publisher,
    }


def listed(
    cursor: Any, reach: Reach, *, consumer: str | None = None, reason: str = "", before: int = 1 << 62, limit: int = 100
) -> list[Letter]:
    """The newest first. `consumer` "" = what came in and fits nowhere; `before`: the id of the last one of the page before."""
    values = _reach(reach) | {"consumer": consumer, "reason": reason, "before": before, "limit": min(limit, MOST)}
    cursor.execute(_LIST, values)
    return [_letter(row) for row in cursor.fetchall()]


def _letter(row: Sequence[Any]) -> Letter:
    id_, consumer, state, reason, message, attempts, first, last, type_, source, source_id, subject, data, by = row
    data = orjson.loads(data) if isinstance(data, str | bytes) else data or {}
    return Letter(
        int(id_), consumer, _STATES[state], reason, message, attempts, first, last, type_, source or "", source_id or "", subject, data, by
    )  # fmt: skip


def counted(cursor: Any, reach: Reach) -> list[tuple[str, str, int]]:
    """(consumer, reason, how many)."""
    cursor.execute(_COUNT, _reach(reach))
    return [(str(c), str(r), int(n)) for c, r, n in cursor.fetchall()]


def retry(cursor: Any, reach: Reach, ids: Sequence[int]) -> list[int]:
    """Ask for another try: ingest takes it up within a second or two, a consumer at its next read. Ids that were found."""
    cursor.execute(_RETRY, _reach(reach) | {"ids": list(ids)})
    return sorted(int(row[0]) for row in cursor.fetchall())


def discard(cursor: Any, reach: Reach, ids: Sequence[int]) -> list[int]:
    """Give up on these; ids that were found. The same event sent again counts as known."""
    cursor.execute(_DISCARD, _reach(reach) | {"ids": list(ids)})
    return sorted(int(row[0]) for row in cursor.fetchall())


def set_aside_by_ingest(cursor: Cursor) -> int:
    """How many wait that came in and fit nowhere."""
    cursor.execute("SELECT count(*) FROM dead_letter WHERE consumer = ''")
    row = cursor.fetchone()
    return int(row[0]) if row else 0


# What is wanted again (a person's word, also that its time is right), and what was about something that exists by now.
_WANTED = """
WITH w AS MATERIALIZED (
  SELECT id, CASE split_part(subject, '/', 1) WHEN 'machine' THEN 1 WHEN 'cluster' THEN 2 ELSE 0 END::smallint AS k, split_part(subject, '/', 2) AS name
  FROM dead_letter WHERE consumer = '' AND {which} AND id > %(after)s ORDER BY id LIMIT %(limit)s)
SELECT w.id, w.k = 0, t.id, t.cluster_id, c.name FROM w
  LEFT JOIN LATERAL (SELECT e.id, e.cluster_id FROM event_target e WHERE e.kind = w.k AND e.name = w.name LIMIT 1) t ON true
  LEFT JOIN LATERAL (SELECT e.name FROM event_target e WHERE e.kind = 2 AND e.id = t.cluster_id LIMIT 1) c ON true
ORDER BY w.id
"""

_WHICH: Final = {False: "state > 0", True: f"(state > 0 OR reason = '{UNKNOWN_SUBJECT}')"}

_DELIVER = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::bigint[], %(objects)s::bigint[], %(clusters)s::int[], %(names)s::text[]) WITH ORDINALITY AS r(id, object_id, cluster_id, cluster, ord)),
gone AS (DELETE FROM dead_letter d USING r WHERE d.id = r.id AND (d.clusters IS NULL OR r.cluster = ANY (d.clusters))
  RETURNING r.ord, r.object_id, r.cluster_id, d.kind, d.severity, d.type, d.source, d.source_id, d.data),
p AS MATERIALIZED (SELECT fleet_pos(%(count)s) AS base),
ev AS (INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, source_id, data)
  SELECT (SELECT base FROM p) + ord - 1, 0, object_id, cluster_id, kind, severity, type, source, source_id, data FROM gone)
SELECT count(*) FROM gone
"""

# What was tried and still fits nowhere says so, and waits again.
_STILL = """
WITH t AS MATERIALIZED (SELECT id FROM dead_letter WHERE consumer = '' AND state > 0 AND id = ANY (%(ids)s::bigint[]) ORDER BY id FOR NO KEY UPDATE)
UPDATE dead_letter d SET state = 0, attempts = d.attempts + 1, last_at = now(), reason = %(reason)s, message = %(message)s FROM t WHERE d.id = t.id
"""


async def deliver_again(conn: Connection, *, unknown: bool = True) -> int:
    """Bring into the log what was set aside at ingest and fits by now, or is wanted by a person; how many.

    Without `unknown` only what is wanted: that costs next to nothing, and people wait for it.
    """
    done = after = 0
    statement = _WANTED.format(which=_WHICH[unknown]).encode()
    while True:
        rows = await (await conn.execute(statement, {"after": after, "limit": _CHUNK})).fetchall()
        if not rows:
            return done
        after = int(rows[-1][0])
        good = [r for r in rows if r[1] or r[2] is not None]
        if good:
            values = {
                "ids": [r[0] for r in good], "objects": [r[2] or 0 for r in good], "clusters": [r[3] or 0 for r in good],
                "names": [r[4] or "" for r in good], "count": len(good),
            }  # fmt: skip
            found = await (await conn.execute(_DELIVER, values)).fetchone()
            done += int(found[0]) if found else 0
        await _still(
            conn, [r[0] for r in good], "Forbidden", "its publisher may not speak for the cluster in which it lies"
        )
        bad = [r[0] for r in rows if not r[1] and r[2] is None]
        await _still(conn, bad, UNKNOWN_SUBJECT, "there is still no such object")


async def _still(conn: Connection, ids: list[int], reason: str, message: str) -> None:
    if ids:
        await conn.execute(_STILL, {"ids": ids, "reason": reason, "message": message})
