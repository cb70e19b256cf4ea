"""Celery tasks of the loop: the tick (sweep, hints), the hint itself, and the chores. PostgreSQL holds the truth; these may be lost."""

from __future__ import annotations

import logging
import uuid

import psycopg
import redis
from celery import shared_task
from django.conf import settings
from django.db import close_old_connections
from django.db.utils import Error as DjangoDatabaseError
from kombu.exceptions import OperationalError as BrokerError

from fleet.control import hints, position, slots, statistics, ticks, worker
from fleet.control.operators import Chore, Seat, chores, operators, register_chore

log = logging.getLogger(__name__)
BROKER_PATIENCE = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
}  # seconds; one that takes two to answer is used
BEATS_KEPT = 4  # the last two ticks and the last two for housekeeping
_redis: redis.Redis | None = None


def _broker() -> redis.Redis:
    """A connection of this process to Valkey, for the marks of hints on their way."""
    global _redis
    if _redis is None:
        _redis = redis.Redis.from_url(settings.REDIS_URL, **BROKER_PATIENCE)
    return _redis


@shared_task(name=ticks.TICK, ignore_result=True)  # type: ignore[untyped-decorator]
def tick() -> int:
    """Sweep what changed (now and then everything), then tell workers what is due; how many hints went out."""
    drop_late_beats()
    try:
        wanted = worker.runtime().run(_tick)
    except (psycopg.Error, OSError) as error:
        log.warning("no sweep: the database does not answer: %s", error)
        return 0
    except MemoryError:  # out of a task it would end the worker, not the task
        log.exception("no sweep: it wants more memory than FLEET_TASK_MEMORY_MIB allows")
        return 0
    return send_hints(wanted)


def drop_late_beats() -> None:
    """Beats that nobody took pile up behind a long pass. They are counted off, not timed: clocks of processes differ, and one that is hours off would find every beat too old."""
    try:
        _broker().ltrim(ticks.QUEUE, 0, BEATS_KEPT - 1)  # the newest stand first
    except redis.RedisError as error:
        log.warning("late beats stay: the broker does not answer: %s", error)


async def _tick(seat: Seat) -> list[hints.Hint]:
    if await slots.take(seat.conn, "tick", settings.FLEET_SWEEP_SECONDS) is None:
        return []
    full = await slots.take(seat.conn, "sweep-all", worker.FULL_SWEEP_SECONDS) is not None
    alive, names = await hints.alive_now(seat.conn)
    wanted: list[hints.Hint] = []
    for kind, operator in sorted(operators().items()):
        await worker.sweep(seat.conn, operator, full=full)
        wanted += hints.plan_hints(kind, await hints.due_now(seat.conn, kind), alive, names)
    return wanted


def send_hints(wanted: list[hints.Hint]) -> int:
    """Put hints on their queues, those that are not on their way already. With Valkey down none goes out, and none is lost."""
    sent, token = 0, uuid.uuid4().hex
    try:
        for hint in wanted:
            if _broker().set(hint.key, token, nx=True, ex=int(hints.LATE_SECONDS)):
                reconcile.apply_async(
                    args=[hint.kind, hint.idc_id, hint.low, hint.high, hint.key, token],
                    queue=hint.queue,
                    priority=hint.priority,
                    retry=False,
                )
                sent += 1
    except (redis.RedisError, BrokerError, OSError) as error:
        log.warning("hints wait: the broker does not answer: %s", error)
    return sent


@shared_task(name="fleet.control.reconcile", ignore_result=True)  # type: ignore[untyped-decorator]
def reconcile(kind: int, idc_id: int, low: int, high: int, key: str = "", token: str = "") -> int:
    """Follow a hint; objects reconciled. Delivered twice or late it finds nothing due, and does nothing."""
    if key and is_late(key, token):
        return 0
    operator = operators().get(kind)
    if operator is None or worker.is_stopping():
        return 0

    async def follow(seat: Seat) -> int:
        return await worker.work_on(seat, operator, idc_ids=(idc_id,), shards=(low, high))

    try:
        return worker.runtime().run(follow)
    except (psycopg.Error, OSError) as error:
        log.warning("a pass ended: the database does not answer: %s", error)
        return 0


def is_late(key: str, token: str) -> bool:
    """Whether the mark of this hint lapsed, by Valkey's clock and by no process's; where it did not, the next hint may follow."""
    try:
        late = _broker().get(key) != token.encode()
        if not late:
            _broker().delete(key)
    except redis.RedisError as error:
        log.warning("the mark of a hint stays until it lapses: %s", error)
        return False
    return late


@shared_task(name=ticks.HOUSEKEEPING, ignore_result=True)  # type: ignore[untyped-decorator]
def housekeeping() -> list[str]:
    """Do the chores whose slot is free; their names. One that fails is logged and does not keep the others from their turn."""
    done = []
    for chore in list(chores().values()):
        try:
            if worker.runtime().run(lambda seat, chore=chore: _chore(seat, chore)):  # type: ignore[misc]
                _run_sync(chore)
                done.append(chore.name)
        except (psycopg.Error, DjangoDatabaseError, OSError) as error:
            log.warning("the chore %s waits for its next turn: %s", chore.name, error)
        except Exception:
            log.exception("the chore %s broke; it has its next turn", chore.name)
    return done


async def _chore(seat: Seat, chore: Chore) -> bool:
    if await slots.take(seat.conn, f"chore-{chore.name}", chore.seconds) is None:
        return False
    if chore.run is not None:
        await chore.run(seat)
    return True


def _run_sync(chore: Chore) -> None:
    if chore.run_sync is None:
        return
    close_old_connections()
    try:
        chore.run_sync()
    finally:
        close_old_connections()


async def _positions(seat: Seat) -> None:
    """Partitions ahead and behind, and the marks that give positions an age."""
    await position.mark(seat.conn)
    await position.make_partitions(seat.conn)
    await position.drop_old(seat.conn)
    for parent in position.SPANS:
        ahead = await position.partitions_ahead(seat.conn, parent)
        if ahead < position.ALARM:
            log.error("only %d partitions of %s are ahead", ahead, parent)


async def _workers(seat: Seat) -> None:
    """Forget workers that died long ago."""
    await seat.conn.execute("DELETE FROM worker WHERE seen_at < now() - interval '1 day'")


register_chore(Chore("positions", 60.0, _positions))
register_chore(Chore("statistics", statistics.SECONDS, lambda seat: statistics.catch_up(seat.conn)))
register_chore(Chore("workers", 3_600.0, _workers))
