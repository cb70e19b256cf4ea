"""Breakers: what they count comes in here, what people say to them, and how they stand. They are decided in SQL, under the ledger's lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import AsyncConnection

Connection = AsyncConnection[Any]

TURN_SECONDS: Final = 5.0
_KEEP: Final = "1 day"  # longer than any window, and than the chart of the last hour
_KEEP_RATES: Final = "2 days"


async def strike(conn: Connection, failed: Sequence[tuple[int, str]]) -> int:
    """Machines that failed the post-check of a change, with a sentence each; how many the ledger knew. `conn` is in autocommit.

    They count in the breakers of their cluster, rack, idc and fleet; a half-open one opens again.
    """
    if not failed:
        return 0
    cursor = await conn.execute(
        "SELECT breaker_failed(%s::bigint[], %s::text[])", ([m for m, _ in failed], [why for _, why in failed])
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def trip(conn: Connection, dim: str, key: int, why: str) -> None:
    """Open the breaker of a place because of what is seen there, such as pods that cannot be created. It cools down like any other."""
    await conn.execute("SELECT breaker_trip(%s, %s, %s)", (dim, key, why))


async def turn(conn: Connection) -> int:
    """Move what is not closed along with the clock, and forget old strikes; how many breakers moved. Permits do it too, when asked for."""
    await conn.execute(
        "DELETE FROM breaker_strike WHERE id IN (SELECT id FROM breaker_strike WHERE at < now() - %s::interval ORDER BY at LIMIT 1000)",
        (_KEEP,),
    )
    await conn.execute(
        "DELETE FROM verb_start WHERE ctid = ANY (ARRAY(SELECT ctid FROM verb_start WHERE at < now() - %s::interval LIMIT 1000))",
        (_KEEP_RATES,),
    )
    row = await (await conn.execute("SELECT breaker_tick()")).fetchone()
    return int(row[0]) if row else 0
