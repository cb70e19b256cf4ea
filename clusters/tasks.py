"""The Cluster-Operator in the loop."""

from __future__ import annotations

import asyncio

from django.conf import settings

from clusters import backups
from clusters.cases import load
from clusters.operate import Pass, in_thread, operate
from clusters.planes import Plane
from clusters.providers import provider
from clusters.reconcile import reconcile
from clusters.schema_cluster import MADE, provider_of
from fleet.control import work
from fleet.control.kinds import CLUSTER
from fleet.control.operators import Chore, Operator, Seat, register_chore, register_operator
from fleet.control.work import Claim

_PART_OF_LEASE = 0.8  # a pass that lasts longer is cut off: its lease must not run out under it


async def reconcile_clusters(seat: Seat, claims: list[Claim]) -> None:
    """One pass over clusters that have a control plane of Fleet's making."""
    by_id = {c.object_id: c for c in claims}
    cases = {case.id: case for case in await in_thread(lambda: load(by_id))}
    made = {i: case for i, case in cases.items() if provider_of(case.spec) in MADE}
    await work.release(seat.conn, seat.me, [c for c in claims if c.object_id not in made], next_seconds=3_600)
    passes = [
        Pass(by_id[i], seat.me, case, provider(provider_of(case.spec)), seat.stopping) for i, case in made.items()
    ]
    settled = await operate(passes, settings.FLEET_LEASE_SECONDS * _PART_OF_LEASE)
    await work.settle(seat.conn, CLUSTER, seat.me, settled)


async def purge(seat: Seat) -> None:
    """Control planes whose cluster was deleted a day ago: nothing of them stays."""
    for uid, name, spec in await in_thread(backups.due_for_purge):
        gone = await provider(provider_of(spec)).remove(Plane(uid, name, {}, {}, "", 0))
        if gone:
            await in_thread(lambda uid=uid: backups.purged(uid))  # type: ignore[misc]
        await asyncio.sleep(0)


register_operator(Operator(CLUSTER, reconcile_clusters, batch=20))
register_chore(Chore("clusters", 3.0, run_sync=reconcile))
register_chore(Chore("purge-clusters", 60.0, purge))
