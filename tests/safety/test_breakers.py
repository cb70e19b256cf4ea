"""The breaker stops a storm of repairs exactly at its limit, stops no healing, and opens its door again step by step."""

from __future__ import annotations

import asyncio

import pytest

from fleet.safety.breakers import strike, trip, turn
from fleet.safety.permits import Ask, permits, release
from tests.safety.conftest import Ledger
from tests.simulator.conftest import connect


async def open_one(ledger: Ledger, machines: int = 100) -> list[int]:
    """A cluster whose breaker a storm has opened; its machines are well again and their permits back."""
    ids = await ledger.cluster("a", machines, racks=1)
    await ledger.sql("UPDATE capacity SET rack_id = 0")
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    answers = await ledger.ask(ids)
    assert await ledger.breaker() == "open", {(a.reason, a.message) for a in answers.values()}
    await ledger.give_back(*ids)
    return ids


@pytest.mark.parametrize(("machines", "most"), [(1, 1), (3, 2), (10, 2), (11, 3), (100, 20), (250, 50), (1000, 50)])
async def test_it_opens_at_the_start_that_meets_its_limit_and_no_more_ever_start(
    ledger: Ledger, machines: int, most: int
) -> None:
    ids = await ledger.cluster("a", machines)
    await ledger.sql("UPDATE capacity SET rack_id = 0")
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    assert await ledger.granted(ids) == most
    assert await ledger.granted(ids, owner="another") == 0
    assert await ledger.breaker() == ("open" if machines > 1 else "closed")


async def test_four_askers_of_a_thousand_at_once_get_exactly_the_limit(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 4000)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    conns = [await connect() for _ in range(4)]
    asks = [[Ask(i, "Reboot", True, f"op-{i}") for i in ids[n::4]] for n in range(4)]
    answers = await asyncio.gather(*(permits(conn, part) for conn, part in zip(conns, asks, strict=True)))
    assert sum(answer.ok for part in answers for answer in part.values()) == 50
    assert {answer.reason for part in answers for answer in part.values()} == {"", "ClusterBreaker"}
    for conn in conns:
        await conn.close()


async def test_an_open_breaker_refuses_planned_changes_and_machines_already_down_and_says_why(ledger: Ledger) -> None:
    ids = await open_one(ledger)
    await ledger.sql("UPDATE capacity SET down = true WHERE machine_id = %s", ids[99])
    for machine, unplanned in ((ids[98], False), (ids[99], True)):
        refused = await ledger.one(machine, "Drain", unplanned=unplanned)
        assert refused.reason == "ClusterBreaker"
        assert refused.message.startswith("The breaker of cluster a is open since ")
        assert "20 machines were taken by faults, or failed a change, within 10 minutes; the limit is 20 % of those in service, at least 2 and at most 50." in refused.message  # fmt: skip
        assert "Nothing that takes a machine away starts there. It lets one through after " in refused.message
    refusals = await ledger.sql("SELECT DISTINCT reason FROM refusal")
    assert refusals == [("ClusterBreaker",)]


