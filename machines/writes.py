"""Fenced writes of a pass: accept a set, begin a step, record the outcome. One statement and one commit a batch each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from fleet.control import clock
from fleet.control.arrays import arrays, flags, numbers, texts
from fleet.control.db import Connection
from fleet.control.kinds import Json
from machines import hot_sql, packing
from machines.conditions import OPERATOR_MASK, OPERATOR_TYPES
from machines.rows import Acceptance, Begin, Record, Recorded
from machines.waking import hint

BATCH = 500  # rows a statement: 20-40 ms
log = logging.getLogger(__name__)
# Ids of seen sets by digest, a copy for each connection: a process keeps one, and the ids never change.
_seen: WeakKeyDictionary[Connection, dict[bytes, int]] = WeakKeyDictionary()
_OWN_TYPES = list(OPERATOR_TYPES)


def legal_moves() -> list[str]:
    """'From>To' of every declared transition, from the one declaration in `machines.phases`."""
    from machines.phases import LEGAL

    return list(LEGAL)


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


async def record(
    conn: Connection, me: int, records: Sequence[Record], *, legal: Sequence[str] | None = None
) -> list[Recorded]:
    """Write what passes left behind and end their leases. Machines whose lease moved are missing from the answer.

    `legal`: allowed phase moves, those of `machines.phases` by default.
    """
    moves = legal_moves() if legal is None else list(legal)
    done: list[Recorded] = []
    ordered = sorted(records, key=lambda r: r.id)
    for at in range(0, len(ordered), BATCH):
        done += await _record(conn, me, ordered[at : at + BATCH], moves)
    if any(r.changed for r in done):
        await hint(conn)
    for unlawful in (r for r in done if not r.lawful):
        log.error("a pass over machine %d asked for a phase that its phase does not lead to", unlawful.id)
    return done


async def _record(conn: Connection, me: int, records: list[Record], legal: list[str]) -> list[Recorded]:
    before = await _before(conn, records)
    await packing.ensure_entries(conn, (c for r in records for c in r.conditions))
    if not packing.known(before.values()):
        await packing.refresh(conn)
    now = clock.now()
    packed = [packing.pack(r.conditions, before[r.id], now) for r in records]
    seen = await _seen_ids(conn, [r.seen for r in records])
    values: dict[str, Any] = {
        "me": me, "own": OPERATOR_MASK, "types": _OWN_TYPES, "legal": legal,
        "id": numbers(r.id for r in records), "epoch": numbers(r.epoch for r in records), "gen": numbers(r.generation for r in records),
        "want": numbers(r.want for r in records), "hash": numbers(r.observed for r in records), "phase": texts(r.phase for r in records),
        "open": flags(r.open for r in records), "ct": numbers(p.true for p in packed), "cf": numbers(p.false for p in packed),
        "cond": arrays(p.array for p in packed), "notes": texts(_text(p.notes or None) for p in packed), "seen": numbers(seen),
        "next": numbers(r.next_seconds for r in records), "att": numbers(min(r.attempts, 1_000) for r in records),
        "rest": flags(r.resting for r in records), "service": flags(r.in_service for r in records), "events": texts(_events(r) for r in records),
        "facts": texts(_text(r.facts) for r in records), "plan": texts(_text(r.plan) for r in records), "why": texts(_text(r.why) for r in records),
        **{name: numbers(r.masks[i] for r in records) for i, name in enumerate(("gt", "gf", "lt", "lf"))},
    }  # fmt: skip
    found = await (await conn.execute(hot_sql.RECORD, values, prepare=True)).fetchall()
    return [Recorded(*row) for row in found]


async def _before(conn: Connection, records: list[Record]) -> dict[int, Sequence[int]]:
    """The packed conditions that stand now: only the holder of the lease writes them, so they cannot move before record."""
    known: dict[int, Sequence[int]] = {r.id: r.before for r in records if r.before is not None}
    missing = [r.id for r in records if r.id not in known]
    if missing:
        cursor = conn.cursor(binary=True)
        await cursor.execute(
            "SELECT id, m_cond FROM machine_state WHERE id = ANY (%s::bigint[])", [missing], prepare=True
        )
        known |= dict.fromkeys(missing, ()) | {i: tuple(array) for i, array in await cursor.fetchall()}
    return known


async def _seen_ids(conn: Connection, bodies: list[Json | None]) -> list[int]:
    """Numbers of seen sets, made where missing in a transaction of their own; 0 = leave what is stored."""
    known = _seen.setdefault(conn, {})
    texts = [None if b is None else orjson.dumps(b, option=orjson.OPT_SORT_KEYS) for b in bodies]
    digests = [None if t is None else hashlib.sha256(t).digest()[:16] for t in texts]
    missing = {d: t for d, t in zip(digests, texts, strict=True) if d is not None and t is not None and d not in known}
    if missing:
        keys = sorted(missing)
        await conn.execute(
            "INSERT INTO seen_set (digest, body) SELECT d, b::jsonb FROM unnest(%s::bytea[], %s::text[]) AS s(d, b) ON CONFLICT DO NOTHING",
            [keys, [missing[k].decode() for k in keys]],
        )
        found = await conn.execute("SELECT digest, id FROM seen_set WHERE digest = ANY (%s::bytea[])", [keys])
        known.update({bytes(d): i for d, i in await found.fetchall()})
    return [0 if d is None else known[d] for d in digests]


def _events(record: Record) -> str | None:
    if not record.events:
        return None
    return _text(
        [
            {"type": e.type, "severity": e.severity, "data": {"reason": e.reason, "message": e.message}}
            for e in record.events
        ]
    )


async def accept(conn: Connection, me: int, acceptances: Sequence[Acceptance]) -> set[int]:
    """Make sets the machines' own; ids whose lease and generation still held. Their rows' `want` is the new hash from here on."""
    done: set[int] = set()
    ordered = sorted(acceptances, key=lambda a: a.id)
    for at in range(0, len(ordered), BATCH):
        batch = ordered[at : at + BATCH]
        bodies = {a.hash: a.body for a in batch}
        hashes = sorted(bodies)
        await conn.execute(
            "INSERT INTO accepted_set (hash, body) SELECT h, b::jsonb FROM unnest(%s::bigint[], %s::text[]) AS s(h, b) ON CONFLICT DO NOTHING",
            [hashes, [_text(bodies[h]) for h in hashes]],
        )
        values = {
            "me": me, "id": [a.id for a in batch], "epoch": [a.epoch for a in batch], "gen": [a.generation for a in batch],
            "hash": [a.hash for a in batch], "latest": [a.latest_hash for a in batch], "layers": texts(_text(a.layers) for a in batch),
        }  # fmt: skip
        found = await (await conn.execute(hot_sql.ACCEPT, values, prepare=True)).fetchall()
        done |= {row[0] for row in found}
    if done:
        await hint(conn)
    return done


async def begin(conn: Connection, me: int, begins: Sequence[Begin]) -> dict[int, bool]:
    """Commit the intent of one step a machine. True = go: the lease holds, the kill switch is off, the permit (if
    there is one) is still good, the Operation is open and no other one has started. What is not True must not reach the host."""
    answers = dict.fromkeys((b.machine_id for b in begins), False)
    ordered = sorted(begins, key=lambda b: b.machine_id)
    for at in range(0, len(ordered), BATCH):
        batch = ordered[at : at + BATCH]
        values = {
            "me": me, "id": [b.machine_id for b in batch], "epoch": [b.epoch for b in batch], "op": [b.operation_id for b in batch],
            "status": texts(_text(b.status) for b in batch), "permit": [b.permit_id for b in batch],
        }  # fmt: skip
        found = await (await conn.execute(hot_sql.BEGIN, values, prepare=True)).fetchall()
        answers |= {row[0]: True for row in found}
    if any(answers.values()):
        await hint(conn)
    return answers
