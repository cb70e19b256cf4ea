"""What events say of machines: kept as evidence as long as their rule says, declared as faults by people and tools, taken back by them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, LiteralString

from fleet.api.actions import Write, create_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION, MACHINE
from fleet.control.threads import in_thread
from fleet.events import consumers
from fleet.events.log import EventFilter, EventRow
from recovery.detecting import Ruleset
from recovery.rules import EVENT, Match, event_matches
from recovery.types import TYPES

log = logging.getLogger("fleet.recovery")
CONSUMER: Final = "recovery"
DECLARED: Final = "dev.fleet.fault.declared"
CLEARED: Final = "dev.fleet.fault.cleared"
LATE_SECONDS: Final = 3600  # of an event that counts until it is cleared
_TURNS: Final = 30

# Late and doubled events end in the same state: the newest news counts, by the time that its sender gives, else by receipt.
_KEEP: Final[LiteralString] = """
INSERT INTO recovery_evidence AS v (machine_id, type, source, status, reason, message, since, until)
SELECT DISTINCT ON (r.machine, r.type, r.source) r.machine, r.type, r.source, 'True', r.reason, r.message, r.at, CASE WHEN r.keep > 0 THEN r.at + r.keep * interval '1 s' END
FROM unnest(%(machine)s::bigint[], %(type)s::text[], %(source)s::text[], %(reason)s::text[], %(message)s::text[], %(at)s::timestamptz[], %(keep)s::int[]) AS r(machine, type, source, reason, message, at, keep)
ORDER BY r.machine, r.type, r.source, r.at DESC
ON CONFLICT (machine_id, type, source) DO UPDATE SET reason = excluded.reason, message = excluded.message, until = greatest(v.until, excluded.until), count = v.count + 1
"""
_CLEAR: Final[LiteralString] = "DELETE FROM recovery_evidence WHERE machine_id = %s AND type = ANY (%s::text[])"


async def take_events(conn: Connection, rules: Ruleset) -> set[int]:
    """Read on from the cursor; machines of which something new is said."""
    matches = event_matches(rules.rules)
    wanted = EventFilter(kind=MACHINE, types=(DECLARED, CLEARED, *sorted({m.type for m in matches})))
    machines: set[int] = set()
    for _ in range(_TURNS):
        rows, reached = await consumers.read(conn, CONSUMER, wanted)
        for row in rows:
            if row.type in (DECLARED, CLEARED):
                try:
                    await _person(conn, row, rules)
                except Exception as error:
                    log.exception("event %d-%d could not be taken", row.pos, row.n)
                    if not await consumers.stumbled(conn, CONSUMER, row, error):
                        return machines
                machines.add(row.object_id)
        machines |= await keep(conn, rows, matches)
        await consumers.advance(conn, CONSUMER, reached)
        if len(rows) < 1_000:
            break
    return machines


async def keep(conn: Connection, rows: Sequence[EventRow], matches: Sequence[Match]) -> set[int]:
    """Events that a rule looks for, as evidence; their machines."""
    found = [
        (row, m)
        for row in rows
        for m in matches
        if m.says(EVENT + row.type, "True", str(row.data.get("reason", ""))) and not stale(row, m)
    ]
    if not found:
        return set()
    values: dict[str, list[Any]] = {
        "machine": [r.object_id for r, _ in found], "type": [EVENT + r.type for r, _ in found], "source": [r.source[:200] for r, _ in found],
        "reason": [str(r.data.get("reason", ""))[:128] for r, _ in found], "message": [str(r.data.get("message", ""))[:400] for r, _ in found],
        "at": [min(r.at, r.observed_at) for r, _ in found], "keep": [m.keep_seconds for _, m in found],
    }  # fmt: skip
    await conn.execute(_KEEP, values)
    return {r.object_id for r, _ in found}


def stale(row: EventRow, match: Match) -> bool:
    """News of something that was observed longer ago than it counts: what is so now others tell."""
    age = (row.at - min(row.at, row.observed_at)).total_seconds()
    return age > (match.keep_seconds or LATE_SECONDS)


async def _person(conn: Connection, row: EventRow, rules: Ruleset) -> None:
    """A person or a tool declares a fault, or says that one is over."""
    type_ = str(row.data.get("faultType", ""))
    if row.type == DECLARED:
        await in_thread(partial(_declare, row, type_))
        return
    events = [EVENT + m.type for rule in rules.rules if rule.fault_type == type_ for m in rule.when if m.is_event]
    await conn.execute(_CLEAR, [row.object_id, events])
    await in_thread(partial(_taken_back, row.object_id, type_, str(row.data.get("by") or row.source)))


def _declare(row: EventRow, type_: str) -> None:
    spec = {
        "machine": row.name,
        "type": type_,
        "message": str(row.data.get("message", ""))[:1000] or f"{row.source} declared it.",
    }
    if type_ not in TYPES:
        spec["category"] = str(row.data.get("category", "Component"))
    obj = {
        "apiVersion": API_VERSION,
        "kind": "Fault",
        "metadata": {"name": f"{row.name[:180]}-{type_.lower()}-e{row.pos}"},
        "spec": spec,
    }
    try:
        create_object("faults", obj, write=Write(by=SYSTEM, manager="fleet-recovery"))
    except ApiError as error:
        if error.code != 409:  # it is there already
            raise


def _taken_back(machine_id: int, type_: str, by: str) -> None:
    from recovery.people import clear_faults

    clear_faults(machine_id, type_, by)