async def test_while_it_is_open_what_relieves_reloads_or_is_under_way_goes_on(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.one(ids[0], owner="mine")
    await ledger.granted(ids[1:])
    assert await ledger.breaker() == "open"
    assert (await ledger.one(ids[0], owner="mine")).ok
    assert (await ledger.one(ids[0], "Reboot", owner="mine")).ok
    assert (await ledger.one(ids[0], "Wipe", owner="mine")).reason == "ClusterBreaker"
    assert (await ledger.one(ids[90], "Uncordon")).ok
    assert (await ledger.one(ids[91], "Reload")).ok
    assert await release(ledger.conn, [1]) == 1


async def test_it_survives_a_restart(ledger: Ledger) -> None:
    ids = await open_one(ledger)
    fresh = await connect()
    answer = (await permits(fresh, [Ask(ids[50], "Reboot", False, "op")]))[ids[50]]
    assert answer.reason == "ClusterBreaker"
    await fresh.close()


async def test_half_of_the_limit_counted_before_a_restart_counts_after_it(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    assert await ledger.granted(ids[:15]) == 15
    fresh = await connect()
    answers = await permits(fresh, [Ask(i, "Reboot", True, f"op-{i}") for i in ids[15:]])
    assert sum(answer.ok for answer in answers.values()) == 5
    await fresh.close()


async def test_planned_changes_that_end_well_never_open_it(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100, racks=1)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    assert await ledger.granted(ids, unplanned=False) == 75
    assert await ledger.breaker() == "closed"
    assert await ledger.sql("SELECT * FROM breaker_strike") == []


async def test_changes_that_fail_their_post_check_open_it(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    assert await strike(ledger.conn, [(i, "kubelet does not come up") for i in [*ids[:19], *ids[:19], 4711]]) == 19
    assert await ledger.breaker() == "closed"
    await strike(ledger.conn, [(ids[19], "kubelet does not come up")])
    assert await ledger.breaker() == "open"
    assert (await ledger.one(ids[50], unplanned=False)).reason == "ClusterBreaker"


async def test_a_machine_counts_once_a_window_and_starts_older_than_it_do_not(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 10)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.sql("UPDATE capacity SET rack_id = 0")
    for n in range(3):
        assert (await ledger.one(ids[0], owner=f"op-{n}")).ok
        await ledger.give_back(ids[0])
    assert await ledger.breaker() == "closed"
    await ledger.later(minutes=11)
    assert (await ledger.one(ids[1])).ok
    assert await ledger.breaker() == "closed"
    assert (await ledger.one(ids[2])).ok
    assert await ledger.breaker() == "open"


async def test_after_its_cool_down_it_lets_through_one_two_four_and_closes(ledger: Ledger) -> None:
    ids = await open_one(ledger, 50)  # ten open it
    assert (await ledger.one(ids[20])).reason == "ClusterBreaker"
    await ledger.later(minutes=10)
    taken = 0
    for room in (1, 2, 4, 8):
        asked = ids[taken : taken + 20]
        granted = [i for i, answer in (await ledger.ask(asked, unplanned=False)).items() if answer.ok]
        assert len(granted) == room
        assert (await ledger.one(ids[49], unplanned=False)).reason == "HalfOpen"
        for machine in granted:
            assert await ledger.breaker() == "half-open"
            await ledger.give_back(machine)
        taken += room
    await turn(ledger.conn)
    assert await ledger.breaker() == "closed"
    told = [
        row[0] for row in await ledger.sql("SELECT type FROM event WHERE type LIKE 'dev.fleet.breaker.%%' ORDER BY pos")
    ]
    assert told == ["dev.fleet.breaker.opened", "dev.fleet.breaker.half-opened", "dev.fleet.breaker.closed"]


async def test_the_refusal_of_one_that_waits_for_its_turn_says_so(ledger: Ledger) -> None:
    ids = await open_one(ledger)
    await ledger.later(minutes=10)
    assert (await ledger.one(ids[0])).ok
    refused = await ledger.one(ids[1])
    assert refused.message == (
        "The breaker of cluster a is half-open: it lets 1 through at a time until they end well, then twice as many."
        " This waits for its turn."
    )


async def test_one_that_was_let_through_and_is_not_well_when_its_right_ended_opens_it_again(ledger: Ledger) -> None:
    ids = await open_one(ledger)
    await ledger.later(minutes=10)
    assert (await ledger.one(ids[0])).ok
    await ledger.sql("UPDATE capacity SET down = true WHERE machine_id = %s", ids[0])
    await ledger.later(minutes=10, seconds=59)
    await turn(ledger.conn)
    assert await ledger.breaker() == "half-open"
    await ledger.later(seconds=2)
    await turn(ledger.conn)
    assert await ledger.breaker() == "open"
    assert "a-1 was let through and is not well again." in (await ledger.one(ids[1])).message


async def test_a_failed_change_opens_a_half_open_one_again_and_begins_the_cool_down_of_an_open_one_anew(
    ledger: Ledger,
) -> None:
    ids = await open_one(ledger)
    await ledger.later(minutes=9)
    await strike(ledger.conn, [(ids[60], "it was under way")])
    await ledger.later(minutes=9)
    assert (await ledger.one(ids[0])).reason == "ClusterBreaker"
    await ledger.later(minutes=1)
    assert (await ledger.one(ids[0])).ok
    await strike(ledger.conn, [(ids[0], "it came back without network")])
    assert (await ledger.one(ids[1])).reason == "ClusterBreaker"


async def test_a_machine_that_is_gone_gives_its_place_to_the_next(ledger: Ledger) -> None:
    ids = await open_one(ledger)
    await ledger.later(minutes=10)
    assert (await ledger.one(ids[0])).ok
    await ledger.sql("DELETE FROM capacity WHERE machine_id = %s", ids[0])
    assert (await ledger.one(ids[1])).ok
    assert (await ledger.one(ids[2])).reason == "HalfOpen"


async def test_a_storm_that_goes_on_while_it_is_half_open_opens_it_again_at_the_limit(ledger: Ledger) -> None:
    ids = await open_one(ledger, 50)
    await ledger.later(minutes=10)
    started = 0
    while await ledger.breaker() != "open" or started == 0:
        granted = [i for i, answer in (await ledger.ask(ids, owner="repair")).items() if answer.ok]
        started += len(granted)
        ids = [i for i in ids if i not in granted]
        await ledger.give_back(*granted)
    assert started == 10


async def test_racks_and_idcs_have_breakers_of_their_own(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 1000, racks=20)
    await ledger.sql("UPDATE capacity SET idc_id = 7")
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.rule("many", {"cluster": "a"}, breaker={"count": 1000, "percent": 100})
    rack = [row[0] for row in await ledger.sql("SELECT machine_id FROM capacity WHERE rack_id = 1 ORDER BY 1")]
    assert await ledger.granted(rack) == 10  # of fifty
    assert (await ledger.one(rack[20])).reason == "RackBreaker"
    assert (await ledger.breaker("rack", 1), await ledger.breaker("cluster", 1)) == ("open", "closed")
    others = [i for i in ids if i not in rack]
    assert await ledger.granted(others) == 190  # 10 of each other rack: an idc has many clusters, and a limit of 200
    assert await ledger.breaker("idc", 7) == "open"


async def test_machines_without_cluster_have_one_breaker(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    await ledger.sql("UPDATE capacity SET cluster_id = 0, rack_id = 0")
    await ledger.sql("UPDATE capacity SET down = true")
    assert await ledger.granted(ids) == 20
    assert (await ledger.one(ids[50])).message.startswith("The breaker of machines without cluster is open since ")


async def test_three_open_clusters_open_the_fleets_also_within_one_batch_and_only_people_free_it(
    ledger: Ledger,
) -> None:
    clusters = [await ledger.cluster(name, 10, racks=1) for name in "abcd"]
    await ledger.sql("UPDATE capacity SET rack_id = 0, down = true")
    answers = await ledger.ask([i for ids in clusters for i in ids])
    assert [sum(answers[i].ok for i in ids) for ids in clusters] == [2, 2, 2, 0]
    assert {answers[i].reason for i in clusters[3]} == {"FleetBreaker"}
    assert await ledger.breaker("fleet", 0) == "open"
    refused = await ledger.one(clusters[3][0], unplanned=False)
    assert refused.message.endswith("Only people free it: fleetctl breaker reset fleet.")
    await ledger.later(days=3)
    assert (await ledger.one(clusters[3][0])).reason == "FleetBreaker"
    assert await ledger.sql("SELECT breaker_reset('fleet', 0, 'olga', false)") == [("half-open",)]
    assert (await ledger.one(clusters[3][0])).ok
    assert (await ledger.one(clusters[3][1])).reason == "HalfOpen"


async def test_two_hundred_machines_anywhere_open_the_fleets(ledger: Ledger) -> None:
    ids = [i for n in range(10) for i in await ledger.cluster(f"c{n}", 200)]
    await ledger.sql("UPDATE capacity SET rack_id = 0, down = true")
    for n in range(8):
        await ledger.rule(f"off-{n}", {"cluster": f"c{n}"}, breaker={"count": 100, "percent": 100})
    assert sum([await ledger.granted(ids[n * 200 : n * 200 + 90]) for n in range(3)]) == 200
    assert await ledger.breaker("fleet", 0) == "open"


async def test_a_reset_takes_two_people_where_that_is_asked_and_one_step_at_a_time(ledger: Ledger) -> None:
    await open_one(ledger)

    async def reset(by: str, two: bool = True) -> str:
        return str((await ledger.sql("SELECT breaker_reset('cluster', 1, %s, %s)", by, two))[0][0])

    assert [await reset("olga"), await reset("olga"), await reset("pavel")] == ["asked", "same", "half-open"]
    assert [await reset("olga"), await reset("pavel"), await reset("olga")] == ["asked", "closed", "closed already"]


async def test_a_word_for_a_reset_is_good_for_an_hour(ledger: Ledger) -> None:
    await open_one(ledger)
    await trip(ledger.conn, "fleet", 0, "Pods cannot be created.")
    await ledger.sql("SELECT breaker_reset('fleet', 0, 'olga', true)")
    await ledger.later(minutes=61)
    assert await ledger.sql("SELECT breaker_reset('fleet', 0, 'pavel', true)") == [("asked",)]


async def test_what_was_counted_before_a_reset_does_not_open_it_again(ledger: Ledger) -> None:
    ids = await open_one(ledger)
    await ledger.sql("SELECT breaker_reset('cluster', 1, 'olga', false)")
    await ledger.sql("SELECT breaker_reset('cluster', 1, 'olga', false)")
    assert await ledger.granted(ids, owner="next") == 20


async def test_policies_set_its_limits_the_strictest_counts_and_it_is_off_only_where_all_say_so(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.sql("UPDATE capacity SET rack_id = 0")
    await ledger.rule("off", {"cluster": "a"}, breaker={"disabled": True})
    await ledger.rule("narrow", {"cluster": "a"}, breaker={"percent": 4, "windowSeconds": 3600})
    assert await ledger.granted(ids) == 4
    await ledger.later(minutes=50)
    assert (await ledger.one(ids[50])).reason == "ClusterBreaker"
    await ledger.sql("DELETE FROM safety_safetypolicy WHERE name = 'narrow'")
    assert await ledger.granted(ids) == 100


async def test_it_can_be_opened_from_outside(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 100)
    await trip(ledger.conn, "cluster", 1, "Of 40 pods in 5 minutes 31 could not be created.")
    assert "Of 40 pods in 5 minutes 31 could not be created." in (await ledger.one(ids[0])).message


async def test_a_cluster_whose_breaker_is_open_is_left_out_of_the_fleets_budget(ledger: Ledger) -> None:
    a, b = await ledger.cluster("a", 100, down=50), await ledger.cluster("b", 100)
    await ledger.policy("all", {"matchAll": True}, percent=10)
    assert (await ledger.one(b[0])).reason == "FleetBudget"
    await trip(ledger.conn, "cluster", 1, "test")
    assert await ledger.granted(b) == 3
    assert (await ledger.one(a[0])).reason == "ClusterBreaker"


async def test_starts_are_forgotten_after_a_day(ledger: Ledger) -> None:
    await ledger.ask(await ledger.cluster("a", 5))
    await ledger.later(days=2)
    await turn(ledger.conn)
    assert await ledger.sql("SELECT * FROM breaker_strike") == []


async def test_a_policy_that_speaks_of_pods_alone_leaves_the_breaker_as_it_is(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 10)
    await ledger.rule("off", {"cluster": "a"}, breaker={"disabled": True, "podSuccess": {"atLeast": 9}})
    await ledger.rule("pods", {"cluster": "a"}, breaker={"podSuccess": {"percent": 90, "atLeast": 30}})
    await ledger.rule("everywhere", {"matchAll": True}, breaker={"podSuccess": {"percent": 99}})
    await trip(ledger.conn, "cluster", 1, "Pods do not start.")
    assert await ledger.breaker() == "closed" and (await ledger.one(ids[0])).ok
    assert await ledger.sql("SELECT percent::float, at_least, seconds, off, policy FROM breaker_pods(1)") == [
        (90.0, 9, None, False, "off, pods")
    ]
    assert await ledger.sql("SELECT percent::float, off, policy FROM breaker_pods(2)") == [(99.0, False, "everywhere")]
