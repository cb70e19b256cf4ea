"""People and recovery: their word wins at once, and what recovery cannot do it asks them for."""

from __future__ import annotations

import pytest

from fleet.api.actions import Write, change_object, create_object, delete_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION, Json
from fleet.control.threads import in_thread
from tests.machines.world_of_one import operation, running
from tests.recovery.world import ASK, REINSTALL, RESTART, World, stopped


@pytest.fixture
async def world(conn: Connection) -> World:
    made = World(conn)
    await made.playbook(RESTART, REINSTALL, ASK)
    await made.rule()
    await running(made)
    return made


async def patch(plural: str, name: str, **spec: object) -> None:
    def change(live: Json) -> Json:
        live["spec"] = {**live["spec"], **spec}
        return live

    await in_thread(lambda: change_object(plural, name, change, write=Write(by=SYSTEM), verb="update"))


async def word(name: str, annotation: str) -> None:
    def change(live: Json) -> Json:
        live["metadata"]["annotations"] = {**live["metadata"].get("annotations", {}), annotation: name}
        return live

    await in_thread(lambda: change_object("faults", name, change, write=Write(by=SYSTEM), verb="update"))


async def failing(world: World) -> None:
    """A fault whose first rung is under way and does not succeed soon."""
    stopped(await world.box())
    (await world.box()).faults["stuck"] = {"at": 0}
    await world.turn(4)
    assert (await world.remediation())["status"]["phase"] == "Repairing"


async def test_a_cancelled_remediation_ends_before_its_next_step_and_leaves_the_machine_to_people(world: World) -> None:
    await failing(world)
    await patch("remediations", (await world.remediation())["metadata"]["name"], cancelled=True)
    (await world.box()).faults.clear()
    await world.turn(12, seconds=60)
    remediation, fault = await world.remediation(), await world.fault()
    assert remediation["status"]["phase"] == "Cancelled"
    assert remediation["spec"]["cancelledBy"] == SYSTEM.name
    assert (fault["status"]["phase"], fault["status"]["reason"]) == ("NeedsPerson", "Cancelled")
    before = len(await world.operations())
    await world.turn(4)
    assert len(await world.operations()) == before


async def test_a_cancel_of_its_operation_ends_the_whole_repair(world: World) -> None:
    await failing(world)
    await operation(world, "Cancel")
    (await world.box()).faults.clear()
    await world.turn(12, seconds=60)
    assert (await world.remediation())["status"]["phase"] == "Cancelled"
    assert (await world.fault())["status"]["phase"] == "NeedsPerson"


async def test_a_hold_keeps_a_repair_from_beginning_and_says_whose_it_is(world: World) -> None:
    hold = {"target": {"machine": "m1"}, "reason": "I look at it", "owner": "olga", "until": "2026-12-20T00:00:00Z"}
    await world.create("holds", "Hold", "mine", hold)
    stopped(await world.box())
    await world.turn(5)
    fault = await world.fault()
    assert fault["status"]["phase"] == "Confirmed"
    assert fault["status"]["repair"]["reason"] == "Held"
    assert "olga" in fault["status"]["repair"]["message"]
    assert not await world.faults("remediations")
    await in_thread(lambda: delete_object("holds", "mine", write=Write(by=SYSTEM)))
    await world.turn(10)
    assert (await world.fault())["status"]["phase"] == "Resolved"


async def test_a_rung_that_does_not_help_is_followed_by_the_next_and_the_last_by_a_person(world: World) -> None:
    box = await world.box()
    box.faults["start-fails"] = {"at": 0, "count": 50}
    stopped(box)
    await world.turn(30)
    remediation, fault = await world.remediation(), await world.fault()
    assert remediation["status"]["phase"] == "Escalated"
    assert [(r["name"], r["phase"]) for r in remediation["status"]["rungs"]] == [
        ("restart-units", "Failed"),
        ("reinstall", "Failed"),
    ]
    assert (fault["status"]["phase"], fault["status"]["message"]) == ("NeedsPerson", "Look at it.")
    assert await world.condition("Faultless") == (
        "False",
        "ComponentCrash",
        f"{fault['metadata']['name']} is NeedsPerson: Look at it.",
    )


