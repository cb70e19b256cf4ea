"""Leases, hints and slots, for any kind."""

from __future__ import annotations

import asyncio

import pytest

from fleet.control import hints, position, slots, work, worker
from fleet.control.db import Connection
from fleet.control.hints import Alive, Due
from fleet.control.operators import Operator, Seat, register_operator
from fleet.control.work import Claim, Settled

KIND = 99


async def items(conn: Connection, count: int, **columns: int) -> None:
    names, values = ", ".join(columns), ", ".join(str(v) for v in columns.values())
    extra, more = (f", {names}", f", {values}") if columns else ("", "")
    await conn.execute(
        f"INSERT INTO work_item (kind, object_id{extra}) SELECT {KIND}, n{more} FROM generate_series(1, {count}) AS n".encode()
    )


class Recorder:
    """An operator that notes what it was given and settles it for an hour."""

    def __init__(self, fails_on: int = 0) -> None:
        self.seen: list[int] = []
        self.fails_on = fails_on

    async def __call__(self, seat: Seat, claims: list[Claim]) -> None:
        if self.fails_on in {c.object_id for c in claims}:
            raise ZeroDivisionError("a bug")
        self.seen += [c.object_id for c in claims]
        await work.settle(
            seat.conn, KIND, seat.me, [Settled(c.object_id, c.epoch, 3_600, resting=True) for c in claims]
        )


async def test_settling_is_fenced_by_epoch_and_holder(conn: Connection) -> None:
    await items(conn, 2)
    first, second = await work.claim(conn, KIND, 1)
    await conn.execute("UPDATE work_item SET epoch = epoch + 1 WHERE object_id = 2")
    outcome = [Settled(c.object_id, c.epoch, 60) for c in (first, second)]
    assert await work.settle(conn, KIND, 7, outcome) == set()
    assert await work.settle(conn, KIND, 1, outcome) == {1}


async def test_the_loop_runs_without_celery_until_nothing_is_due(conn: Connection, registry: None) -> None:
    await items(conn, 7)
    operator = Recorder()
    register_operator(Operator(KIND, operator, batch=3))
    assert await worker.run_once(conn=conn, me=1) == 7
    assert sorted(operator.seen) == [1, 2, 3, 4, 5, 6, 7]
    assert await worker.run_once(conn=conn, me=1) == 0


async def test_an_object_that_breaks_its_batch_is_set_aside_with_a_failure_counted_and_the_others_go_on(
    conn: Connection, registry: None
) -> None:
    await items(conn, 9)
    operator = Recorder(fails_on=4)
    register_operator(Operator(KIND, operator))
    await worker.run_once(conn=conn, me=1)
    assert sorted(operator.seen) == [1, 2, 3, 5, 6, 7, 8, 9]
    found = await (
        await conn.execute("SELECT object_id, holder, due_at > now() FROM work_item WHERE attempts = 1")
    ).fetchall()
    assert found == [(4, None, True)]


async def test_what_was_settled_before_its_batch_broke_is_not_done_again(conn: Connection, registry: None) -> None:
    await items(conn, 4)
    operator = Recorder()

    async def breaks_half_way(seat: Seat, claims: list[Claim]) -> None:
        await operator(seat, claims[:1])
        if len(claims) > 1:
            raise ZeroDivisionError("a bug")

    register_operator(Operator(KIND, breaks_half_way))
    await worker.run_once(conn=conn, me=1)
    assert sorted(operator.seen) == [1, 2, 3, 4]


async def test_nothing_new_is_claimed_once_the_process_shall_end(conn: Connection, registry: None) -> None:
    await items(conn, 6)
    operator = Recorder()

    async def stops_after_the_first(seat: Seat, claims: list[Claim]) -> None:
        await operator(seat, claims)
        stopping.append(True)

    stopping: list[bool] = []
    register_operator(Operator(KIND, stops_after_the_first, batch=2))
    seat = Seat(conn, 1, stopping=lambda: bool(stopping))
    assert await worker.run_once(seat=seat) == 2
    found = await (await conn.execute("SELECT count(*) FROM work_item WHERE holder IS NOT NULL")).fetchone()
    assert found == (0,)  # nothing is held: another worker goes on at once


