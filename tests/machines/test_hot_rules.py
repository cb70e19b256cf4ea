"""The rules that correctness of the hot path hangs on, each of which was once broken on purpose and seen to fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import psycopg
import pytest
from django.db import transaction

from fleet.control import db, work
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from machines import hot, packing
from machines.schema import MACHINE_KIND
from machines.storage import MachineStorage
from tests.machines import world


@pytest.fixture
async def writers(fleet_db: None) -> AsyncIterator[list[Connection]]:
    """Three more workers."""
    connections = [await db.connect() for _ in range(3)]
    yield connections
    for connection in connections:
        await connection.close()


async def until_waiting(conn: Connection, count: int = 1) -> None:
    """Return once that many statements wait for a lock."""
    while (await world.one(conn, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")) < count:
        await conn.execute("SELECT pg_sleep(0.005)")


async def test_a_join_is_no_fence_an_epoch_that_moves_while_record_waits_writes_nothing(
    conn: Connection, writers: list[Connection]
) -> None:
    world.make(1)
    (row,) = await world.claimed(conn, 1)
    taker, watcher, _ = writers
    async with taker.transaction():
        await taker.execute("UPDATE work_item SET epoch = epoch + 1, holder = 2")
        waiting = asyncio.create_task(world.write(conn, 1, [world.outcome(row, phase="Failed")]))
        await until_waiting(watcher)
    assert await waiting == []
    assert world.sql("SELECT phase, holder FROM machine_state, work_item") == [("Pending", 2)]


async def test_a_spec_that_changes_while_record_waits_is_seen_as_it_is_then(
    conn: Connection, writers: list[Connection]
) -> None:
    world.make(1)
    (row,) = await world.claimed(conn, 1)
    editor, watcher, _ = writers
    async with editor.transaction():
        await editor.execute("UPDATE machine_state SET generation = generation + 1")
        waiting = asyncio.create_task(world.write(conn, 1, [world.outcome(row)]))
        await until_waiting(watcher)
    assert [d.ok for d in await waiting] == [False]
    assert world.sql("SELECT phase, observed_generation FROM machine_state") == [("Pending", 0)]


async def test_batches_in_any_order_never_deadlock(conn: Connection, writers: list[Connection]) -> None:
    ids = world.make(300)
    chance = random.Random(7)

    async def passes(connection: Connection, me: int) -> int:
        count = 0
        for _ in range(6):
            rows = await world.claimed(connection, me, limit=150)
            chance.shuffle(rows)
            count += len(
                await world.write(connection, me, [world.outcome(r, next_seconds=0, resting=False) for r in rows])
            )
        return count

    async def news(connection: Connection) -> None:
        for _ in range(12):
            await work.wake_async(connection, MACHINE, chance.sample(ids, 200))
            await connection.execute(
                "UPDATE machine_state SET latest_hash = latest_hash + 1 WHERE id IN (SELECT id FROM machine_state WHERE id % 7 = 0 ORDER BY id FOR NO KEY UPDATE)"
            )
            await hot.sweep(connection)

    done = await asyncio.gather(passes(conn, 1), passes(writers[0], 2), passes(writers[1], 3), news(writers[2]))
    assert sum(d for d in done if d is not None) > 300


@pytest.mark.usefixtures("fleet_db")
def test_who_writes_a_spec_never_touches_the_work_item_in_that_transaction() -> None:
    storage = MachineStorage(MACHINE_KIND)
    world.make(2)
    for change in ("replace", "remove"):
        with transaction.atomic():
            stored = storage.read("m-0000", lock=True)
            assert stored is not None
            _ = storage.replace(stored, stored.obj) if change == "replace" else storage.remove(stored)
            assert len(world.sql("SELECT 1 FROM work_item FOR UPDATE NOWAIT")) == 2  # free for the worker that holds it


async def test_no_transaction_touches_more_than_a_thousand_rows(conn: Connection) -> None:
    world.make(2_300)
    largest = "SELECT max(n) FROM (SELECT count(*) AS n FROM {} GROUP BY xmin::text) t"
    assert await world.one(conn, largest.format("machine_state")) <= 1_000
    await world.settle_all(conn)
    assert await world.one(conn, largest.format("machine_state")) <= 1_000
    for at in range(0, 2_300, 500):
        await conn.execute(
            "UPDATE machine_state SET generation = 2 WHERE id IN (SELECT id FROM machine_state ORDER BY id OFFSET %s LIMIT 500)",
            [at],
        )
    assert await hot.sweep(conn) == 2_300
    assert await world.one(conn, largest.format("work_item")) <= 1_000


async def test_a_version_rises_even_when_the_transaction_is_older_than_the_row(
    conn: Connection, writers: list[Connection]
) -> None:
    world.make(1)
    (row,) = await world.claimed(conn, 1)
    late = writers[0]
    async with late.transaction():
        await late.execute("SELECT fleet_pos()")  # the older transaction id is taken first
        await world.write(conn, 1, [world.outcome(row)])
        before = world.sql("SELECT rv FROM machine_state")[0][0]
        world.sql("UPDATE work_item SET due_at = now()")
        (again,) = await world.claimed(conn, 1)
        await hot.record(late, 1, [world.outcome(again, phase="Failed")], legal=world.LEGAL)
    assert world.sql("SELECT rv > %s FROM machine_state", before) == [(True,)]


async def test_a_reader_of_changes_misses_nothing_and_never_goes_back(
    conn: Connection, writers: list[Connection]
) -> None:
    ids = world.make(60)
    await packing.ensure_entries(conn, (*world.HEALTHY, *world.SICK))  # never inside a transaction that may roll back
    seen: dict[int, int] = {}
    finished = asyncio.Event()

    async def read(after: int) -> int:
        found = await conn.execute(
            "SELECT c.rv, c.object_id FROM change c WHERE c.rv > %s AND c.rv < fleet_horizon() AND c.kind = 1 ORDER BY c.rv",
            [after],
        )
        for rv, machine in await found.fetchall():
            assert rv > seen.get(machine, 0)
            seen[machine], after = rv, rv
        return after

    async def reader() -> None:
        after = 0
        while not finished.is_set():
            after = await read(after)
            await asyncio.sleep(0)
        await read(after)

    async def writer(connection: Connection, me: int) -> None:
        chance = random.Random(me)
        for _ in range(15):
            rows = await world.claimed(connection, me, limit=20)
            records = [
                world.outcome(r, conditions=chance.choice((world.HEALTHY, world.SICK)), next_seconds=0, resting=False)
                for r in rows
            ]
            try:
                async with connection.transaction():
                    await connection.execute("SELECT fleet_pos()")
                    await hot.record(connection, me, records, legal=world.LEGAL)
                    if chance.random() < 0.25:
                        raise psycopg.Rollback
            finally:
                await connection.execute("UPDATE work_item SET due_at = now() WHERE holder = %s", [me])

    reading = asyncio.create_task(reader())
    await asyncio.gather(*(writer(c, me) for me, c in enumerate(writers, 1)))
    finished.set()
    await reading
    assert seen == dict(world.sql("SELECT id, rv FROM machine_state"))
    assert sorted(seen) == ids
