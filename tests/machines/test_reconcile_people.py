"""What people ask of machines: operations, deletion, stops, on the real database against hosts that behave."""

from __future__ import annotations

import pytest

from fleet.api.actions import Write, delete_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.threads import in_thread
from machines.why import plan_of
from tests.machines.loop import Loop, package
from tests.machines.world_of_one import box_of, operation, read, running, simple


@pytest.fixture
def loop(conn: Connection) -> Loop:
    return Loop(conn)


async def test_the_kill_switch_lets_nothing_begin(loop: Loop) -> None:
    await simple(loop)
    await loop.conn.execute("UPDATE ledger SET stopped = true WHERE id = 1")
    await loop.run(4)
    assert loop.hosts.started == []
    await loop.conn.execute("UPDATE ledger SET stopped = false WHERE id = 1")
    await loop.run(20)
    assert await loop.phase() == "Running"


async def test_a_deleted_machine_is_cleaned_and_then_gone(loop: Loop) -> None:
    box = await running(loop)
    await loop.delete("m1")
    await loop.run(25)
    assert await loop.get() is None
    assert box.packages.get("pouch", {}).get("state") != "installed"
    assert "/etc/pouch-config.conf" not in box.files
    assert box.marker == ""


async def test_a_deleted_machine_that_does_not_answer_stays_until_it_is_abandoned(loop: Loop) -> None:
    box = await running(loop)
    box.faults["unreachable"] = {}
    await loop.delete("m1")
    await loop.run(5)
    assert (await loop.condition("Decommissioned"))[0] == "False"
    await loop.annotate("m1", abandon="m1")
    await loop.run(5)
    assert await loop.get() is None


async def test_a_person_reboots_a_machine(loop: Loop) -> None:
    box = await running(loop)
    before = box.boot_id
    name = await operation(loop, "Reboot")
    await loop.run(30)
    found = await loop.get(name, "operations")
    assert found is not None
    assert found["status"]["phase"] == "Succeeded"
    assert found["status"]["bootIdBefore"] == before
    assert box.boot_id != before


async def test_a_person_restarts_a_unit_and_runs_it_again(loop: Loop) -> None:
    await running(loop)
    name = await operation(loop, "Restart", units=["pouch.service"])
    await loop.run(8)
    assert ((await loop.get(name, "operations")) or {})["status"]["phase"] == "Succeeded"
    again = await operation(loop, "RunAgain", operation=name)
    await loop.run(8)
    assert ((await loop.get(again, "operations")) or {})["status"]["phase"] == "Succeeded"
    assert len([s for s in loop.hosts.started if "restart-units" in s]) == 2


async def test_an_open_operation_is_cancelled_between_two_steps(loop: Loop) -> None:
    await simple(loop)
    await loop.step(0.1)
    await operation(loop, "Cancel")
    await loop.run(2, 10)
    found = await (
        await loop.conn.execute("SELECT phase FROM machines_operation WHERE owner_class = 0 ORDER BY id")
    ).fetchall()
    assert found[0] == ("Cancelled",)


async def phase_of(loop: Loop, name: str) -> tuple[str, str]:
    """Phase of an Operation and what it says."""
    found = await loop.get(name, "operations")
    assert found is not None
    return found["status"]["phase"], found["status"].get("message", "")


async def silent_in_a_restart(loop: Loop) -> str:
    """A machine whose host is gone right after a restart of a unit was begun; the Operation's name."""
    box = await running(loop)
    began = len(loop.hosts.started)

    async def gone(number: int) -> None:
        if number == 6 and len(loop.hosts.started) > began:  # right after the step was sent
            box.faults["unreachable"] = {}

    loop.point, loop.hosts.deaf = gone, True
    name = await operation(loop, "Restart", units=["pouch.service"])
    while "unreachable" not in box.faults:
        await loop.step()
    await loop.step()
    assert (await phase_of(loop, name))[0] == "Running"
    return name


async def test_an_operation_on_a_host_that_stays_silent_ends_and_what_became_of_its_step_is_unknown(loop: Loop) -> None:
    name = await silent_in_a_restart(loop)
    await loop.run(2, 1200)
    await loop.run(1)
    phase, message = await phase_of(loop, name)
    assert phase == "Failed"
    assert "does not answer" in message and "is not known" in message
    steps = ((await loop.get(name, "operations")) or {})["status"]["steps"]
    assert [s["status"] for s in steps if s["name"].endswith("restart-units")] == ["Unknown"]
    began = len(loop.hosts.started)
    (await box_of(loop)).faults.clear()
    await loop.run(8)
    assert await loop.phase() == "Running"
    assert len(loop.hosts.started) == began


