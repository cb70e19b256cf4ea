"""H3: fault to recovery order committed: one at a time in calm, and a whole cluster that goes NotReady under its breaker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from benchmarks.h9 import tell
from benchmarks.harness import Run
from benchmarks.world import World, drop_clusters, more_machines

NODES = {"S": 600, "M": 20_000, "L": 20_000}
CALM = {"S": 40, "M": 200, "L": 200}  # faults one after the other, each in a cluster of its own
PEER = 500
_FIRST, _NUMBER = 3_000_000, 250
_BATCH = 1_000
_READY: tuple[str, str, str] = ("NodeReady", "True", "KubeletReady")
_SICK: tuple[str, str, str] = ("NodeReady", "False", "KubeletNotReady")
_RULE = {
    "faultType": "NotResponding", "when": [{"condition": "NodeReady", "status": "False"}], "holdSeconds": 0, "mode": "Active", "target": {"matchAll": True},
    "playbook": "bench",
}  # fmt: skip
_PLAYBOOK = {
    "rungs": [
        {"name": "restart", "steps": [{"action": "RestartUnits", "units": ["kubelet.service"]}]},
        {"name": "ask", "steps": [{"action": "AskPerson"}]},
    ]
}
_OBJECT = "INSERT INTO recovery_{table} (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (gen_random_uuid(), %s, 0, 1, '{{}}', '{{}}', '[]', '[]', %s, '{{}}', now())"
_FORGET = """
DELETE FROM breaker_trial; DELETE FROM breaker_strike; DELETE FROM breaker; DELETE FROM refusal; DELETE FROM permit; DELETE FROM verb_start;
DELETE FROM machines_operation WHERE id IN (SELECT o.id FROM machines_operation o JOIN recovery_remediation r ON r.operation_uid = o.uid);
DELETE FROM work_item WHERE kind = 16; DELETE FROM recovery_remediation; DELETE FROM recovery_fault;
"""
_REST = "UPDATE work_item SET wake = false, due_at = now() + interval '1 hour' WHERE kind = 1 AND object_id = ANY (%s)"  # else a later round has nobody to wake
_NO_NODES = """
UPDATE machine_state SET is_node = false, k_cond = '{}', notes = NULL, cond_true = cond_true & ~1::bigint, cond_false = cond_false & ~1::bigint WHERE id = ANY (%s)
"""


class Measure:
    title = "20,000 nodes of one cluster go NotReady: decoded, committed, judged, ordered up to the breaker; the floor decodes and commits them"
    target = "at most 2x the floor; calm p50 3 ms, p99 15 ms; no order beyond the breaker; other clusters' p99 at most 3x calm"

    def prepare(self, world: World) -> None:
        from machines.watch.seen import node_line
        from recovery import reacting

        reacting._rules = None  # an earlier measure may have read that there are none
        self._decode = node_line
        self._count = NODES[world.size]
        self._cluster = more_machines(world, "stormy", _NUMBER, self._count, _FIRST)
        self._ids = [
            i for (i,) in world.sql("SELECT id FROM machine WHERE cluster_id = %s ORDER BY id", [self._cluster])
        ]
        # in other idcs than the storm, whose breakers are not theirs
        self._others = world.sql(
            "SELECT cluster_id, array_agg(id ORDER BY id) FROM (SELECT id, cluster_id, row_number() OVER (PARTITION BY cluster_id ORDER BY id) AS n FROM machine WHERE cluster_id <> %s AND idc <> 'idc-0') m WHERE n <= 40 GROUP BY 1 ORDER BY 1",
            [self._cluster],
        )
        self._lines = [_line(n, _SICK) for n in range(self._count)]
        world.sql(_OBJECT.format(table="playbook"), ["bench", orjson.dumps(_PLAYBOOK).decode()])
        world.sql(_OBJECT.format(table="faultrule"), ["bench", orjson.dumps(_RULE).decode()])
        for cluster in (self._cluster, *(c for c, _ in self._others)):
            world.sql(
                "INSERT INTO shard (cluster_id, holder, epoch, lease_until, fresh_at, state) VALUES (%s, 1, 1, now() + interval '1 day', now() + interval '1 day', 'Fresh')",
                [cluster],
            )
        gc.collect()
        gc.freeze()  # as a watcher does when it begins

    def reset(self, world: World, who: str) -> None:
        for statement in _FORGET.strip().split(";"):
            if statement.strip():
                world.sql(statement)
        well = {self._cluster: self._ids, **dict(self._others)}
        world.sql(_REST, [[i for ids in well.values() for i in ids]])
        for cluster, ids in well.items():
            world.run(lambda conn, cluster=cluster, ids=ids: _say(conn, cluster, ids, _READY))  # type: ignore[misc]
        for table in ("machine_state", "work_item", "capacity", "recovery_fault", "permit", "event", "change"):
            world.sql(f"VACUUM (ANALYZE) {table}")

    def floor(self, world: World) -> Run:
        """Every line decoded to the typed struct, and the conditions written: one set UPDATE a batch, with its log."""

        async def storm(conn: Any) -> None:
            for at in range(0, self._count, _BATCH):
                for line in self._lines[at : at + _BATCH]:
                    self._decode(line)
                await _say(conn, self._cluster, self._ids[at : at + _BATCH], _SICK)

        world.run(storm)
        return Run(self._count)

    def ours(self, world: World) -> Run:
        """The same, and what recovery makes of it in the same process, as the watcher does it: beside the writing, on a second connection."""
        world.run(lambda conn: _with_a_second(lambda other: self._storm(conn, other)))
        return Run(self._count)

    async def _storm(self, conn: Any, other: Any) -> None:
        async with _telling(other) as telling:
            for at in range(0, self._count, _BATCH):
                for line in self._lines[at : at + _BATCH]:
                    self._decode(line)
                telling.add(await _say(conn, self._cluster, self._ids[at : at + _BATCH], _SICK))

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"row by row": self._rows}

    def _rows(self, world: World) -> Run:
        """What a plain Celery and django-fsm application does: a task a fault, without its broker (0.5-0.9 ms a task more)."""
        from django.utils import timezone

        from recovery.models import Fault

        for machine in self._ids[: min(PEER, self._count)]:
            now = timezone.now()
            fault = Fault(
                name=f"peer-{machine}", created_at=now, machine_id=machine, cluster_id=self._cluster, type="NotResponding", category="Component", first_seen=now,
                last_seen=now, held_since=now,
            )  # fmt: skip
            fault.save()
            fault.confirm()
            fault.save()
            tell(fault, "Open", "Confirmed")
        return Run(min(PEER, self._count))

    def check(self, world: World, who: str, run: Run) -> None:
        if who == "row by row":
            return
        (down,) = world.sql(
            "SELECT count(*) FROM machine_state WHERE cluster_id = %s AND cond_false & 1 = 1", [self._cluster]
        )
        assert down == (self._count,), f"{down[0]} of {self._count} nodes are written"
        if who != "ours":
            return
        ((faults, ordered, once),) = world.sql(
            "SELECT count(*), (SELECT count(*) FROM recovery_remediation WHERE cluster_id = %s), (SELECT count(DISTINCT machine_id) FROM recovery_remediation WHERE cluster_id = %s) FROM recovery_fault WHERE cluster_id = %s",
            [self._cluster] * 3,
        )
        most = min(max(2, -(-self._count // 5)), 50)
        assert faults == self._count, f"{faults} of {self._count} faults are stored"
        assert ordered == once == most, f"{ordered} orders ({once} machines) where the breaker lets {most} through"

    def figures(self, world: World) -> Mapping[str, float]:
        calm = self._one_by_one(world, storm=False)
        during = self._one_by_one(world, storm=True)
        round_trips = world.run(lambda conn: _round_trips(conn, self._ids[: len(calm)]))
        self._clear(world)
        return {
            "calm: fault to order, p50": _p(calm, 50), "calm: p99": _p(calm, 99), "calm: one commit and two round trips, p50": _p(round_trips, 50),
            "other clusters during the storm, p50": _p(during, 50), "other clusters during the storm, p99": _p(during, 99),
        }  # fmt: skip

    def _clear(self, world: World) -> None:
        """The next measure finds the world as it was."""
        for statement in _FORGET.strip().split(";"):
            if statement.strip():
                world.sql(statement)
        world.sql(_NO_NODES, [[i for _, ids in self._others for i in ids]])
        world.sql("DELETE FROM recovery_faultrule; DELETE FROM recovery_playbook; DELETE FROM shard")
        drop_clusters(world, [self._cluster])

    def _one_by_one(self, world: World, *, storm: bool) -> list[float]:
        """Milliseconds from the news to the committed order, one fault after the other, each cluster's turn in turn."""
        self.reset(world, "calm")
        wanted = CALM[world.size]
        order = [(c, ids[n]) for n in range(40) for c, ids in self._others][:wanted]
        taken: list[float] = []

        async def one(conn: Any, cluster: int, machine: int) -> None:
            from recovery.reacting import react

            began = time.perf_counter()
            await react(conn, await _say(conn, cluster, [machine], _SICK))
            taken.append((time.perf_counter() - began) * 1_000)

        async def all_of_them(conn: Any) -> None:
            from fleet.control import db

            other = await db.connect() if storm else conn
            for number, (cluster, machine) in enumerate(order):
                if number % 2 == 0:  # so that no breaker of theirs comes into it
                    await other.execute("DELETE FROM breaker_strike WHERE cluster_id <> %s", [self._cluster])
                    await other.execute("DELETE FROM breaker WHERE dim <> 'cluster' OR key <> %s", [self._cluster])
                await one(other, cluster, machine)
            if storm:
                await other.close()

        async def both(conn: Any) -> None:
            import threading

            done = threading.Event()

            def rage() -> None:
                asyncio.run(_rage(self._cluster, self._ids, done))

            thread = threading.Thread(target=rage)
            thread.start()
            await all_of_them(conn)
            done.set()
            await asyncio.to_thread(thread.join)

        world.run(both if storm else all_of_them)
        ((ordered,),) = world.sql("SELECT count(*) FROM recovery_remediation WHERE cluster_id <> %s", [self._cluster])
        assert ordered == len(order), f"{ordered} of {len(order)} faults led to an order"
        return taken


