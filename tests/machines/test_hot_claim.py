"""Sweep, claim, accept and begin: who gets what, when, and what a lease is worth."""

from __future__ import annotations

import asyncio
import random

import pytest

from fleet.control import work
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from machines import hot
from tests.machines import world


def rested(ids: list[int]) -> None:
    """Machines at rest that have drifted since."""
    world.sql("UPDATE work_item SET due_at = now() + interval '1 hour', resting = true WHERE object_id = ANY (%s)", ids)


async def test_a_sweep_makes_exactly_the_drifted_due(conn: Connection) -> None:
    ids = world.make(10)
    await world.settle_all(conn)
    world.sql("UPDATE machine_state SET generation = 2 WHERE id = ANY (%s)", ids[:2])
    world.sql("UPDATE machine_state SET desired_hash = 9 WHERE id = ANY (%s)", ids[2:4])
    world.sql("UPDATE machine_state SET paused = true, generation = 2 WHERE id = %s", ids[5])
    assert await hot.sweep(conn) == 4
    assert [r.id for r in await world.claimed(conn, 1)] == ids[:4]


async def test_a_sweep_leaves_alone_what_is_held_by_a_worker(conn: Connection) -> None:
    world.make(3)
    await world.claimed(conn, 1)
    assert await hot.sweep(conn) == 0


async def test_an_incremental_sweep_sees_only_what_changed_since(conn: Connection) -> None:
    ids = world.make(4)
    await world.settle_all(conn)
    made, after = await hot.sweep_changes(conn, 0)
    assert made == 0
    world.sql("UPDATE machine_state SET generation = 2 WHERE id = ANY (%s)", ids[:2])
    world.sql(
        "INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT fleet_pos(4), %s, 0, 1, 2", ids[0]
    )  # the other's change row is not there
    made, after = await hot.sweep_changes(conn, after)
    assert made == 1
    assert (await hot.sweep_changes(conn, after))[0] == 0
    assert [r.id for r in await world.claimed(conn, 1)] == [ids[0]]


async def test_two_sweepers_and_two_claimers_share_without_doubles(conn: Connection, other: Connection) -> None:
    ids = world.make(1_200)
    await world.settle_all(conn)
    world.sql("UPDATE machine_state SET generation = 2")
    made = await asyncio.gather(hot.sweep(conn), hot.sweep(other))
    assert sum(made) == 1_200

    async def take(connection: Connection, me: int) -> list[int]:
        taken: list[int] = []
        while claims := await work.claim(connection, MACHINE, me, limit=100):
            taken += [c.object_id for c in claims]
        return taken

    mine, yours = await asyncio.gather(take(conn, 1), take(other, 2))
    assert sorted(mine + yours) == ids
    assert mine and yours


async def test_a_noisy_cluster_leaves_room_for_the_others(conn: Connection) -> None:
    world.make(100, cluster_id=1)
    quiet = world.make(3, cluster_id=2, prefix="q")
    world.sql("UPDATE work_item SET due_at = now() - interval '1 hour' WHERE cluster_id = 1")
    claims = await work.claim(conn, MACHINE, 1, limit=10)
    assert {c.object_id for c in claims} >= set(quiet)
    assert sum(c.cluster_id == 1 for c in claims) == 5


async def test_within_a_cluster_who_waits_longest_comes_first(conn: Connection) -> None:
    ids = world.make(5)
    world.sql("UPDATE work_item SET due_at = now() - object_id * interval '1 min'")
    assert [c.object_id for c in await work.claim(conn, MACHINE, 1, limit=2)] == ids[3:]


async def test_a_claim_keeps_to_its_idc_and_shards(conn: Connection) -> None:
    near = world.make(20, idc="near")
    world.make(20, prefix="f", cluster_id=1, idc="far")
    place = world.sql("SELECT id FROM place WHERE name = 'near'")[0][0]
    low = {r[0] for r in world.sql("SELECT object_id FROM work_item WHERE shard <= 127 AND idc_id = %s", place)}
    assert {c.object_id for c in await work.claim(conn, MACHINE, 1, idc_ids=[place], shards=(0, 127))} == low
    assert {c.object_id for c in await work.claim(conn, MACHINE, 1, idc_ids=[place])} == set(near) - low
    assert await work.claim(conn, MACHINE, 1, idc_ids=[]) == []


async def test_a_lease_that_ran_out_is_taken_with_a_new_epoch_and_one_more_attempt(
    conn: Connection, other: Connection
) -> None:
    world.make(1)
    (first,) = await work.claim(conn, MACHINE, 1)
    assert await work.claim(other, MACHINE, 2) == []
    world.sql("UPDATE work_item SET due_at = now()")
    (second,) = await work.claim(other, MACHINE, 2)
    assert (second.epoch, second.attempts) == (first.epoch + 1, first.attempts + 1)
    assert world.sql("SELECT due_at > now() + interval '100 s' FROM work_item") == [
        (True,)
    ]  # longer: its last holder died
    assert await work.release(conn, 1, [first]) == set()
    assert await work.extend(conn, MACHINE, 1, [first]) == set()
    assert await work.release(other, 2, [second]) == {second.object_id}


async def test_a_released_claim_is_due_again_and_counts_its_failure(conn: Connection) -> None:
    world.make(1)
    (claim,) = await work.claim(conn, MACHINE, 1)
    await work.release(conn, 1, [claim], next_seconds=0, failed=True)
    (again,) = await work.claim(conn, MACHINE, 1)
    assert again.attempts == claim.attempts + 1


