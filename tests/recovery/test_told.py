"""What events say becomes evidence: late, doubled and reordered they end the same; people and tools declare faults by them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from fleet.control.db import Connection
from fleet.events.log import EventRow
from recovery.detecting import read_rules
from recovery.rules import event_matches
from recovery.told import keep, take_events
from tests.machines.world import sql
from tests.machines.world_of_one import running
from tests.recovery.world import ASK, World

EMPTY = {"name": "empty", "steps": [{"action": "Isolate"}], "verifySeconds": 0}


@pytest.fixture
async def world(conn: Connection) -> World:
    made = World(conn)
    await made.playbook(EMPTY, ASK, name="hardware")
    await made.rule(
        "drive", "DiskFailure", when=[{"event": "redfish.drive", "keepSeconds": 86400}], playbook="hardware"
    )
    await running(made)
    return made


def row(
    machine: int,
    pos: int,
    *,
    reason: str = "PredictiveFailure",
    ago: float = 0,
    type_: str = "redfish.drive.alert",
    **data: Any,
) -> EventRow:
    now = datetime.now(UTC)
    said = {
        "name": "m1",
        "reason": reason,
        "message": "sda",
        "time": (now - timedelta(seconds=ago)).isoformat(),
        **data,
    }
    return EventRow(pos, 0, now, machine, 0, 1, 2, type_, "bmc-7", said)


async def heard(world: World, rows: Sequence[EventRow]) -> list[tuple[Any, ...]]:
    """What stands as evidence after these events."""
    matches = event_matches((await read_rules(world.conn)).rules)
    for each in rows:
        await keep(world.conn, [each], matches)
    return sql("SELECT type, source, status, reason FROM recovery_evidence ORDER BY 1, 2")


async def publish(world: World, type_: str, **data: Any) -> None:
    (machine,) = await world.ids()
    sql(
        "INSERT INTO event (pos, object_id, kind, severity, type, source, data) VALUES (fleet_pos(4), %s, 1, 1, %s, '/nagios', %s::text::jsonb)",
        machine, type_, __import__("json").dumps({"name": "m1", **data}),
    )  # fmt: skip


async def test_an_event_is_evidence_and_its_fault_is_repaired(world: World) -> None:
    (machine,) = await world.ids()
    assert await heard(world, [row(machine, 1)]) == [
        ("event:redfish.drive.alert", "bmc-7", "True", "PredictiveFailure")
    ]
    await world.detect()
    fault = await world.fault()
    assert (fault["status"]["phase"], fault["status"]["sources"]) == ("Confirmed", ["bmc-7"])


async def test_doubled_and_reordered_events_end_in_the_same_state(world: World) -> None:
    (machine,) = await world.ids()
    told = [row(machine, 1, ago=30), row(machine, 2, ago=20, type_="redfish.drive.other"), row(machine, 1, ago=30)]
    ends = []
    for order in permutations(told):
        sql("DELETE FROM recovery_evidence")
        ends.append(await heard(world, order))
    assert len(ends[0]) == 2
    assert all(end == ends[0] for end in ends)


async def test_news_of_three_days_ago_are_no_evidence(world: World) -> None:
    (machine,) = await world.ids()
    assert await heard(world, [row(machine, 1, ago=3 * 86400)]) == []
    await world.detect()
    assert await world.faults() == []


async def test_what_no_rule_looks_for_is_not_kept(world: World) -> None:
    (machine,) = await world.ids()
    assert await heard(world, [row(machine, 1, type_="com.example.other")]) == []


async def test_a_tool_declares_a_fault_by_an_event_once_and_takes_it_back(world: World) -> None:
    rules = await read_rules(world.conn)
    await take_events(world.conn, rules)  # the cursor begins here
    for _ in range(2):
        await publish(world, "dev.fleet.fault.declared", faultType="NicFailure", message="CRC errors")
    assert len(await take_events(world.conn, rules)) == 1
    fault = await world.fault()
    assert (fault["spec"]["type"], fault["status"]["phase"], fault["status"]["message"]) == (
        "NicFailure",
        "Confirmed",
        "CRC errors",
    )
    await publish(world, "dev.fleet.fault.cleared", faultType="NicFailure")
    await take_events(world.conn, rules)
    assert (await world.fault())["status"]["phase"] == "Resolved"


async def test_an_event_that_cannot_be_taken_is_set_aside_after_three_tries_and_the_others_go_on(world: World) -> None:
    rules = await read_rules(world.conn)
    await take_events(world.conn, rules)
    await publish(world, "dev.fleet.fault.declared", faultType="not a type")
    await publish(world, "dev.fleet.fault.declared", faultType="NicFailure")
    for _ in range(4):
        await take_events(world.conn, rules)
    ((reason, message),) = sql("SELECT reason, message FROM dead_letter WHERE consumer = 'recovery'")
    assert reason == "HandlerFailed" and "spec.type" in message
    assert (await world.fault())["spec"]["type"] == "NicFailure"
