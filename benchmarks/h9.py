"""H9: machines reconciled a second through the whole loop: claimed, intent committed, result, Ready; executor stubbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import Run
from benchmarks.world import World

_MACHINES = {"S": 1_000, "M": 5_000, "L": 10_000}
_PEER = 150  # machines that the row-by-row peer does in a run
BATCH, ME = 500, 4_711


class Measure:
    title = "machines through the loop: drifted, order, Updating, result, Running and Ready; change and event rows; executor stubbed"
    target = "at least 0.25 of the floor's rate (ours/floor at most 4); at least 25x the peer (ours/peer at most 0.04)"

    def prepare(self, world: World) -> None:
        count = _MACHINES[world.size]
        world.kept["chosen"] = [
            r[0] for r in world.sql("SELECT id FROM machine_state ORDER BY hashint8(id) LIMIT %s", [count])
        ]  # scattered

        world.sql("INSERT INTO accepted_set (hash, body) VALUES (55, '{}') ON CONFLICT DO NOTHING")
        world.sql(
            "INSERT INTO machines_operation (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, started_at, ended_at, epoch) "
            "SELECT gen_random_uuid(), 'old-' || id || '-' || n, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now(), id, gen_random_uuid(), cluster_id, 0, 'Succeeded', now(), now(), 0 FROM machine_state, generate_series(1, 3) AS n"
        )  # every machine has a history

    def reset(self, world: World, who: str) -> None:
        """The chosen accepted another set and are due; nobody else is."""
        chosen = world.kept["chosen"]
        world.sql(
            "UPDATE work_item SET due_at = now() + interval '1 hour', holder = NULL, resting = true WHERE due_at < now() + interval '50 min' OR holder IS NOT NULL"
        )
        world.sql(
            "UPDATE machine_state SET phase = 'Running', generation = 1, observed_generation = 1, desired_hash = 55, observed_hash = 54, close_true = 0 WHERE id = ANY (%s)",
            [chosen],
        )
        world.sql("UPDATE work_item SET due_at = now() WHERE object_id = ANY (%s)", [chosen])
        for table in ("machine_state", "work_item", "capacity", "machines_operation"):
            world.sql(f"VACUUM (ANALYZE) {table}")
        world.kept["from"] = world.sql("SELECT fleet_horizon()")[0][0]

    def floor(self, world: World) -> Run:
        """Both moves as one set UPDATE and one INSERT a batch: no lease, no fence, no log of changes, no counters."""
        chosen = world.kept["chosen"]

        async def moves(conn: Any) -> None:
            for at in range(0, len(chosen), BATCH):
                for source, target in (("Running", "Updating"), ("Updating", "Running")):
                    await conn.execute(
                        _FLOOR, {"source": source, "target": target, "ids": chosen[at : at + BATCH]}, prepare=True
                    )

        world.run(moves)
        return Run(len(chosen))

    def ours(self, world: World) -> Run:
        from fleet.control.kinds import MACHINE
        from fleet.control.operators import Operator, Seat
        from fleet.control.worker import work_on

        async def loop(conn: Any) -> int:
            return await work_on(Seat(conn, ME), Operator(MACHINE, _pass, batch=BATCH), seconds=float("inf"))

        looked_at = world.run(loop)
        return Run(len(world.kept["chosen"]), looked_at)

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"Celery + FSM": self._rows}

    def _rows(self, world: World) -> Run:
        """A task per machine (run in place: no broker to wait for), a row and a save at a time."""
        from celery import shared_task

        task = shared_task(_one_machine)
        ids = world.kept["chosen"][:_PEER]
        for machine in ids:
            task.apply(args=[machine]).get()
        return Run(len(ids))

    def check(self, world: World, who: str, run: Run) -> None:
        ids = world.kept["chosen"][: run.count]
        found = world.sql(
            "SELECT count(*) FROM machine_state WHERE id = ANY (%s) AND phase = 'Running' AND observed_hash = 55", [ids]
        )[0][0]
        assert found == run.count, f"{who} left {run.count - found} machines short of their state"
        told = world.sql(
            "SELECT count(*), count(DISTINCT object_id) FROM event WHERE type = 'dev.fleet.machine.phase' AND pos >= %s",
            [world.kept["from"]],
        )[0]
        assert told == (2 * run.count, run.count), f"{who} told {told} moves of {run.count} machines"
        if who == "ours":
            assert run.result == 2 * run.count, f"{run.result} passes for {run.count} machines"
            ended = world.sql(
                "SELECT count(*) FROM machines_operation WHERE ended_at IS NOT NULL AND rv >= %s", [world.kept["from"]]
            )[0][0]
            assert ended == run.count, f"{ended} operations ended"
            assert world.sql("SELECT count(*) FROM machine_state WHERE drift <> 0 AND id = ANY (%s)", [ids])[0][0] == 0

    def figures(self, world: World) -> Mapping[str, float]:
        return {}


_FLOOR = """
WITH up AS (UPDATE machine_state SET phase = %(target)s, phase_at = now(), observed_hash = CASE WHEN %(target)s = 'Running' THEN desired_hash ELSE observed_hash END
  WHERE id = ANY (%(ids)s::bigint[]) AND phase = %(source)s RETURNING id, cluster_id)
INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
SELECT (SELECT fleet_pos(4000)) + 4 * row_number() OVER (), 0, id, cluster_id, 1, 0, 'dev.fleet.machine.phase', '/machines', jsonb_build_object('from', %(source)s::text, 'to', %(target)s::text) FROM up
"""
_OPERATIONS = """
INSERT INTO machines_operation (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch)
SELECT u, 'op-' || left(u::text, 13), 0, 1, '{}', '{}', '[]', '[]', '{"verb": "Reconcile"}', '{}', now(), m, mu, c, 0, 'Pending', 0
FROM (SELECT gen_random_uuid() AS u, * FROM unnest(%s::bigint[], %s::uuid[], %s::int[]) AS r(m, mu, c)) t RETURNING machine_id, id
"""
_END = "UPDATE machines_operation SET ended_at = now(), phase = 'Succeeded' WHERE id = ANY (%s::bigint[])"


async def _pass(seat: Any, claims: Any) -> None:
    """What the Machine-Operator does around its hosts: orders for who drifted, the end of those that have one."""
    from machines import hot

    conn = seat.conn
    rows = await hot.load(conn, claims)
    fresh = [r for r in rows if r.operation is None]
    ended = [r.operation.id for r in rows if r.operation is not None]
    begun: dict[int, bool] = {}
    if fresh:
        made = await conn.execute(
            _OPERATIONS, [[r.id for r in fresh], [r.uid for r in fresh], [r.cluster_id for r in fresh]]
        )
        operations = dict(await made.fetchall())
        begun = await hot.begin(
            conn,
            seat.me,
            [
                hot.Begin(r.id, r.epoch, operations[r.id], {"steps": [{"name": "01-install", "status": "Unknown"}]})
                for r in fresh
            ],
        )
    if ended:
        await conn.execute(_END, [ended])
    await hot.record(conn, seat.me, [_record(r, done=not begun.get(r.id, False)) for r in rows])


def _record(row: Any, *, done: bool) -> Any:
    from fleet.control.conditions import Condition
    from machines.hot import Record

    kept = tuple(c for c in row.conditions if c.type not in ("Ready", "Reconciling"))
    ready = (
        (Condition("Ready", "True", "AsWanted"),)
        if done
        else (Condition("Ready", "False", "Updating"), Condition("Reconciling", "True", "Updating"))
    )
    return Record(
        id=row.id, epoch=row.epoch, generation=row.generation, want=row.desired_hash, observed=row.desired_hash if done else 0, phase="Running" if done else "Updating",
        open=True, conditions=(*kept, *ready), next_seconds=600.0 if done else 0.0, resting=done, in_service=True, before=row.packed,
    )  # fmt: skip


def _one_machine(machine_id: int) -> None:
    """The peer's task: what a plain Celery and django-fsm application would do for one machine."""
    import uuid

    from django.db import transaction
    from django.utils import timezone

    from machines.models import MachineState, Operation

    with transaction.atomic():
        state = MachineState.objects.select_for_update().get(pk=machine_id)
        state.update()
        state.save(update_fields=["phase"])
        operation = Operation.objects.create(
            name=f"op-{uuid.uuid4()}",
            created_at=timezone.now(),
            machine_id=machine_id,
            machine_uid=uuid.uuid4(),
            owner_class=0,
            phase="Running",
            started_at=timezone.now(),
        )
        tell(state, "Running", "Updating")
    with transaction.atomic():
        state = MachineState.objects.select_for_update().get(pk=machine_id)
        state.run()
        state.observed_hash = state.desired_hash
        state.save(update_fields=["phase", "observed_hash"])
        operation.phase, operation.ended_at = "Succeeded", timezone.now()
        operation.save()
        tell(state, "Updating", "Running")


def tell(state: Any, source: str, target: str) -> None:
    from django.db import connection

    from fleet.events.publish import note_change, publish

    with connection.cursor() as cursor:
        cursor.execute("SELECT fleet_pos(4)")
        pos = int(cursor.fetchone()[0])
        note_change(cursor, pos, state.pk, state.cluster_id, 1, 2)
        publish(
            cursor,
            pos=pos,
            kind=1,
            object_id=state.pk,
            cluster_id=state.cluster_id,
            type="dev.fleet.machine.phase",
            source="/machines",
            data={"from": source, "to": target},
        )
