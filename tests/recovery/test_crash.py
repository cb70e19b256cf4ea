"""A process may die between any two statements of recovery: the end is the same, and nothing is done twice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fleet.control.db import Connection
from tests.machines.loop import config, package
from tests.recovery.world import World, stopped

MACHINES = 36


class Died(Exception):
    """The process is gone."""


class Mortal:
    """A connection whose process dies right after a statement: 0 = it lives."""

    def __init__(self, conn: Connection) -> None:
        self.real = conn
        self.left = 0
        self.done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        result = await self.real.execute(*args, **kwargs)
        self.done += 1
        if self.left:
            self.left -= 1
            if not self.left:
                raise Died
        return result


async def turn(world: World) -> None:
    """A turn of a worker that finds whatever a dead one left; leases of the dead have run out."""
    await world.conn.execute("UPDATE work_item SET due_at = now(), holder = NULL WHERE kind = 16")
    await world.turn()


@pytest.fixture
async def world(conn: Connection) -> World:
    made = World(conn)
    await made.playbook()
    await made.rule()
    await made.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
    for number in range(MACHINES):  # a group each, so that none uses up another's budget
        await made.make({"kind": "Cluster", "metadata": {"name": f"c{number}"}, "spec": {"idc": "a"}})
        await made.machine(
            f"m{number}", idc=f"i{number}", versions={"pouch": "1.0"}, ip=f"10.9.{number}.1", clusterName=f"c{number}"
        )
    for _ in range(14):
        await made.step()
    assert await made.phase(f"m{MACHINES - 1}") == "Running"
    return made


async def test_killed_after_any_statement_it_ends_the_same_and_repeats_no_effect(world: World) -> None:
    real = world.conn
    crashes = 0
    for number in range(MACHINES):
        name = f"m{number}"
        box = await world.box(name)
        stopped(box)
        world.moment = datetime.now(UTC)  # conditions are dated by the real clock
        await world.step()
        mortal = Mortal(real)
        world.conn = mortal  # type: ignore[assignment]
        for _ in range(14):
            mortal.left = max(0, number + 1 - mortal.done) if number + 1 > mortal.done else 0
            try:
                await world.detect()
                await world.order()
                await world.repair()
            except Died:
                crashes += 1
            world.conn = real
            mortal.left = 0
            await real.execute("UPDATE work_item SET due_at = now(), holder = NULL WHERE kind = 16")
            await world.step()
            world.conn = mortal  # type: ignore[assignment]
        world.conn = real
        await turn(world)
        faults = [f for f in await world.faults() if f["spec"]["machine"] == name]
        repairs = [r for r in await world.faults("remediations") if r["spec"]["machine"] == name]
        operations = [o for o in await world.operations() if o["spec"]["machine"] == name]
        assert [f["status"]["phase"] for f in faults] == ["Resolved"], (number, faults)
        assert [r["status"]["phase"] for r in repairs] == ["Succeeded"], (
            number,
            repairs,
            [(f["status"],) for f in faults].__str__()[:1500],
        )
        assert [o["status"]["phase"] for o in operations] == ["Succeeded"], (number, operations)
        uid = operations[0]["metadata"]["uid"]
        begun = [folder for folder in world.hosts.started if folder.startswith(uid)]
        assert len(begun) == len(set(begun)) == 2, (number, begun)  # evidence, and the unit
        assert box.units["pouch.service"]["active"] == "active"
    assert crashes >= MACHINES - 4, crashes
    await turn(world)
    assert await world.permits() == 0
