"""The end of the event log in memory, read once per process for everybody who follows it."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import psycopg

from fleet.events.hub import Hub
from fleet.events.log import EventFilter, EventRow, read_rows

KEPT = 5_000
EVERYTHING = EventFilter()
Borrow = Callable[[], Awaitable[AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]]]


class EventTail:
    """Follows the log behind a hub while somebody listens. `borrow()` gives a connection for the time of one read."""

    def __init__(self, hub: Hub, borrow: Borrow) -> None:
        self.hub = hub
        self._borrow = borrow
        self._rows: list[EventRow] = []
        self._floor = 0
        self._position = 0
        self._readers = 0
        self._reading = asyncio.Lock()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """While this is open the tail is kept."""
        if not self._readers:
            self._rows, self._floor, self._position = [], self.hub.position, self.hub.position
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def next(self, after: int, wanted: EventFilter, seconds: float) -> tuple[list[EventRow], int]:
        """Wanted events after a position, and the position reached; waits up to `seconds` when there are none yet."""
        if after < self._floor:
            async with self._connection() as connection:
                return await read_rows(connection, after, wanted)
        await self._catch_up()
        if after < self._floor:
            return [], after
        if self._position <= after:
            await self.hub.wait_for_news(seconds)
            return [], after
        begin = bisect.bisect_right(self._rows, after, key=lambda r: r.pos)
        return [r for r in self._rows[begin:] if wanted.allows(r)], self._position

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        async with await self._borrow() as connection:
            yield connection

    async def _catch_up(self) -> None:
        """Whoever comes first after news reads for all."""
        async with self._reading:
            while self._position < self.hub.position:
                async with self._connection() as connection:
                    rows, self._position = await read_rows(connection, self._position, EVERYTHING)
                self._rows += rows
                if len(self._rows) > KEPT:
                    cut = len(self._rows) - KEPT // 2
                    self._floor = self._rows[cut - 1].pos
                    del self._rows[: bisect.bisect_right(self._rows, self._floor, key=lambda r: r.pos)]
