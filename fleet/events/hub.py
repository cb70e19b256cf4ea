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
AHEAD_SECONDS = 8.0  # the log is at most a transaction's time limit behind
TOO_FAR = 500_000  # rows behind which a relist is cheaper

_READ = """
WITH h AS MATERIALIZED (SELECT fleet_horizon() AS horizon, kept_from, events_from FROM installation WHERE id = 1)
SELECT h.horizon, c.rv, c.op, c.kind, c.object_id, c.cluster_id, c.old, t.object, h.kept_from, h.events_from
FROM h LEFT JOIN LATERAL (
  SELECT * FROM change WHERE rv > %(after)s AND rv < least(h.horizon, %(upto)s) AND (%(kind)s::int IS NULL OR kind = %(kind)s) ORDER BY rv
  FETCH FIRST %(limit)s ROWS WITH TIES) c ON true
LEFT JOIN tombstone t ON c.op = 3 AND t.rv = c.rv ORDER BY c.rv
"""

# What became of objects after a batch: their labels and fields of before, and the last state of those that were deleted.
_LATER = """
SELECT c.object_id, c.old, t.object FROM change c LEFT JOIN tombstone t ON c.op = 3 AND t.rv = c.rv
WHERE c.kind = %s AND c.rv > %s AND c.object_id = ANY (%s) AND (c.op = 3 OR c.old IS NOT NULL) ORDER BY c.rv
"""


