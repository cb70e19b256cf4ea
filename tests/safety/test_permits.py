"""The ledger grants what the budgets allow, exactly, whoever asks and however many at once; every refusal is a sentence."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from fleet.safety import switch
from fleet.safety.permits import Ask, held, permits, release, tidy
from tests.safety.conftest import Ledger
from tests.services import call_tables_empty
from tests.simulator.conftest import connect


async def test_three_percent_of_a_cluster_may_be_unavailable_and_planned_changes_leave_a_quarter(
    ledger: Ledger,
) -> None:
    ids = await ledger.cluster("a", 1000, racks=1)
    assert await ledger.granted(ids[:100], unplanned=False) == 23  # 30 - 30 // 4
    assert await ledger.granted(ids[100:200]) == 7
    assert await ledger.unavailable() == 30


@pytest.mark.parametrize(
    ("machines", "policy", "expected"),
    [
        (1000, None, 30),
        (33, None, 1),
        (34, None, 1),
        (1, None, 1),
        (100, {"count": 5}, 5),
        (100, {"percent": 10}, 10),
        (100, {"count": 50, "percent": 10}, 10),
        (10, {"percent": 0.5}, 1),
        (100, {"count": 0}, 0),
        (100, {"percent": 0}, 0),
    ],
)
async def test_the_budget_is_met_exactly(
    ledger: Ledger, machines: int, policy: dict[str, float] | None, expected: int
) -> None:
    ids = await ledger.cluster("a", machines)
    for limits in [policy] if policy is not None else []:
        await ledger.policy("p", {"cluster": "a"}, **limits)
    assert await ledger.granted(ids) == expected
    assert await ledger.unavailable() == expected


async def test_at_most_six_hundred_of_a_huge_cluster(ledger: Ledger) -> None:
    ids = await ledger.cluster("huge", 25_000, racks=1)
    assert await ledger.granted(ids[:1500], unplanned=False) == 450  # a quarter is kept
    await ledger.no_breaker()
    assert await ledger.granted(ids[1500:]) == 150


async def test_machines_that_are_down_use_the_budget_and_repairing_them_costs_nothing(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100, down=3)
    refused = await ledger.one(ids[50])
    assert refused.reason == "ClusterBudget"
    assert (
        refused.message
        == "In cluster a 3 of 100 machines are unavailable, and at most 3 may be: this waits until one is back."
    )
    assert await ledger.granted(ids[:3], "Reboot") == 3
    assert await ledger.unavailable() == 3


async def test_a_machine_that_was_repaired_counts_until_its_permit_is_released(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 33, down=1)
    repair = await ledger.one(ids[0], "Reboot")
    await ledger.sql("UPDATE capacity SET down = false")
    assert (await ledger.one(ids[1])).reason == "ClusterBudget"
    assert await release(ledger.conn, [repair.permit_id or 0]) == 1
    assert (await ledger.one(ids[1])).ok


async def test_machines_out_of_service_neither_count_nor_are_counted(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 200)
    await ledger.sql("UPDATE capacity SET in_service = false, down = true WHERE machine_id > %s", ids[99])
    assert await ledger.granted(ids[100:]) == 100
    assert await ledger.granted(ids[:100]) == 3


async def test_verbs_that_take_nothing_away_are_free_of_budgets(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 20)
    assert await ledger.granted(ids, "Reload") == 20
    assert await ledger.unavailable() == 0


async def test_a_verb_that_nobody_knows_draws_on_the_budget(ledger: Ledger) -> None:
    assert await ledger.granted(await ledger.cluster("a", 20), "Frobnicate") == 1


async def test_clusters_and_machines_without_one_have_budgets_of_their_own(ledger: Ledger) -> None:
    a, b = await ledger.cluster("a", 100), await ledger.cluster("b", 200)
    loose = await ledger.cluster("c", 100)
    await ledger.sql("UPDATE capacity SET cluster_id = 0 WHERE machine_id = ANY (%s)", loose)
    answers = await ledger.ask([*a, *b, *loose])
    assert [sum(answers[i].ok for i in ids) for ids in (a, b, loose)] == [3, 6, 3]


async def test_policies_of_rack_and_fleet_bind_besides_the_clusters(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 1000, racks=2)
    await ledger.sql(
        "INSERT INTO place (id, dim, name) OVERRIDING SYSTEM VALUE VALUES (1, 'rack', 'r1'), (2, 'rack', 'r2')"
    )
    await ledger.policy("narrow", {"rack": "r1"}, count=2)
    await ledger.policy("all", {"matchAll": True}, count=10)
    answers = list((await ledger.ask(ids)).values())
    assert sum(answer.ok for answer in answers) == 10
    assert {answer.reason for answer in answers} == {"", "RackBudget", "FleetBudget"}
    rows = await ledger.sql("SELECT rack_id, count(*) FROM permit GROUP BY 1 ORDER BY 1")
    assert dict(rows)[1] == 2


async def test_a_policy_may_come_before_its_cluster_and_the_strictest_counts(ledger: Ledger) -> None:
    await ledger.policy("early", {"cluster": "a"}, count=7)
    await ledger.policy("late", {"cluster": "a"}, count=4)
    assert await ledger.granted(await ledger.cluster("a", 100)) == 4


async def test_the_same_owner_renews_and_another_waits(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    first = await ledger.one(ids[0], owner="op")
    again = await ledger.one(ids[0], owner="op", ttl=3600)
    assert again.permit_id == first.permit_id
    other = await ledger.one(ids[0], owner="another")
    assert other.reason == "OperationInProgress"
    assert other.message == "Restart of op is still under way on this machine."
    assert await ledger.unavailable() == 1


async def test_a_free_permit_pays_when_its_operation_becomes_disruptive(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 33)
    assert (await ledger.one(ids[0], "Reload", owner="op")).ok
    assert (await ledger.one(ids[1])).ok
    assert (await ledger.one(ids[0], "Reboot", owner="op")).reason == "ClusterBudget"


async def test_two_asks_for_one_machine_in_a_batch_give_one_permit(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 1000)
    await permits(ledger.conn, [Ask(ids[0], "Restart", True, "op-a"), Ask(ids[0], "Restart", True, "op-b")])
    assert await ledger.sql("SELECT owner FROM permit") == [("op-a",)]


async def test_the_next_operation_takes_over_the_permit_whose_right_has_ended_and_the_count_stays(
    ledger: Ledger,
) -> None:
    ids = await ledger.cluster("a", 33)
    failed = await ledger.one(ids[0], owner="failed", ttl=0)
    repair = await ledger.one(ids[0], "Reboot", owner="repair")
    assert (repair.ok, repair.permit_id) == (True, failed.permit_id)
    assert await ledger.sql("SELECT owner, verb, cost FROM permit") == [("repair", "Reboot", 1)]
    assert (await ledger.one(ids[0], owner="third")).reason == "OperationInProgress"
    assert (await ledger.one(ids[1])).reason == "ClusterBudget"


async def test_a_ttl_ends_the_right_but_not_the_count(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 33)
    mine = await ledger.one(ids[0], owner="op", ttl=0)
    valid = await ledger.sql(
        "SELECT released_at IS NULL AND expires_at > now() FROM permit WHERE id = %s", mine.permit_id
    )
    assert valid == [(False,)]
    assert (await ledger.one(ids[1])).reason == "ClusterBudget"
    assert (await ledger.one(ids[0], owner="op", ttl=60)).permit_id == mine.permit_id


async def test_the_lock_of_a_deleted_machine_is_free(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 33)
    await ledger.one(ids[0])
    await ledger.sql("DELETE FROM capacity WHERE machine_id = %s", ids[0])
    assert (await ledger.one(ids[1])).ok


async def test_a_machine_that_the_ledger_does_not_know_is_refused(ledger: Ledger) -> None:
    assert (await ledger.one(4711)).reason == "MachineUnknown"


async def test_refusals_are_one_row_a_machine_and_go_when_granted(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 33)
    taken = await ledger.one(ids[0])
    await ledger.one(ids[1])
    since = await ledger.sql("SELECT reason, since FROM refusal")
    await ledger.one(ids[1])
    assert await ledger.sql("SELECT reason, since FROM refusal") == since
    await release(ledger.conn, [taken.permit_id or 0])
    assert (await ledger.one(ids[1])).ok
    assert await ledger.sql("SELECT * FROM refusal") == []


async def test_four_askers_at_once_never_pass_the_cap_and_meet_it_exactly(ledger: Ledger) -> None:
    a, b = await ledger.cluster("a", 1000), await ledger.cluster("b", 400)
    conns = [await connect() for _ in range(4)]
    over = asyncio.Event()

    async def asker(number: int) -> int:
        mine = [*a[number::4], *b[number::4]]
        granted = 0
        for start in range(0, len(mine), 25):
            answers = await permits(
                conns[number], [Ask(i, "Reboot", True, f"op-{i}") for i in mine[start : start + 25]]
            )
            granted += sum(answer.ok for answer in answers.values())
        return granted

    async def watcher() -> int:
        looks = 0
        while not over.is_set():
            assert await ledger.unavailable() <= 42
            looks += 1
            await asyncio.sleep(0)
        return looks

    watching = asyncio.create_task(watcher())
    granted = await asyncio.gather(*(asker(number) for number in range(4)))
    over.set()
    assert await watching > 0
    assert sum(granted) == 42
    assert await ledger.sql("SELECT cluster_id, count(*) FROM permit GROUP BY 1 ORDER BY 2") == [(2, 12), (1, 30)]
    for conn in conns:
        await conn.close()


async def test_what_was_granted_while_one_waited_for_the_lock_is_counted(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 33)
    first = await connect()
    waiting: asyncio.Task[object]
    async with first.transaction():
        await first.execute(
            "SELECT * FROM permit_batch('Reboot', true, 'first', '1 minute', %s::bigint[])", ([ids[0]],)
        )
        waiting = asyncio.create_task(ledger.one(ids[1]))
        await _somebody_waits(first)
    assert getattr(await waiting, "reason") == "ClusterBudget"  # noqa: B009
    await first.close()


async def _somebody_waits(conn: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    """Returns once a session waits for a lock of this one; each look is a round trip."""
    async with asyncio.timeout(2):
        while await (
            await conn.execute("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        ).fetchone():
            pass


async def test_a_ledger_that_does_not_answer_means_no(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    await ledger.sql("DELETE FROM ledger")
    assert (await ledger.one(ids[0])).reason == "Stopped"
    await ledger.sql("ALTER FUNCTION permit_each RENAME TO permit_gone")
    refused = await ledger.one(ids[0])
    await ledger.sql("ALTER FUNCTION permit_gone RENAME TO permit_each")
    assert (refused.ok, refused.reason) == (False, "SafetyUnavailable")


async def test_a_ledger_that_stays_locked_means_no(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    first = await connect()
    async with first.transaction():
        await first.execute("SELECT 1 FROM ledger FOR UPDATE")
        refused = await ledger.one(ids[0])
    assert refused.reason == "SafetyUnavailable"
    assert "lock timeout" in refused.message
    assert await ledger.sql("SELECT * FROM permit") == []
    await first.close()


async def test_a_broken_connection_means_no(ledger: Ledger) -> None:
    conn = await connect()
    await ledger.sql("SELECT pg_terminate_backend(%s)", conn.info.backend_pid)
    answers = await permits(conn, [Ask(1, "Reboot", True, "op")])
    assert answers[1].reason == "SafetyUnavailable"
    await conn.close()


async def test_permits_are_not_asked_for_inside_a_transaction(ledger: Ledger) -> None:
    async with ledger.conn.transaction():
        with pytest.raises(ValueError, match="outside of a transaction"):
            await permits(ledger.conn, [])


async def test_the_kill_switch_refuses_everything_even_what_relieves(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    dsn = ledger.conn.info.dsn
    await asyncio.to_thread(lambda: switch.stop("olga", "power failure", dsn=dsn))
    for verb in ("Reboot", "Reload", "Open"):
        answer = await ledger.one(ids[0], verb)
        assert answer.reason == "Stopped"
        assert answer.message == "The kill switch is on by olga: power failure: nothing starts anywhere."
    await asyncio.to_thread(lambda: switch.resume("olga", dsn=dsn))
    assert (await ledger.one(ids[0])).ok


async def test_grants_and_releases_are_changes_that_a_watcher_sees(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    mine = await ledger.one(ids[0])
    await release(ledger.conn, [mine.permit_id or 0])
    rows = await ledger.sql("SELECT op, object_id, rv FROM change WHERE kind = 10 ORDER BY rv")
    assert [row[:2] for row in rows] == [(1, mine.permit_id), (2, mine.permit_id)]
    assert await ledger.sql("SELECT rv FROM permit") == [(rows[-1][2],)]
    assert await release(ledger.conn, [mine.permit_id or 0]) == 0


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        ({"machine": "a-1"}, [0]),
        ({"cluster": "a"}, [0, 1, 2]),
        ({"selector": {"matchLabels": {"n": "1"}}}, [0, 2, 3, 5]),
        ({"matchAll": True}, [0, 1, 2, 3, 4, 5]),
        ({"selector": {"matchLabels": {}}}, []),
        ({"matchAll": False}, []),
        ({"cluster": ""}, []),
        ({}, []),
    ],
    ids=["machine", "cluster", "labels", "all", "empty labels", "not all", "empty name", "nothing"],
)
async def test_a_hold_covers_what_it_names_and_nothing_else(
    ledger: Ledger, target: dict[str, object], covered: list[int]
) -> None:
    ids = [*await ledger.cluster("a", 3), *await ledger.cluster("b", 3)]
    await ledger.hold("h", target, reason="disks arrive")
    assert sorted(await held(ledger.conn, ids)) == [ids[i] for i in covered]
    answers = await ledger.ask(ids, "Reload")
    assert [i for i in range(6) if answers[ids[i]].reason == "Held"] == covered


async def test_a_held_machine_may_still_be_relieved_and_the_refusal_names_the_hold(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 3)
    await ledger.hold("disks", {"machine": "a-1"}, reason="disks arrive")
    assert (await ledger.one(ids[0], "Open")).ok
    assert (await ledger.one(ids[0], "Reboot", owner="op-x")).message == "Hold disks of olga covers it: disks arrive"


async def test_a_hold_ends_at_its_time_and_one_without_a_readable_time_does_not(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 3)
    await ledger.hold("past", {"machine": "a-1"}, until="2020-01-01T00:00:00Z")
    await ledger.hold("broken", {"machine": "a-2"}, until="soon")
    covering = await held(ledger.conn, ids)
    assert {i: covering[i].hold for i in covering} == {ids[1]: "broken"}
    assert covering[ids[1]].until is None


async def test_a_paused_machine_is_left_alone(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 3)
    await ledger.sql("UPDATE machine_state SET paused = true WHERE id = %s", ids[0])
    assert (await ledger.one(ids[0])).reason == "Paused"


async def test_permits_of_machines_that_are_gone_are_released_and_old_ones_forgotten_in_sight_of_watchers(
    ledger: Ledger,
) -> None:
    ids = await ledger.cluster("a", 1000)
    await ledger.ask(ids[:3])
    await ledger.sql("DELETE FROM capacity WHERE machine_id = %s", ids[0])
    assert await tidy(ledger.conn) == 1
    assert await tidy(ledger.conn) == 0
    assert await tidy(ledger.conn, keep="0 days") == 1
    assert await ledger.sql("SELECT machine_id FROM permit ORDER BY 1") == [(ids[1],), (ids[2],)]
    buried = await ledger.sql("SELECT t.name, c.op FROM tombstone t JOIN change c ON c.rv = t.rv WHERE t.kind = 10")
    assert buried == [("permit-1", 3)]


@pytest.mark.parametrize("known", ["nothing", "a few", "all"])
@pytest.mark.parametrize("holds", [0, 40])
async def test_the_ledger_answers_a_batch_though_statistics_call_the_fleet_empty(
    ledger: Ledger, known: str, holds: int
) -> None:
    """Else each ask reads all machines, and the ledger answers nobody within its patience. `known`: of columns and indexes."""
    for n in range(holds):
        await ledger.hold(f"h{n}", {"machine": f"a-{n + 1}"})
    if known == "a few":
        await ledger.cluster("z", 5)
        await ledger.sql("ANALYZE")
    ids = (await ledger.cluster("a", 21_000))[holds:]
    if known == "all":
        await ledger.sql("ANALYZE")
    for _ in range(2):  # granted, and renewed
        call_tables_empty()
        assert await ledger.granted(ids[:700]) == 50  # the breaker
        assert await ledger.granted(ids[700:1_400], unplanned=False) == 0
    await ledger.no_breaker()
    for _ in range(2):
        call_tables_empty()
        assert await ledger.granted(ids[:700]) == 600
    call_tables_empty()
    assert await ledger.granted(ids[700:1_700]) == 0
    assert await ledger.unavailable() == 600


async def test_plans_from_before_a_storm_read_no_whole_table_for_each_machine_of_it(ledger: Ledger) -> None:
    """The ledger keeps its plans: one of when there was hardly a permit is used for a thousand of them. To count once for all is another thing."""
    few = await ledger.cluster("z", 3)
    await ledger.ask(few[:1])
    await ledger.sql("ANALYZE")
    await ledger.ask(few[1:2])
    ids = await ledger.cluster("a", 1_000)
    await ledger.no_breaker()
    before = await whole_reads(ledger)
    for _ in range(2):  # granted, and renewed
        await ledger.ask(ids[:300])
    after = await whole_reads(ledger)
    assert [table for table in after if after[table] - before[table] >= 300] == []


async def whole_reads(ledger: Ledger) -> dict[str, int]:
    """How often each table that grows with the fleet was read as a whole."""
    await ledger.sql("SELECT pg_stat_force_next_flush()")
    return dict(
        await ledger.sql(
            "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN ('permit', 'capacity', 'refusal', 'breaker_strike', 'verb_start', 'machine', 'machine_state')"
        )
    )
