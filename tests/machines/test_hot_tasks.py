"""The Machine-Operator in the loop: batches, poisoned machines, fencing of a stopped process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fleet.control import work, worker
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from fleet.control.operators import Seat
from machines import tasks
from machines.rows import Row
from tests.machines import world


class Passes:
    """Stands for the reconciler: brings machines to rest, breaks on one."""

    def __init__(self, breaks_on: int = 0) -> None:
        self.batches: list[list[int]] = []
        self.breaks_on = breaks_on

    async def __call__(self, rows: Sequence[Row], context: Any) -> None:
        self.batches.append([r.id for r in rows])
        if self.breaks_on in {r.id for r in rows}:
            raise ZeroDivisionError("a bug that no guard caught")
        await world.write(context.conn, context.me, [world.outcome(r) for r in rows])


async def test_a_poisoned_machine_is_set_aside_and_the_others_go_on(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = world.make(9)
    passes = Passes(breaks_on=ids[4])
    monkeypatch.setattr(tasks, "reconcile", passes)
    await worker.run_once(conn=conn, me=1, kinds=[MACHINE])
    assert {i for i, (phase, *_) in zip(ids, world.states(ids), strict=True) if phase == "Running"} == set(ids) - {
        ids[4]
    }
    assert world.sql("SELECT object_id FROM work_item WHERE attempts = 1 AND holder IS NULL AND due_at > now()") == [
        (ids[4],)
    ]


async def test_machines_whose_passes_never_ended_go_one_by_one(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = world.make(4)
    world.sql(
        "UPDATE work_item SET attempts = 2, holder = 9 WHERE object_id = ANY (%s)", ids[:2]
    )  # left by workers that died
    world.sql("UPDATE work_item SET attempts = 7 WHERE object_id = %s", ids[2])  # failed, in orderly passes
    passes = Passes()
    monkeypatch.setattr(tasks, "reconcile", passes)
    await worker.run_once(conn=conn, me=1, kinds=[MACHINE])
    assert passes.batches == [[ids[2], ids[3]], [ids[0]], [ids[1]]]


async def test_a_work_item_without_its_machine_disturbs_nobody(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine,) = world.make(1)
    world.sql("INSERT INTO work_item (kind, object_id) VALUES (1, 99999)")
    monkeypatch.setattr(tasks, "reconcile", Passes())
    await worker.run_once(conn=conn, me=1, kinds=[MACHINE])
    assert [s[0] for s in world.states([machine])] == ["Running"]


async def test_the_same_batch_in_five_hands_is_done_once(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.control import db

    ids = world.make(200)
    passes = Passes()
    monkeypatch.setattr(tasks, "reconcile", passes)
    hands = [await db.connect() for _ in range(5)]
    try:
        done = await asyncio.gather(*(worker.run_once(conn=c, me=n, kinds=[MACHINE]) for n, c in enumerate(hands, 1)))
    finally:
        for connection in hands:
            await connection.close()
    assert sum(done) == 200
    assert sorted(i for batch in passes.batches for i in batch) == ids
    assert world.sql("SELECT count(*) FROM event WHERE type = 'dev.fleet.machine.phase'") == [(200,)]


_STOPPED = """
    import asyncio, os, signal, sys
    import django
    django.setup()
    from fleet.control import db, work
    from machines import hot
    from tests.machines import world

    async def main():
        conn = await db.connect()
        (row,) = await hot.load(conn, await work.claim(conn, 1, 11))
        print("claimed", row.epoch, flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)          # past its lease; the test lets it go on
        written = await hot.record(conn, 11, [world.outcome(row, phase="Failed")], legal=world.LEGAL)
        begun = await hot.begin(conn, 11, [hot.Begin(row.id, row.epoch, int(sys.argv[1]), {"steps": ["mine"]})])
        taken = await hot.accept(conn, 11, [hot.Acceptance(row.id, row.epoch, row.generation, 5, {}, {}, 5)])
        print(written, begun, taken, await work.release(conn, 11, [work.Claim(1, row.id, row.epoch, 0, 0)]), flush=True)
        await conn.close()

    asyncio.run(main())
"""


@pytest.mark.faults
async def test_a_process_stopped_past_its_lease_and_continued_writes_nothing(conn: Connection) -> None:
    from tests.machines.test_hot_claim import operation

    (machine,) = world.make(1)
    op = operation(machine, 3)
    name = world.sql("SELECT current_database()")[0][0]
    environment = {
        **os.environ,
        "DATABASE_URL": os.environ["DATABASE_URL"].replace("/fleet?", f"/{name}?"),
        "PYTHONPATH": str(Path.cwd()),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_STOPPED), str(op), env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert (await process.stdout.readline()).startswith(b"claimed")
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        world.sql("UPDATE work_item SET due_at = now()")  # its lease runs out
        (row,) = await world.claimed(conn, 22)
        process.send_signal(signal.SIGCONT)
        assert (await process.stdout.readline()).decode().strip() == f"[] {{{machine}: False}} set() set()"
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert world.sql("SELECT phase, desired_hash FROM machine_state") == [("Pending", 0)]
    assert world.sql("SELECT started_at, status FROM machines_operation") == [(None, {})]
    assert world.sql("SELECT holder, epoch FROM work_item") == [(22, row.epoch)]
    assert [d.ok for d in await world.write(conn, 22, [world.outcome(row)])] == [True]


async def test_a_seat_keeps_its_adapters_and_closes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Hosts:
        async def close(self) -> None:
            closed.append("x")

    monkeypatch.setattr(tasks, "driver", lambda name: Hosts())
    kept = tasks.KeptHosts()
    assert kept["ssh"] is kept["ssh"]
    await kept.close()
    assert closed == ["x"]


async def test_a_release_at_the_end_of_the_process_lets_another_go_on_at_once(
    conn: Connection, other: Connection
) -> None:
    world.make(2)
    claims = await work.claim(conn, MACHINE, 1)
    await work.release(conn, 1, claims)
    assert len(await work.claim(other, MACHINE, 2)) == 2
    assert Seat(conn, 1).stopping() is False
