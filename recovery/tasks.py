"""Recovery in the loop: detection of what changed, orders, remediations, and the figures of rules and playbooks."""

from __future__ import annotations

import logging
from typing import Final

from fleet.control import position, slots
from fleet.control.db import Connection
from fleet.control.kinds import REMEDIATION
from fleet.control.operators import Chore, Operator, Seat, register_chore, register_operator
from recovery import detect_sql, probing, tickets
from recovery.builtins import install
from recovery.detecting import detect, look_up, read_rules
from recovery.figures import refresh_figures
from recovery.orders import order, refuse_tripped
from recovery.reconcile import reconcile_remediations
from recovery.tidy import tidy
from recovery.told import take_events
from recovery.types import RULES

log = logging.getLogger("fleet.recovery")
DETECT_SECONDS: Final = 1.0
WHOLE_SECONDS: Final = 300.0
RULES_SEEN: Final = "recovery-rules-seen"
CURSOR: Final = "recovery-detect"
_MOST: Final = 50_000  # machines looked at in one turn
_FAR: Final = 1 << 36  # positions behind which looking at everything is cheaper


async def find_faults(seat: Seat) -> int:
    """What changed since the last turn, and faults for which the time has come; then the orders that follow."""
    conn = seat.conn
    await _follow_rules(seat)
    rules = await read_rules(conn)
    machines, until = await changed_machines(conn)
    machines |= await take_events(conn, rules)
    machines |= {row[0] for row in await (await conn.execute(detect_sql.DUE)).fetchall()}
    found = await detect(conn, machines, rules) if machines else None
    await slots.advance(conn, CURSOR, until)
    await order(conn)
    await refuse_tripped(conn)
    return found.moved if found else 0


async def _follow_rules(seat: Seat) -> None:
    """After a change of a rule every machine is looked at once."""
    changed = await slots.position(seat.conn, RULES)
    if changed > await slots.position(seat.conn, RULES_SEEN):
        await look_at_all(seat)
        await slots.advance(seat.conn, RULES_SEEN, changed)


async def changed_machines(conn: Connection) -> tuple[set[int], int]:
    """Machines that changed since the cursor, and where it goes once they were looked at. One that is far behind leaves the rest to the look at everything."""
    until = await position.horizon(conn)
    after = await slots.position(conn, CURSOR)
    if not after or until - after > _FAR:
        return set(), until - 1
    found = await (await conn.execute(detect_sql.CHANGED, {"after": after, "until": until}, prepare=True)).fetchall()
    return {row[0] for row in found[:_MOST]}, until - 1


async def look_at_all(seat: Seat) -> int:
    """Every machine of which something speaks for a fault: what no change told, a new rule, a turn that died."""
    rules = await read_rules(seat.conn)
    await look_up(seat.conn, rules)
    after = moved = 0
    while True:
        found = await (await seat.conn.execute(detect_sql.ALL, {"after": after, "ids": rules.numbers})).fetchone()
        if found is None or found[0] is None:
            return moved
        after, ids = found
        moved += (await detect(seat.conn, ids, rules)).moved


register_operator(Operator(REMEDIATION, reconcile_remediations, batch=200))
register_chore(Chore("detect-faults", DETECT_SECONDS, run=find_faults))
register_chore(Chore("detect-all-faults", WHOLE_SECONDS, run=look_at_all))
register_chore(Chore("recovery-built-ins", 30.0, run_sync=install))
register_chore(Chore("tidy-faults", 300.0, run=lambda seat: tidy(seat.conn)))
register_chore(Chore("recovery-figures", 30.0, run_sync=refresh_figures))
register_chore(Chore("probe-ports", probing.SECONDS, run=probing.look_at_ports))
register_chore(Chore("probe-controllers", probing.SECONDS, run=lambda seat: probing.look_at_bmcs(seat, live=True)))
register_chore(
    Chore("probe-calm-controllers", probing.IDLE_SECONDS, run=lambda seat: probing.look_at_bmcs(seat, live=False))
)
register_chore(Chore("tickets", tickets.SECONDS, run=tickets.post_due))
