"""Each guard of the ledger matters: taken out one at a time, a machine is taken away that must not be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import fleet.safety.migrations
from fleet.safety import switch
from fleet.safety.breakers import strike, trip, turn
from tests.safety.conftest import Ledger
from tests.simulator.conftest import connect, dsn

HERE = Path(fleet.safety.migrations.__file__).parent
SQL = (HERE / "breaker.sql").read_text() + (HERE / "guards.sql").read_text() + (HERE / "permit_batch.sql").read_text()
Probe = Callable[[Ledger], Awaitable[bool]]


async def stopped(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 10)
    await asyncio.to_thread(lambda: switch.stop("olga", "test", dsn=dsn()))
    return (await ledger.one(ids[0], "Reload")).ok


async def unknown(ledger: Ledger) -> bool:
    return (await ledger.one(4711)).ok


async def held(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 10)
    await ledger.hold("h", {"cluster": "a"})
    return (await ledger.one(ids[0], "Reload")).ok


async def paused(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 10)
    await ledger.sql("UPDATE machine_state SET paused = true")
    return (await ledger.one(ids[0], "Reload")).ok


async def two_owners(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 10)
    await ledger.one(ids[0], owner="one")
    return (await ledger.one(ids[0], owner="two")).ok


async def over_budget(ledger: Ledger) -> bool:
    return await ledger.granted(await ledger.cluster("a", 100)) > 3


async def over_reserve(ledger: Ledger) -> bool:
    return await ledger.granted(await ledger.cluster("a", 400), unplanned=False) > 9


async def down_forgotten(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 100, down=3)
    return (await ledger.one(ids[50])).ok


async def permits_forgotten(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 100)
    await ledger.ask(ids[:3])
    return (await ledger.one(ids[50])).ok


async def zero_ignored(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 100)
    await ledger.policy("none", {"cluster": "a"}, count=0)
    return (await ledger.one(ids[0])).ok


async def policy_ignored(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 100)
    await ledger.policy("two", {"cluster": "a"}, count=2)
    return await ledger.granted(ids) > 2


async def uncapped(ledger: Ledger) -> bool:
    return await ledger.granted((await ledger.cluster("a", 21_000, racks=1))[:700], unplanned=False) > 450


async def upgraded_for_nothing(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 33)
    await ledger.one(ids[0], "Reload", owner="op")
    await ledger.one(ids[1])
    return (await ledger.one(ids[0], "Reboot", owner="op")).ok


async def not_drawing(ledger: Ledger) -> bool:
    return await ledger.granted(await ledger.cluster("a", 10), "Frobnicate") > 1


async def raced(ledger: Ledger) -> bool:
    """Another session has granted the last place and not committed yet."""
    ids = await ledger.cluster("a", 33)
    other = await connect()
    async with other.transaction():
        await other.execute(
            "SELECT * FROM permit_batch('Reboot', true, 'first', '1 minute', %s::bigint[])", ([ids[0]],)
        )
        late = asyncio.create_task(ledger.one(ids[1]))
        await asyncio.wait([late], timeout=0.5)
    answer = await late
    await other.close()
    return answer.ok


async def counted_too_early(ledger: Ledger) -> bool:
    return await raced(ledger)


async def storm(ledger: Ledger, machines: int = 100) -> list[int]:
    """A cluster without racks where a storm of repairs has been asked for, as far as it went."""
    ids = await ledger.cluster("a", machines)
    await ledger.sql("UPDATE capacity SET rack_id = 0")
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.ask(ids)
    return ids


async def started(ledger: Ledger) -> int:
    return int((await ledger.sql("SELECT count(*) FROM permit"))[0][0])


async def too_many_in_a_batch(ledger: Ledger) -> bool:
    await storm(ledger)
    return await started(ledger) > 20


async def planned_meanwhile(ledger: Ledger) -> bool:
    ids = await storm(ledger)
    return (await ledger.one(ids[99], unplanned=False)).ok


async def too_many_one_by_one(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 10)
    await ledger.sql("UPDATE capacity SET rack_id = 0, down = true")
    return sum([(await ledger.one(i)).ok for i in ids]) > 2


async def wiped_under_a_reboot(ledger: Ledger) -> bool:
    ids = await storm(ledger)
    return (await ledger.one(ids[0], "Wipe")).ok


async def failed_for_nothing(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 10)
    await strike(ledger.conn, [(i, "x") for i in ids[:2]])
    return (await ledger.one(ids[5], unplanned=False)).ok


async def two_at_once(ledger: Ledger) -> bool:
    ids = await storm(ledger)
    await ledger.later(minutes=10)
    return await ledger.granted(ids[30:], owner="late") > 1


async def two_in_turn(ledger: Ledger) -> bool:
    ids = await storm(ledger)
    await ledger.later(minutes=10)
    return sum([(await ledger.one(i, owner="late")).ok for i in ids[30:32]]) > 1


async def cool_too_soon(ledger: Ledger) -> bool:
    ids = await storm(ledger)
    await ledger.later(minutes=9)
    return (await ledger.one(ids[99], owner="late")).ok


async def fleet_cooled(ledger: Ledger) -> bool:
    for name in "abc":
        await trip(ledger.conn, "cluster", (await storm_of(ledger, name)), "x")
    ids = await ledger.cluster("d", 10)
    await ledger.later(days=1)
    return (await ledger.one(ids[0])).ok


async def storm_of(ledger: Ledger, name: str) -> int:
    ids = await ledger.cluster(name, 10)
    return int((await ledger.sql("SELECT cluster_id FROM capacity WHERE machine_id = %s", ids[0]))[0][0])


async def not_well_again(ledger: Ledger) -> bool:
    ids = await storm(ledger)
    await ledger.later(minutes=10)
    await ledger.one(ids[50], owner="late")
    await ledger.sql("UPDATE capacity SET down = true WHERE machine_id = %s", ids[50])
    await ledger.later(minutes=12)
    await turn(ledger.conn)
    await ledger.sql("UPDATE capacity SET down = false")
    await ledger.give_back(ids[50])
    return (await ledger.one(ids[51], owner="late")).ok


async def alone(ledger: Ledger) -> bool:
    await storm(ledger)
    return await ledger.sql(
        "SELECT breaker_reset('cluster', 1, 'olga', true), breaker_reset('cluster', 1, 'olga', true)"
    ) != [("asked", "same")]


async def outside(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 100)
    await ledger.rule("w", {"cluster": "a"}, windows=[{"start": "25:99", "durationMinutes": 1}])
    return (await ledger.one(ids[0], unplanned=False)).ok


async def two_racks(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 1000)
    await ledger.one(ids[0], unplanned=False)
    return (await ledger.one(ids[1], unplanned=False)).ok


async def two_racks_at_once(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 1000)
    return await ledger.granted(ids[:2], unplanned=False) > 1


async def too_often(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 1000, racks=1)
    await ledger.rule("r", {"cluster": "a"}, rates=[{"verb": "Drain", "count": 1, "windowSeconds": 60}])
    await ledger.one(ids[0], "Drain")
    return (await ledger.one(ids[1], "Drain")).ok


async def too_often_at_once(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 1000, racks=1)
    await ledger.rule("r", {"cluster": "a"}, rates=[{"verb": "Drain", "count": 1, "windowSeconds": 60}])
    return await ledger.granted(ids[:2], "Drain") > 1


async def wiped_too_often(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 1000, racks=1)
    return await ledger.granted(ids[:20], "Wipe") > 10


async def below_reserve(ledger: Ledger) -> bool:
    ids = await ledger.cluster("a", 100, racks=1)
    await ledger.rule("keep", {"cluster": "a"}, minSchedulable=99)
    return await ledger.granted(ids[:2]) > 1


async def plane(ledger: Ledger, members: int, *, down: int = 0) -> list[int]:
    """Machines that carry a control plane, in a cluster whose budget lets all of them go."""
    ids = await ledger.cluster("a", 100, racks=1, down=down)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.carries(ids[:members])
    return ids[:members]


async def below_quorum(ledger: Ledger) -> bool:
    return sum([(await ledger.one(i)).ok for i in await plane(ledger, 3)]) > 1


async def below_quorum_at_once(ledger: Ledger) -> bool:
    return await ledger.granted(await plane(ledger, 5)) > 2


async def below_quorum_by_faults(ledger: Ledger) -> bool:
    return (await ledger.one((await plane(ledger, 3, down=1))[1])).ok


async def carriers(ledger: Ledger, *, down: int = 0) -> tuple[list[int], list[int]]:
    """Machines of a meta cluster that carry a small cluster's control plane, and the machines of that cluster: one of all may be away."""
    meta, small = await ledger.cluster("meta", 100, racks=1, down=down), await ledger.cluster("small", 10, racks=1)
    await ledger.hosts(meta[:3], "small")
    return meta, small


