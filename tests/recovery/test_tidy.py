"""What is over and long past goes; what is live stays, however old it is."""

from __future__ import annotations

import pytest

from fleet.control.db import Connection
from recovery.tidy import tidy
from tests.machines.world import sql
from tests.machines.world_of_one import running
from tests.recovery.world import World, stopped


@pytest.fixture
async def world(conn: Connection) -> World:
    made = World(conn)
    await made.playbook()
    await made.rule()
    await running(made)
    stopped(await made.box())
    await made.turn(12)
    assert (await made.fault())["status"]["phase"] == "Resolved"
    return made


async def test_what_ended_long_ago_goes_and_watchers_see_it_go(world: World) -> None:
    assert await tidy(world.conn) == 0
    sql("UPDATE recovery_fault SET resolved_at = now() - interval '181 days'")
    sql("UPDATE recovery_remediation SET ended_at = now() - interval '181 days'")
    assert await tidy(world.conn) == 2
    assert await world.faults() == [] and await world.faults("remediations") == []
    assert sql("SELECT kind, op FROM change WHERE op = 3 AND kind IN (14, 16) ORDER BY kind") == [(14, 3), (16, 3)]
    assert sql("SELECT object ->> 'kind' FROM tombstone WHERE kind IN (14, 16) ORDER BY 1") == [
        ("Fault",),
        ("Remediation",),
    ]
    assert sql("SELECT count(*) FROM work_item WHERE kind = 16") == [(0,)]


async def test_a_live_fault_and_an_open_repair_stay_however_old_they_are(world: World) -> None:
    stopped(await world.box())
    (await world.box()).faults["stuck"] = {"at": 0}
    await world.turn(3)
    sql("UPDATE recovery_fault SET first_seen = now() - interval '2 years', created_at = now() - interval '2 years'")
    sql("UPDATE recovery_remediation SET created_at = now() - interval '2 years'")
    assert await tidy(world.conn, keep_days=0) == 2
    assert [f["status"]["phase"] for f in await world.faults()] == ["Recovering"]
    assert [r["status"]["phase"] for r in await world.faults("remediations")] == ["Repairing"]
