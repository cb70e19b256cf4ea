"""A watcher inside a benchmark: the real ClusterWatch, leases and writes, on the benchmark's own loop, with as many connections as a watcher has."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fleet.control import db
from fleet.control.endpoint import Endpoint
from machines.watch import view
from machines.watch.leases import Lease
from machines.watch.reflect import Times
from machines.watch.view import FRESH

if TYPE_CHECKING:
    from machines.watch.cluster import ClusterWatch

ME = 4_712
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
# Between runs of contenders the loop stands still: nothing may count as silence.
PATIENT = Times(silence=86_400.0)
vars(view).update(SILENT_SECONDS=PATIENT.silence)


class Watching:
    """Clusters by their ids at these addresses; machines are found by the names of nodes."""

    def __init__(self, conn: Any, subjects: Sequence[tuple[int, Endpoint]]) -> None:
        self._conn = conn
        self._subjects = subjects
        self._free: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        self._tasks: list[asyncio.Task[None]] = []
        self.watches: list[ClusterWatch] = []

    async def _borrow(self, job: Callable[[Any], Awaitable[object]]) -> object:
        conn = await self._free.get()
        try:
            if conn is None:
                conn = await db.connect()
            return await job(conn)
        finally:
            self._free.put_nowait(conn)

    async def start(self) -> None:
        """Take the leases and begin to list."""
        from machines.watch.cluster import ClusterWatch, Subject  # models are loaded by now
        from machines.watch.process import CONNECTIONS

        for _ in range(CONNECTIONS - 1):
            self._free.put_nowait(None)
        self._free.put_nowait(self._conn)
        ids = [c for c, _ in self._subjects]
        found = await self._conn.execute(
            "INSERT INTO shard (cluster_id, holder, epoch, lease_until) SELECT c, %s, 1, now() + interval '1 day' FROM unnest(%s::int[]) c "
            "ON CONFLICT (cluster_id) DO UPDATE SET holder = excluded.holder, epoch = shard.epoch + 1, lease_until = excluded.lease_until RETURNING cluster_id, epoch",
            [ME, ids],
        )
        epochs = dict(await found.fetchall())
        listing = asyncio.Semaphore(2)
        for cluster, endpoint in self._subjects:
            subject = Subject(endpoint, by_name=True)
            watch = ClusterWatch(
                Lease(cluster, ME, epochs[cluster]),
                subject,
                self._borrow,
                networks=LOOPBACK,
                times=PATIENT,
                listing=listing,
            )
            self.watches.append(watch)
            self._tasks.append(asyncio.create_task(watch.run()))

    async def settled(self) -> None:
        """Wait until every cluster was listed and everything is written."""
        while not all(hasattr(w, "view") and w.view.state() == FRESH and w.view.idle for w in self.watches):
            await self._look()

    async def reached(self, versions: Sequence[str]) -> None:
        """Wait until every stream has come to its version and everything is written."""
        while not all(self._done(w, v) for w, v in zip(self.watches, versions, strict=True)):
            await self._look()

    async def _look(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.02)

    def _done(self, watch: ClusterWatch, version: str) -> bool:
        return hasattr(watch, "nodes") and watch.nodes.version == version and watch.view.idle

    async def stop(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._free.empty():
            conn = self._free.get_nowait()
            if conn not in (None, self._conn):
                await conn.close()
