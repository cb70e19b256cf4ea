"""A watcher's leases on clusters (table `shard`): who holds one streams that cluster, and only its epoch may write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from fleet.control.db import Connection

LEASE_SECONDS: Final = 15.0


class LeaseLost(Exception):
    """Another watcher holds the cluster; nothing was written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write what is seen of one cluster."""

    cluster_id: int
    holder: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Sign:
    """How a lease is doing. `age`: seconds since the view was known to be fresh, None = never yet."""

    lease: Lease
    age: float | None
    version: str
    state: str
    message: str


_KNOWN: Final[LiteralString] = (
    "INSERT INTO shard (cluster_id) SELECT cluster_id FROM cluster_access ORDER BY 1 ON CONFLICT DO NOTHING"
)
_CLAIM: Final[LiteralString] = """
WITH free AS MATERIALIZED (SELECT s.cluster_id FROM shard s JOIN cluster_access a ON a.cluster_id = s.cluster_id WHERE s.lease_until IS NULL OR s.lease_until < now()
  ORDER BY s.lease_until NULLS FIRST, s.cluster_id LIMIT %(limit)s FOR NO KEY UPDATE OF s SKIP LOCKED)
UPDATE shard s SET holder = %(me)s, epoch = s.epoch + 1, lease_until = now() + %(lease)s * interval '1 s' FROM free WHERE s.cluster_id = free.cluster_id
RETURNING s.cluster_id, s.epoch
"""
# fresh_at never goes back, and stands by PostgreSQL's clock: the watcher says only how long ago.
_RENEW: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::int[], %(epochs)s::int[], %(ages)s::float8[], %(versions)s::text[], %(states)s::text[], %(messages)s::text[])
    AS r(id, epoch, age, version, state, message)),
lk AS MATERIALIZED (SELECT r.* FROM shard s JOIN r ON s.cluster_id = r.id AND s.epoch = r.epoch AND s.holder = %(me)s ORDER BY s.cluster_id FOR NO KEY UPDATE OF s)
UPDATE shard s SET lease_until = now() + %(lease)s * interval '1 s', fresh_at = greatest(s.fresh_at, now() - lk.age * interval '1 s'), version = lk.version, state = lk.state, message = lk.message
FROM lk WHERE s.cluster_id = lk.id RETURNING s.cluster_id
"""
_RELEASE: Final[LiteralString] = """
WITH lk AS MATERIALIZED (SELECT s.cluster_id FROM shard s JOIN unnest(%(ids)s::int[], %(epochs)s::int[]) AS r(id, epoch) ON s.cluster_id = r.id AND s.epoch = r.epoch AND s.holder = %(me)s
  ORDER BY s.cluster_id FOR NO KEY UPDATE OF s)
UPDATE shard s SET holder = NULL, lease_until = NULL FROM lk WHERE s.cluster_id = lk.cluster_id
"""
# What was seen of clusters that are no more.
_FORGET: Final[LiteralString] = """
WITH gone AS (DELETE FROM shard s WHERE NOT EXISTS (SELECT FROM clusters_cluster c WHERE c.id = s.cluster_id) RETURNING s.cluster_id)
DELETE FROM node n USING gone WHERE n.cluster_id = gone.cluster_id
"""


async def forget(conn: Connection) -> None:
    """Let go of clusters that were deleted, and of their nodes."""
    await conn.execute(_FORGET)


async def claim(conn: Connection, me: int, limit: int) -> list[Lease]:
    """Take clusters that nobody holds, at most `limit`."""
    await conn.execute(_KNOWN)
    if limit <= 0:
        return []
    found = await conn.execute(_CLAIM, {"me": me, "limit": limit, "lease": LEASE_SECONDS})
    return [Lease(cluster, me, epoch) for cluster, epoch in await found.fetchall()]


async def renew(conn: Connection, me: int, signs: Sequence[Sign]) -> set[int]:
    """Prolong leases and say how fresh the views are; clusters still ours."""
    if not signs:
        return set()
    values = {
        "me": me, "lease": LEASE_SECONDS, "ids": [s.lease.cluster_id for s in signs], "epochs": [s.lease.epoch for s in signs],
        "ages": [s.age for s in signs], "versions": [s.version for s in signs], "states": [s.state for s in signs],
        "messages": [s.message for s in signs],
    }  # fmt: skip
    found = await conn.execute(_RENEW, values)
    return {row[0] for row in await found.fetchall()}


async def release(conn: Connection, me: int, leases: Iterable[Lease]) -> None:
    """Give clusters back at once."""
    given = list(leases)
    values = {"me": me, "ids": [g.cluster_id for g in given], "epochs": [g.epoch for g in given]}
    await conn.execute(_RELEASE, values)
