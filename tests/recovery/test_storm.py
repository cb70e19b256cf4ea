"""A storm: hundreds of machines break at once. The breaker lets its threshold through and not one more; others are not disturbed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from fleet.control import db
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from recovery.detecting import detect
from recovery.orders import order
from recovery.reacting import react
from tests.machines.world import sql
from tests.recovery.storm import BROKEN, NOT_READY, READY, SILENT, cluster_of, tell
from tests.recovery.world import ASK, World

EMPTY = {"name": "empty", "steps": [{"action": "Isolate"}, {"action": "Drain"}], "verifySeconds": 0}


@pytest.fixture
async def world(conn: Connection) -> World:
    made = World(conn)
    await made.playbook(EMPTY, ASK, name="hardware")
    await made.rule("disk", "DiskFailure", when=[{"condition": "DiskFailure"}], playbook="hardware")
    await made.rule(
        "ready",
        "NotReady",
        category="Component",
        when=[{"condition": "NodeReady", "status": "False"}],
        playbook="hardware",
    )
    return made


def remediations(cluster: int) -> int:
    ((count,),) = sql("SELECT count(*) FROM recovery_remediation WHERE cluster_id = %s", cluster)
    return int(count)


def refusals(cluster: int) -> Counter[str]:
    rows = sql(
        "SELECT status #>> '{repair,reason}', count(*)::int FROM recovery_fault WHERE cluster_id = %s AND phase = 'Confirmed' GROUP BY 1",
        cluster,
    )
    return Counter({str(reason): count for reason, count in rows})


async def test_a_storm_is_stopped_at_the_breakers_threshold_and_another_cluster_is_not_disturbed(world: World) -> None:
    conn = world.conn
    stormy, ids = await cluster_of(conn, "stormy", 300)
    calm, others = await cluster_of(conn, "calm", 60)
    moved = await tell(conn, stormy, ids, NOT_READY)
    assert moved == set(ids)
    found = await detect(conn, moved)
    assert len(found.confirmed) == 300
    for _ in range(4):
        await world.order()
    assert remediations(stormy) == 50  # min(max(2, 20 % of 300), 50)
    assert refusals(stormy) == {"ClusterBreaker": 250}
    ((state, why),) = sql("SELECT state, why FROM breaker WHERE dim = 'cluster' AND key = %s", stormy)
    assert state == "open" and why
    ((message,),) = sql(
        "SELECT DISTINCT status #>> '{repair,message}' FROM recovery_fault WHERE cluster_id = %s AND phase = 'Confirmed' LIMIT 1",
        stormy,
    )
    assert "breaker" in message and "is open" in message
    await tell(conn, calm, others[:1], BROKEN)
    await detect(conn, others[:1])
    await world.order()
    assert remediations(calm) == 1


async def test_many_processes_that_order_at_once_do_not_go_beyond_the_threshold(world: World) -> None:
    cluster, ids = await cluster_of(world.conn, "stormy", 200)
    await tell(world.conn, cluster, ids, NOT_READY)
    await detect(world.conn, ids)
    conns = [await db.connect() for _ in range(8)]
    try:
        await asyncio.gather(*(order(c) for c in conns))
    finally:
        for each in conns:
            await each.close()
    assert remediations(cluster) == 40
    ((doubled,),) = sql("SELECT count(*) - count(DISTINCT machine_id) FROM recovery_remediation WHERE ended_at IS NULL")
    assert doubled == 0


async def test_healing_goes_on_while_the_breaker_is_open(world: World) -> None:
    conn = world.conn
    cluster, ids = await cluster_of(conn, "stormy", 100)
    await tell(conn, cluster, ids, NOT_READY)
    await detect(conn, ids)
    await world.order()
    assert remediations(cluster) == 20
    await tell(conn, cluster, ids[50:], READY)
    await detect(conn, ids)
    await detect(conn, ids)
    gone = sql("SELECT count(*) FROM recovery_fault WHERE machine_id = ANY (%s) AND phase = 'Resolved'", ids[50:])
    waiting = sql("SELECT count(*) FROM recovery_fault WHERE machine_id = ANY (%s) AND cleared_since IS NULL", ids[:50])
    assert (gone[0][0], waiting[0][0]) == (50, 50)


async def test_machines_that_still_work_are_taken_away_within_the_budget_only(world: World) -> None:
    cluster, ids = await cluster_of(world.conn, "worn", 200)
    await tell(world.conn, cluster, ids, BROKEN)
    await detect(world.conn, ids)
    await world.order()
    assert remediations(cluster) == 6  # 3 % of 200
    assert refusals(cluster) == {"ClusterBudget": 194}


async def test_after_a_reset_days_later_only_what_is_true_now_is_acted_on(world: World) -> None:
    conn = world.conn
    cluster, ids = await cluster_of(conn, "stormy", 100)
    await tell(conn, cluster, ids, NOT_READY)
    await detect(conn, ids)
    await world.order()
    before = remediations(cluster)
    await tell(conn, cluster, ids[:95], READY)  # nobody has looked since
    sql("DELETE FROM breaker")
    sql("DELETE FROM breaker_strike")
    await detect(conn, ids)
    await world.order()
    ((acted,),) = sql(
        "SELECT count(*) FROM recovery_remediation WHERE cluster_id = %s AND machine_id = ANY (%s) AND id > (SELECT coalesce(min(id), 0) + %s - 1 FROM recovery_remediation WHERE cluster_id = %s)",
        cluster,
        ids[:95],
        before,
        cluster,
    )
    assert acted == 0


async def test_a_cluster_that_falls_silent_is_unknown_and_nothing_is_done(world: World) -> None:
    conn = world.conn
    await world.rule(
        "silent",
        "HostUnreachable",
        when=[{"condition": "NodeReady", "status": "Unknown", "reasons": ["NodeStatusUnknown"]}],
        playbook="hardware",
    )
    cluster, ids = await cluster_of(conn, "cut", 40)
    await tell(conn, cluster, ids[:30], SILENT)
    await detect(conn, ids)
    await world.order()
    phases = Counter(p for (p,) in sql("SELECT phase FROM recovery_fault WHERE cluster_id = %s", cluster))
    assert phases == {"Open": 30}
    ((message,),) = sql("SELECT DISTINCT status ->> 'message' FROM recovery_fault WHERE cluster_id = %s", cluster)
    assert message.startswith("30 of 40 machines of the cluster are silent")
    assert remediations(cluster) == 0


async def test_one_silent_machine_among_many_is_a_fault(world: World) -> None:
    conn = world.conn
    await world.rule(
        "silent",
        "HostUnreachable",
        when=[{"condition": "NodeReady", "status": "Unknown", "reasons": ["NodeStatusUnknown"]}],
        playbook="hardware",
    )
    cluster, ids = await cluster_of(conn, "cut", 40)
    await tell(conn, cluster, ids[:1], SILENT)
    await detect(conn, ids)
    await world.order()
    assert remediations(cluster) == 1


async def test_a_rack_that_falls_silent_is_left_alone_while_the_rest_is_seen(world: World) -> None:
    conn = world.conn
    await world.rule(
        "silent",
        "HostUnreachable",
        when=[{"condition": "NodeReady", "status": "Unknown", "reasons": ["NodeStatusUnknown"]}],
        playbook="hardware",
    )
    cluster, ids = await cluster_of(conn, "cut", 40)
    sql("UPDATE machine_state SET rack_id = 7 WHERE id = ANY (%s)", ids[:8])
    sql("UPDATE capacity SET rack_id = 7 WHERE machine_id = ANY (%s)", ids[:8])
    await tell(conn, cluster, [*ids[:8], ids[20]], SILENT)
    await detect(conn, ids)
    await world.order()
    phases = dict(sql("SELECT machine_id, phase FROM recovery_fault WHERE cluster_id = %s", cluster))
    assert {phases[i] for i in ids[:8]} == {"Open"}
    assert phases[ids[20]] == "Recovering"


async def test_nodes_that_say_not_ready_are_no_blindness(world: World) -> None:
    cluster, ids = await cluster_of(world.conn, "sick", 40)
    await tell(world.conn, cluster, ids, NOT_READY)
    await detect(world.conn, ids)
    await world.order()
    assert remediations(cluster) == 8
    assert refusals(cluster) == {"ClusterBreaker": 32}


async def test_the_news_of_the_watcher_become_orders_in_the_same_process(world: World) -> None:
    cluster, ids = await cluster_of(world.conn, "calm", 50)
    moved = await tell(world.conn, cluster, ids[:1], BROKEN)
    await react(world.conn, moved)
    assert remediations(cluster) == 1


async def test_news_are_ordered_in_their_own_clusters_and_what_waits_elsewhere_is_the_chores(world: World) -> None:
    other, waiting = await cluster_of(world.conn, "other", 50)
    cluster, ids = await cluster_of(world.conn, "calm", 50)
    await tell(world.conn, other, waiting[:1], BROKEN)
    await detect(world.conn, waiting[:1])
    await react(world.conn, await tell(world.conn, cluster, ids[:1], BROKEN))
    assert (remediations(cluster), remediations(other)) == (1, 0)
    await world.order()
    assert remediations(other) == 1


async def test_machines_of_news_are_due_whether_or_not_their_repair_began(world: World) -> None:
    cluster, ids = await cluster_of(world.conn, "stormy", 50)
    moved = await tell(world.conn, cluster, ids, NOT_READY)
    sql("UPDATE work_item SET wake = false, due_at = now() + interval '1 hour' WHERE kind = 1")
    await react(world.conn, moved)
    assert remediations(cluster) == 10
    assert sql("SELECT count(*) FROM work_item WHERE kind = 1 AND wake AND due_at <= now()") == [(50,)]


async def test_no_order_follows_news_under_an_open_breaker(world: World) -> None:
    cluster, ids = await cluster_of(world.conn, "stormy", 50)
    sql("INSERT INTO breaker (dim, key, state, why) VALUES ('fleet', 0, 'open', 'x')")
    await react(world.conn, await tell(world.conn, cluster, ids[:1], BROKEN))
    assert remediations(cluster) == 0


async def test_each_of_many_has_what_is_said_of_itself(world: World) -> None:
    """Machines of which the same is said are judged once; another message, or another label, is not the same."""
    await world.rule(
        "labelled",
        "KernelFault",
        category="Component",
        when=[{"condition": "NodeReady", "status": "False"}],
        playbook="hardware",
        target={"selector": {"matchLabels": {"pool": "gpu"}}},
    )
    conn = world.conn
    cluster, ids = await cluster_of(conn, "many", 30)
    sql("""UPDATE machine SET labels = '{"pool": "gpu"}' WHERE id = %s""", ids[2])
    await tell(conn, cluster, ids, NOT_READY)
    await tell(conn, cluster, ids[1:2], (Condition("NodeReady", "False", "KubeletNotReady", "The runtime is down"),))
    await detect(conn, ids)
    found = sql(
        "SELECT machine_id, type, spec ->> 'machine', status ->> 'message', evidence #>> '{0,message}' FROM recovery_fault ORDER BY 1, 2"
    )
    names = dict(sql("SELECT id, name FROM machine"))
    assert len(found) == 31
    assert all(machine == names[id_] and said in message for id_, _, machine, message, said in found)
    assert [said for id_, _, _, _, said in found if id_ == ids[1]] == ["The runtime is down"]
    assert [type_ for id_, type_, *_ in found if id_ == ids[2]] == ["KernelFault", "NotReady"]
