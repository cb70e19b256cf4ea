"""Windows, failure domains, rates and reserves; and `safety_why`, which gives the ledger's own answer before it is asked."""

from __future__ import annotations

import pytest

from tests.safety.conftest import Ledger


async def window(ledger: Ledger, now: str, *windows: dict[str, object]) -> tuple[bool, str]:
    """(open, when the next begins in UTC) at that moment."""
    rows = await ledger.sql(
        "SELECT open, coalesce(to_char(next AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), '') FROM safety_window(%s::jsonb, %s::timestamptz, 'x')",
        __import__("json").dumps(windows),
        now,
    )
    return bool(rows[0][0]), str(rows[0][1])


NIGHT = {"start": "22:00", "durationMinutes": 240, "timeZone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("now", "more", "answer"),
    [
        ("2026-07-01 20:30Z", {}, (True, "2026-07-02 20:00")),
        ("2026-07-01 23:59Z", {}, (True, "2026-07-02 20:00")),
        ("2026-07-02 00:00Z", {}, (False, "2026-07-02 20:00")),
        ("2026-01-01 20:30Z", {}, (False, "2026-01-01 21:00")),
        ("2026-10-25 00:30Z", {"start": "02:30", "durationMinutes": 60}, (False, "2026-10-25 01:30")),
        ("2026-07-01 20:30Z", {"days": ["Thu"]}, (False, "2026-07-02 20:00")),
        ("2026-07-02 00:30Z", {"days": ["Thu"], "start": "02:00"}, (True, "2026-07-09 00:00")),
        ("2026-07-01 20:30Z", {"timeZone": "Mars/Olympus"}, (False, "")),
        ("2026-07-01 20:30Z", {"start": "25:00"}, (False, "")),
    ],
    ids=["summer", "its last minute", "its end", "winter", "an hour that comes twice", "another day", "a day of its zone", "no such zone", "no such time"],
)  # fmt: skip
async def test_a_window_follows_its_time_zone(
    ledger: Ledger, now: str, more: dict[str, object], answer: tuple[bool, str]
) -> None:
    assert await window(ledger, now, NIGHT | more) == answer


async def test_jitter_begins_later_by_less_than_it_says_and_differs_from_place_to_place(ledger: Ledger) -> None:
    rows = await ledger.sql(
        """SELECT min(s), max(s), count(DISTINCT s) FROM (SELECT extract(epoch FROM w.next - '2026-07-01 22:00Z')::int AS s FROM generate_series(1, 50) i,
        safety_window('[{"start": "22:00", "durationMinutes": 240, "jitterMinutes": 60}]', '2026-07-01 12:00Z', 'cluster' || i) w) x"""
    )
    low, high, different = rows[0]
    assert 0 <= low < high <= 3600
    assert different > 30


async def test_outside_of_its_windows_no_planned_change_begins_repairs_do_and_what_began_goes_on(
    ledger: Ledger,
) -> None:
    ids = await ledger.cluster("a", 1000, racks=1)
    assert (await ledger.one(ids[0], unplanned=False, owner="began")).ok
    (hour,) = (await ledger.sql("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 hours', 'HH24:MI')"))[0]
    await ledger.rule("night", {"cluster": "a"}, windows=[{"start": hour, "durationMinutes": 30}])
    refused = await ledger.one(ids[1], unplanned=False)
    assert refused.reason == "OutsideWindow"
    assert refused.message.startswith(
        "Planned changes in cluster a wait for a window of SafetyPolicy night; the next opens at "
    )
    assert refused.message.endswith(f"{hour} UTC.")
    assert (await ledger.one(ids[0], unplanned=False, owner="began")).ok
    assert (await ledger.one(ids[2])).ok
    assert (await ledger.one(ids[3], "Reload", unplanned=False)).ok
    (now,) = (await ledger.sql("SELECT to_char(now() AT TIME ZONE 'UTC' - interval '5 minutes', 'HH24:MI')"))[0]
    await ledger.rule("day", {"matchAll": True}, windows=[{"start": now, "durationMinutes": 30}])
    assert (
        await ledger.one(ids[1], unplanned=False)
    ).reason == "OutsideWindow"  # every policy that binds it must agree
    await ledger.sql("DELETE FROM safety_safetypolicy WHERE name = 'night'")
    assert (await ledger.one(ids[1], unplanned=False)).ok