async def test_a_person_may_ask_for_another_try(world: World) -> None:
    box = await world.box()
    box.faults["start-fails"] = {"at": 0, "count": 50}
    stopped(box)
    await world.turn(30)
    box.faults.clear()
    fault = await world.fault()
    await world.conn.execute("UPDATE machine_state SET paused = false")
    await word(fault["metadata"]["name"], "fleet.dev/retry")
    assert (await world.fault())["status"]["phase"] == "Confirmed"
    assert not (await world.fault())["metadata"].get("annotations")
    await world.turn(15)
    assert (await world.fault())["status"]["phase"] == "Resolved"


async def test_a_word_that_cannot_be_followed_is_refused_with_the_reason(world: World) -> None:
    await failing(world)
    name = (await world.fault())["metadata"]["name"]
    with pytest.raises(ApiError, match="works on it; cancel that first"):
        await word(name, "fleet.dev/clear")
    with pytest.raises(ApiError, match="only what needs a person is tried again"):
        await word(name, "fleet.dev/retry")


async def test_the_fourth_repair_within_a_day_is_a_persons(world: World) -> None:
    for _ in range(3):
        stopped(await world.box())
        await world.turn(14)
    assert [r["status"]["phase"] for r in await world.faults("remediations")] == ["Succeeded"] * 3
    stopped(await world.box())
    await world.turn(6)
    newest = max(await world.faults(), key=lambda f: int(f["metadata"]["name"].rpartition("-")[2]))
    assert (newest["status"]["phase"], newest["status"]["repair"]["reason"]) == ("NeedsPerson", "RepairedTooOften")
    assert len(await world.faults("remediations")) == 3


async def declare(**spec: object) -> Json:
    obj = {
        "apiVersion": API_VERSION,
        "kind": "Fault",
        "metadata": {"name": "by-hand"},
        "spec": {"machine": "m1", **spec},
    }
    return await in_thread(lambda: create_object("faults", obj, write=Write(by=SYSTEM)))


async def test_what_a_person_declares_is_confirmed_at_once_and_ends_with_the_machines_health(world: World) -> None:
    made = await declare(type="ComponentCrash", playbook="fix", message="it hums")
    assert (made["status"]["phase"], made["status"]["message"], made["spec"]["severity"]) == (
        "Confirmed",
        "it hums",
        "warning",
    )
    await world.turn(14)
    assert (await world.fault())["status"]["phase"] == "Resolved"
    assert (await world.remediation())["status"]["phase"] == "Succeeded"


async def test_the_same_fault_is_not_declared_twice_nor_of_a_machine_that_is_not_there(world: World) -> None:
    await declare(type="NicFailure", playbook="fix")
    with pytest.raises(ApiError, match="is that fault already"):
        await in_thread(
            lambda: create_object(
                "faults",
                {
                    "apiVersion": API_VERSION,
                    "kind": "Fault",
                    "metadata": {"name": "again"},
                    "spec": {"machine": "m1", "type": "NicFailure", "playbook": "fix"},
                },
                write=Write(by=SYSTEM),
            )
        )
    with pytest.raises(ApiError, match="there is no machine of that name"):
        await declare(machine="nobody", type="NicFailure", playbook="fix")
    with pytest.raises(ApiError, match="say the category"):
        await declare(type="Strange")


async def test_people_make_no_remediations_and_change_nothing_but_their_end(world: World) -> None:
    obj = {"apiVersion": API_VERSION, "kind": "Remediation", "metadata": {"name": "x"}, "spec": {"machine": "m1"}}
    with pytest.raises(ApiError, match="remediations are made by Fleet") as refused:
        await in_thread(lambda: create_object("remediations", obj, write=Write(by=SYSTEM)))
    assert refused.value.code == 403
    await failing(world)
    name = (await world.remediation())["metadata"]["name"]
    with pytest.raises(ApiError, match=r"only spec\.cancelled can be changed"):
        await patch("remediations", name, playbook="other")
    with pytest.raises(ApiError, match="cancel it by spec.cancelled"):
        await in_thread(lambda: delete_object("remediations", name, write=Write(by=SYSTEM)))


async def test_a_machine_that_is_deleted_meanwhile_ends_its_repair(world: World) -> None:
    await failing(world)
    (await world.box()).faults.clear()
    await world.delete("m1")
    await world.turn(14, seconds=60)
    assert (await world.remediation())["status"]["phase"] == "Cancelled"
    assert (await world.fault())["status"]["phase"] == "Resolved"


