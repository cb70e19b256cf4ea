"""Work items: schedule, lease and epoch of every object in one row; claimed in batches, fenced by the epoch.

`due_at` is schedule and lease in one: a claim moves it to the end of the lease. Whoever holds an old epoch writes nothing.
Lock order over tables: work_item, machine, machine_state, log. Who writes a spec never touches work_item in that
transaction; the wake is a statement of its own after the commit, and the sweep finds wakes that were lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from django.conf import settings
from django.db import connection as django_connection

from fleet.control.arrays import numbers
from fleet.control.db import Connection

SHARDS = 256
# A batch that ends in a crash comes back with longer leases: a poisoned object cannot keep a worker dying each minute.
LONGEST_LEASE = 10  # times the ordinary lease
CHUNK = 1_000  # rows one writing transaction may touch


class Cursor(Protocol):
    """What Django's and psycopg's cursors have in common here."""

    def execute(self, sql: Any, params: Any = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """The lease of one object. `attempts` counts failures in a row, also passes that never came to an end.

    `died`: the pass before this one was such a pass, its lease ran out.
    """

    kind: int
    object_id: int
    epoch: int
    cluster_id: int
    attempts: int
    died: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of a pass over an object of a kind without hot tables. `tried`: what it acted on, any 64-bit hash."""

    object_id: int
    epoch: int
    next_seconds: float
    attempts: int = 0
    resting: bool = False
    tried: int = 0


def ensure(cursor: Cursor, kind: int, object_id: int, *, cluster_id: int = 0, idc_id: int = 0, shard: int = 0) -> None:
    """The work item of a new object, due at once; inside the transaction that creates the object."""
    cursor.execute(
        "INSERT INTO work_item (kind, object_id, cluster_id, idc_id, shard) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [kind, object_id, cluster_id, idc_id, shard],
    )


def forget(cursor: Cursor, kind: int, object_id: int) -> None:
    """Remove the work item together with its object. A lease on it dies with it: nothing is found to write to."""
    cursor.execute("DELETE FROM work_item WHERE kind = %s AND object_id = %s", [kind, object_id])


# Whoever claims what is due and woken already looks after that moment: such a row is left as it is. By key, in the order of the ids:
# a plan of that form serves one object as well as a thousand, so that it is made once.
_WAKE = """
WITH lk AS MATERIALIZED (
  SELECT w.* FROM unnest((SELECT %(ids)s::bigint[])) AS a(id) CROSS JOIN LATERAL (
    SELECT kind, object_id FROM work_item WHERE kind = %(kind)s AND object_id = a.id AND NOT (wake AND holder IS NULL AND due_at <= now()) FOR NO KEY UPDATE) w)
UPDATE work_item w SET wake = true, due_at = CASE WHEN w.holder IS NULL THEN now() ELSE w.due_at END
FROM lk WHERE w.kind = lk.kind AND w.object_id = lk.object_id
"""


def wake(kind: int, ids: Iterable[int]) -> None:
    """Make objects due now, or right after the pass that runs. A statement of its own: call it after the commit."""
    wanted = sorted(set(ids))
    with django_connection.cursor() as cursor:
        for at in range(0, len(wanted), CHUNK):
            cursor.execute(_WAKE, {"kind": kind, "ids": wanted[at : at + CHUNK]})


async def wake_async(conn: Connection, kind: int, ids: Iterable[int]) -> None:
    """The same from a reconciler."""
    wanted = sorted(set(ids))
    for at in range(0, len(wanted), CHUNK):
        await conn.execute(_WAKE, {"kind": kind, "ids": numbers(wanted[at : at + CHUNK])}, prepare=True)