async def test_planned_changes_go_on_in_one_rack_at_a_time_also_within_a_batch(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 1000, racks=10)
    await ledger.sql("INSERT INTO place (id, dim, name) OVERRIDING SYSTEM VALUE VALUES (2, 'rack', 'i1/r2')")
    answers = await ledger.ask(ids[:100], unplanned=False)
    granted = [i for i, answer in answers.items() if answer.ok]
    assert await ledger.sql("SELECT DISTINCT rack_id, count(*) OVER () FROM permit") == [(2, 10)]
    assert (
        answers[ids[1]].message
        == "Planned changes in cluster a are under way in rack i1/r2: one rack at a time, this waits until they have ended."
    )
    assert {answer.reason for answer in answers.values()} == {"", "DomainBusy"}
    assert (await ledger.one(ids[201], unplanned=False)).reason == "DomainBusy"
    assert (await ledger.one(ids[201])).ok  # a repair
    await ledger.give_back(*granted)
    assert (await ledger.one(ids[1], unplanned=False)).ok
    other = await ledger.cluster("b", 100)
    assert (await ledger.one(other[5], unplanned=False)).ok


async def test_machines_out_of_service_wait_for_nothing_but_what_destroys_and_keep_nobody_waiting(
    ledger: Ledger,
) -> None:
    """A fleet that joins is not serialized rack by rack."""
    ids = await ledger.cluster("a", 1000, racks=10)
    await ledger.sql("UPDATE capacity SET in_service = false WHERE machine_id <= %s", ids[99])
    assert await ledger.granted(ids[:100], "Reboot", unplanned=False) == 100
    assert (await ledger.one(ids[101], unplanned=False)).ok
    assert await ledger.sql("SELECT count(*) FROM verb_start") == [(1,)]
    await ledger.sql("SELECT breaker_trip('cluster', 1, 'x.')")
    await ledger.give_back(*ids[:100])
    assert (await ledger.one(ids[0], unplanned=False)).ok
    assert (await ledger.one(ids[1], "Wipe", unplanned=False)).reason == "ClusterBreaker"


async def test_a_right_that_ended_keeps_no_other_rack_waiting_and_machines_without_rack_neither(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 1000)
    await ledger.one(ids[0], unplanned=False, ttl=0)
    assert (await ledger.one(ids[1], unplanned=False)).ok
    await ledger.sql("UPDATE capacity SET rack_id = 0 WHERE machine_id = %s", ids[2])
    assert (await ledger.one(ids[2], unplanned=False)).ok


@pytest.mark.parametrize(("said", "granted"), [({"a": "idc"}, 6), ({"a": "none"}, 12), ({"all": "none"}, 12), ({"a": "rack", "all": "none"}, 3), ({"a": "idc", "b": "rack"}, 3)], ids=str)  # fmt: skip
async def test_a_policy_says_at_which_level(ledger: Ledger, said: dict[str, str], granted: int) -> None:
    ids = (await ledger.cluster("a", 1000, racks=4))[:12]
    await ledger.sql("UPDATE capacity SET idc_id = rack_id / 3 + 1")
    for name, level in said.items():
        await ledger.rule(name, {"matchAll": True} if name == "all" else {"cluster": "a"}, domain=level)
    assert await ledger.granted(ids, unplanned=False) == granted


async def test_verbs_have_rates_of_their_own_below_the_budget(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 10_000, racks=1)
    await ledger.no_breaker()
    assert await ledger.granted(ids[:150], "Reboot") == 100
    refused = await ledger.one(ids[200], "reboot")
    assert refused.reason == "Rate"
    assert refused.message == "Reboot was begun on as many machines in cluster a as may be, 100 within 10 min: this waits until the first of them lies further back."  # fmt: skip
    assert await ledger.granted(ids[300:350], "Wipe") == 10
    assert (await ledger.one(ids[0], "Reboot")).ok  # its own, again
    assert (await ledger.one(ids[201], "Restart")).ok
    await ledger.sql("UPDATE verb_start SET at = at - interval '11 minutes'")
    assert (await ledger.one(ids[200], "Reboot")).ok


