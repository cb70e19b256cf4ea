"""Record: one statement writes a pass behind its lease, or leaves the machine as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.control import work
from fleet.control.conditions import Condition, find
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from machines import counts, hot
from machines.hot import NewEvent
from tests.machines import world


async def test_a_healthy_pass_moves_the_phase_and_rests(conn: Connection) -> None:
    ids = world.make(3)
    rows = await world.claimed(conn, 1)
    done = await world.write(conn, 1, [world.outcome(r) for r in rows])
    assert [(d.id, d.ok, d.changed, d.lawful) for d in done] == [(i, True, True, True) for i in ids]
    assert world.states(ids) == [("Running", 1, 1, 0)] * 3
    assert (
        await world.one(
            conn,
            "SELECT count(*) FROM work_item WHERE resting AND holder IS NULL AND due_at > now() + interval '9 min'",
        )
        == 3
    )


async def test_change_event_capacity_and_counters_are_written_with_the_phase(conn: Connection) -> None:
    (machine,) = world.make(1, cluster_id=7)
    (row,) = await world.claimed(conn, 1)
    await world.write(
        conn,
        1,
        [world.outcome(row, events=(NewEvent("dev.fleet.machine.repaired", 1, "Repaired", "It was put right."),))],
    )
    assert world.sql("SELECT op, old FROM change WHERE object_id = %s ORDER BY rv", machine) == [
        (1, None),
        (2, {"fields": {"status.phase": "Pending"}}),
    ]
    events = world.sql(
        "SELECT n, type, data ->> 'name', pos = (SELECT rv FROM machine_state WHERE id = object_id) FROM event ORDER BY pos, n"
    )
    assert events == [(0, "dev.fleet.machine.phase", "m-0000", True), (1, "dev.fleet.machine.repaired", "m-0000", True)]
    assert world.sql("SELECT in_service, down FROM capacity") == [(True, False)]
    assert world.sql("SELECT cluster_id, n FROM capacity_total") == [(7, 1)]


async def test_an_unchanged_machine_keeps_its_version_and_still_tells_its_events(conn: Connection) -> None:
    (machine,) = world.make(1)
    await world.settle_all(conn)
    before = world.sql("SELECT rv FROM machine_state")
    await work.wake_async(conn, MACHINE, [machine])
    (row,) = await world.claimed(conn, 1)
    (done,) = await world.write(
        conn, 1, [world.outcome(row, events=(NewEvent("dev.fleet.machine.looked", 0, "Looked", "Seen."),))]
    )
    assert (done.ok, done.changed) == (True, False)
    assert world.sql("SELECT rv FROM machine_state") == before
    assert world.sql("SELECT count(*) FROM event WHERE type = 'dev.fleet.machine.looked'") == [(1,)]


@pytest.mark.parametrize(
    "moved", ["generation = generation + 1", "desired_hash = 5"], ids=["generation", "accepted set"]
)
async def test_a_machine_that_moved_under_the_pass_is_left_out_and_due_at_once(conn: Connection, moved: str) -> None:
    world.make(1)
    (row,) = await world.claimed(conn, 1)
    world.sql(f"UPDATE machine_state SET {moved}")
    (done,) = await world.write(conn, 1, [world.outcome(row)])
    assert not done.ok
    assert world.sql("SELECT phase, observed_generation FROM machine_state") == [("Pending", 0)]
    assert world.sql("SELECT holder, due_at <= now(), resting FROM work_item") == [(None, True, False)]


async def test_an_old_epoch_writes_nothing(conn: Connection, other: Connection) -> None:
    world.make(1)
    (old,) = await world.claimed(conn, 1)
    world.sql("UPDATE work_item SET due_at = now()")  # the lease runs out
    (new,) = await world.claimed(other, 2)
    assert new.epoch == old.epoch + 1
    assert await world.write(conn, 1, [world.outcome(old, phase="Failed")]) == []
    assert world.sql("SELECT phase FROM machine_state") == [("Pending",)]
    assert [d.ok for d in await world.write(other, 2, [world.outcome(new)])] == [True]


async def test_the_same_epoch_in_other_hands_writes_nothing(conn: Connection) -> None:
    world.make(1)
    (row,) = await world.claimed(conn, 1)
    assert await world.write(conn, 2, [world.outcome(row)]) == []


async def test_news_during_the_lease_makes_it_due_at_once_and_not_resting(conn: Connection, other: Connection) -> None:
    (machine,) = world.make(1)
    (row,) = await world.claimed(conn, 1)
    await work.wake_async(other, MACHINE, [machine])
    await world.write(conn, 1, [world.outcome(row)])
    assert world.sql("SELECT holder, wake, due_at <= now(), resting FROM work_item") == [(None, False, True, False)]


async def test_a_condition_keeps_its_time_while_its_status_stands(conn: Connection) -> None:
    (machine,) = world.make(1)
    await world.settle_all(conn)
    world.sql("UPDATE machine_state SET m_cond = ARRAY(SELECT c - 3600 FROM unnest(m_cond) AS c)")  # an hour ago
    await work.wake_async(conn, MACHINE, [machine])
    (row,) = await world.claimed(conn, 1)
    other_reason = (
        replace(world.HEALTHY[0], reason="Recovered", message="It came back."),
        Condition("Ready", "False", "Waiting"),
    )
    await world.write(conn, 1, [world.outcome(row, conditions=other_reason, before=None)])
    await work.wake_async(conn, MACHINE, [machine])
    (after,) = await world.claimed(conn, 1)
    healthy, ready = find(after.conditions, "HostHealthy"), find(after.conditions, "Ready")
    was = find(row.conditions, "HostHealthy")
    assert healthy is not None and ready is not None and was is not None
    assert (healthy.reason, healthy.since) == ("Recovered", was.since)
    assert ready.since is not None and was.since is not None and (ready.since - was.since).total_seconds() >= 3600
    assert find(after.conditions, "Reachable") is None


async def test_another_message_stands_beside_the_dictionary(conn: Connection) -> None:
    first, second = world.make(2)
    rows = await world.claimed(conn, 1)
    said = [(Condition("Ready", "False", "Waiting", f"waits for {r.name}"),) for r in rows]
    await world.write(conn, 1, [world.outcome(r, conditions=c) for r, c in zip(rows, said, strict=True)])
    await work.wake_async(conn, MACHINE, [first, second])
    assert [r.conditions[0].message for r in await world.claimed(conn, 1)] == ["waits for m-0000", "waits for m-0001"]


async def test_conditions_of_other_owners_stay(conn: Connection) -> None:
    (machine,) = world.make(1)
    await world.settle_all(conn)
    world.sql(
        "INSERT INTO condition_kind (bit, type, status, reason) VALUES (0, 'NodeReady', 'True', 'KubeletReady') ON CONFLICT DO NOTHING"
    )
    world.sql(
        "UPDATE machine_state SET cond_true = cond_true | 1, k_cond = ARRAY[(SELECT id::bigint << 32 FROM condition_kind WHERE type = 'NodeReady' AND status = 'True' AND reason = 'KubeletReady')]"
    )
    await work.wake_async(conn, MACHINE, [machine])
    (row,) = await world.claimed(conn, 1)
    await world.write(conn, 1, [world.outcome(row, conditions=world.SICK)])
    assert world.sql("SELECT cond_true & 3, cond_false & 3, down FROM machine_state") == [(1, 2, True)]
    assert world.sql("SELECT down FROM capacity") == [(True,)]


async def test_facts_are_written_only_when_they_differ(conn: Connection) -> None:
    (machine,) = world.make(1)
    for facts in ({"kernel": "6.1"}, {"kernel": "6.1"}, {"kernel": "6.2"}):
        await work.wake_async(conn, MACHINE, [machine])
        (row,) = await world.claimed(conn, 1)
        await world.write(conn, 1, [world.outcome(row, facts=facts)])
        world.sql(
            "INSERT INTO tombstone (rv, kind, name, object) SELECT xmin::text::bigint, 0, 'fact', '{}' FROM machine_fact ON CONFLICT DO NOTHING"
        )
    assert world.sql("SELECT count(*) FROM tombstone") == [(2,)]
    assert world.sql("SELECT facts FROM machine_fact") == [({"kernel": "6.2"},)]


@pytest.mark.parametrize(
    "said",
    ['"', "\\", '\\"', "{a,b}", "NULL", " , ", "two\nlines\t", "ü 漢 😀", "'; DROP TABLE event; --", "%s $1", ""],
)
async def test_whatever_a_host_says_is_kept_letter_by_letter(conn: Connection, said: str) -> None:
    world.make(2)
    first, second = await world.claimed(conn, 1)
    message = f"it says {said}."
    known = (Condition("Ready", "False", "Waiting", "The message of the dictionary."),)
    await world.write(
        conn,
        1,
        [
            world.outcome(first, facts={said: said}, conditions=(Condition("Ready", "False", "Waiting", message),)),
            world.outcome(second, events=(NewEvent("dev.fleet.test", 1, "Told", message),), conditions=known),
        ],
    )
    assert world.sql("SELECT facts FROM machine_fact WHERE machine_id = %s", first.id) == [({said: said},)]
    assert world.sql("SELECT notes ->> 'Ready' FROM machine_state WHERE id = %s", first.id) == [(message,)]
    assert world.sql("SELECT data ->> 'message' FROM event WHERE type = 'dev.fleet.test'") == [(message,)]


async def test_counters_equal_a_recount_after_many_moves(conn: Connection) -> None:
    ids = world.make(30, cluster_id=1) + world.make(20, cluster_id=2, prefix="n")
    for phase in ("Provisioning", "Running", "Updating", "Failed"):
        await work.wake_async(conn, MACHINE, ids)
        rows = await world.claimed(conn, 1)
        await world.write(
            conn,
            1,
            [
                world.outcome(r, phase=phase, in_service=phase != "Provisioning")
                for r in rows
                if r.id % 3 or phase != "Failed"
            ],
        )
        world.sql("UPDATE work_item SET holder = NULL, due_at = now()")
        await counts.fold(conn)
    counted = {
        (c, p): n for c, p, n in world.sql("SELECT cluster_id, phase, count(*) FROM machine_state GROUP BY 1, 2")
    }
    with_sync = world.sql("SELECT cluster_id, phase, sum(n)::int FROM count_total GROUP BY 1, 2 HAVING sum(n) <> 0")
    assert {(c, p): n for c, p, n in with_sync} == counted
    assert await counts.recount(conn) == 0
    assert world.sql("SELECT cluster_id, n FROM capacity_total ORDER BY 1") == [(1, 30), (2, 20)]


async def test_a_recount_puts_wrong_totals_right(conn: Connection) -> None:
    world.make(4, cluster_id=3)
    await world.settle_all(conn)
    await counts.fold(conn)
    world.sql("UPDATE count_total SET n = n + 5 WHERE phase = 'Running'")
    world.sql("UPDATE capacity_total SET n = 1")
    assert await counts.recount(conn) == 1
    await counts.fold(conn)
    assert world.sql("SELECT n FROM count_total WHERE phase = 'Running'") == [(4,)]
    assert world.sql("SELECT n FROM capacity_total") == [(4,)]


async def test_a_failing_and_a_report_only_machine_are_not_claimed_before_they_are_due(conn: Connection) -> None:
    failing, report_only = world.make(2)
    rows = await world.claimed(conn, 1)
    accepted = [
        hot.Acceptance(r.id, r.epoch, r.generation, 77 + n, {"packages": [n]}, {}, 77 + n) for n, r in enumerate(rows)
    ]
    assert await hot.accept(conn, 1, accepted) == {failing, report_only}
    records = [
        world.outcome(rows[0], want=77, observed=0, attempts=1, next_seconds=300, resting=False),
        world.outcome(rows[1], want=78, observed=0, next_seconds=600),
    ]
    await world.write(conn, 1, records)
    assert [s[3] for s in world.states([failing, report_only])] == [2, 2]  # both stay drifted
    for _ in range(10):
        assert await hot.sweep(conn) == 0
        assert await world.claimed(conn, 1) == []
    world.sql("UPDATE machine_state SET generation = generation + 1 WHERE id = %s", failing)
    assert await hot.sweep(conn) == 1  # a new spec ends the back-off
    assert [r.id for r in await world.claimed(conn, 1)] == [failing]