async def test_load_tells_everything_of_a_machine_in_one_go(conn: Connection) -> None:
    (machine,) = world.make(1, versions={"pouch": "1.0"})
    world.sql(
        "INSERT INTO inventory (machine_id, package, version, format) VALUES (%s, 'pouch', '1.0', 'deb')", machine
    )
    world.sql(
        "INSERT INTO inventory (machine_id, package, version, format, removed_at) VALUES (%s, 'gone', '1.0', 'deb', now())",
        machine,
    )
    pending, started = operation(machine, 3), operation(machine, 0, started=True)
    (row,) = await world.claimed(conn, 1)
    assert (row.name, row.phase, row.generation, row.drift, row.accepted, row.last_seen_at) == (
        "m-0000",
        "Pending",
        1,
        1,
        None,
        None,
    )
    assert row.spec["versions"] == {"pouch": "1.0"}
    assert [(i.package, i.format) for i in row.inventory] == [("pouch", "deb")]
    assert row.operation is not None
    assert (row.operation.id, row.operation.waiting) == (started, ((3, pending),))
    await hot.accept(conn, 1, [hot.Acceptance(machine, row.epoch, 1, 5, {"packages": ["x"]}, {"class": "c"}, 5)])
    (again,) = await hot.load(conn, [work.Claim(MACHINE, machine, row.epoch, 0, 0)])
    assert (again.desired_hash, again.accepted, again.accepted_generation, again.layers) == (
        5,
        {"packages": ["x"]},
        1,
        {"class": "c"},
    )


async def test_accepting_is_fenced_by_the_epoch_and_the_generation(conn: Connection) -> None:
    ids = world.make(3)
    rows = await world.claimed(conn, 1)
    world.sql("UPDATE machine_state SET generation = 2 WHERE id = %s", ids[1])
    world.sql("UPDATE work_item SET epoch = epoch + 1 WHERE object_id = %s", ids[2])
    assert await hot.accept(conn, 1, [hot.Acceptance(r.id, r.epoch, r.generation, 5, {}, {}, 5) for r in rows]) == {
        ids[0]
    }
    assert world.sql("SELECT machine_id FROM accepted") == [(ids[0],)]


def operation(machine: int, owner: int, *, started: bool = False) -> int:
    return int(
        world.sql(
            "INSERT INTO machines_operation (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, started_at, epoch) "
            "VALUES (gen_random_uuid(), 'op-' || %s || '-' || %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now(), %s, gen_random_uuid(), 0, %s, 'Pending', CASE WHEN %s THEN now() END, 0) RETURNING id",
            machine, owner, machine, owner, started,
        )[0][0]
    )  # fmt: skip


def permitted(machine: int) -> int:
    return int(
        world.sql(
            "INSERT INTO permit (machine_id, verb, unplanned, cost, draws, cluster_id, idc_id, model_id, rack_id, owner, expires_at) VALUES (%s, 'Restart', false, 1, true, 0, 0, 0, 0, 'op', now() + interval '1 hour') RETURNING id",
            machine,
        )[0][0]
    )


async def test_begin_commits_the_intent_before_any_effect(conn: Connection) -> None:
    (machine,) = world.make(1)
    (row,) = await world.claimed(conn, 1)
    op, permit = operation(machine, 3), permitted(machine)
    intent = {"steps": [{"name": "01-install", "status": "Unknown"}]}
    assert await hot.begin(conn, 1, [hot.Begin(machine, row.epoch, op, intent, permit)]) == {machine: True}
    assert world.sql("SELECT phase, started_at IS NOT NULL, epoch, status, permit_id FROM machines_operation") == [
        ("Running", True, row.epoch, intent, permit)
    ]
    assert world.sql("SELECT kind, op FROM change WHERE object_id = %s AND kind = 3", op) == [(3, 2)]
    assert await hot.begin(conn, 1, [hot.Begin(machine, row.epoch, op, {"steps": []})]) == {
        machine: True
    }  # its next step


@pytest.mark.parametrize(
    "spoiled",
    [
        "UPDATE ledger SET stopped = true",
        "UPDATE work_item SET epoch = epoch + 1",
        "UPDATE work_item SET holder = 9",
        "UPDATE machines_operation SET ended_at = now() WHERE owner_class = 3",
        "UPDATE machines_operation SET started_at = now() WHERE owner_class = 0",
        "UPDATE machines_operation SET machine_id = machine_id + 1 WHERE owner_class = 3",
        "UPDATE permit SET expires_at = now()",
        "UPDATE permit SET released_at = now()",
        "UPDATE permit SET machine_id = 0",
    ],
    ids=[
        "kill switch",
        "epoch moved",
        "held by another",
        "operation ended",
        "another has started",
        "another machine's",
        "permit lapsed",
        "permit released",
        "permit of another machine",
    ],
)
async def test_begin_refuses(conn: Connection, spoiled: str) -> None:
    (machine,) = world.make(1)
    (row,) = await world.claimed(conn, 1)
    op = operation(machine, 3)
    operation(machine, 0)
    permit = permitted(machine)
    world.sql(spoiled)
    assert await hot.begin(conn, 1, [hot.Begin(machine, row.epoch, op, {"steps": [1]}, permit)]) == {machine: False}
    assert world.sql("SELECT status FROM machines_operation WHERE id = %s", op) == [({},)]


def test_back_off_doubles_is_spread_and_ends_at_a_limit() -> None:
    random.seed(1)
    waits = [work.backoff(n, first=2, most=100, jitter=0.25) for n in range(1, 12)]
    assert all(2 * 2**n * 0.75 <= w <= 2 * 2**n * 1.25 for n, w in enumerate(waits[:5]))
    assert max(waits) <= 125
    assert len({work.backoff(9) for _ in range(10)}) == 10
