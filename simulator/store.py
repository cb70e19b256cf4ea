"""Simulated boxes in PostgreSQL: one statement to load a batch, one to write it. Only differences from the bare host are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from simulator.box import Box, Json, bare, default_seed

Connection = AsyncConnection[TupleRow]
_OVERLAID: Final = ("packages", "files", "units", "sysctls")
_WHOLE: Final = (
    "serial",
    "kernel",
    "kernels",
    "cmdline",
    "next_cmdline",
    "boot_sysctls",
    "modules",
    "boot_modules",
    "staged",
    "forgotten",
    "installs",
    "installations",
)

_COLUMNS = """h.uid::text, h.seed, h.boots, CASE WHEN isfinite(h.boot_until) THEN extract(epoch FROM h.boot_until)::float8
  WHEN h.boot_until > now() THEN 'Infinity'::float8 ELSE 0 END, extract(epoch FROM h.settled_at)::float8, h.incarnation, h.epoch, h.marker, h.host::text, h.ops::text, h.faults::text"""
_LOAD = f"""SELECT {_COLUMNS}, coalesce(w.rate, 0) FROM unnest(%s::uuid[]) AS wanted(uid)
  LEFT JOIN simulated_host h USING (uid) LEFT JOIN simulated_weather w ON w.id = 1"""
_MAKE = """INSERT INTO simulated_host (uid, seed, settled_at) SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::timestamptz[]) AS n(uid, seed, at) ORDER BY uid ON CONFLICT DO NOTHING"""
_LOCK = f"""SELECT {_COLUMNS}, coalesce((SELECT rate FROM simulated_weather WHERE id = 1), 0) FROM simulated_host h WHERE h.uid = ANY (%s::uuid[]) ORDER BY h.uid FOR UPDATE"""
_SAVE = """UPDATE simulated_host h SET boots = n.boots, boot_until = n.boot_until, settled_at = n.settled_at, incarnation = n.incarnation, epoch = n.epoch,
  marker = n.marker, host = n.host::jsonb, ops = n.ops::jsonb, faults = n.faults::jsonb
  FROM unnest(%s::uuid[], %s::int[], %s::timestamptz[], %s::timestamptz[], %s::int[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS n(uid, boots, boot_until, settled_at, incarnation, epoch, marker, host, ops, faults) WHERE h.uid = n.uid"""


async def load(conn: Connection, uids: Sequence[str]) -> tuple[dict[str, Box], float]:
    """The boxes as stored, bare ones for those nobody touched, and the rate of mishaps. Locks nothing."""
    rows = await (await conn.execute(_LOAD, (list(uids),))).fetchall()
    rate = float(rows[0][11]) if rows else 0.0
    boxes = {str(row[0]): unpack(row) for row in rows if row[0] is not None}
    return {uid: boxes.get(uid) or bare(uid, default_seed(uid)) for uid in uids}, rate


async def load_locked(conn: Connection, uids: Sequence[str], now: float) -> tuple[dict[str, Box], float]:
    """Like `load`, inside a transaction: rows are made where missing and locked in order of uid."""
    uids = sorted(set(uids))
    rows = await (await conn.execute(_LOCK, (uids,))).fetchall()
    if len(rows) < len(uids):
        at = datetime.fromtimestamp(now, UTC)
        await conn.execute(_MAKE, (uids, [default_seed(uid) for uid in uids], [at] * len(uids)))
        rows = await (await conn.execute(_LOCK, (uids,))).fetchall()
    return {str(row[0]): unpack(row) for row in rows}, float(rows[0][11]) if rows else 0.0


async def save(conn: Connection, boxes: Sequence[Box]) -> None:
    """Write boxes whose rows this transaction holds."""
    packed = [pack(box) for box in boxes]
    if packed:
        await conn.execute(_SAVE, [list(column) for column in zip(*packed, strict=True)])


def unpack(row: Sequence[Any]) -> Box:
    """A row of simulated_host as a box: what is stored laid over the bare host of its seed."""
    uid, seed, boots, boot_until, settled_at, incarnation, epoch, marker, host, ops, faults = row[:11]
    box = bare(uid, seed)
    stored: Json = orjson.loads(host)
    for name in _OVERLAID:
        setattr(box, name, _over(getattr(box, name), stored.get(name, {})))
    for name in _WHOLE:
        if name in stored:
            setattr(box, name, stored[name])
    box.boots, box.boot_until, box.settled_at = boots, float(boot_until), settled_at
    box.incarnation, box.epoch, box.marker = incarnation, epoch, marker
    box.ops = dict(sorted(orjson.loads(ops).items(), key=lambda item: float(item[1]["at"])))
    box.faults = orjson.loads(faults)
    return box


def pack(box: Box) -> tuple[Any, ...]:
    """The columns of `_SAVE` for one box."""
    blank = bare(box.uid, box.seed)
    host: Json = {}
    for name in _OVERLAID:
        differs = _under(getattr(blank, name), getattr(box, name))
        if differs:
            host[name] = differs
    for name in _WHOLE:
        if getattr(box, name) != getattr(blank, name):
            host[name] = getattr(box, name)
    until = "infinity" if box.boot_until == float("inf") else _time(box.boot_until)
    return (
        box.uid,
        box.boots,
        until,
        _time(box.settled_at),
        box.incarnation,
        box.epoch,
        box.marker,
        orjson.dumps(host).decode(),
        orjson.dumps(box.ops).decode(),
        orjson.dumps(box.faults).decode(),
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else "-infinity"


def _over(base: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **stored}
    return {key: value for key, value in merged.items() if value is not None}


def _under(base: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in present.items() if base.get(key) != value} | {
        key: None for key in base if key not in present
    }
