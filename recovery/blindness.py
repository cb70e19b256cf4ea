"""Whether Fleet sees a cluster at all. Most of it silent at once means that the view is broken, not the machines: then nothing is concluded.

The rule is that of Kubernetes' node controller: 55 % of a zone, and more than two. Silent is who says nothing; who says "not ready" speaks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

from psycopg import AsyncCursor

from fleet.control.db import Connection

Cursor = AsyncCursor[tuple[Any, ...]]
SHARE: Final = 0.55
FEWEST: Final = 3
STALE_SECONDS: Final = 90
_KEPT_SECONDS: Final = 1.0

# Silent machines by cluster and rack: of a node the Ready condition that nobody knows, of a host the answer that did not come.
_SILENT: Final[LiteralString] = """
WITH silent AS MATERIALIZED (
  SELECT cluster_id, rack_id, count(*)::int AS n FROM machine_state
  WHERE down AND cluster_id = ANY (%(clusters)s::int[]) AND phase NOT IN ('Pending', 'Provisioning', 'Decommissioning', 'Retired')
    AND CASE WHEN is_node THEN (cond_true | cond_false) & 1 = 0 ELSE cond_true & 4 = 0 END GROUP BY 1, 2)
SELECT 'cluster', s.cluster_id, 0, s.n, (SELECT count(*)::int FROM capacity c WHERE c.cluster_id = s.cluster_id AND c.in_service) FROM (SELECT cluster_id, sum(n)::int AS n FROM silent GROUP BY 1) s WHERE s.n >= %(fewest)s
UNION ALL
SELECT 'rack', s.cluster_id, s.rack_id, s.n, (SELECT count(*)::int FROM capacity c WHERE c.cluster_id = s.cluster_id AND c.rack_id = s.rack_id AND c.in_service)
FROM silent s WHERE s.rack_id <> 0 AND s.n >= %(fewest)s
"""
_STALE: Final[LiteralString] = """
SELECT cluster_id, extract(epoch FROM now() - coalesce(fresh_at, now() - interval '1 day'))::int FROM shard
WHERE cluster_id = ANY (%(clusters)s::int[]) AND coalesce(fresh_at, '-infinity') < now() - %(stale)s * interval '1 s'
"""


@dataclass(frozen=True, slots=True)
class Blind:
    """Where nothing may be concluded, and why: by cluster, and by (cluster, rack)."""

    clusters: Mapping[int, str] = field(default_factory=dict)
    racks: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def why(self, cluster_id: int, rack_id: int) -> str:
        """A sentence, or "" where Fleet sees."""
        return self.clusters.get(cluster_id) or self.racks.get((cluster_id, rack_id), "")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way, so that it may share a round trip. `kept`: an answer of a moment ago is good enough."""

    clusters: frozenset[int]
    stale: Cursor | None = None
    silent: Cursor | None = None
    kept: Blind | None = None
    anew: bool = False


_kept: dict[frozenset[int], tuple[float, Blind]] = {}


async def ask(conn: Connection, clusters: Iterable[int], *, anew: bool = False) -> Asked:
    """How it is now; asked of the database at most once a second for the same clusters, or `anew`."""
    wanted = frozenset(clusters)
    at, found = _kept.get(wanted, (0.0, Blind()))
    if not anew and time.monotonic() - at < _KEPT_SECONDS:
        return Asked(wanted, kept=found)
    ids = sorted(wanted)
    stale = await conn.execute(_STALE, {"clusters": ids, "stale": STALE_SECONDS}, prepare=True)
    silent = await conn.execute(_SILENT, {"clusters": ids, "fewest": FEWEST}, prepare=True)
    return Asked(wanted, stale, silent, anew=anew)


async def answer(asked: Asked) -> Blind:
    """What was asked for; the connection's pipeline has ended."""
    if asked.stale is None or asked.silent is None:
        return asked.kept or Blind()
    found = _blind(await asked.stale.fetchall(), await asked.silent.fetchall())
    if not asked.anew:
        if len(_kept) > 100:
            _kept.clear()
        _kept[asked.clusters] = (time.monotonic(), found)
    return found


async def look(conn: Connection, clusters: Iterable[int]) -> Blind:
    """Always anew."""
    async with conn.pipeline():
        asked = await ask(conn, clusters, anew=True)
    return await answer(asked)


def _blind(stale: Iterable[Sequence[Any]], silent: Iterable[Sequence[Any]]) -> Blind:
    by_cluster: dict[int, str] = {}
    by_rack: dict[tuple[int, int], str] = {}
    for cluster, age in stale:
        by_cluster[cluster] = f"The view of the cluster is {age} s old: nothing is concluded from it."
    for dim, cluster, rack, n, total in silent:
        if n < SHARE * total:
            continue
        where = "the rack" if dim == "rack" else "the cluster" if cluster else "the machines without a cluster"
        text = f"{n} of {total} machines of {where} are silent: more likely Fleet cannot see them than that all of them are broken."
        if dim == "rack":
            by_rack[cluster, rack] = text
        else:
            by_cluster.setdefault(cluster, text)
    return Blind(by_cluster, by_rack)