async def test_of_two_schedulers_one_takes_the_slot(conn: Connection, other: Connection) -> None:
    taken = await asyncio.gather(*(slots.take(c, "sweep", 3_600) for c in (conn, other) * 4))
    assert len([t for t in taken if t is not None]) == 1
    await conn.execute("UPDATE slot SET slot = slot - 1")
    await slots.advance(conn, "sweep", 40)
    await slots.advance(conn, "sweep", 30)
    assert await slots.take(other, "sweep", 3_600) == 40


async def test_a_lost_wake_is_found_by_the_sweep_of_any_process(conn: Connection, registry: None) -> None:
    asked: list[int] = []

    async def everything(connection: Connection) -> int:
        asked.append(-1)
        return 0

    async def changes(connection: Connection, after: int) -> tuple[int, int]:
        asked.append(after)
        return 0, await position.horizon(connection) - 1

    operator = Operator(KIND, Recorder(), everything, changes)
    await worker.sweep(conn, operator)
    await worker.sweep(conn, operator)
    await worker.sweep(conn, operator, full=True)
    assert asked[0] == asked[2] == -1  # at first, and now and then, everything
    assert asked[1] > 0


def test_shards_are_dealt_out_over_the_workers_that_are_alive() -> None:
    alive = [Alive("a", frozenset()), Alive("b", frozenset())]
    due = [Due(1, shard, 0.0) for shard in range(256)]
    planned = hints.plan_hints(1, due, alive, {1: "x"})
    assert [(h.queue, h.low, h.high) for h in planned] == [("fleet.w.a", 0, 127), ("fleet.w.b", 128, 255)]


@pytest.mark.parametrize("workers", range(1, 9))
def test_every_shard_belongs_to_exactly_one_worker(workers: int) -> None:
    alive = [Alive(f"w{n}", frozenset()) for n in range(workers)]
    planned = hints.plan_hints(1, [Due(1, s, 0.0) for s in range(256)], alive, {})
    assert [s for h in planned for s in range(h.low, h.high + 1)] == list(range(256))


def test_an_idc_with_a_pool_of_its_own_is_left_to_it() -> None:
    alive = [Alive("common", frozenset()), Alive("near", frozenset({2}))]
    planned = hints.plan_hints(1, [Due(1, 0, 0.0), Due(2, 0, 20.0)], alive, {1: "one", 2: "two"})
    assert [(h.idc_id, h.queue) for h in planned] == [(1, "fleet.w.common"), (2, "fleet.w.near"), (2, "fleet.idc.two")]


def test_a_shard_without_progress_is_anybodys_and_so_is_everything_without_workers() -> None:
    late = hints.plan_hints(1, [Due(1, 0, 11.0)], [Alive("a", frozenset())], {})
    assert [h.queue for h in late] == ["fleet.w.a", "fleet"]
    assert [h.queue for h in hints.plan_hints(1, [Due(1, 0, 0.0)], [], {})] == ["fleet"]


async def test_what_is_due_is_told_by_idc_and_shard(conn: Connection) -> None:
    await items(conn, 2, idc_id=3, shard=200, cluster_id=1)
    await conn.execute("UPDATE work_item SET due_at = now() + interval '1 hour' WHERE object_id = 2")
    (due,) = await hints.due_now(conn, KIND)
    assert (due.idc_id, due.shard) == (3, 200)


async def test_a_worker_is_alive_while_its_heart_beats(conn: Connection) -> None:
    await worker.enlist(conn, "fresh", ["a"])
    dead = await worker.enlist(conn, "dead")
    await conn.execute("UPDATE worker SET seen_at = now() - interval '1 min' WHERE id = %s", [dead])
    alive, _ = await hints.alive_now(conn)
    assert alive == [Alive("fresh", frozenset({-1}))]  # an idc without machines: serves nothing, not everything


async def test_the_process_keeps_one_loop_and_enlists_again_in_another_database(conn: Connection) -> None:
    runtime = worker.Runtime("here").start()
    try:
        first = await asyncio.to_thread(
            runtime.run, lambda seat: asyncio.sleep(0, (id(asyncio.get_running_loop()), seat.me))
        )
        await conn.execute("TRUNCATE worker")
        runtime._beaten = 0.0
        second = await asyncio.to_thread(
            runtime.run, lambda seat: asyncio.sleep(0, (id(asyncio.get_running_loop()), seat.me))
        )
    finally:
        await asyncio.to_thread(runtime.stop)
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert await (await conn.execute("SELECT count(*) FROM worker")).fetchone() == (0,)