# The clusters of a kind by a loose scan (one descent each), those with something due.
_DUE_CLUSTERS = """
WITH RECURSIVE c AS (
  (SELECT cluster_id AS id FROM work_item WHERE kind = %(kind)s ORDER BY cluster_id LIMIT 1)
  UNION ALL
  SELECT (SELECT w.cluster_id FROM work_item w WHERE w.kind = %(kind)s AND w.cluster_id > c.id ORDER BY w.cluster_id LIMIT 1) FROM c WHERE c.id IS NOT NULL)
SELECT c.id FROM c WHERE c.id IS NOT NULL AND EXISTS (
  SELECT FROM work_item w WHERE w.kind = %(kind)s AND w.cluster_id = c.id AND w.due_at <= now()
    AND (%(idcs)s::smallint[] IS NULL OR w.idc_id = ANY (%(idcs)s::smallint[])) AND w.shard BETWEEN %(low)s AND %(high)s)
"""

_CLAIM = """
WITH due AS MATERIALIZED (
  SELECT d.object_id, d.died FROM unnest(%(clusters)s::int[]) AS c(id), LATERAL (
    SELECT w.object_id, w.holder IS NOT NULL AS died FROM work_item w
    WHERE w.kind = %(kind)s AND w.cluster_id = c.id AND w.due_at <= now()
      AND (%(idcs)s::smallint[] IS NULL OR w.idc_id = ANY (%(idcs)s::smallint[])) AND w.shard BETWEEN %(low)s AND %(high)s
    ORDER BY w.due_at LIMIT %(share)s FOR NO KEY UPDATE SKIP LOCKED) d
  LIMIT %(limit)s)
UPDATE work_item w SET holder = %(me)s, epoch = w.epoch + 1, wake = false,
  attempts = CASE WHEN due.died THEN least(w.attempts + 1, 1000) ELSE w.attempts END,
  due_at = now() + %(lease)s * interval '1 s' * CASE WHEN due.died THEN least(w.attempts + 2, %(longest)s) ELSE 1 END
FROM due WHERE w.kind = %(kind)s AND w.object_id = due.object_id
RETURNING w.object_id, w.epoch, w.cluster_id, w.attempts, due.died
"""


def _scope(kind: int, idc_ids: Sequence[int] | None, shards: tuple[int, int] | None) -> dict[str, Any]:
    low, high = shards or (0, SHARDS - 1)
    return {"kind": kind, "idcs": None if idc_ids is None else list(idc_ids), "low": low, "high": high}


async def due_clusters(
    conn: Connection, kind: int, *, idc_ids: Sequence[int] | None = None, shards: tuple[int, int] | None = None
) -> list[int]:
    """Ids of the clusters with something due (0 = outside every cluster), in order."""
    found = await conn.execute(_DUE_CLUSTERS, _scope(kind, idc_ids, shards), prepare=True)
    return [row[0] for row in await found.fetchall()]


async def claim(
    conn: Connection,
    kind: int,
    me: int,
    *,
    cluster_id: int | None = None,
    idc_ids: Sequence[int] | None = None,
    shards: tuple[int, int] | None = None,
    limit: int = 500,
    lease_seconds: float | None = None,
) -> list[Claim]:
    """Take up to `limit` due objects, longest waiting first; clusters share a batch, so that a noisy one delays no other.

    `shards`: first and last shard, both included. Objects that others are just claiming are passed over.
    """
    clusters = (
        [cluster_id] if cluster_id is not None else await due_clusters(conn, kind, idc_ids=idc_ids, shards=shards)
    )
    if not clusters:
        return []
    random.shuffle(clusters)  # with fewer places than clusters, each comes first now and then
    values = _scope(kind, idc_ids, shards) | {
        "clusters": clusters,
        "share": -(-limit // len(clusters)),
        "limit": limit,
        "me": me,
        "lease": settings.FLEET_LEASE_SECONDS if lease_seconds is None else lease_seconds,
        "longest": LONGEST_LEASE,
    }
    found = await conn.execute(_CLAIM, values, prepare=True)
    return sorted(
        (Claim(kind, *row) for row in await found.fetchall()),
        key=lambda c: c.object_id,
    )


_RELEASE = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::bigint[], %(epochs)s::int[], %(next)s::float8[], %(attempts)s::smallint[], %(rest)s::bool[], %(tried)s::bigint[])
    AS r(id, epoch, next_s, attempts, rest, tried)),
