"""Kept connections of one idc, at most so many at once. One event loop; a connection serves one command at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from asyncssh import SSHClientConnection


@dataclass(slots=True)
class Lease:
    """A connection in use. `fresh` = opened for this lease; `keep` is cleared by whoever finds it unfit for another use."""

    connection: SSHClientConnection
    fresh: bool
    keep: bool = True


class Pool:
    """Idle and busy connections together never exceed `limit()`; the least recently used idle one gives way."""

    def __init__(self, limit: Callable[[], int], idle_seconds: float) -> None:
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._idle: OrderedDict[str, tuple[SSHClientConnection, float]] = OrderedDict()
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def opened(self) -> int:
        """Connections that exist now."""
        return self._busy + len(self._idle)

    @asynccontextmanager
    async def lease(self, key: str, connect: Callable[[], Awaitable[SSHClientConnection]]) -> AsyncIterator[Lease]:
        """A kept connection for this key, or a fresh one; waits for its turn within the limit.

        After any exception the connection is thrown away: its state is not known.
        """
        await self._turn()
        connection: SSHClientConnection | None = None
        keep = False
        try:
            connection, fresh = self._take(key), False
            if connection is None:
                self._make_room()
                connection, fresh = await connect(), True
            lease = Lease(connection, fresh)
            yield lease
            keep = lease.keep and not connection.is_closed()
        finally:
            self._busy -= 1
            if connection is not None:
                if keep:
                    self._put_back(key, connection)
                else:
                    connection.abort()
            self._wake()

    def drop_expired(self) -> None:
        """Close what nobody has used for a while, or what the host has closed."""
        now = asyncio.get_running_loop().time()
        for key, (connection, since) in list(self._idle.items()):
            if connection.is_closed() or now - since > self._idle_seconds:
                del self._idle[key]
                connection.abort()

    def close(self) -> None:
        """Close everything that is idle; busy ones close as their leases end."""
        self._idle_seconds = -1
        while self._idle:
            self._idle.popitem()[1][0].abort()

    def _take(self, key: str) -> SSHClientConnection | None:
        kept = self._idle.pop(key, None)
        if kept is None:
            return None
        if kept[0].is_closed():
            return None
        return kept[0]

    def _put_back(self, key: str, connection: SSHClientConnection) -> None:
        doubled = self._idle.pop(key, None)
        if doubled is not None:
            doubled[0].abort()
        if self._idle_seconds < 0 or self.opened >= self._limit():
            connection.abort()
        else:
            self._idle[key] = (connection, asyncio.get_running_loop().time())

    def _make_room(self) -> None:
        while self._idle and self.opened > self._limit():
            self._idle.popitem(last=False)[1][0].abort()

    async def _turn(self) -> None:
        while self._busy >= max(1, self._limit()):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # A turn that was given to a waiter who left must not be lost.
                if waiter.done() and not waiter.cancelled():
                    self._wake()
                raise
        self._busy += 1

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