async def test_a_policys_rate_replaces_the_built_in_one_and_binds_other_verbs_too(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 10_000, racks=1)
    await ledger.no_breaker()
    rates = [
        {"verb": "reboot", "count": 120, "windowSeconds": 60},
        {"verb": "Drain", "count": 2, "windowSeconds": 3600},
    ]
    await ledger.rule("mine", {"cluster": "a"}, rates=rates)
    assert await ledger.granted(ids[:130], "Reboot") == 120
    assert await ledger.granted(ids[130:140], "Drain", unplanned=False) == 2
    await ledger.rule("none", {"matchAll": True}, rates=[{"verb": "Replace", "count": 0, "windowSeconds": 60}])
    assert (await ledger.one(ids[200], "Replace")).message.startswith("Replace was begun on as many machines in the whole fleet as may be, 0 within 1 min (SafetyPolicy none)")  # fmt: skip


async def test_ten_thousand_reboots_asked_at_once_begin_as_many_as_the_rate_says(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 20_000, racks=1)
    await ledger.no_breaker()
    assert sum([await ledger.granted(ids[n : n + 1000], "Reboot") for n in range(0, 10_000, 1000)]) == 100


async def test_a_reserve_stays_whatever_the_budget_says_and_whoever_asks(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 10, racks=1, down=1)
    await ledger.no_breaker()
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.rule("keep", {"cluster": "a"}, minSchedulable=7)
    assert await ledger.granted(ids[1:]) == 2
    refused = await ledger.one(ids[9])
    assert refused.reason == "Reserve"
    assert (
        refused.message
        == "7 must stay available in cluster a (SafetyPolicy keep), and no more are: this waits until one is back."
    )
    assert (await ledger.one(ids[0], "Reboot")).ok  # it is away already


@pytest.mark.parametrize(
    ("members", "may"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)], ids=["one", "two", "three", "four", "five"]
)
async def test_a_control_plane_keeps_its_quorum_whoever_asks(ledger: Ledger, members: int, may: int) -> None:
    ids = await ledger.cluster("a", 20, racks=1)
    await ledger.no_breaker()
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.carries(ids[:members])
    assert await ledger.granted(ids[:members], "Reboot") == may
    assert [(await ledger.one(ids[members - 1], verb, unplanned=u, owner="o")).reason for verb in ("Drain", "Wipe") for u in (True, False)] == ["Quorum"] * 4  # fmt: skip
    assert await ledger.granted(ids[members:]) == 20 - members


async def test_a_refused_quorum_says_whose_and_opens_with_the_machine_that_is_back(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 20, racks=1)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.carries(ids[:3])
    await ledger.carries(ids[3:4], "small")
    assert (await ledger.one(ids[0])).ok
    assert (await ledger.one(ids[1])).message == (
        "3 machines carry the control plane of cluster kube, and at most 1 may be unavailable, or its quorum is lost: this waits until one is back."
    )
    assert (await ledger.one(ids[3])).message == (
        "1 machine carries the control plane of cluster small: fewer than three bear no loss, so none is taken away."
    )
    await ledger.give_back(ids[0])
    assert (await ledger.one(ids[1])).ok


async def test_a_machine_counts_in_the_budget_of_each_cluster_whose_control_plane_it_carries(ledger: Ledger) -> None:
    meta, small = await ledger.cluster("meta", 200, racks=1), await ledger.cluster("small", 10, racks=1)
    await ledger.hosts(meta[:3], "small")
    assert (await ledger.one(meta[0])).ok
    refused = await ledger.one(meta[1])
    assert (refused.reason, refused.message) == (
        "ClusterBudget",
        "In cluster small 1 of 13 machines is unavailable, and at most 1 may be: this waits until one is back.",
    )
    assert (await ledger.one(small[0])).reason == "ClusterBudget"
    assert (await ledger.one(meta[3])).ok  # it carries nothing
    await ledger.give_back(meta[0])
    assert (await ledger.one(small[0])).ok


@pytest.mark.parametrize(("members", "may"), [(1, 1), (2, 2), (3, 1), (5, 2)])
async def test_an_etcd_that_fleet_placed_keeps_its_quorum(ledger: Ledger, members: int, may: int) -> None:
    """Of one or two members nothing could ever be done to their machines; that their control plane is whole is asked elsewhere."""
    meta = await ledger.cluster("meta", 20, racks=1)
    await ledger.cluster("small", 1, racks=1)
    await ledger.no_breaker()
    for name in ("meta", "small"):
        await ledger.policy(f"wide-{name}", {"cluster": name}, percent=100)
    await ledger.hosts(meta[:members], "small", member=True)
    await ledger.hosts(meta[members:], "small")
    assert await ledger.granted(meta[:members], "Reboot") == may
    assert await ledger.granted(meta[members:]) == 20 - members


