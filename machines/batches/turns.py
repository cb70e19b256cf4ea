"""Batches in the loop: what ended is counted, what fits begins, what went wrong stops the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from fleet.api.actions import Write, delete_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control import clock
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.control.times import format_time
from machines.batches import schema, sql
from machines.operation_rows import cancel_operations
from machines.waking import wake

log = logging.getLogger(__name__)
SECONDS: Final = 2.0
APPROVAL_HOURS: Final = 24  # a list that old is no longer what a second person would be shown
_COUNTED: Final = {sql.WAITING: "waiting", sql.OPEN: "open", sql.DONE: "succeeded", sql.FAILED: "failed", sql.SKIPPED: "skipped"}  # fmt: skip
_SEVERE: Final = {schema.STALLED: 2, schema.FAILED: 2, schema.EXPIRED: 1}
_DELETES: Final = 50  # machines that one turn deletes


@dataclass(frozen=True, slots=True)
class Turn:
    """What a batch does now. `begin`: Operations that fit; `cancel`: nothing more, and what is open ends."""

    phase: str
    message: str
    begin: bool = False
    cancel: bool = False
    ended: bool = False


def advance(spec: Json, status: Json, counts: Mapping[str, int], age: timedelta) -> Turn:
    """From what is wanted and what came of it so far to the next turn. Pure."""
    waiting, open_, failed = counts["waiting"], counts["open"], counts["failed"]
    if spec.get("cancelled"):
        by = f" by {status['cancelledBy']}" if status.get("cancelledBy") else ""
        if open_:
            return Turn(status["phase"], f"Cancelled{by}: {open_} still end{'s' if open_ == 1 else ''} before the next step.", cancel=True)  # fmt: skip
        return Turn(schema.CANCELLED, f"Cancelled{by}: {told(counts)}.", cancel=True, ended=True)
    if status["approval"] == "Needed":
        if age > timedelta(hours=APPROVAL_HOURS):
            return Turn(
                schema.EXPIRED, f"Nobody approved it within {APPROVAL_HOURS} hours; nothing was done.", ended=True
            )
        return Turn(schema.AWAITING, f"Another approver than {status['author']} must approve it: fleet.dev/approve={status['hash']}")  # fmt: skip
    if not waiting and not open_:
        return Turn(schema.FAILED if failed else schema.SUCCEEDED, f"{told(counts)[:1].upper()}{told(counts)[1:]}.", ended=True)  # fmt: skip
    limit = spec.get("maxFailed", schema.MAX_FAILED)
    if waiting and failed > limit:
        text = f"{failed} failed, more than the {limit} that may: nothing more begins until spec.maxFailed is raised or the batch is cancelled."
        return Turn(schema.STALLED, text)
    if waiting and spec.get("paused"):
        return Turn(schema.PAUSED, f"Paused by spec.paused: {told(counts)}.")
    return Turn(schema.RUNNING, f"{told(counts)[:1].upper()}{told(counts)[1:]}.", begin=bool(waiting))


def told(counts: Mapping[str, int]) -> str:
    """The counts in words: what is nought is not said, but for a batch that is nothing but that."""
    words = {"succeeded": "done", "failed": "failed", "skipped": "skipped", "open": "under way", "waiting": "waiting"}
    return ", ".join(f"{counts[key]:,} {word}" for key, word in words.items() if counts[key]) or "0 done"


async def turn(conn: Connection) -> int:
    """One turn of every live batch; how many of them moved."""
    live = [row[0] for row in await (await conn.execute(sql.LIVE_IDS)).fetchall()]
    return sum([await _one(conn, batch) for batch in live])


async def _one(conn: Connection, batch: int) -> bool:
    """Machines are woken after the commit: that is the order of locks."""
    async with conn.transaction():
        row = await (await conn.execute(sql.LIVE, [batch])).fetchone()
        if row is None:  # another process has it
            return False
        _, name, rv, cluster, spec, status, created = row
        spec, status = _json(spec), _json(status)
        gone = spec["verb"] == "Decommission"
        await conn.execute(sql.SETTLE_GONE if gone else sql.SETTLE, {"batch": batch})
        now = clock.now()
        counts = await _counts(conn, batch)
        step = advance(spec, status, counts, now - created)
        due: list[int] = []
        if step.begin:
            due = await _begin(conn, batch, name, spec, status)
        elif step.cancel:
            await conn.execute(sql.CANCEL_WAITING, [batch])
            open_ = [r[0] for r in await (await conn.execute(sql.OPEN_OPERATIONS, [batch])).fetchall()]
            due = await cancel_operations(conn, dict.fromkeys(open_, str(status.get("cancelledBy", ""))))
        if step.begin or step.cancel:  # what is told is how it stands after the turn
            counts = await _counts(conn, batch)
            step = advance(spec, status, counts, now - created)
        moved = await _record(conn, batch, name, rv, cluster, status, _status(status, step, counts, now))
    await wake(conn, due)
    if gone and not step.ended and not spec.get("cancelled"):
        await _delete(conn, batch, status["author"])
    return moved


async def _begin(conn: Connection, batch: int, name: str, spec: Json, status: Json) -> list[int]:
    """Ids of machines whose Operation is there now. A decommission has none yet: its deletion opens it."""
    values: Json = {"batch": batch, "parallel": spec.get("parallel", schema.PARALLEL)}
    if spec["verb"] == "Decommission":
        await conn.execute(sql.BEGIN_GONE, values)
        return []
    wanted: Json = {k: spec[k] for k in ("verb", "units", "drain") if k in spec}
    wanted |= {"owner": status["author"], "batch": name, "reason": f"{name}: {spec['reason']}"[:1024]}
    found = await conn.execute(sql.BEGIN, values | {"spec": orjson.dumps(wanted).decode()})
    return [row[0] for row in await found.fetchall()]


async def _counts(conn: Connection, batch: int) -> dict[str, int]:
    rows = await (await conn.execute(sql.COUNTS, [batch])).fetchall()
    return dict.fromkeys(_COUNTED.values(), 0) | {_COUNTED[state]: n for state, n in rows}


def _status(status: Json, step: Turn, counts: Mapping[str, int], now: datetime) -> Json:
    out = {**status, **counts, "phase": step.phase, "message": step.message}
    return out | ({"endTime": format_time(now)} if step.ended else {})


async def _record(conn: Connection, batch: int, name: str, rv: int, cluster: int, was: Json, status: Json) -> bool:
    if was == status:
        return False
    values = {
        "id": batch, "name": name, "rv": rv, "cluster": cluster, "status": orjson.dumps(status).decode(), "was": was["phase"],
        "phase": status["phase"], "message": status["message"], "severity": _SEVERE.get(status["phase"], 0),
    }  # fmt: skip
    await conn.execute(sql.RECORD, values)
    return True


async def _delete(conn: Connection, batch: int, author: str) -> None:
    """Machines of the list that are to go and are not marked yet, each as a DELETE by the author would; also those that a turn which died left."""
    names = [row[0] for row in await (await conn.execute(sql.TO_DELETE, [batch, _DELETES])).fetchall()]
    refused = await in_thread(lambda: _deleted(names, author)) if names else {}
    for machine, why in refused.items():
        await conn.execute(sql.REFUSED, [why[:400], batch, machine])


def _deleted(names: Sequence[str], author: str) -> dict[str, str]:
    """Why, by name, of those that were not deleted."""
    refused = {}
    for name in names:
        try:
            delete_object("machines", name, write=Write(by=replace(SYSTEM, name=author), manager="fleet"))
        except ApiError as error:
            if error.code != 404:
                refused[name] = error.message
    return refused


def _json(value: Any) -> Json:
    found: Json = orjson.loads(value) if isinstance(value, str | bytes) else value
    return found
