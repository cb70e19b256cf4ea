"""Remediations that are recorded in one batch."""

from __future__ import annotations

import pytest

from fleet.control.db import Connection
from tests.machines.loop import config, package
from tests.recovery.world import World, stopped


@pytest.fixture
def world(conn: Connection) -> World:
    return World(conn)


async def test_one_that_ends_holds_up_none_that_waits(world: World) -> None:
    await world.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
    for number, name in enumerate(("m1", "m2")):
        await world.machine(name, ip=f"10.0.9.{number + 1}", versions={"pouch": "1.0"})
    await world.make(
        {"kind": "SafetyPolicy", "metadata": {"name": "all"}, "spec": {"scope": {"matchAll": True}, "maxUnavailable": {"count": 2, "percent": 100}, "breaker": {"disabled": True}}}
    )  # fmt: skip
    await world.run(20)
    await world.playbook(probation=3600)
    await world.rule()
    stopped(await world.box("m1"))
    stopped(await world.box("m2"))
    await world.turn(10)
    assert [r["status"]["phase"] for r in await world.faults("remediations")] == ["Probation", "Probation"]
    await world.conn.execute(
        "UPDATE recovery_remediation SET phase_at = now() - interval '2 hours' WHERE name LIKE 'm1%'"
    )
    await world.conn.execute(
        "UPDATE recovery_fault SET cleared_since = now() - interval '2 hours' WHERE name LIKE 'm1%'"
    )
    await world.repair()
    assert [r["status"]["phase"] for r in await world.faults("remediations")] == ["Succeeded", "Probation"]
