"""Machines per cluster and phase, and machines in service per cluster: kept as they move, never counted on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fleet.control.db import Connection
from machines import hot_sql


class Cursor(Protocol):
    """A cursor of Django or psycopg."""

    def execute(self, sql: Any, params: Any = None) -> Any: ...

    def fetchall(self) -> Any: ...


def totals(cursor: Cursor) -> dict[tuple[int, str], int]:
    """Machines by (cluster id, phase); cluster 0 = outside every cluster."""
    cursor.execute(
        "SELECT cluster_id, phase, sum(n)::bigint FROM (SELECT cluster_id, phase, n FROM count_total UNION ALL SELECT cluster_id, phase, n FROM count_delta) t "
        "GROUP BY 1, 2 HAVING sum(n) <> 0 ORDER BY 1, 2"
    )
    return {(cluster, phase): int(n) for cluster, phase, n in cursor.fetchall()}


def shift_capacity(cursor: Cursor, by: Mapping[int, int]) -> None:
    """Move totals of machines in service, clusters in order."""
    for cluster_id in sorted(by):
        cursor.execute(
            "INSERT INTO capacity_total AS t (cluster_id, n) VALUES (%s, %s) ON CONFLICT (cluster_id) DO UPDATE SET n = t.n + excluded.n",
            [cluster_id, by[cluster_id]],
        )


async def fold(conn: Connection) -> None:
    """Add the moves of the last second to the totals."""
    await conn.execute(hot_sql.FOLD)


async def recount(conn: Connection) -> int:
    """Count everything once, put right what differs; how many (cluster, phase) totals were wrong (an alarm when not 0).

    The difference goes in as one more move, from one snapshot of table, totals and moves: moves that commit meanwhile stay right.
    """
    wrong = (await conn.execute(hot_sql.RECOUNT)).rowcount
    await conn.execute(hot_sql.RECOUNT_CAPACITY)
    return wrong


async def repair_places(conn: Connection) -> int:
    """Work items that stand in another cluster or idc than their machine (a lost after-commit), and those of machines that are gone."""
    moved = (await conn.execute(hot_sql.REHOME)).rowcount
    return moved + (await conn.execute(hot_sql.ORPHANS)).rowcount
