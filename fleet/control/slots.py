"""Periodic work happens once per slot (unix time / period, by PostgreSQL's clock), however many schedulers ask for it."""

from __future__ import annotations

from fleet.control.db import Connection

_TAKE = """
INSERT INTO slot AS s (name, slot) VALUES (%(name)s, floor(extract(epoch FROM clock_timestamp()) / %(seconds)s)::bigint)
ON CONFLICT (name) DO UPDATE SET slot = excluded.slot, taken_at = now() WHERE s.slot < excluded.slot RETURNING s.pos
"""


async def take(conn: Connection, name: str, seconds: float) -> int | None:
    """Take the present slot: how far the work had come (0 at first), or None when somebody has this slot already."""
    found = await (await conn.execute(_TAKE, {"name": name, "seconds": seconds}, prepare=True)).fetchone()
    return None if found is None else int(found[0])


async def position(conn: Connection, name: str) -> int:
    """How far the work of that name has come, by `advance`; 0 at first."""
    found = await (
        await conn.execute(
            "INSERT INTO slot (name, slot) VALUES (%s, 0) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING pos",
            [name],
        )
    ).fetchone()
    return int(found[0]) if found else 0


async def advance(conn: Connection, name: str, pos: int) -> None:
    """Say how far the work has come; a slower one that comes later does not set it back."""
    await conn.execute("UPDATE slot SET pos = %s WHERE name = %s AND pos < %s", [pos, name, pos], prepare=True)
