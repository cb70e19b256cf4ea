"""A machine that answers on no way is switched off and on by its controller: once, certainly, and to the end."""

from __future__ import annotations

import pytest

from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.safety import switch
from machines.controllers import read_bmc_logins
from recovery.probing import bmcs_due, probe_bmcs, write
from simulator.box import Box
from tests.machines.loop import config, package
from tests.recovery.world import ASK, World

BMC: Json = {"address": "10.200.0.1"}
CYCLE = {"name": "power-cycle", "steps": [{"action": "PowerCycle"}], "verifySeconds": 600}
SILENT = [
    {"condition": "Reachable", "status": "False"},
    {"condition": "Redfish/Power", "status": "False"},
    {"condition": "Watchdog", "status": "False"},
]


class Power(World):
    """One machine with a controller, running."""

    async def ready(self, bmc: Json | None = BMC) -> Box:
        await self.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
        more: Json = {"bmc": bmc} if bmc else {}
        await self.machine(versions={"pouch": "1.0"}, **more)
        await self.run(20)
        await self.playbook(CYCLE, ASK, name="power")
        await self.rule("host-unreachable", "HostUnreachable", when=SILENT, sources=2, playbook="power")
        assert await self.phase() == "Running"
        return await self.box()

    async def probe(self) -> None:
        """Controllers are looked at, whenever they were last."""
        await self.conn.execute("UPDATE recovery_evidence SET until = now() + interval '1 s' WHERE source = 'bmc'")
        rows = await bmcs_due(self.conn, live=False)
        await write(self.conn, await probe_bmcs(rows, await read_bmc_logins(self.conn, ()), {"simulated": self.bmcs}))

    async def watchdog(self, status: str = "False") -> None:
        """A second source that says that the machine hangs."""
        await self.agents_say("Watchdog", status, "watchdog")

    async def begin(self) -> None:
        """The fault is found and its repair ordered."""
        await self.step()
        await self.probe()
        await self.detect()
        assert len((await self.order()).machines) == 1

    async def on(self, times: int = 1) -> None:
        for _ in range(times):
            await self.probe()
            await self.turn()


@pytest.fixture
def power(conn: Connection) -> Power:
    return Power(conn)


async def test_a_machine_without_power_is_switched_on_and_well_again(power: Power) -> None:
    box = await power.ready()
    before = box.boot_id
    box.faults["power-off"] = {"at": power.hosts.now}
    await power.begin()
    assert (await power.fault())["status"]["sources"] == ["bmc", "fleet"]
    await power.on(20)
    fault, remediation = await power.fault(), await power.remediation()
    assert (fault["status"]["phase"], remediation["status"]["phase"]) == ("Resolved", "Succeeded"), (fault, remediation)
    assert power.bmcs.asked == [("m1", "on")]  # it was off already
    (operation,) = await power.operations()
    assert [(s["verb"], s["reason"]) for s in operation["status"]["steps"]] == [
        ("permit", "Granted"), ("power-cycle", "PowerCycled"), ("post-check", "Verified"),
    ]  # fmt: skip
    assert operation["status"]["verb"] == "PowerCycle"
    assert (await power.box()).boot_id != before
    kept = await (await power.conn.execute("SELECT content FROM machine_evidence")).fetchall()
    assert kept[0][0].splitlines()[:2] == ["Power: Off", "Drives: well"]


async def hung(power: Power) -> Box:
    """Its controller says On; by SSH it is silent, and a watchdog says so too."""
    box = await power.ready()
    box.faults["hang"] = {"at": power.hosts.now}
    await power.watchdog()
    await power.begin()
    return box


async def test_a_machine_that_hangs_is_switched_off_and_only_then_on(power: Power) -> None:
    await hung(power)
    for _ in range(6):
        await power.turn()
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]
    await power.watchdog("True")
    await power.on(20)
    assert (await power.fault())["status"]["phase"] == "Resolved"
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]


async def test_a_request_whose_answer_is_lost_is_not_made_again(power: Power) -> None:
    await hung(power)
    power.bmcs.loses = 2
    for _ in range(8):
        await power.turn()
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]


async def test_a_request_that_was_refused_is_made_again_after_a_look(power: Power) -> None:
    await hung(power)
    power.bmcs.refuses = 2
    for _ in range(10):
        await power.turn()
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]


async def test_a_worker_that_dies_with_the_request_on_its_lips_leaves_the_next_one_looking(power: Power) -> None:
    await hung(power)

    async def dies(point: int) -> None:
        (operation,) = await power.operations()
        if point == 5 and any(s.get("progress", {}).get("now") for s in operation["status"].get("steps", [])):
            raise RuntimeError("killed")

    power.point = dies
    with pytest.raises(RuntimeError):
        await power.turn(6)
    (operation,) = await power.operations()
    assert operation["status"]["steps"][1]["progress"]["now"] == "off"  # the intent is there
    assert power.bmcs.asked == []
    await power.conn.execute("UPDATE work_item SET holder = NULL WHERE kind = 1")

    async def lives(point: int) -> None:
        """Nothing happens."""

    power.point = lives
    await power.turn(3)
    assert power.bmcs.asked == []  # it may have been asked for: its effect is waited for first
    await power.turn(12)
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]


async def test_a_controller_that_does_nothing_is_asked_twice_and_then_a_person(power: Power) -> None:
    box = await hung(power)
    box.faults["bmc-deaf"] = {"at": power.hosts.now}
    for _ in range(30):
        await power.turn()
    assert power.bmcs.asked == [("m1", "off")] * 2
    fault, remediation = await power.fault(), await power.remediation()
    assert (fault["status"]["phase"], remediation["status"]["phase"]) == ("NeedsPerson", "Escalated")
    assert remediation["status"]["rungs"][0]["outcome"] == "StayedOn"


