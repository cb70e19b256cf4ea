"""A worker process: one lasting event loop, one connection, one number as holder of leases, and a heart that beats.

Celery's task threads come and go; connections to hosts and to PostgreSQL stay here. `run_once` runs the same loop without Celery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from multiprocessing.sharedctypes import RawValue
from typing import TypeVar

import psycopg
from django.conf import settings

from fleet.control import clock, db, position, slots, work
from fleet.control.db import Connection
from fleet.control.operators import Operator, Seat, operators

log = logging.getLogger(__name__)
T = TypeVar("T")

HEARTBEAT_SECONDS = 5.0
ALIVE_SECONDS = 40.0  # longer than the longest pass: the heart beats between passes
TURN_SECONDS = 5.0  # a task goes on claiming this long; then the next hint has its turn
FULL_SWEEP_SECONDS = 15.0
SUSPECT = 3  # passes in a row that never ended: such an object gets a batch of its own
_BEHIND = 1 << 36  # positions (65,536 transactions) after which one full sweep is cheaper than what changed

MIB = 1 << 20

# Lies in memory that forked children share: the parent learns of SIGTERM, the child works.
_stopping = RawValue("b", 0)


def begin_stopping() -> None:
    """The process shall end: no new batch is claimed from here on."""
    _stopping.value = 1


def is_stopping() -> bool:
    """Whether this worker is asked to end."""
    return bool(_stopping.value)


def bound_memory(mib: int) -> None:
    """From here on this process gets no more private memory than that: the pass that wants more meets a MemoryError, and the kernel need not choose whom to kill on this host. 0 = no bound."""
    if mib > 0:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (mib * MIB, hard))


async def enlist(conn: Connection, name: str, idcs: Iterable[str] = ()) -> int:
    """A number for this process in the table of workers."""
    found = await (
        await conn.execute("INSERT INTO worker (name, idcs) VALUES (%s, %s) RETURNING id", [name, list(idcs)])
    ).fetchone()
    assert found is not None
    return int(found[0])


async def idc_numbers(conn: Connection, idcs: Iterable[str]) -> tuple[int, ...] | None:
    """Numbers of the idcs by name; None when none is named, which means all. The table belongs to the app above."""
    names = list(idcs)
    if not names:
        return None
    found = await (await conn.execute("SELECT id FROM place WHERE dim = 'idc' AND name = ANY (%s)", [names])).fetchall()
    return tuple(row[0] for row in found)


class Runtime:
    """The loop of this process in a thread of its own. One pass at a time; the heart beats in between."""

    def __init__(self, name: str, idcs: Iterable[str] = ()) -> None:
        self.name = name
        self.idcs = tuple(idcs)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet-loop", daemon=True)
        self._seat: Seat | None = None
        self._turn: asyncio.Lock | None = None
        self._beaten = 0.0
        self._heart: Future[None] | None = None

    def start(self) -> Runtime:
        """Start the loop and the heart."""
        self._thread.start()
        self._heart = asyncio.run_coroutine_threadsafe(self._beat(), self._loop)
        return self

    def run(self, job: Callable[[Seat], Awaitable[T]]) -> T:
        """Run one job on the loop and wait for it. psycopg's errors come through: nothing is lost, the next hint tries again."""
        return asyncio.run_coroutine_threadsafe(self._alone(job), self._loop).result()

    async def _alone(self, job: Callable[[Seat], Awaitable[T]]) -> T:
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:
            return await job(await self.seat())

    async def seat(self) -> Seat:
        """The connection, opened again if it broke; marked alive if the last mark is old."""
        if self._seat is None:
            conn = await db.connect()
            self._seat = Seat(conn, await enlist(conn, self.name, self.idcs), is_stopping)
        elif self._seat.conn.closed:
            self._seat.conn = await db.connect()
        if time.monotonic() - self._beaten > HEARTBEAT_SECONDS:
            await self._mark(self._seat)
        return self._seat

    async def _mark(self, seat: Seat) -> None:
        await clock.set_by(seat.conn)
        seat.idc_ids = await idc_numbers(seat.conn, self.idcs)
        marked = await seat.conn.execute(
            "UPDATE worker SET seen_at = now(), stopping = %s WHERE id = %s", [is_stopping(), seat.me]
        )
        if not marked.rowcount:  # another database than before
            seat.me = await enlist(seat.conn, self.name, self.idcs)
        self._beaten = time.monotonic()

    async def _beat(self) -> None:
        async def nothing(seat: Seat) -> None:
            """Sitting down marks the process alive."""

        while True:
            try:
                await self._alone(nothing)
            except (psycopg.Error, OSError) as error:
                log.warning("the database does not answer: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def stop(self) -> None:
        """End heart, connection and loop; whatever was kept is closed by its own `close`."""
        if self._heart is not None:
            self._heart.cancel()
        with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _close(self) -> None:
        if self._seat is None:
            return
        for thing in self._seat.kept.values():
            if hasattr(thing, "close"):
                await thing.close()
        if not self._seat.conn.closed:
            await self._seat.conn.execute("DELETE FROM worker WHERE id = %s", [self._seat.me])
            await self._seat.conn.close()
        self._seat = None


_runtime: Runtime | None = None
_runtime_pid = 0


def runtime() -> Runtime:
    """The one of this process; a forked child gets its own."""
    global _runtime, _runtime_pid
    if _runtime is None or _runtime_pid != os.getpid():
        _runtime = Runtime(worker_name(), settings.FLEET_IDCS).start()
        _runtime_pid = os.getpid()
    return _runtime


def end_runtime() -> None:
    """At the end of the process."""
    global _runtime
    if _runtime is not None and _runtime_pid == os.getpid():
        _runtime.stop()
    _runtime = None


_name = ""


def name_worker(name: str) -> None:
    """Celery's node name, by which the worker's own queue is called."""
    global _name
    _name = name


def worker_name() -> str:
    """Celery's node name, or this process."""
    return _name or f"process-{os.getpid()}"


# -- the loop --------------------------------------------------------------------------------------------------------


async def work_on(
    seat: Seat,
    operator: Operator,
    *,
    idc_ids: tuple[int, ...] | None = None,
    shards: tuple[int, int] | None = None,
    seconds: float = TURN_SECONDS,
) -> int:
    """Claim and reconcile batch after batch until nothing is due, the turn is over or the process shall end; machines seen.

    An object that breaks its pass is given back with a failure counted: it comes again, later.
    """
    if seat.idc_ids is not None:
        idc_ids = seat.idc_ids if idc_ids is None else tuple(set(idc_ids) & set(seat.idc_ids))
    done, end = 0, time.monotonic() + seconds
    while not seat.stopping():
        claims = await work.claim(
            seat.conn, operator.kind, seat.me, idc_ids=idc_ids, shards=shards, limit=operator.batch
        )
        if not claims:
            break
        await _reconcile(seat, operator, claims)
        done += len(claims)
        if time.monotonic() >= end:
            break
    return done


async def _reconcile(seat: Seat, operator: Operator, claims: list[work.Claim]) -> None:
    """Objects that brought down their last passes go one by one, so that they take no other with them."""
    suspects = [c for c in claims if c.died and c.attempts >= SUSPECT]
    calm = [c for c in claims if not (c.died and c.attempts >= SUSPECT)]
    for batch in ([calm] if calm else []) + [[c] for c in suspects]:
        await _guarded(seat, operator, batch)


async def _guarded(seat: Seat, operator: Operator, claims: list[work.Claim]) -> None:
    """Halve a batch that breaks until the object that breaks it stands alone; that one backs off. Those that are settled already stay so."""
    broke: Exception
    try:
        await operator.reconcile(seat, claims)
        return
    except Exception as error:
        if seat.conn.closed:
            raise  # the database is away: leases run out by themselves
        broke = error
    held = await work.extend(seat.conn, operator.kind, seat.me, claims)
    left = [c for c in claims if c.object_id in held]
    if len(claims) > 1 and not isinstance(broke, psycopg.OperationalError):
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            if half:
                await _guarded(seat, operator, half)
        return
    ids = [c.object_id for c in left]
    text = "objects %s of kind %d are set aside: their pass ended in %s"
    log.error(text, ids[:10], operator.kind, _reason(broke), exc_info=broke)
    for claim in left:  # each after a time of its own, so that they do not come again as the same batch
        await work.release(seat.conn, seat.me, [claim], next_seconds=work.backoff(claim.attempts + 1), failed=True)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "MemoryError: it wants more than FLEET_TASK_MEMORY_MIB allows"
    return f"{type(error).__name__}: {error}"[:300]


async def sweep(conn: Connection, operator: Operator, *, full: bool = False) -> int:
    """Sweep one kind: what changed since the last sweep of any process, or everything; how many were made due."""
    if operator.sweep is None:
        return 0
    name = f"sweep-{operator.kind}"
    after = await slots.position(conn, name)
    until = await position.horizon(conn)
    if full or operator.sweep_changes is None or not after or until - after > _BEHIND:
        made, reached = await operator.sweep(conn), until - 1
    else:
        made, reached = await operator.sweep_changes(conn, after)
    await slots.advance(conn, name, reached)
    return made


async def run_once(
    *,
    conn: Connection | None = None,
    me: int | None = None,
    kinds: Iterable[int] | None = None,
    sweeping: bool = True,
    seat: Seat | None = None,
) -> int:
    """The loop without Celery: sweep everything, then reconcile until nothing is due; objects reconciled."""
    own = None
    if seat is None:
        own = await db.connect() if conn is None else None
        connection = conn or own
        assert connection is not None
        seat = Seat(connection, me if me is not None else await enlist(connection, worker_name()))
    try:
        done = 0
        for kind in sorted(operators() if kinds is None else kinds):
            operator = operators()[kind]
            if sweeping:
                await sweep(seat.conn, operator, full=True)
            done += await work_on(seat, operator, seconds=float("inf"))
        return done
    finally:
        if own is not None:
            await own.close()
