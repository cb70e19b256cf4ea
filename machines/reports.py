"""Conditions that reporters set, on their machines: one way for ConfigMaps, pods and the API. Whole batches; changes only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, LiteralString

import orjson
from django.db import connection as django_connection

from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.control.operators import Chore, Seat, register_chore
from machines import packing, reports_sql
from machines.catalog import catalog
from machines.reporters import DEFAULT_REASON
from machines.rules import Rule
from machines.waking import wake
from machines.watch.leases import Lease, LeaseLost

BATCH: Final = 1_000  # rows a transaction
LAPSE_SECONDS: Final = 5.0
STRAY_SECONDS: Final = 30.0
_CHUNKS: Final = 200  # a run; the next one goes on
_REASONS: Final = 300  # rows of the dictionary a type may have: reporters' own words must not fill it
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a source says of a machine; without a condition it says nothing any more.

    `renew`: it was received just now, for the first time. `at`: write only if nothing was received since then.
    """

    machine_id: int
    type: str
    condition: Condition | None
    source: str
    map: str = ""
    ttl_seconds: int | None = None
    renew: bool = False
    at: datetime | None = None


async def write(conn: Connection, reports: Sequence[Report], lease: Lease | None = None) -> set[int]:
    """Write what differs; machines of which more than a message moved. With a lease only as long as it holds, and only its cluster's machines."""
    moved: set[int] = set()
    ordered = sorted((_bounded(r) for r in reports), key=lambda r: (r.machine_id, r.type))
    for at in range(0, len(ordered), BATCH):
        part = ordered[at : at + BATCH]
        await packing.ensure_entries(conn, _conditions(part))
        async with conn.transaction():
            locked = await (await conn.execute(reports_sql.LOCK, _lock(part, lease), prepare=True)).fetchone()
            if not locked or not locked[0]:
                raise LeaseLost(f"cluster {lease.cluster_id if lease else 0}")
            # By the indexes, whatever statistics say of a fleet that has just been written.
            await conn.execute("SET LOCAL enable_seqscan = off")
            # Planned each time: a prepared plan guesses how long the arrays are, and a thousand rows take ten times as long.
            found = await conn.execute(reports_sql.APPLY, _values(part, lease), prepare=False)
            moved |= {row[0] for row in await found.fetchall()}
    return moved


def learn(reports: Sequence[Report]) -> list[Report]:
    """Make conditions known to the dictionary, before the transaction in which `write_one` gets what this returns."""
    bounded = [_bounded(r) for r in reports]
    with django_connection.cursor() as cursor:
        packing.ensure_entries_sync(cursor, _conditions(bounded))
    return bounded


def write_one(reports: Sequence[Report]) -> set[int]:
    """As `write`, through Django's connection and inside its transaction."""
    with django_connection.cursor() as cursor:
        cursor.execute(reports_sql.LOCK, _lock(reports, None))
        cursor.execute(reports_sql.APPLY, _values(reports, None))
        return {row[0] for row in cursor.fetchall()}


def _bounded(report: Report) -> Report:
    """With the plain reason, where its type has used up its words."""
    said = report.condition
    if said is None or not packing.crowded(said, _REASONS):
        return report
    return replace(
        report, condition=Condition(said.type, said.status, DEFAULT_REASON, f"{said.reason}: {said.message}")
    )


def _conditions(reports: Sequence[Report]) -> Iterable[Condition]:
    return (r.condition for r in reports if r.condition is not None)


def _lock(reports: Sequence[Report], lease: Lease | None) -> dict[str, Any]:
    fence = (None, None, None) if lease is None else (lease.cluster_id, lease.epoch, lease.holder)
    return {"ids": sorted({r.machine_id for r in reports}), **dict(zip(("c", "epoch", "me"), fence, strict=True))}


def _values(reports: Sequence[Report], lease: Lease | None) -> dict[str, Any]:
    said = [r.condition for r in reports]
    return {
        "c": None if lease is None else lease.cluster_id, "id": [r.machine_id for r in reports], "type": [r.type for r in reports],
        "status": [c.status if c else "" for c in said], "reason": [c.reason if c else "" for c in said], "message": [c.message if c else "" for c in said],
        "source": [r.source for r in reports], "map": [r.map for r in reports], "ttl": [r.ttl_seconds for r in reports], "renew": [r.renew for r in reports],
        "at": [r.at for r in reports], "kind": [packing.number_of(c) if c else None for c in said], "note": [packing.note_of(c) if c else None for c in said],
    }  # fmt: skip


# -- what becomes of old reports --------------------------------------------------------------------------------------


async def lapse(conn: Connection) -> int:
    """Make reports Unknown that are older than their ttl, by PostgreSQL's clock; how many."""
    count = await _settle(conn, reports_sql.EXPIRED, {}, _lapsed)
    for rule in (await catalog(conn)).rules:
        if rule.ttl_seconds is not None and not rule.dry_run:
            count += await _settle(conn, reports_sql.EXPIRED_BY_RULE, _of(rule), _lapsed)
    return count


async def drop_strayed(conn: Connection) -> int:
    """Take away reports of machines that went elsewhere, and of what no Cluster declares any more; how many."""
    for sql in reports_sql.ORPHANS:
        await conn.execute(sql)
    return await _settle(conn, reports_sql.STRAYED, {}, _nothing)


def _of(rule: Rule) -> dict[str, Any]:
    labels = orjson.dumps(dict(rule.labels)).decode()
    return {"type": rule.type, "ttl": rule.ttl_seconds, "all": rule.match_all, "clusters": sorted(rule.clusters), "labels": labels}  # fmt: skip


def _lapsed(row: Row) -> Report:
    machine, type_, source, map_, at = row
    text = f"{source} has not reported for too long."
    return Report(machine, type_, Condition(type_, "Unknown", "Expired", text), source, map_, at=at)


def _nothing(row: Row) -> Report:
    machine, type_, source, _, at = row
    return Report(machine, type_, None, source, at=at)


async def _settle(conn: Connection, sql: LiteralString, values: dict[str, Any], to_report: Any) -> int:
    """Chunk by chunk, until a chunk is not full; a row that cannot be written must not keep it here for ever."""
    count = 0
    for _ in range(_CHUNKS):
        rows = await (await conn.execute(sql, {**values, "limit": BATCH})).fetchall()
        await wake(conn, await write(conn, [to_report(row) for row in rows]))
        count += len(rows)
        if len(rows) < BATCH:
            break
    return count


async def _lapse(seat: Seat) -> None:
    await lapse(seat.conn)


async def _drop(seat: Seat) -> None:
    await drop_strayed(seat.conn)


register_chore(Chore("lapse-reports", LAPSE_SECONDS, _lapse))
register_chore(Chore("strayed-reports", STRAY_SECONDS, _drop))
