"""Many machines at once: conditions written as the watcher writes them, under its lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.control.conditions import Condition
from fleet.control.db import Connection
from machines.watch.ingest import Observed, write_conditions
from machines.watch.leases import Lease
from tests.machines.world import make, settle_all, sql

READY = (Condition("NodeReady", "True", "KubeletReady"),)
BROKEN = (
    Condition("NodeReady", "True", "KubeletReady"),
    Condition("DiskFailure", "True", "SmartFailed", "Disk sda is failing."),
)
NOT_READY = (Condition("NodeReady", "False", "KubeletNotReady", "PLEG is not healthy"),)
SILENT = (Condition("NodeReady", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."),)


async def cluster_of(conn: Connection, name: str, count: int, **spec: Any) -> tuple[int, list[int]]:
    """A cluster whose machines are nodes, Running and Ready; its id and theirs."""
    ((cluster,),) = sql(
        "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, phase) "
        "VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now(), 'Running') RETURNING id::int",
        name,
    )
    ids = make(count, cluster_id=cluster, prefix=name, **{"idc": name, **spec})
    await settle_all(conn)
    sql(
        "INSERT INTO shard (cluster_id, holder, epoch, lease_until, fresh_at, state) VALUES (%s, 1, 1, now() + interval '1 hour', now() + interval '1 hour', 'Fresh')",
        cluster,
    )
    await tell(conn, cluster, ids, READY)
    return cluster, ids


async def tell(conn: Connection, cluster: int, ids: Sequence[int], conditions: Sequence[Condition]) -> set[int]:
    """The cluster's API server says this of these nodes; machines whose conditions moved."""
    before = dict(sql("SELECT id, k_cond FROM machine_state WHERE id = ANY (%s)", list(ids)))
    seen = [Observed(i, conditions, tuple(before[i])) for i in ids]
    _, moved = await write_conditions(conn, Lease(cluster, 1, 1), seen)
    return moved
