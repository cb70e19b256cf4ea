"""The sweep: finds machines whose desired and observed state differ and makes their work items due. Never a loop over the fleet."""

from __future__ import annotations

from fleet.control.db import Connection
from fleet.control.work import CHUNK
from machines import hot_sql


async def sweep(conn: Connection) -> int:
    """Look at every drifted machine; how many were made due. Finds whatever a lost wake, task or worker left behind."""
    found = await (await conn.execute(hot_sql.SWEEP, prepare=True)).fetchall()
    return await _make_due(conn, [row[0] for row in found])


async def sweep_changes(conn: Connection, after: int) -> tuple[int, int]:
    """Look only at machines changed since position `after`: (how many were made due, where to go on)."""
    at = await (await conn.execute("SELECT fleet_horizon()", prepare=True)).fetchone()
    assert at is not None
    until: int = at[0]  # read first: what commits meanwhile belongs to the next sweep
    found = await (await conn.execute(hot_sql.SWEEP_CHANGED, {"after": after, "until": until}, prepare=True)).fetchall()
    return await _make_due(conn, [row[0] for row in found]), until - 1


async def _make_due(conn: Connection, ids: list[int]) -> int:
    """In id order and in chunks: no transaction holds more than 1,000 rows."""
    made = 0
    for at in range(0, len(ids), CHUNK):
        made += (await conn.execute(hot_sql.SWEEP_CHUNK, [ids[at : at + CHUNK]], prepare=True)).rowcount
    return made