@dataclass(slots=True)
class Frame:
    """One write of one object. `obj` is the object at (or after) that write; the last one when it was deleted.

    An object that was written again since is shown as it is now, under this write's position; `later` then holds what
    its labels and selectable fields were in between.
    """

    rv: int
    op: int
    object_id: int
    cluster_id: int
    old: Json | None
    obj: Json
    superseded: bool = False
    later: Json | None = None
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
        self._near: dict[int, tuple[int, float]] = {}  # a position that was near enough, and until when that holds
        self._last: dict[int, int] = {}  # newest position of each kind
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._catching = asyncio.Lock()
        self._side: psycopg.AsyncConnection[Any] | None = None
        self.position = 0
        self.ending = False
        self.oldest = self.oldest_event = 0  # below these the logs have gaps
        self.seen_at = time.monotonic()

    async def start(self) -> None:
        """Begin to follow; returns once the present position is known."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        while self.position == 0:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.01)

    def end(self) -> None:
        """The process is asked to end: whoever waits for news is woken and sees `ending`. The log is followed until `stop`."""
        self.ending = True
        self._wake()

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
        if after > self.position:
            await self._come_up_to(after)
        if after < self._floor[kind]:
            return await self._catch_up(kind, after)
        frames, reached = self._since(kind, after)
        if not frames and reached <= after and not self.ending:
            await self.wait_for_news(seconds)
            if after < self._floor[kind]:
                return await self._catch_up(kind, after)
            frames, reached = self._since(kind, after)
        return frames, reached

    async def _come_up_to(self, position: int) -> None:
        """Another process may have read further; what nobody has reached comes from before a restore."""
        end = time.monotonic() + AHEAD_SECONDS
        while position > self.position and not self.ending and (rest := end - time.monotonic()) > 0:
            await self.wait_for_news(rest)
        if position > self.position and not self.ending and self.age < 2 * LOOK_SECONDS:
            raise TooOld(position, self.position)

    def _since(self, kind: int, after: int) -> tuple[list[Frame], int]:
        ring = self._rings[kind]
        return ring[bisect.bisect_right(ring, after, key=lambda f: f.rv) :], self.position

    async def _catch_up(self, kind: int, after: int) -> tuple[list[Frame], int]:
        """From the database, one batch, up to where the ring begins."""
        async with self._catching:
            if self._side is None or self._side.closed:
                self._side = await self._connect()
            floor = self._floor[kind]
            await self._check_distance(self._side, kind, after)
            rows, reached = await self._read(self._side, after, kind, floor + 1)
            reached = min(reached, floor)
            if after < self.oldest:
                raise TooOld(after, self.oldest)
            frames = (await self._frames(self._side, rows, reached)).get(kind, [])
            return frames, reached

    async def _check_distance(self, connection: psycopg.AsyncConnection[Any], kind: int, after: int) -> None:
        """TooOld for who is so far behind that a relist is cheaper; counted once for all who are nearer than another."""
        position, until = self._near.get(kind, (0, 0.0))
        if position <= after and time.monotonic() < until:
            return
        sql = "SELECT count(*) FROM (SELECT 1 FROM change WHERE rv > %s AND kind = %s LIMIT %s) q"
        row = await (await connection.execute(sql, [after, kind, TOO_FAR + 1])).fetchone()
        if row and int(row[0]) > TOO_FAR:
            raise TooOld(after, self.position)
        self._near[kind] = (after, time.monotonic() + 30)

    async def _run(self) -> None:
        """Follow for ever; a lost database is waited for, and nothing is skipped: the position stays."""
        wait = 0.1
        while True:
            begun = time.monotonic()
            try:
                await self._follow()
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                if time.monotonic() - begun > 5:
                    wait = 0.1  # it had been well: this is a new failure, not the old one going on
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
        if self.position == 0:
            cursor = await reader.execute("SELECT fleet_horizon() - 1")
            row = await cursor.fetchone()
            self.position = int(row[0]) if row else 0
        rows, reached = await self._read(reader, self.position, None, 1 << 62)
        self.seen_at = time.monotonic()
        if reached <= self.position:
            return False
        self._last.update((r[3], int(r[1])) for r in rows)
        watched = [r for r in rows if self._watched.get(r[3])]
        for kind, frames in (await self._frames(reader, watched, reached)).items():
            if kind in self._rings:
                self._keep(kind, frames)
        self.position = reached
        self._wake()
        return len(rows) >= BATCH

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

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
        self.oldest, self.oldest_event = int(rows[0][8]), int(rows[0][9])
        found = [r for r in rows if r[1] is not None]
        reached = int(found[-1][1]) if len(found) >= BATCH else int(rows[0][0]) - 1
        return found, reached

    async def _frames(
        self, connection: psycopg.AsyncConnection[Any], rows: list[tuple[Any, ...]], reached: int
    ) -> dict[int, list[Frame]]:
        """Rows with their objects, loaded once for the batch."""
        newest: dict[int, dict[int, int]] = {}
        for _, rv, op, kind, object_id, *_ in rows:
            newest.setdefault(kind, {})[object_id] = 0 if op == DELETED else int(rv)
        out: dict[int, list[Frame]] = {}
        for kind, last in newest.items():
            objects = dict(await self._load(kind, sorted(last)))
            objects |= {r[4]: r[7] for r in rows if r[2] == DELETED and r[3] == kind}
            moved = [i for i, rv in last.items() if rv and (i not in objects or _version(objects[i]) > rv)]
            later = await self._later(connection, kind, reached, moved, objects) if moved else {}
            for _, rv, op, row_kind, object_id, cluster_id, old, tomb, *_ in rows:
                obj = tomb if op == DELETED else objects.get(object_id)
                if row_kind != kind or obj is None:
                    continue
                if op != DELETED:
                    obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(rv)}}
                frame = Frame(int(rv), int(op), int(object_id), int(cluster_id), old, obj)
                frame.superseded, frame.later = object_id in later, later.get(object_id)
                out.setdefault(kind, []).append(frame)
        return out

    async def _later(
        self,
        connection: psycopg.AsyncConnection[Any],
        kind: int,
        reached: int,
        ids: list[int],
        objects: dict[int, Json],
    ) -> dict[int, Json]:
        """What the labels and fields of these objects were when the batch ended; deleted ones get their last state in `objects`."""
        cursor = await connection.execute(_LATER, [kind, reached, ids])
        out: dict[int, Json] = {i: {} for i in ids}
        for object_id, old, tomb in await cursor.fetchall():
            if tomb is not None and object_id not in objects:
                objects[object_id] = tomb
            known = out[object_id]
            if old and "labels" in old:
                known.setdefault("labels", old["labels"])
            if old and "fields" in old:
                known["fields"] = {**old["fields"], **known.get("fields", {})}
        return out


def _version(obj: Json) -> int:
    return int(obj["metadata"]["resourceVersion"])