async def test_a_begun_operation_on_a_silent_host_is_cancelled_once_its_step_cannot_run_any_more(loop: Loop) -> None:
    name = await silent_in_a_restart(loop)
    await operation(loop, "Cancel")
    await loop.step()
    assert (await phase_of(loop, name))[0] == "Running"
    await loop.run(2, 400)
    await loop.run(1)
    phase, message = await phase_of(loop, name)
    assert phase == "Cancelled"
    assert "is not known" in message


async def test_a_refused_permit_is_a_sentence_and_nothing_begins(loop: Loop) -> None:
    box = await running(loop)
    policy = {"scope": {"matchAll": True}, "maxUnavailable": {"count": 0}}
    await loop.make({"kind": "SafetyPolicy", "metadata": {"name": "p"}, "spec": policy})
    began = len(loop.hosts.started)
    await operation(loop, "Reboot")
    await loop.run(4)
    assert (await loop.condition("ChangeAllowed"))[0] == "False"
    assert len(loop.hosts.started) == began
    assert box.boots == 0


async def test_permits_are_given_back_once_the_machine_was_seen_well(loop: Loop) -> None:
    await running(loop)
    found = await (
        await loop.conn.execute("SELECT count(*), count(*) FILTER (WHERE released_at IS NULL) FROM permit")
    ).fetchone()
    assert found is not None
    assert found[0] >= 1
    assert found[1] == 0


async def test_a_change_that_a_person_cancelled_is_not_begun_again_until_one_asks(loop: Loop) -> None:
    await simple(loop)
    await loop.step(0.1)
    await operation(loop, "Cancel")
    await loop.run(3, 10)
    began = len(loop.hosts.started)
    await loop.run(4)
    assert (await loop.condition("Stalled"))[1] == "Cancelled"
    assert len(loop.hosts.started) == began
    await operation(loop, "Reconcile")
    await loop.run(25)
    assert await loop.phase() == "Running"


async def test_a_persons_wish_comes_before_the_drift_that_fleet_repairs(loop: Loop) -> None:
    box = await running(loop)
    box.packages.pop("pouch")
    await loop.step(25)  # what fell over is recovery's for a while
    await loop.step(0.1)
    name = await operation(loop, "Reboot")
    await loop.run(40)
    found = await (
        await loop.conn.execute("SELECT phase, owner_class FROM machines_operation ORDER BY ended_at")
    ).fetchall()
    assert ((await loop.get(name, "operations")) or {})["status"]["phase"] == "Succeeded"
    assert ("Cancelled", 0) in found
    assert await loop.phase() == "Running"
    assert box.packages["pouch"]["state"] == "installed"


async def test_a_second_wish_of_a_person_is_refused_while_one_waits(loop: Loop) -> None:
    await running(loop)
    await loop.edit("machines", "m1", paused=True)
    await operation(loop, "Reboot")
    with pytest.raises(ApiError) as refused:
        await operation(loop, "Restart", units=["pouch.service"])
    assert refused.value.code == 409
    await operation(loop, "Cancel")
    found = await (
        await loop.conn.execute("SELECT phase FROM machines_operation WHERE spec ->> 'verb' = 'Reboot'")
    ).fetchall()
    assert found == [("Cancelled",)]
    with pytest.raises(ApiError) as nothing:
        await loop.make({"kind": "Operation", "metadata": {"name": "c2"}, "spec": {"machine": "m1", "verb": "Cancel"}})
    assert nothing.value.code == 409


async def test_a_drain_of_a_machine_that_is_no_node_is_done_at_once(loop: Loop) -> None:
    await running(loop)
    name = await operation(loop, "Drain")
    await loop.run(2)
    found = ((await loop.get(name, "operations")) or {})["status"]
    assert (found["phase"], found["steps"][0]["reason"]) == ("Succeeded", "NotANode")


async def test_a_version_that_a_machine_holds_is_not_deleted(loop: Loop) -> None:
    await running(loop)
    for plural, name, user in (
        ("machinepackageversions", "pouch-1.0", "machine m1"),
        ("machineconfigversions", "pouch-config-v1", "pouch-1.0"),
    ):
        with pytest.raises(ApiError) as refused:
            await in_thread(lambda p=plural, n=name: delete_object(p, n, write=Write(by=SYSTEM)))  # type: ignore[misc]
        assert refused.value.code == 409
        assert user in refused.value.message


async def test_the_plan_is_shown_before_anything_happens(loop: Loop) -> None:
    await loop.make(package())
    await loop.machine(versions={"pouch": "1.0"}, paused=True)
    await loop.step()
    plan = (await in_thread(lambda: plan_of(read("m1"), SYSTEM)))["plan"]
    assert plan["disruption"] == "Restart"
    assert plan["steps"][0] == "01-stage-package-pouch"
    assert [d["kind"] for d in plan["diffs"]] == ["package", "unit"]
    assert loop.hosts.started == []
