"""Fleet's own readers of the event log: each has a durable cursor, so that nothing is skipped and a restart goes on where it stopped.

A reader calls `read`, does what the events ask for, and then `advance`. Between the two it may die: it reads the same events
again, so handling must bear repetition. An event that cannot be handled is set aside by `dead_letter` (or by `stumbled`, which
counts), and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson

from fleet.control.db import Connection
from fleet.control.position import KEEP
from fleet.events.log import EventFilter, EventRow, read_rows, row_of

MOST_FAILURES: Final = 3  # of one event in a row; then it is set aside
WAITS, WANTED, TAKEN = 0, 1, 2  # states of a dead letter

# A cursor below the log's floor missed what retention took: it is told so once and goes on from there.
_BEGIN = """
INSERT INTO event_consumer AS c (name, pos) SELECT %(name)s, fleet_horizon() - 1
ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING pos, (SELECT events_from FROM installation WHERE id = 1) - 1
"""

_GAP = """
UPDATE event_consumer SET gaps = gaps + 1, gap_from = pos, gap_to = %(floor)s, lost = lost + at_risk, at_risk = 0, pos = %(floor)s, moved_at = now() WHERE name = %(name)s AND pos < %(floor)s
"""

_FIND = "SELECT pos, (SELECT events_from FROM installation WHERE id = 1) - 1 FROM event_consumer WHERE name = %(name)s"

_RETRIES = """
WITH t AS MATERIALIZED (SELECT id FROM dead_letter WHERE consumer = %(name)s AND state > 0 ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE)
UPDATE dead_letter d SET state = 2 FROM t WHERE d.id = t.id
RETURNING d.pos, d.n, d.at, d.object_id, d.cluster_id, d.kind, d.severity, d.type, d.source, d.data
"""

_ADVANCE = """
WITH done AS (DELETE FROM dead_letter WHERE consumer = %(name)s AND state = 2)
UPDATE event_consumer SET pos = %(pos)s, moved_at = now(), failures = CASE WHEN failing_pos > %(pos)s THEN failures ELSE 0 END WHERE name = %(name)s AND pos < %(pos)s
"""

_SET_ASIDE = """
INSERT INTO dead_letter AS d (consumer, reason, message, pos, n, at, object_id, cluster_id, kind, severity, type, source, subject, data)
VALUES (%(name)s, %(reason)s, %(message)s, %(pos)s, %(n)s, %(at)s, %(object_id)s, %(cluster_id)s, %(kind)s, %(severity)s, %(type)s, %(source)s, %(subject)s, %(data)s)
ON CONFLICT (consumer, pos, n) WHERE pos > 0 DO UPDATE SET state = 0, reason = excluded.reason, message = excluded.message, attempts = d.attempts + 1, last_at = now()
"""

_COUNT = """
UPDATE event_consumer SET failures = CASE WHEN (failing_pos, failing_n) = (%(pos)s, %(n)s) THEN failures + 1 ELSE 1 END, failing_pos = %(pos)s, failing_n = %(n)s
WHERE name = %(name)s RETURNING failures
"""

# Cursors that stand where retention will cut within a day: what they have not read is counted while it is there.
_RISK = """
WITH h AS MATERIALIZED (SELECT (SELECT max(pos) FROM position_mark WHERE at <= now() - %(age)s::interval) AS edge)
UPDATE event_consumer c SET at_risk = (SELECT count(*) FROM event WHERE pos > c.pos AND pos <= h.edge) FROM h WHERE c.pos < h.edge
"""

LAG: Final = """
WITH h AS MATERIALIZED (SELECT fleet_horizon() AS horizon)
SELECT c.name, c.pos, coalesce(extract(epoch FROM now() - e.at), 0)::float8, c.moved_at, c.gaps, c.gap_from, c.gap_to, c.lost, c.failures,
  (SELECT count(*) FROM dead_letter d WHERE d.consumer = c.name)
