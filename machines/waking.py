"""Telling others that machines moved: they are made due, and listeners look. Statements of their own, after what they tell of."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Set
from typing import Final, LiteralString

from fleet.control import work
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from fleet.events.publish import CHANNEL

log = logging.getLogger(__name__)
Listener = Callable[[Connection, Set[int]], Awaitable[None]]
_listeners: list[Listener] = []
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


def listen(listener: Listener) -> None:
    """Apps above hear at once of machines whose conditions moved, in the process that wrote them. What they miss their own looks find."""
    if listener not in _listeners:
        _listeners.append(listener)


async def tell(conn: Connection, machines: Set[int]) -> None:
    """Conditions of these machines moved. A listener that stumbles holds nobody up."""
    if not machines:
        return
    for listener in _listeners:
        try:
            await listener(conn, machines)
        except Exception:
            if conn.closed:
                raise
            log.exception("a listener stumbled over the news of %d machines", len(machines))
