"""What those who listen make of news is done beside the writing of it, on a connection of its own: a storm is judged while the next of it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from fleet.control.db import Connection
from machines.waking import tell

MOST: Final = 1_000  # machines told of at once


class Telling:
    """Machines whose conditions moved and of whom nobody was told yet; what comes while others are told of comes together."""

    def __init__(self) -> None:
        self._machines: set[int] = set()
        self._news = asyncio.Event()
        self._under_way = False

    def add(self, machines: Iterable[int]) -> None:
        """Conditions of these moved, and that is committed."""
        self._machines.update(machines)
        if self._machines:
            self._news.set()

    @property
    def idle(self) -> bool:
        """Whether all of it was told, and what follows from it is done."""
        return not (self._machines or self._under_way)

    async def run(self, borrow: Callable[[Callable[[Connection], Awaitable[object]]], Awaitable[object]]) -> None:
        """Until cancelled; `borrow` runs a job with a connection."""
        while True:
            await self._news.wait()
            await borrow(self.tell)

    async def tell(self, conn: Connection) -> None:
        """Tell of some of them. Whoever could not be told of, since the connection broke, is told of again."""
        some = set(sorted(self._machines)[:MOST])
        self._machines -= some
        if not self._machines:
            self._news.clear()
        self._under_way = True
        try:
            await tell(conn, some)
        except BaseException:
            self.add(some)
            raise
        finally:
            self._under_way = False