async def test_the_kill_switch_stops_a_repair_that_was_ordered(world: World) -> None:
    stopped(await world.box())
    await world.step()
    await world.detect()
    await world.conn.execute("UPDATE ledger SET stopped = true, stopped_why = 'test', stopped_by = 'olga'")
    await world.turn(4)
    assert (await world.fault())["status"]["repair"]["reason"] == "Stopped"
    assert not [f for f in world.hosts.started if "restart" in f or "set-units" in f][1:]
    await world.conn.execute("UPDATE ledger SET stopped = false")
    await world.turn(12)
    assert (await world.fault())["status"]["phase"] == "Resolved"


async def test_a_worse_fault_of_the_machine_ends_the_repair_of_a_lesser_one_and_comes_first(world: World) -> None:
    await world.playbook({"name": "empty", "steps": [{"action": "Isolate"}], "verifySeconds": 0}, ASK, name="hardware")
    await failing(world)
    obj = {
        "apiVersion": API_VERSION,
        "kind": "Fault",
        "metadata": {"name": "board"},
        "spec": {"machine": "m1", "type": "MotherboardFailure", "playbook": "hardware"},
    }
    await in_thread(lambda: create_object("faults", obj, write=Write(by=SYSTEM)))
    await world.turn(1)
    (lesser,) = [r for r in await world.faults("remediations") if r["spec"]["playbook"] == "fix"]
    assert lesser["spec"]["cancelledBy"] == "worse fault board"
    (await world.box()).faults.clear()
    await world.turn(14, seconds=60)
    lesser, worse, *_ = await world.faults("remediations")
    assert (lesser["status"]["phase"], lesser["status"]["reason"]) == ("Cancelled", "Outranked")
    assert worse["spec"]["fault"] == "board"
    phases = {f["spec"]["type"]: f["status"]["phase"] for f in await world.faults()}
    assert phases["MotherboardFailure"] in ("NeedsPerson", "Resolved")


async def test_the_machine_says_why_nobody_repairs_its_fault(world: World) -> None:
    from machines.why import why_of

    hold = {"target": {"machine": "m1"}, "reason": "I look at it", "owner": "olga", "until": "2026-12-20T00:00:00Z"}
    await world.create("holds", "Hold", "mine", hold)
    stopped(await world.box())
    await world.turn(2)
    machine = await world.get()
    assert machine is not None
    ladders = (await in_thread(lambda: why_of(machine, SYSTEM)))["ladders"]
    (ladder,) = [x for x in ladders if "ComponentCrash" in x["question"]]
    first = next(r for r in ladder["rungs"] if r["answer"] != "holds")
    assert ladder["question"].startswith("Why is nobody repairing ComponentCrash of m1")
    assert (first["text"], first["owner"]) == ("Safety grants the permit", "safety")
    assert first["explanation"].startswith("Held: Hold mine of olga covers it")


async def test_a_fault_that_needs_a_person_is_a_notice_until_it_is_over(world: World) -> None:
    box = await world.box()
    box.faults["start-fails"] = {"at": 0, "count": 50}
    stopped(box)
    await world.turn(30)
    await world.conn.execute("SELECT notice_turn()")
    row = await (
        await world.conn.execute(
            "SELECT reason, subject, message FROM notice WHERE cleared_at IS NULL AND reason = 'NeedsAPerson'"
        )
    ).fetchone()
    assert row is not None
    assert row[1].startswith("1 machine of") and row[2].startswith("m1.")
    await word((await world.fault())["metadata"]["name"], "fleet.dev/clear")
    await world.conn.execute("SELECT notice_turn()")
    left = await (
        await world.conn.execute("SELECT count(*) FROM notice WHERE cleared_at IS NULL AND reason = 'NeedsAPerson'")
    ).fetchone()
    assert left == (0,)


async def test_a_hardware_fault_that_a_person_declared_is_over_when_a_person_says_so(world: World) -> None:
    empty = {"name": "empty", "steps": [{"action": "Isolate"}, {"action": "Drain"}], "verifySeconds": 0}
    replace = {"name": "replace", "steps": [{"action": "Replace", "task": "Replace the card."}]}
    await world.playbook(empty, replace, name="hardware")
    await declare(type="NicFailure", playbook="hardware")
    await world.turn(10)
    fault, remediation = await world.fault(), await world.remediation()
    assert (remediation["status"]["phase"], fault["status"]["phase"]) == ("Escalated", "NeedsPerson")
    assert fault["status"]["message"] == "Replace the card."
    assert (await world.condition("Faultless"))[0] == "False"
    await word(fault["metadata"]["name"], "fleet.dev/clear")
    await world.turn(2)
    assert (await world.fault())["status"]["phase"] == "Resolved"
    assert (await world.condition("Faultless"))[0] == "True"