async def _rage(cluster: int, ids: Sequence[int], done: Any) -> None:
    """The storm in a thread of its own, over and over: it goes sick and well again until it is told to end."""
    from fleet.control import db

    conn = await db.connect()

    async def rage(other: Any) -> None:
        sick = True
        while not done.is_set():
            async with _telling(other) as telling:
                for at in range(0, len(ids), _BATCH):
                    if done.is_set():
                        break
                    telling.add(await _say(conn, cluster, ids[at : at + _BATCH], _SICK if sick else _READY))
            sick = not sick

    await _with_a_second(rage)
    await conn.close()


async def _with_a_second(job: Callable[[Any], Awaitable[None]]) -> None:
    """Run a job with a connection of its own."""
    from fleet.control import db

    conn = await db.connect()
    try:
        await job(conn)
    finally:
        await conn.close()


@contextlib.asynccontextmanager
async def _telling(conn: Any) -> AsyncIterator[Any]:
    """News are told on this connection, as the watcher tells them; at the end, when all of it is done."""
    from machines.watch.telling import Telling

    telling = Telling()
    task = asyncio.create_task(telling.run(lambda job: job(conn)))
    yield telling
    while not telling.idle:
        if task.done():
            task.result()
        await asyncio.sleep(0.001)
    task.cancel()


