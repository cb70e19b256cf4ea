"""One reader of the log per process, shared by every watcher in it.

The hub follows the change log up to the horizon, loads the objects of a batch once, and keeps the last frames of each kind that somebody
watches. A watcher that is further behind than the ring catches up from the database; nobody holds a connection of their own.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from fleet.events.publish import CHANNEL, DELETED

log = logging.getLogger("fleet.hub")
Json = dict[str, Any]
Loader = Callable[[int, Sequence[int]], Awaitable[dict[int, Json]]]

RING = 20_000  # frames kept per kind
BATCH = 1_000
LOOK_SECONDS = 0.25  # without a hint
TOO_FAR = 500_000  # rows behind which a relist is cheaper

_READ = """
WITH h AS MATERIALIZED (SELECT fleet_horizon() AS horizon)
SELECT h.horizon, c.rv, c.op, c.kind, c.object_id, c.cluster_id, c.old, t.object
FROM h LEFT JOIN LATERAL (
  SELECT * FROM change WHERE rv > %(after)s AND rv < least(h.horizon, %(upto)s) AND (%(kind)s::int IS NULL OR kind = %(kind)s) ORDER BY rv
  FETCH FIRST %(limit)s ROWS WITH TIES) c ON true
LEFT JOIN tombstone t ON c.op = 3 AND t.rv = c.rv ORDER BY c.rv
"""


@dataclass(slots=True)
class Frame:
    """One write of one object. `obj` is the object at (or after) that write; the last one when it was deleted."""

    rv: int
    op: int
    object_id: int
    cluster_id: int
    old: Json | None
    obj: Json
    lines: dict[Any, bytes] = field(default_factory=dict)  # encoded forms, shared by watchers


class TooOld(Exception):
    """The position is not in the log any more; the client must list again."""

    def __init__(self, wanted: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {wanted} ({oldest})")


class Hub:
    """Follows the log. `load(kind number, ids)` gives objects by id; `connect()` an autocommit psycopg connection."""

    def __init__(self, connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]], load: Loader) -> None:
        self._connect = connect
        self._load = load
        self._rings: dict[int, list[Frame]] = {}
        self._floor: dict[int, int] = {}
        self._watched: dict[int, int] = {}
        self._last: dict[int, int] = {}  # newest position of each kind
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._catching = asyncio.Lock()
        self._side: psycopg.AsyncConnection[Any] | None = None
        self.position = 0
        self.oldest = 0
        self.seen_at = time.monotonic()

    async def start(self) -> None:
        """Begin to follow; returns once the present position is known."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        while self.position == 0:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End the reader and its connections."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._side is not None:
            await self._side.close()
            self._side = None

    @property
    def age(self) -> float:
        """Seconds since the log was last read: how fresh this process's view is."""
        return time.monotonic() - self.seen_at

    @contextlib.contextmanager
    def watching(self, kind: int) -> Any:
        """While somebody watches a kind, its objects are loaded and its frames kept."""
        if not self._watched.get(kind):
            self._rings[kind], self._floor[kind] = [], self.position
        self._watched[kind] = self._watched.get(kind, 0) + 1
        try:
            yield
        finally:
            self._watched[kind] -= 1
            if not self._watched[kind]:
                del self._rings[kind], self._floor[kind], self._watched[kind]

    async def wait_for_news(self, seconds: float) -> None:
        """Until the log has moved, or that long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def changed_since(self, kinds: Iterable[int], position: int) -> bool:
        """Whether an object of these kinds changed after a position."""
        return any(self._last.get(kind, 0) > position for kind in kinds)

    async def next(self, kind: int, after: int, seconds: float) -> tuple[list[Frame], int]:
        """Frames of a kind after a position and the position they reach to; waits up to `seconds` for news."""
        if after < self.oldest:
            raise TooOld(after, self.oldest)
        if after < self._floor[kind]:
            return await self._catch_up(kind, after)
        frames, reached = self._since(kind, after)
        if not frames and reached <= after:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
            if after < self._floor[kind]:
                return await self._catch_up(kind, after)
            frames, reached = self._since(kind, after)
        return frames, reached

    def _since(self, kind: int, after: int) -> tuple[list[Frame], int]:
        ring = self._rings[kind]
        return ring[bisect.bisect_right(ring, after, key=lambda f: f.rv) :], self.position

    async def _catch_up(self, kind: int, after: int) -> tuple[list[Frame], int]:
        """From the database, one batch, up to where the ring begins."""
        async with self._catching:
            if self._side is None or self._side.closed:
                self._side = await self._connect()
            upto = self._floor[kind] + 1
            if after < self.position and await self._rows_behind(self._side, kind, after) > TOO_FAR:
                raise TooOld(after, self.position)
            rows, reached = await self._read(self._side, after, kind, upto)
            return (await self._frames(rows)).get(kind, []), min(reached, self._floor[kind])

    async def _rows_behind(self, connection: psycopg.AsyncConnection[Any], kind: int, after: int) -> int:
        cursor = await connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM change WHERE rv > %s AND kind = %s LIMIT %s) q",
            [after, kind, TOO_FAR + 1],
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def _run(self) -> None:
        """Follow for ever; a lost database is waited for, and nothing is skipped: the position stays."""
        wait = 0.1
        while True:
            try:
                await self._follow()
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                log.warning(
                    "the log cannot be read (%s); trying again in %.1f s",
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                    wait,
                )
                await asyncio.sleep(wait)
                wait = min(wait * 2, 3.0)
            except Exception:
                log.exception("the hub stumbled; it goes on from its position")
                await asyncio.sleep(1)

    async def _follow(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            listener, reader = await self._connect(), await self._connect()
            stack.push_async_callback(listener.close)
            stack.push_async_callback(reader.close)
            await listener.execute(f"LISTEN {CHANNEL}")
            while True:
                full = await self._step(reader)
                if not full and not await self._hinted(listener):
                    continue

    async def _hinted(self, listener: psycopg.AsyncConnection[Any]) -> bool:
        """Wait for a hint, at most until it is time to look anyway."""
        async for _ in listener.notifies(timeout=LOOK_SECONDS, stop_after=1):
            # The writer of the hint has committed; a moment lets the horizon pass it.
            await asyncio.sleep(0.002)
            return True
        return False

    async def _step(self, reader: psycopg.AsyncConnection[Any]) -> bool:
        """Read one batch; True when there may be more at once."""
        if self.position == 0 or time.monotonic() - self.seen_at > 30:
            cursor = await reader.execute("SELECT kept_from, fleet_horizon() - 1 FROM installation WHERE id = 1")
            row = await cursor.fetchone()
            if row is not None:
                self.oldest = int(row[0])
                self.position = self.position or int(row[1])
        rows, reached = await self._read(reader, self.position, None, 1 << 62)
        self.seen_at = time.monotonic()
        if reached <= self.position:
            return False
        self._last.update((r[3], int(r[1])) for r in rows)
        for kind, frames in (await self._frames([r for r in rows if self._watched.get(r[3])])).items():
            if kind in self._rings:
                self._keep(kind, frames)
        self.position = reached
        self._changed.set()
        self._changed = asyncio.Event()
        return len(rows) >= BATCH

    def _keep(self, kind: int, frames: list[Frame]) -> None:
        ring = self._rings[kind]
        ring.extend(frames)
        if len(ring) > RING:
            self._floor[kind] = ring[len(ring) - RING // 2 - 1].rv
            del ring[: len(ring) - RING // 2]

    async def _read(
        self, connection: psycopg.AsyncConnection[Any], after: int, kind: int | None, upto: int
    ) -> tuple[list[tuple[Any, ...]], int]:
        cursor = await connection.execute(_READ, {"after": after, "kind": kind, "upto": upto, "limit": BATCH})
        rows = await cursor.fetchall()
        found = [r for r in rows if r[1] is not None]
        reached = int(found[-1][1]) if len(found) >= BATCH else int(rows[0][0]) - 1
        return found, reached

    async def _frames(self, rows: list[tuple[Any, ...]]) -> dict[int, list[Frame]]:
        """Rows with their objects. A row that a later one of the batch supersedes carries the same, newer object under its own position."""
        wanted: dict[int, set[int]] = {}
        for _, _, op, kind, object_id, *_ in rows:
            if op != DELETED:
                wanted.setdefault(kind, set()).add(object_id)
        objects = {kind: await self._load(kind, sorted(ids)) for kind, ids in wanted.items()}
        out: dict[int, list[Frame]] = {}
        for _, rv, op, kind, object_id, cluster_id, old, tomb in rows:
            obj = tomb if op == DELETED else objects[kind].get(object_id)
            if obj is None:  # deleted since: the deletion's own row follows
                continue
            shown = obj if op == DELETED else {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(rv)}}
            out.setdefault(kind, []).append(Frame(int(rv), int(op), int(object_id), int(cluster_id), old, shown))
        return out
