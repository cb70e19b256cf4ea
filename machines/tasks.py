"""The Machine-Operator in the loop: how a batch of leases becomes a pass, and the chores of its counters."""

from __future__ import annotations

import asyncio
import logging

from django.conf import settings

from fleet.control import position, work
from fleet.control.kinds import MACHINE
from fleet.control.operators import Chore, Operator, Seat, register_chore, register_operator
from fleet.control.work import Claim
from machines import counts, gate_counts, hot
from machines.batches import turns
from machines.controllers import kept_bmcs
from machines.drivers import driver
from machines.evidence import forget_old
from machines.hosts import Hosts
from machines.kept import Kept
from machines.layers import rollout_layers
from machines.nodes import KeptClusters
from machines.provisioners import kept_provisioners
from machines.reconcile import Context, reconcile
from machines.rows import Row
from machines.tidy import tidy

log = logging.getLogger(__name__)
_PART_OF_LEASE = 0.8  # a pass that lasts longer is cut off: its lease must not run out under it


async def reconcile_machines(seat: Seat, claims: list[Claim]) -> None:
    """One pass over a batch."""
    rows = await hot.load(seat.conn, claims)
    there = {row.id for row in rows}
    gone = [c for c in claims if c.object_id not in there]  # a chore sweeps them up
    await work.release(seat.conn, seat.me, gone, next_seconds=3_600)
    await _guarded(seat, rows, {c.object_id: c for c in claims})


async def _guarded(seat: Seat, rows: list[Row], claims: dict[int, Claim]) -> None:
    """Halve a batch that breaks until the machine that breaks it stands alone; that one backs off."""
    if not rows:
        return
    try:
        async with asyncio.timeout(settings.FLEET_LEASE_SECONDS * _PART_OF_LEASE):
            await _reconcile(seat, rows)
    except Exception:
        if seat.conn.closed:
            raise  # the database is away: the leases run out by themselves
        if len(rows) == 1:
            claim = claims[rows[0].id]
            log.exception("the machine %s is set aside: its pass ended in a bug", rows[0].name)
            await work.release(seat.conn, seat.me, [claim], next_seconds=work.backoff(claim.attempts + 1), failed=True)
            return
        middle = len(rows) // 2
        await _guarded(seat, rows[:middle], claims)
        await _guarded(seat, rows[middle:], claims)


async def _reconcile(seat: Seat, rows: list[Row]) -> None:
    identity = await position.identity(seat.conn)
    hosts = seat.kept.setdefault("hosts", KeptHosts())
    context = Context(
        seat.conn,
        seat.me,
        hosts,
        identity.installation,
        identity.incarnation,
        rest_seconds=settings.FLEET_OBSERVE_SECONDS,
        clusters=seat.kept.setdefault("clusters", KeptClusters()),
        bmcs_by_driver=kept_bmcs(seat),
        provisioners_by_driver=kept_provisioners(seat),
    )
    await reconcile(rows, context)


class KeptHosts(Kept[Hosts]):
    """Of hosts."""

    def make(self, name: str) -> Hosts:
        return driver(name)


register_operator(
    Operator(MACHINE, reconcile_machines, sweep=hot.sweep, sweep_changes=hot.sweep_changes, batch=settings.FLEET_BATCH)
)
register_chore(Chore("fold-counters", 1.0, lambda seat: counts.fold(seat.conn)))


async def _recount(seat: Seat) -> None:
    wrong = await counts.recount(seat.conn)
    if wrong:
        log.error("%d totals of machines by cluster and phase were wrong and were put right", wrong)
    moved = await counts.repair_places(seat.conn)
    if moved:
        log.warning("%d work items stood elsewhere than their machines and were moved", moved)


register_chore(Chore("recount", 600.0, _recount))
register_chore(Chore("count-gates", gate_counts.REFRESH_SECONDS, run_sync=gate_counts.count_gates))
register_chore(Chore("forget-evidence", 3_600.0, lambda seat: forget_old(seat.conn)))
register_chore(Chore("tidy-operations", 300.0, lambda seat: tidy(seat.conn)))
register_chore(Chore("layers", 5.0, run_sync=rollout_layers))
register_chore(Chore("operation-batches", turns.SECONDS, lambda seat: turns.turn(seat.conn)))