async def test_a_silent_controller_is_given_up_after_a_while(power: Power) -> None:
    box = await hung(power)
    box.faults["bmc-silent"] = {"at": power.hosts.now}
    for _ in range(45):
        await power.turn()
    assert power.bmcs.asked == []
    assert (await power.remediation())["status"]["rungs"][0]["outcome"] == "BmcUnreachable"


async def test_without_a_controller_power_is_a_persons(power: Power) -> None:
    box = await power.ready(bmc=None)
    box.faults["hang"] = {"at": power.hosts.now}
    await power.watchdog()
    await power.begin()
    for _ in range(4):
        await power.turn()
    assert (await power.remediation())["status"]["rungs"][0]["outcome"] == "NoBmc"
    assert (await power.fault())["status"]["phase"] == "NeedsPerson"


async def test_the_kill_switch_keeps_every_controller_from_being_asked(power: Power) -> None:
    await hung(power)
    await in_thread(lambda: switch.stop("anna", "drill"))
    for _ in range(6):
        await power.turn()
    assert power.bmcs.asked == []
    await in_thread(lambda: switch.resume("anna"))
    for _ in range(6):
        await power.turn()
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]


async def test_a_host_that_answers_again_keeps_its_power(power: Power) -> None:
    box = await hung(power)
    await power.step()  # the cycle has begun, nothing was asked for yet
    del box.faults["hang"]
    await power.watchdog("True")
    await power.on(6)
    assert power.bmcs.asked == []
    assert (await power.fault())["status"]["phase"] == "Resolved"


async def test_who_cancels_after_power_off_gets_the_machine_back_on(power: Power) -> None:
    await hung(power)
    while power.bmcs.asked != [("m1", "off")]:
        await power.turn()
    await power.conn.execute(
        """UPDATE machines_operation SET spec = spec || '{"cancelledBy": "anna"}' WHERE ended_at IS NULL"""
    )
    for _ in range(15):
        await power.turn()
    assert power.bmcs.asked == [("m1", "off"), ("m1", "on")]
    (operation,) = await power.operations()
    assert operation["status"]["phase"] == "Cancelled"
    assert operation["status"]["steps"][1]["reason"] == "PowerCycled"


async def test_one_source_alone_touches_no_power(power: Power) -> None:
    box = await power.ready()
    box.faults["hang"] = {"at": power.hosts.now}
    await power.on(6)
    assert (await power.fault())["status"]["phase"] == "Suspected"
    assert power.bmcs.asked == []


@pytest.mark.parametrize(
    ("fault", "type_", "rule"),
    [("bad-disk", "DiskFailure", "Drives"), ("bad-memory", "MemoryFailure", "Memory"), ("bad-board", "MotherboardFailure", "Board"), ("bad-nic", "NicFailure", "Network")],
)  # fmt: skip
async def test_a_part_that_its_controller_calls_critical_is_a_fault_that_a_person_ends(
    power: Power, fault: str, type_: str, rule: str
) -> None:
    box = await power.ready()
    empty = {"name": "empty", "steps": [{"action": "Isolate"}, {"action": "Drain"}], "verifySeconds": 0}
    replace = {"name": "replace", "steps": [{"action": "Replace", "task": "Replace the part."}]}
    await power.playbook(empty, replace, name="hardware")
    await power.rule("part", type_, when=[{"condition": f"Redfish/{rule}", "status": "False"}], playbook="hardware")
    box.faults[fault] = {"at": power.hosts.now}
    await power.on(6)
    found = await power.fault()
    assert (found["spec"]["type"], found["status"]["phase"], found["status"]["sources"]) == (
        type_,
        "NeedsPerson",
        ["bmc"],
    )
    assert found["status"]["message"] == "Replace the part."
    assert await power.condition("Faultless") == (
        "False",
        type_,
        f"{found['metadata']['name']} is NeedsPerson: Replace the part.",
    )


@pytest.mark.parametrize("off", [True, False])
async def test_who_says_that_it_has_no_power_speaks_for_the_next_rung(power: Power, off: bool) -> None:
    """A reboot from which it did not come back; of the two who saw the first fault one sees the host no more."""
    box = await power.ready()
    reboot = {"name": "reboot", "steps": [{"action": "Reboot", "timeoutSeconds": 30}], "verifySeconds": 10}
    await power.playbook(reboot, CYCLE, ASK, name="kernel")
    await power.rule(
        "hangs", "KernelFault", when=[{"condition": "KernelDeadlock", "status": "True"}], playbook="kernel"
    )
    await power.rule("off", "PowerFailure", when=[{"condition": "Redfish/Power", "status": "False"}], playbook="power")
    await power.agents_say("KernelDeadlock", "True", "npd", "agent")
    await power.detect()
    box.faults["never-returns"] = {"at": power.hosts.now}
    for _ in range(8):
        await power.turn()
    await power.agents_say("KernelDeadlock", "Unknown", "agent")
    if off:
        (await power.box()).faults["power-off"] = {"at": power.hosts.now}
    for _ in range(25):
        await power.on()
    (remediation,) = [r for r in await power.faults("remediations") if "kernelfault" in r["spec"]["fault"]]
    assert remediation["status"]["rungs"][0]["outcome"] == "HostSilent", remediation
    assert power.bmcs.asked == ([("m1", "on")] if off else [])
    if not off:
        assert (remediation["status"]["reason"], remediation["status"]["rung"]) == ("OneSource", 2)