async def _say(conn: Any, cluster: int, ids: Sequence[int], said: tuple[str, str, str]) -> set[int]:
    """Conditions of these machines' nodes, as the watcher writes them."""
    from fleet.control.conditions import Condition
    from machines.watch.ingest import Observed, write_conditions
    from machines.watch.leases import Lease

    conditions = (Condition(*said),)  # type: ignore[arg-type]
    before = dict(
        await (
            await conn.execute("SELECT id, k_cond FROM machine_state WHERE id = ANY (%s)", [list(ids)], prepare=True)
        ).fetchall()
    )
    _, moved = await write_conditions(
        conn, Lease(cluster, 1, 1), [Observed(i, conditions, tuple(before[i])) for i in ids]
    )
    return moved


async def _round_trips(conn: Any, ids: Sequence[int]) -> list[float]:
    """The floor of one fault: a durable commit, and two more round trips."""
    taken = []
    for machine in ids:
        began = time.perf_counter()
        await conn.execute("UPDATE machine_state SET rv = rv + 1 WHERE id = %s", [machine], prepare=True)
        await conn.execute("SELECT 1", prepare=True)
        await conn.execute("SELECT 1", prepare=True)
        taken.append((time.perf_counter() - began) * 1_000)
    return taken


def _line(number: int, said: tuple[str, str, str]) -> bytes:
    """A line of the watch, 9 kB as nodes are."""
    type_, status, reason = said
    node = {
        "metadata": {"name": f"node-{_FIRST + number:07}", "uid": f"u{number}", "resourceVersion": "7", "labels": {f"label-{n}": "x" * 40 for n in range(40)}},
        "spec": {"providerID": f"fleet://{number}"},
        "status": {
            "conditions": [{"type": type_.removeprefix("Node"), "status": status, "reason": reason, "message": "PLEG is not healthy"}],
            "images": [{"names": [f"registry.example/image-{n}:v1"], "sizeBytes": n} for n in range(60)], "nodeInfo": {"bootID": "b", "kubeletVersion": "v1.36.3"},
        },
    }  # fmt: skip
    return orjson.dumps({"type": "MODIFIED", "object": node})


def _p(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
