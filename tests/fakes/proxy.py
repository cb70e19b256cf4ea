"""A TCP proxy before a server, with toxiproxy's vocabulary: latency, reset, black hole; and a failover that leaves old connections where they are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_CHUNK = 1 << 16


class Proxy:
    """Listens on a port of 127.0.0.1, leads to a unix socket. It runs on a loop in a thread of its own."""

    def __init__(self, upstream: Path) -> None:
        self.upstream = upstream  # of connections that come from now on
        self.latency = 0.0  # seconds, of each answer
        self._open: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _run(self, job: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(10)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            above, up = await asyncio.open_unix_connection(self.upstream)
        except OSError:  # nobody listens there
            writer.transport.abort()
            return
        link = _Link(self, writer, up)
        self._open.add(link)
        await asyncio.gather(link.copy(reader, up), link.copy(above, writer, slow=True))
        self._open.discard(link)

    def reset(self) -> None:
        """Break off all connections by RST."""
        self._run(self._reset())

    async def _reset(self) -> None:
        for link in list(self._open):
            link.abort()

    def black_hole(self) -> None:
        """From now on nothing goes through the connections that are open, and nobody is told: as behind a router that forgot them. New ones are well."""
        self._run(self._black_hole())

    async def _black_hole(self) -> None:
        for link in self._open:
            link.dark = True

    def close(self) -> None:
        """End it and all connections."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        await self._reset()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


class _Link:
    """One connection and the one behind it."""

    def __init__(self, proxy: Proxy, *writers: asyncio.StreamWriter) -> None:
        self._proxy, self._writers = proxy, writers
        self.dark = False

    def abort(self) -> None:
        for writer in self._writers:
            linger = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # it is closed already
                linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool = False) -> None:
        """One direction, until either end closes; what comes while it is dark is lost."""
        with contextlib.suppress(OSError):  # reset by an end
            while data := await reader.read(_CHUNK):
                if slow and self._proxy.latency:
                    await asyncio.sleep(self._proxy.latency)
                if not self.dark:
                    writer.write(data)
                    await writer.drain()
        if not self.dark:
            writer.close()