async def test_who_of_a_control_plane_is_away_already_may_be_repaired(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 20, racks=1, down=2)
    await ledger.policy("wide", {"cluster": "a"}, percent=100)
    await ledger.carries(ids[:3])
    assert [(await ledger.one(i)).ok for i in ids[:3]] == [True, True, False]


async def ladder(
    ledger: Ledger, machine: int, verb: str = "Restart", unplanned: bool = False
) -> list[tuple[bool, str]]:
    rows = await ledger.sql(
        "SELECT ok, reason, guard, message FROM safety_why(%s, %s, %s, %s)", machine, verb, unplanned, f"op-{machine}"
    )
    assert all(row[2] and (row[0] or row[3].endswith((".", "x"))) for row in rows), rows
    return [(row[0], row[1]) for row in rows]


async def test_why_names_every_guard_in_the_order_in_which_permits_ask_them(ledger: Ledger) -> None:
    ids = await ledger.cluster("a", 1000)
    assert await ladder(ledger, ids[0], "Reboot") == [
        (True, reason)
        for reason in (
            "Stopped", "MachineUnknown", "Held", "Paused", "OperationInProgress", "FleetBreaker", "ClusterBreaker",
            "RackBreaker", "DomainBusy", "Rate", "Rate", "ClusterBudget",
        )
    ]  # fmt: skip
    assert await ladder(ledger, 4711) == [(True, "Stopped"), (False, "MachineUnknown")]
    assert len(await ladder(ledger, ids[0], "Reload")) == 5


@pytest.mark.parametrize("unplanned", [True, False])
@pytest.mark.parametrize(
    "case",
    ["nothing", "hold", "pause", "other", "mine", "breaker", "half-open", "window", "domain", "rate", "budget", "reserve", "quorum", "carried", "members", "down", "out of service"],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["Reboot", "Wipe", "Reload", "Uncordon"])
async def test_what_why_says_is_what_a_permit_would_say(ledger: Ledger, case: str, verb: str, unplanned: bool) -> None:
    ids = await ledger.cluster("a", 100, racks=4)
    machine = ids[0]
    steps = {
        "hold": lambda: ledger.hold("h", {"machine": "a-1"}),
        "pause": lambda: ledger.sql("UPDATE machine_state SET paused = true"),
        "other": lambda: ledger.one(machine, owner="other"),
        "mine": lambda: ledger.one(machine),
        "breaker": lambda: ledger.sql("SELECT breaker_trip('cluster', 1, 'x.')"),
        "window": lambda: ledger.rule("w", {"cluster": "a"}, windows=[{"start": "25:99", "durationMinutes": 1}]),
        "domain": lambda: ledger.one(ids[1], unplanned=False),
        "rate": lambda: ledger.rule("r", {"cluster": "a"}, rates=[{"verb": verb, "count": 0, "windowSeconds": 60}]),
        "budget": lambda: ledger.policy("none", {"cluster": "a"}, count=0),
        "reserve": lambda: ledger.rule("keep", {"cluster": "a"}, minSchedulable=100),
        "quorum": lambda: ledger.carries(ids[:2]),
        "carried": lambda: ledger.hosts([machine], "none"),
        "members": lambda: ledger.hosts(ids[:3], "wide", member=True),
        "down": lambda: ledger.sql("UPDATE capacity SET down = true"),
        "out of service": lambda: ledger.sql(
            "UPDATE capacity SET in_service = false; SELECT breaker_trip('cluster', 1, 'x.')"
        ),
    }
    if case in ("carried", "members"):
        for name, count in (("none", 0), ("wide", 9)):
            await ledger.cluster(name, 1)
            await ledger.policy(name, {"cluster": name}, count=count, percent=100)
        await ledger.sql("UPDATE capacity SET down = true WHERE machine_id = %s", ids[1])
    if case in steps:
        await steps[case]()  # type: ignore[no-untyped-call]
    if case == "half-open":
        await ledger.sql("SELECT breaker_trip('cluster', 1, 'x.'), breaker_reset('cluster', 1, 'olga', false)")
        await ledger.one(ids[5])
    rows = await ledger.sql(
        "SELECT ok, reason, message FROM safety_why(%s, %s, %s, %s)", machine, verb, unplanned, f"op-{machine}"
    )
    first = next(((reason, message) for ok, reason, message in rows if not ok), ("", ""))
    answer = await ledger.one(machine, verb, unplanned=unplanned)
    assert (answer.reason, answer.message) == first
