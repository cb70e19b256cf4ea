"""Positions: how far behind readers are, partitions ahead and behind, and the lift of a restored database.

A position is the transaction id shifted left by 20 bits plus a counter in the transaction, plus the installation's lift;
the horizon is the smallest one that may still appear (`fleet_pos`, `fleet_horizon` in migration 0001).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

from psycopg import sql

from fleet.control.db import Connection

# Positions per partition: 2^18 transactions of the change log, 2^22 of the event log.
SPANS: dict[str, int] = {"change": 1 << 38, "event": 1 << 42}
AHEAD = 32
ALARM = 8  # fewer partitions ahead than this is an alarm
KEEP: dict[str, timedelta] = {"change": timedelta(hours=1), "event": timedelta(days=90)}
RESTORE_GAP = 1 << 40  # free positions between the last of the old life and the first of the new one


async def _one(conn: Connection, statement: LiteralString | sql.Composed, params: Any = None) -> Any:
    found = await (await conn.execute(statement, params)).fetchone()
    return None if found is None else found[0]


async def horizon(conn: Connection) -> int:
    """The present horizon: everything below it is committed and visible."""
    return int(await _one(conn, "SELECT fleet_horizon()"))


async def lag_seconds(conn: Connection) -> float:
    """How long the oldest writing transaction of this instance has been open: readers are at most that far behind."""
    statement: LiteralString = (
        "SELECT coalesce(extract(epoch FROM max(now() - xact_start)), 0) FROM pg_stat_activity "
        "WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
    )
    return max(0.0, float(await _one(conn, statement)))


async def partitions_ahead(conn: Connection, parent: str) -> int:
    """Partitions of `parent` that begin after the present one."""
    span = SPANS[parent]
    present = await horizon(conn) // span
    return len([n for n in await _partitions(conn, parent) if n > present])


async def make_partitions(conn: Connection) -> int:
    """Create what is missing ahead of the horizon; how many were made."""
    made = 0
    for parent, span in SPANS.items():
        made += int(await _one(conn, "SELECT fleet_partitions(%s, %s, %s)", [parent, span, AHEAD]))
    return made


async def _partitions(conn: Connection, parent: str) -> list[int]:
    found = await conn.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
        [parent],
    )
    return sorted(int(row[0].rpartition("_")[2]) for row in await found.fetchall())


async def mark(conn: Connection) -> None:
    """Remember where the horizon stands now; marks older than the longest retention go."""
    await conn.execute("INSERT INTO position_mark (pos) VALUES (fleet_horizon()) ON CONFLICT DO NOTHING")
    await conn.execute("DELETE FROM position_mark WHERE at < now() - %s", [max(KEEP.values()) + timedelta(days=1)])


async def reached(conn: Connection, age: timedelta) -> int | None:
    """The highest horizon that was marked at least `age` ago; None when no mark is that old."""
    found = await _one(conn, "SELECT max(pos) FROM position_mark WHERE at <= now() - %s", [age])
    return None if found is None else int(found)


_FLOORS = {"change": "kept_from", "event": "events_from"}


async def _raise_floor(conn: Connection, parent: str, position: int) -> None:
    """Readers below are told to begin anew; said before the rows go, so that nobody reads over the gap."""
    column = sql.Identifier(_FLOORS[parent])
    await conn.execute(
        sql.SQL("UPDATE installation SET {c} = %(p)s WHERE id = 1 AND {c} < %(p)s").format(c=column), {"p": position}
    )


async def drop_old(conn: Connection) -> list[str]:
    """Drop partitions whose every row is older than their table's retention, and the tombstones below the change log.

    Detached concurrently first: a plain drop would lock the parent against every reader.
    """
    dropped: list[str] = []
    for parent, span in SPANS.items():
        limit = await reached(conn, KEEP[parent])
        if limit is None:
            continue
        for number in await _partitions(conn, parent):
            if (number + 1) * span > limit:
                break
            await _raise_floor(conn, parent, (number + 1) * span)
            await _drop(conn, parent, f"{parent}_{number}")
            dropped.append(f"{parent}_{number}")
    oldest = await _partitions(conn, "change")
    if oldest:
        await conn.execute("DELETE FROM tombstone WHERE rv < %s", [oldest[0] * SPANS["change"]])
    return dropped


async def _drop(conn: Connection, parent: str, part: str) -> None:
    pending = await _one(
        conn,
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = %s::regclass AND inhparent = %s::regclass",
        [part, parent],
    )
    if pending is not None:
        how = sql.SQL("FINALIZE") if pending else sql.SQL("CONCURRENTLY")  # a detach that was cut off half-way is ended
        await conn.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(sql.Identifier(parent), sql.Identifier(part), how)
        )
    await conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(part)))


@dataclass(frozen=True, slots=True)
class Identity:
    """Which installation this database belongs to, and its how-manieth life."""

    installation: str
    incarnation: int


async def identity(conn: Connection) -> Identity:
    """The one row of `installation`."""
    found = await (
        await conn.execute("SELECT installation::text, incarnation FROM installation WHERE id = 1")
    ).fetchone()
    if found is None:
        raise LookupError("the table installation is empty: run the migrations")
    return Identity(found[0], found[1])


async def raise_incarnation(conn: Connection) -> int:
    """After a restore: a new incarnation whose positions lie above everything stored; all leases are void. The new number.

    Yesterday's epochs die on the hosts too: their fence compares (incarnation, uid, epoch). Readers with yesterday's positions begin anew.
    """
    tables = await (
        await conn.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace "
            "AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attname IN ('rv', 'pos') AND NOT a.attisdropped"
        )
    ).fetchall()
    highest = 0
    for table, column in tables:
        top = await _one(conn, sql.SQL("SELECT max({}) FROM {}").format(sql.Identifier(column), sql.Identifier(table)))
        highest = max(highest, top or 0)
    incarnation = await _one(
        conn,
        "UPDATE installation SET incarnation = incarnation + 1, "
        "lift = greatest(lift, %s - (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 20)) + %s WHERE id = 1 RETURNING incarnation",
        [highest, RESTORE_GAP],
    )
    await conn.execute(
        "UPDATE installation SET kept_from = fleet_horizon(), events_from = fleet_horizon() WHERE id = 1"
    )
    await make_partitions(conn)
    await _void_leases(conn)
    return int(incarnation)


async def _void_leases(conn: Connection) -> None:
    statement: LiteralString = (
        "WITH lk AS MATERIALIZED (SELECT kind, object_id FROM work_item WHERE holder IS NOT NULL ORDER BY kind, object_id LIMIT 1000 FOR NO KEY UPDATE) "
        "UPDATE work_item w SET holder = NULL, epoch = w.epoch + 1, due_at = now() FROM lk WHERE w.kind = lk.kind AND w.object_id = lk.object_id"
    )
    while (await conn.execute(statement)).rowcount:
        continue
