"""The Cluster-Operator in the loop."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from django.conf import settings

from clusters import access, backups, keep
from clusters.cases import Case, load
from clusters.planes import Plane
from clusters.reconcile import reconcile
from clusters.schema_cluster import OPERATED, hosted_on, provider_of
from clusters.wanted import hosting_of
from clusters.ways import way_of
from fleet.control import work
from fleet.control.errors import ReconcileError
from fleet.control.kinds import CLUSTER, Json
from fleet.control.operators import Chore, Operator, Seat, register_chore, register_operator
from fleet.control.threads import in_thread
from fleet.control.work import Claim

if TYPE_CHECKING:
    from clusters.passes import AnyPass

log = logging.getLogger("fleet.clusters")

_PART_OF_LEASE = 0.8  # a pass that lasts longer is cut off: its lease must not run out under it


async def reconcile_clusters(seat: Seat, claims: list[Claim]) -> None:
    """One pass over clusters with a control plane, of Fleet's making or another's. The clients of Kubernetes are loaded where there is such a cluster."""
    from clusters.passes import operate

    by_id = {c.object_id: c for c in claims}
    cases = {case.id: case for case in await in_thread(lambda: load(by_id))}
    ours = {i: case for i, case in cases.items() if provider_of(case.spec) in OPERATED}
    await work.release(seat.conn, seat.me, [c for c in claims if c.object_id not in ours], next_seconds=3_600)
    passes = [_pass(seat, by_id[i], case) for i, case in ours.items()]
    settled = await operate(passes, settings.FLEET_LEASE_SECONDS * _PART_OF_LEASE)
    await work.settle(seat.conn, CLUSTER, seat.me, settled)


def _pass(seat: Seat, claim: Claim, case: Case) -> AnyPass:
    from clusters.imported import ImportedPass
    from clusters.operate import Pass
    from clusters.providers import provider

    name = provider_of(case.spec)
    way = way_of(name)
    if way is not None:
        return ImportedPass(claim, seat.me, case, way)
    return Pass(claim, seat.me, case, provider(name), seat.stopping)


async def purge(seat: Seat) -> None:
    """Control planes whose cluster was deleted a day ago: nothing of them stays."""
    for uid, name, spec in await in_thread(backups.due_for_purge):
        from clusters.providers import provider

        plane = await in_thread(partial(_left, uid, name, spec))
        try:
            gone = await provider(provider_of(spec)).remove(plane)
        except ReconcileError as error:
            log.warning("what is left of the deleted cluster %s stays for now: %s", name, error.message)
            continue
        if gone:
            await in_thread(partial(backups.purged, uid))


def _left(uid: str, name: str, spec: Json) -> Plane:
    """What a provider has to know of a control plane to take it away."""
    meta = access.endpoint_named(hosted_on(spec)) if hosted_on(spec) else None
    return Plane(uid, name, {}, keep.files(uid), "", 0, meta=hosting_of(name, uid, spec, meta))


register_operator(Operator(CLUSTER, reconcile_clusters, batch=20))
register_chore(Chore("clusters", 3.0, run_sync=reconcile))
register_chore(Chore("purge-clusters", 15.0, purge))  # a few turns each: pods wipe folders between them