FROM h, event_consumer c LEFT JOIN LATERAL (SELECT at FROM event WHERE pos > c.pos AND pos < h.horizon ORDER BY pos LIMIT 1) e ON true
ORDER BY c.name
"""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a consumer is behind. `seconds`: age of the oldest event that it has not seen, 0 when it saw all.

    `gaps`: how often retention took events that it had not read, `lost`: how many; `gap`: from and to which position, the last time.
    """

    name: str
    position: int
    seconds: float
    moved_at: Any
    gaps: int
    gap: tuple[int, int] | None
    lost: int
    failures: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What `read` found, apart: dead letters to be tried `again`, new `rows`, and the position `reached`."""

    again: list[EventRow]
    rows: list[EventRow]
    reached: int


async def read_apart(conn: Connection, name: str, wanted: EventFilter, limit: int = 1000) -> Batch:
    """As `read`, for who may stop half-way: `advance` also ends all of `again`."""
    found = await (await conn.execute(_FIND, {"name": name}, prepare=True)).fetchone()
    if found is None:
        found = await (await conn.execute(_BEGIN, {"name": name})).fetchone()
        assert found is not None
    position, floor = int(found[0]), int(found[1])
    if position < floor:
        await conn.execute(_GAP, {"name": name, "floor": floor})
        position = floor
    again = await (await conn.execute(_RETRIES, {"name": name, "limit": limit}, prepare=True)).fetchall()
    rows, reached = await read_rows(conn, position, wanted, limit)
    return Batch(sorted((row_of(r) for r in again), key=lambda r: (r.pos, r.n)), rows, reached)


async def read(conn: Connection, name: str, wanted: EventFilter, limit: int = 1000) -> tuple[list[EventRow], int]:
    """Events after the stored cursor, in order, and the position they reach to, which is for `advance`.

    A new consumer begins at the present horizon. Dead letters that somebody wants to be tried again come first, with
    the positions that they had. All events of one position come together, so there may be a few more than `limit`.
    """
    batch = await read_apart(conn, name, wanted, limit)
    return [*batch.again, *batch.rows], batch.reached


async def advance(conn: Connection, name: str, position: int) -> None:
    """Everything up to a position is done, retried dead letters of the last `read` too. A cursor never moves backwards."""
    await conn.execute(_ADVANCE, {"name": name, "pos": position}, prepare=True)


async def dead_letter(conn: Connection, consumer: str, row: EventRow, reason: str, message: str = "") -> None:
    """Set an event aside, with the reason (one CamelCase word) and a sentence; a second time it counts up the first."""
    values = {
        "name": consumer, "reason": reason, "message": message[:2_000], "pos": row.pos, "n": row.n, "at": row.at, "object_id": row.object_id,
        "cluster_id": row.cluster_id, "kind": row.kind, "severity": row.severity, "type": row.type, "source": row.source, "subject": row.name,
        "data": orjson.dumps(row.data).decode(),
    }  # fmt: skip
    await conn.execute(_SET_ASIDE, values)


async def stumbled(
    conn: Connection,
    consumer: str,
    row: EventRow,
    error: BaseException | str,
    *,
    most: int = MOST_FAILURES,
    reason: str = "HandlerFailed",
) -> bool:
    """An event could not be handled: True when it was set aside, as it failed `most` times in a row; else it is to be tried again."""
    found = await (await conn.execute(_COUNT, {"name": consumer, "pos": row.pos, "n": row.n})).fetchone()
    if found is None or int(found[0]) < most:
        return False
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    await dead_letter(conn, consumer, row, reason, text)
    return True


async def lag(conn: Connection) -> list[Lag]:
    """All consumers, by name."""
    return [lag_of(row) for row in await (await conn.execute(LAG)).fetchall()]


def lag_of(row: Sequence[Any]) -> Lag:
    """From a row of `LAG`."""
    name, position, seconds, moved_at, gaps, begin, end, lost, failures, letters = row
    gap = (int(begin), int(end)) if begin is not None else None
    return Lag(name, int(position), max(0.0, float(seconds)), moved_at, gaps, gap, int(lost), failures, int(letters))


async def lag_of_one(conn: Connection, name: str) -> Lag | None:
    """One consumer; None when it never read."""
    return next((each for each in await lag(conn) if each.name == name), None)


async def count_at_risk(conn: Connection) -> int:
    """Count what retention would take from slow consumers, so that a gap can say how much was lost; how many are that slow."""
    return (await conn.execute(_RISK, {"age": KEEP["event"] - timedelta(days=1)})).rowcount


async def forget(conn: Connection, name: str) -> None:
    """A consumer that is no more: its cursor and its dead letters go."""
    await conn.execute("DELETE FROM event_consumer WHERE name = %s", [name])
    await conn.execute("DELETE FROM dead_letter WHERE consumer = %s", [name])