async def carrier_over_budget(ledger: Ledger) -> bool:
    meta, small = await carriers(ledger)
    return (await ledger.one(small[0])).ok and (await ledger.one(meta[0])).ok


async def carriers_over_budget_at_once(ledger: Ledger) -> bool:
    meta, _ = await carriers(ledger)
    return await ledger.granted(meta[:2]) > 1


async def carrier_down_forgotten(ledger: Ledger) -> bool:
    _, small = await carriers(ledger, down=1)
    return (await ledger.one(small[0])).ok


async def carrier_permit_forgotten(ledger: Ledger) -> bool:
    meta, small = await carriers(ledger)
    return (await ledger.one(meta[0])).ok and (await ledger.one(small[0])).ok


async def below_found_quorum(ledger: Ledger) -> bool:
    meta, _ = await carriers(ledger)
    await ledger.policy("wide", {"cluster": "small"}, percent=100)
    await ledger.sql("UPDATE carried SET member = true")
    return sum([(await ledger.one(i)).ok for i in meta[:3]]) > 1


LOCK = "PERFORM 1 FROM ledger WHERE id = 1 FOR UPDATE;  -- the one lock"
LOOP = "FOR lim IN SELECT * FROM safety_limits(p_ids) LOOP"
GUARDS: dict[str, tuple[str, str, Probe]] = {
    "kill switch": ("IF halt.stopped THEN", "IF false THEN", stopped),
    "known machines only": ("ELSIF NOT r.known THEN", "ELSIF false THEN", unknown),
    "holds": ("ELSIF r.hold IS NOT NULL AND", "ELSIF false AND", held),
    "pauses": ("ELSIF r.paused AND", "ELSIF false AND", paused),
    "one owner": ("r.open_owner <> r.owner AND NOT r.over THEN", "false THEN", two_owners),
    "budget": ("IF used[s] + price > most AND", "IF false AND", over_budget),
    "reserve for repairs": ("greatest(1, c.cap - c.cap / 4)", "c.cap", over_reserve),
    "the down count": ("WHERE c.in_service AND c.down AND c.%1$I = ANY ($1)", "WHERE false AND c.%1$I = ANY ($1)", down_forgotten),
    "permits count": ("p.released_at IS NULL AND p.draws AND c.in_service AND NOT c.down AND c.%1$I", "false AND c.%1$I", permits_forgotten),
    "zero means none": ("WHEN o.max_count = 0 OR o.max_percent = 0 THEN 0 ELSE", "WHEN false THEN 0 ELSE", zero_ignored),
    "policies": ("WHERE s.name IS NOT NULL AND p.deleted_at IS NULL", "WHERE false", policy_ignored),
    "six hundred at most": ("coalesce(b.max_count, 600)", "coalesce(b.max_count, 100000)", uncapped),
    "paying for a stronger verb": ("AND NOT coalesce(r.open_draws, false)", "AND r.open_id IS NULL", upgraded_for_nothing),
    "unknown verbs draw": ("ELSE 'disruptive' END", "ELSE 'reversible' END", not_drawing),
    "the breaker within a batch": ("IF hits[at] >= mosts[at] THEN", "IF false THEN", too_many_in_a_batch),
    "the breaker over batches": ("IF trips[at] <> '' THEN", "IF false THEN", planned_meanwhile),
    "starts are written down": ("WHERE a.begun;", "WHERE false;", too_many_one_by_one),
    "an open breaker": ("IF why IS NULL AND states[at] = 'open' THEN", "IF false THEN", too_many_in_a_batch),
    "an open breaker binds plans": ("ELSIF hard AND NOT owned THEN", "ELSIF hard AND NOT owned AND r.unplanned THEN", planned_meanwhile),
    "nothing worse under a permit": ("AND (r.class <> 'destructive' OR r.open_class = 'destructive')", "", wiped_under_a_reboot),
    "failed changes count": ("IF again OR b.state = 'open' OR b.hit >= b.most THEN", "IF false THEN", failed_for_nothing),
    "one at a time in a batch": ("THEN rooms[at] := rooms[at] - 1;", "THEN", two_at_once),
    "one at a time": ("FROM unnest(tried, tries) AS a(id, place)", "FROM unnest('{}'::bigint[], '{}'::int[]) AS a(id, place)", two_in_turn),
    "the cool-down": ("b.last_at + make_interval(secs => b.seconds) <= p_now", "true", cool_too_soon),
    "people free the fleet": ("IF b.dim <> 'fleet' AND b.last_at", "IF b.last_at", fleet_cooled),
    "three clusters": ("AND many >= 3 AND", "AND false AND", fleet_cooled),
    "a trial that failed": ("IF bad IS NOT NULL THEN", "IF false THEN", not_well_again),
    "two people": ("IF p_two AND b.asked_by = p_by THEN", "IF false THEN", alone),
    "windows": ("IF FOUND THEN why := 'OutsideWindow'; ELSE", "IF false THEN ELSE", outside),
    "a window that cannot be read": ("RETURN QUERY SELECT false, NULL::timestamptz", "RETURN QUERY SELECT true, NULL::timestamptz", outside),
    "one domain at a time": ("THEN why := 'DomainBusy';", "THEN", two_racks),
    "one domain in a batch": ("AND (x ->> 2)::int = 0 THEN", "AND false THEN", two_racks_at_once),
    "rates": ("IF rrooms[s] <= 0 AND why IS NULL THEN", "IF false THEN", too_often),
    "rates in a batch": ("rrooms[theirs[i]] := rrooms[theirs[i]] - 1;", "NULL;", too_often_at_once),
    "acts are written down": ("AS a(id, verb, begun)\n  CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c WHERE a.begun", "AS a(id, verb, begun)\n  CROSS JOIN LATERAL (SELECT * FROM capacity WHERE machine_id = a.id OFFSET 0) c WHERE false", too_often),
    "holds are looked for": ("WHERE held OFFSET 0", "WHERE false OFFSET 0", held),
    "rates of policies are looked for": ("IF told.rates OR EXISTS", "IF EXISTS", too_often),
    "built-in rates are looked for": ("IN ('reboot', 'reinstall', 'wipe')) THEN", "IN ('reboot')) THEN", wiped_too_often),
    "reserves are looked for": ("IF told.reserves AND", "IF false AND", below_reserve),
    "built-in rates": ("AS d(verb, cluster, fleet) ON p.dim IN", "AS d(verb, cluster, fleet) ON false AND p.dim IN", wiped_too_often),
    "the reserve": ("IF vrooms[s] < price AND why IS NULL THEN", "IF false THEN", below_reserve),
    "the reserve in a batch": ("vrooms[kept[i]] := vrooms[kept[i]] - price;", "NULL;", below_reserve),
    "the quorum": ("IF (quorums -> plane ->> 0)::int < price THEN", "IF false THEN", below_quorum),
    "the quorum in a batch": ("to_jsonb((quorums -> plane ->> 0)::int - price)", "to_jsonb((quorums -> plane ->> 0)::int)", below_quorum_at_once),
    "the quorum of members that Fleet placed": ("UNION SELECT pl.name FROM carried k", "UNION SELECT pl.name FROM (SELECT * FROM carried WHERE false) k", below_found_quorum),
    "budgets of what a machine carries": ("UNION SELECT 'cluster', k.plane_id FROM carried k WHERE k.machine_id = ANY (p_ids)", "", carrier_over_budget),
    "budgets of what a machine carries bind it": ("OR dims[s] = 'cluster' AND keys[s] = ANY (r.carries)", "", carriers_over_budget_at_once),
    "carriers that are down count": ("count(*) FILTER (WHERE c.down OR EXISTS (SELECT FROM permit p WHERE p.machine_id = k.machine_id", "count(*) FILTER (WHERE EXISTS (SELECT FROM permit p WHERE p.machine_id = k.machine_id", carrier_down_forgotten),
    "permits of carriers count": ("p.machine_id = k.machine_id AND p.released_at IS NULL AND p.draws", "false", carrier_permit_forgotten),
    "carriers are counted": ("WHERE EXISTS (SELECT FROM carried)),", "WHERE false),", carrier_down_forgotten),
    "the quorum counts who is down": ("FILTER (WHERE c.down OR", "FILTER (WHERE", below_quorum_by_faults),
    "the quorum counts permits": ("p.machine_id = c.machine_id AND p.released_at IS NULL AND p.draws)))", "false)))", below_quorum),
    "the lock": (LOCK, "--", raced),
    "counting after the lock": (LOCK, "--", counted_too_early),
}  # fmt: skip


def moved_lock() -> str:
    """The limits read before the lock is taken: what data.md saw grant 40 on a cap of 10."""
    before, after = SQL.split(LOCK)
    counting, _, rest = after.partition("  FOR r IN\n")
    return before + "--" + counting + "  " + LOCK + "\n  FOR r IN\n" + rest


def put(text: str) -> None:
    with psycopg.connect(dsn(), autocommit=True) as conn:
        conn.execute(text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").encode())


@pytest.fixture
def restored(fleet_db: None) -> Iterator[None]:
    yield
    put(SQL)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("guard", GUARDS)
async def test_without_this_guard_a_machine_is_taken_that_must_not_be(ledger: Ledger, guard: str) -> None:
    found, mutation, breaks = GUARDS[guard]
    text = {"counting after the lock": moved_lock()}.get(guard, SQL.replace(found, mutation))
    assert text != SQL
    await asyncio.to_thread(put, text)
    assert await breaks(ledger)


@pytest.mark.parametrize("guard", GUARDS)
async def test_with_all_guards_none_is(ledger: Ledger, guard: str) -> None:
    assert not await GUARDS[guard][2](ledger)
