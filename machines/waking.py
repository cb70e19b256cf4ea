"""Telling others that machines moved: they are made due, and listeners look. Statements of their own, after what they tell of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, LiteralString

from fleet.control import work
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from fleet.events.publish import CHANNEL

_NOTIFY: Final[LiteralString] = f"NOTIFY {CHANNEL}"


async def hint(conn: Connection) -> None:
    """Tell listeners to look; once a batch."""
    await conn.execute(_NOTIFY)


async def wake(conn: Connection, machines: Iterable[int]) -> None:
    """Make machines due, and tell listeners to look."""
    ids = set(machines)
    if ids:
        await work.wake_async(conn, MACHINE, ids)
        await hint(conn)
