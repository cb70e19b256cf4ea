"""The rung that reboots: proven by the boot id, and given up when the host never returns."""

from __future__ import annotations

import pytest

from fleet.control.db import Connection
from simulator.box import Box
from tests.machines.world_of_one import running
from tests.recovery.world import ASK, World

REBOOT = {"name": "reboot", "steps": [{"action": "Isolate"}, {"action": "Drain"}, {"action": "Reboot"}], "verifySeconds": 600}  # fmt: skip
CYCLE = {"name": "power-cycle", "steps": [{"action": "PowerCycle"}], "verifySeconds": 600}
HANGS = [{"condition": "KernelDeadlock"}]


class Kernel(World):
    """One machine whose kernel two agents complain about."""

    async def complained(self) -> Box:
        await self.rule("kernel-fault", "KernelFault", when=HANGS)
        box = await running(self)
        await self.say("True")
        await self.detect()
        return box

    async def say(self, status: str, *sources: str) -> None:
        await self.agents_say("KernelDeadlock", status, *sources)

    async def go(self, times: int, seconds: float) -> None:
        """Turns with that much time between looks."""
        for _ in range(times):
            await self.step(seconds)
            await self.detect()
            await self.order()
            await self.repair()


@pytest.fixture
def kernel(conn: Connection) -> Kernel:
    return Kernel(conn)


async def test_a_reboot_is_proven_and_ends_the_fault(kernel: Kernel) -> None:
    await kernel.playbook(REBOOT, ASK)
    before = (await kernel.complained()).boot_id
    await kernel.go(10, 8.0)
    assert (await kernel.box()).boot_id != before
    await kernel.say("False")
    await kernel.go(4, 8.0)
    assert (await kernel.fault())["status"]["phase"] == "Resolved"
    (operation,) = await kernel.operations()
    assert [(s["verb"], s["status"]) for s in operation["status"]["steps"]] == [
        ("permit", "True"), ("isolate", "True"), ("drain", "True"), ("collect-evidence", "True"), ("reboot", "True"), ("post-check", "True"),
    ]  # fmt: skip


async def test_a_host_that_never_returns_goes_up_the_ladder_to_a_person(kernel: Kernel) -> None:
    await kernel.playbook(REBOOT, CYCLE, ASK)
    box = await kernel.complained()
    box.faults["never-returns"] = {"at": kernel.hosts.now}
    boots = box.boots
    await kernel.go(24, 60.0)
    remediation = await kernel.remediation()
    outcomes = [(r["name"], r["outcome"]) for r in remediation["status"]["rungs"]]
    assert outcomes == [("reboot", "HostSilent"), ("power-cycle", "NoBmc")], remediation["status"]
    assert (remediation["status"]["phase"], (await kernel.fault())["status"]["phase"]) == ("Escalated", "NeedsPerson")
    assert (await kernel.box()).boots == boots + 1  # it was told once


async def test_a_rung_says_how_long_a_boot_may_take(kernel: Kernel) -> None:
    quick = {"name": "reboot", "steps": [{"action": "Reboot", "timeoutSeconds": 60}], "verifySeconds": 30}
    await kernel.playbook(quick, ASK)
    box = await kernel.complained()
    box.faults["never-returns"] = {"at": kernel.hosts.now}
    await kernel.go(14, 10.0)  # without that word it would be waited for half an hour
    remediation = await kernel.remediation()
    assert [r["outcome"] for r in remediation["status"]["rungs"]][:1] == ["HostSilent"], remediation["status"]
    assert (await kernel.fault())["status"]["phase"] == "NeedsPerson"


async def test_one_agent_alone_reboots_nothing(kernel: Kernel) -> None:
    await kernel.playbook(REBOOT, ASK)
    await kernel.rule("kernel-fault", "KernelFault", when=HANGS)
    await running(kernel)
    await kernel.say("True", "npd")
    await kernel.go(6, 8.0)
    assert (await kernel.fault())["status"]["repair"]["reason"] == "OneSource"
    assert await kernel.operations() == []