lk AS MATERIALIZED (SELECT w.object_id, w.wake, r.next_s, r.attempts, r.rest, r.tried FROM work_item w JOIN r ON w.kind = %(kind)s AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s
  ORDER BY w.object_id FOR NO KEY UPDATE OF w)
UPDATE work_item w SET holder = NULL, wake = false, attempts = lk.attempts, resting = lk.rest AND NOT lk.wake, tried = coalesce(lk.tried, w.tried),
  due_at = CASE WHEN lk.wake THEN now() ELSE now() + lk.next_s * interval '1 s' END
FROM lk WHERE w.kind = %(kind)s AND w.object_id = lk.object_id RETURNING w.object_id
"""


async def settle(conn: Connection, kind: int, me: int, settled: Sequence[Settled]) -> set[int]:
    """End leases with the outcome of the pass; ids whose lease was still ours. At most 1,000 at once."""
    if not settled:
        return set()
    values = {
        "kind": kind,
        "me": me,
        "ids": [s.object_id for s in settled],
        "epochs": [s.epoch for s in settled],
        "next": [s.next_seconds for s in settled],
        "attempts": [s.attempts for s in settled],
        "rest": [s.resting for s in settled],
        "tried": [s.tried for s in settled],
    }
    found = await conn.execute(_RELEASE, values, prepare=True)
    return {row[0] for row in await found.fetchall()}


async def release(
    conn: Connection, me: int, claims: Sequence[Claim], *, next_seconds: float = 0.0, failed: bool = False
) -> set[int]:
    """Give leases back without an outcome, due after `next_seconds`; with `failed` one attempt more is counted."""
    released: set[int] = set()
    for kind in {c.kind for c in claims}:
        mine = [c for c in claims if c.kind == kind]
        values = {
            "kind": kind,
            "me": me,
            "ids": [c.object_id for c in mine],
            "epochs": [c.epoch for c in mine],
            "next": [next_seconds] * len(mine),
            "attempts": [min(c.attempts + failed, 1_000) for c in mine],
            "rest": [False] * len(mine),
            "tried": [None] * len(mine),
        }
        found = await conn.execute(_RELEASE, values)
        released |= {row[0] for row in await found.fetchall()}
    return released


_EXTEND = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(ids)s::bigint[], %(epochs)s::int[]) AS r(id, epoch)),
lk AS MATERIALIZED (SELECT w.object_id FROM work_item w JOIN r ON w.kind = %(kind)s AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s ORDER BY w.object_id FOR NO KEY UPDATE OF w)
UPDATE work_item w SET due_at = now() + %(lease)s * interval '1 s' FROM lk WHERE w.kind = %(kind)s AND w.object_id = lk.object_id RETURNING w.object_id
"""


async def extend(conn: Connection, kind: int, me: int, claims: Sequence[Claim]) -> set[int]:
    """Renew leases that are still ours; the others' ids are missing from the answer."""
    values = {
        "kind": kind,
        "me": me,
        "ids": [c.object_id for c in claims],
        "epochs": [c.epoch for c in claims],
        "lease": settings.FLEET_LEASE_SECONDS,
    }
    found = await conn.execute(_EXTEND, values)
    return {row[0] for row in await found.fetchall()}


def backoff(attempts: int, *, first: float = 2.0, most: float = 600.0, jitter: float = 0.3) -> float:
    """Seconds until the next try after `attempts` failures in a row: doubling, spread by `jitter` either way."""
    plain = min(most, first * 2.0 ** min(max(attempts - 1, 0), 20))
    return plain * random.uniform(1 - jitter, 1 + jitter)


def set_back(claim: Claim, *, most: float = 600.0) -> Settled:
    """The end of a pass that failed: one attempt more, tried again after a growing while."""
    attempts = min(claim.attempts + 1, 1_000)
    return Settled(claim.object_id, claim.epoch, backoff(attempts, most=most), attempts)
