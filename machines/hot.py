"""The hot path of machines: sweep, load, accept, begin, record. Set-based, prepared, on psycopg itself.

Every function takes whole batches and a connection in autocommit; each writing statement is a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.work import Claim
from machines import hot_sql, packing
from machines.gates import Memory, NodeRow
from machines.rows import (
    Acceptance,
    Begin,
    FaultRow,
    InventoryRow,
    NewEvent,
    OperationRow,
    Record,
    Recorded,
    Row,
)
from machines.sweep import sweep, sweep_changes
from machines.writes import accept, begin, record

__all__ = [
    "Acceptance", "Begin", "InventoryRow", "NewEvent", "OperationRow", "Record", "Recorded", "Row",
    "accept", "begin", "load", "record", "sweep", "sweep_changes",
]  # fmt: skip

NOTHING = Memory()
_KEPT_SETS = 20_000
_sets: dict[int, Json] = {}  # bodies by hash: what a hash names never changes


async def load(conn: Connection, claims: Sequence[Claim]) -> list[Row]:
    """The claimed machines, one query; machines that are gone are missing."""
    if not claims:
        return []
    cursor = conn.cursor(binary=True)
    await cursor.execute(hot_sql.LOAD, [[c.object_id for c in claims]], prepare=True)
    found = await cursor.fetchall()
    await _read_sets(conn, {row[4] for row in found})
    if not packing.known(array for row in found for array in row[12:15]):
        await packing.refresh(conn)
    by_id = {c.object_id: c for c in claims}
    return [_row(values, by_id[values[0]]) for values in found]


async def _read_sets(conn: Connection, hashes: set[int]) -> None:
    missing = [h for h in hashes if h and h not in _sets]
    if not missing:
        return
    if len(_sets) + len(missing) > _KEPT_SETS:
        _sets.clear()
    for number, body in await (await conn.execute(hot_sql.SETS, [missing])).fetchall():
        _sets[number] = orjson.loads(body)


def _row(v: tuple[Any, ...], claim: Claim) -> Row:
    facts = orjson.loads(v[24]) if v[24] else {}
    return Row(
        id=v[0], uid=v[1], name=v[2], epoch=claim.epoch, attempts=claim.attempts, generation=v[3], desired_hash=v[4], latest_hash=v[5],
        observed_generation=v[6], phase=v[7], phase_since=v[8], cluster_id=v[9], open=v[10], paused=v[11],
        conditions=packing.unpack(v[12:15], orjson.loads(v[15]) if v[15] else None), packed=tuple(v[13]),
        spec=orjson.loads(v[16]), labels=orjson.loads(v[17]), annotations=orjson.loads(v[18]), finalizers=orjson.loads(v[19]),
        deleted_at=v[20], drift=v[21], accepted=_sets.get(v[4]), accepted_generation=v[22] or 0, layers=orjson.loads(v[23]) if v[23] else {},
        operation=_operation(orjson.loads(v[26])) if v[26] else None, inventory=_inventory(orjson.loads(v[27])) if v[27] else (),
        last_facts=facts, last_seen_at=v[25] if facts else None, node=_node(orjson.loads(v[28])) if v[28] else None,
        scheduling=_memory(orjson.loads(v[29])) if v[29] else NOTHING, fault=FaultRow(*orjson.loads(v[30])) if v[30] else None,
    )  # fmt: skip


def _node(found: list[Any]) -> NodeRow:
    name, uid, unschedulable, closed_by, taints, labels, boot_id, kubelet, rv = found
    return NodeRow(name, uid, unschedulable, closed_by, tuple(taints), labels, boot_id, kubelet, rv)


def _memory(found: list[Any]) -> Memory:
    state, reason, message, since, uid, cause, rv, opened, overruled, dressed = found
    at = datetime.fromtimestamp(float(since), UTC)
    return Memory(state, reason, message, at, uid, cause, rv, opened, frozenset(overruled), dressed)


def _operation(found: list[list[Any]]) -> OperationRow:
    """The first is the started one, else the strongest; the others wait."""
    id_, uid, name, owner, phase, spec, status, started, permit, epoch = found[0]
    waiting = tuple((o[3], o[0]) for o in found[1:])
    at = None if started is None else datetime.fromtimestamp(float(started), UTC)
    return OperationRow(id_, uid, name, owner, phase, spec, status, at, permit, epoch, waiting)


def _inventory(found: list[list[Any]]) -> tuple[InventoryRow, ...]:
    return tuple(
        InventoryRow(package, version, format_, host, previous, datetime.fromtimestamp(float(at), UTC))
        for package, version, format_, host, previous, at in found
    )
