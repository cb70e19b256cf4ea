"""The rung that installs a host's system anew: asked for once, followed to its end, and what was accepted is put there again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from fleet.control.db import Connection
from fleet.control.threads import in_thread
from fleet.control.times import format_time
from fleet.safety import switch
from tests.machines.loop import config, package
from tests.machines.world_of_one import running
from tests.recovery.disk import BROKEN, ENDS, RUNG, Disk
from tests.recovery.test_crash import Died, Mortal
from tests.recovery.world import ASK


@pytest.fixture
def disk(conn: Connection) -> Disk:
    return Disk(conn)


async def test_a_host_is_installed_anew_and_holds_what_was_accepted_again(disk: Disk) -> None:
    box = await disk.complained()
    before, marker = box.boot_id, box.marker
    await disk.until_asked()
    await disk.turn(3)
    assert (box.packages.get("pouch"), box.marker, box.epoch) == (None, "", -1)  # nothing of Fleet is there
    await disk.well()
    assert await disk.until_ended() == ("Resolved", "Succeeded"), await disk.remediation()
    assert await disk.steps() == [
        ("permit", "Granted"), ("isolate", "NotANode"), ("drain", "NotANode"), ("collect-evidence", "Done"), ("reinstall", "Reinstalled"),
        ("provision", "Planned"), ("stage-package", "Done"), ("install-package", "Done"), ("write-files", "Done"), ("set-units", "Done"),
        ("health-check", "Done"), ("post-check", "Verified"),
    ]  # fmt: skip
    assert len(disk.provisioners.asked) == box.installs == 1
    assert (box.boot_id != before, box.marker) == (True, marker)
    assert box.packages["pouch"]["declared"] == "1.0"
    await disk.turn(20)
    assert await disk.phase() == "Running"
    assert await disk.permits() == 0
    assert (await disk.operations())[0]["status"]["verb"] == "Reinstall"


async def test_no_other_fault_is_found_and_nobody_else_works_on_a_host_that_is_installed_anew(disk: Disk) -> None:
    await disk.complained()
    await disk.rule("package-broken", "PackageBroken", when=[{"condition": "ComponentsHealthy", "status": "False"}])
    away = [{"condition": "Reachable", "status": "False"}]
    await disk.rule("host-unreachable", "HostUnreachable", severity="error", when=away)
    await disk.until_asked()
    await disk.well()
    for _ in range(ENDS):
        await disk.turn()
        assert [f["spec"]["type"] for f in await disk.faults()] == ["FilesystemCorrupt"]
    assert await disk.end() == ("Resolved", "Succeeded")
    assert [o["spec"]["verb"] for o in await disk.faults("operations")] == [
        "Reconcile",
        "Repair",
    ]  # the first one provisioned it


async def test_what_is_missing_on_an_empty_host_is_no_damage_though_the_pass_that_saw_it_first_recorded_nothing(
    disk: Disk,
) -> None:
    await disk.complained()
    row = await (await disk.conn.execute("SELECT facts -> 'memory' FROM machine_fact")).fetchone()
    assert row is not None
    await disk.until_asked()
    while ("reinstall", "Reinstalled") not in await disk.steps():
        await disk.turn()
    left = await (await disk.conn.execute("SELECT count(*) FROM inventory WHERE removed_at IS NULL")).fetchone()
    assert left == (0,)  # what Fleet put on the old disk is forgotten
    await disk.conn.execute("UPDATE machine_fact SET facts = jsonb_set(facts, '{memory}', %s)", [Jsonb(row[0])])
    await disk.step()
    assert (await disk.condition("ComponentsHealthy"))[:2] == ("Unknown", "Changing")


async def test_a_fault_that_holds_already_is_not_confirmed_by_what_the_installation_does(disk: Disk) -> None:
    box = await disk.complained()
    away = [{"condition": "Reachable", "status": "False"}]
    await disk.rule("host-unreachable", "HostUnreachable", severity="error", when=away, holdSeconds=600)
    box.faults["hang"] = {"at": disk.hosts.now}
    await disk.turn(2)
    await disk.until_asked()
    disk.later = 1_200
    await disk.turn(4)
    told = {f["spec"]["type"]: (f["status"]["phase"], f["status"]["reason"]) for f in await disk.faults()}
    assert told["HostUnreachable"] == ("Open", "BeingReinstalled")
    assert told["FilesystemCorrupt"][0] == "Recovering"


async def test_an_installation_that_fails_goes_up_the_ladder_to_a_person(disk: Disk) -> None:
    box = await disk.complained()
    box.faults["reinstall-fails"] = {"at": disk.hosts.now, "count": 1}
    await disk.turn(20)
    assert await disk.end() == ("NeedsPerson", "Escalated")
    remediation = await disk.remediation()
    assert remediation["status"]["rungs"][0]["outcome"] == "ImageInvalid"
    assert remediation["status"]["reason"] == "PersonAsked"
    assert len(disk.provisioners.asked) == 1
    assert "pouch" in box.packages  # nothing was wiped


async def test_without_a_provisioner_the_system_is_a_persons(disk: Disk) -> None:
    box = await disk.complained()

    disk.with_provisioner = False
    await disk.turn(12)
    assert (await disk.remediation())["status"]["rungs"][0]["outcome"] == "NoProvisioner"
    assert await disk.end() == ("NeedsPerson", "Escalated")
    assert box.installs == 0


async def test_a_request_whose_answer_is_lost_is_not_made_again(disk: Disk) -> None:
    box = await disk.complained()
    disk.provisioners.loses = 1
    await disk.until_asked()
    await disk.well()
    assert await disk.until_ended() == ("Resolved", "Succeeded")
    assert (len(disk.provisioners.asked), box.installs) == (1, 1)


async def test_a_request_that_was_refused_is_made_again_and_one_that_always_is_ends_the_rung(disk: Disk) -> None:
    box = await disk.complained()
    disk.provisioners.refuses = 3
    await disk.until_asked()
    assert len(disk.provisioners.asked) == 1
    await disk.well()
    assert (await disk.until_ended(), box.installs) == (("Resolved", "Succeeded"), 1)


async def test_a_provisioner_that_always_refuses_is_given_up_before_anything_was_done(disk: Disk) -> None:
    box = await disk.complained()
    disk.provisioners.refuses = 1_000
    await disk.turn(50)
    assert (await disk.remediation())["status"]["rungs"][0]["outcome"] == "ProvisionerRefused"
    assert (box.installs, disk.provisioners.asked) == (0, [])


async def test_a_provisioner_that_takes_requests_and_does_nothing_is_asked_twice_and_then_a_person(disk: Disk) -> None:
    box = await disk.complained()
    box.faults["provisioner-deaf"] = {"at": disk.hosts.now}
    await disk.turn(40)
    assert (await disk.remediation())["status"]["rungs"][0]["outcome"] == "RequestLost"
    assert len(disk.provisioners.asked) == 2
    assert len({id_ for _, id_ in disk.provisioners.asked}) == 1  # one installation, had it been taken
    assert box.installs == 0


async def test_a_provisioner_that_falls_silent_in_the_middle_is_waited_for(disk: Disk) -> None:
    box = await disk.complained()
    await disk.until_asked()
    box.faults["provisioner-silent"] = {"at": disk.hosts.now}
    await disk.turn(60)  # five minutes: longer than one who was asked for nothing is borne with
    assert (await disk.steps())[4] == ("reinstall", "ProvisionerUnreachable")
    del box.faults["provisioner-silent"]
    await disk.well()
    assert (await disk.until_ended(), len(disk.provisioners.asked)) == (("Resolved", "Succeeded"), 1)


@pytest.mark.parametrize(("fault", "outcome", "seconds"), [("never-returns", "NotBack", 60.0), ("reinstall-stuck", "InstallTimedOut", 200.0)])  # fmt: skip
async def test_a_host_that_never_comes_back_is_a_persons(disk: Disk, fault: str, outcome: str, seconds: float) -> None:
    box = await disk.complained()
    box.faults[fault] = {"at": disk.hosts.now}
    await disk.until_asked()
    await disk.turn(30, seconds)
    assert (await disk.remediation())["status"]["rungs"][0]["outcome"] == outcome
    assert await disk.end() == ("NeedsPerson", "Escalated")
    assert len(disk.provisioners.asked) == 1


async def test_a_worker_that_dies_with_the_request_on_its_lips_leaves_the_next_one_looking(disk: Disk) -> None:
    await disk.complained()

    async def dies(point: int) -> None:
        found = [s for o in await disk.operations() for s in o["status"].get("steps", ())]
        if point == 5 and any(s.get("progress", {}).get("now") for s in found):
            raise RuntimeError("killed")

    async def lives(point: int) -> None:
        """Nothing happens."""

    disk.point = dies
    with pytest.raises(RuntimeError):
        await disk.turn(20)
    disk.point = lives
    await disk.conn.execute("UPDATE work_item SET holder = NULL WHERE kind = 1")
    await disk.turn(5)
    assert disk.provisioners.asked == []  # it may have been asked for: that it is known is waited for first
    await disk.turn(10)
    assert len(disk.provisioners.asked) == 1


@pytest.mark.parametrize("point", [6, 7, 8, 9])
async def test_a_worker_that_dies_after_the_request_leaves_one_installation(disk: Disk, point: int) -> None:
    box = await disk.complained()

    async def dies(at: int) -> None:
        if at == point and disk.provisioners.asked:
            raise RuntimeError("killed")

    async def lives(at: int) -> None:
        """Nothing happens."""

    disk.point = dies
    with pytest.raises(RuntimeError):
        await disk.turn(20)
    disk.point = lives
    await disk.conn.execute("UPDATE work_item SET holder = NULL WHERE kind = 1")
    await disk.well()
    assert await disk.until_ended() == ("Resolved", "Succeeded")
    assert (len(disk.provisioners.asked), box.installs) == (1, 1)


async def test_the_kill_switch_keeps_the_provisioner_from_being_asked(disk: Disk) -> None:
    await disk.complained()
    await disk.turn()
    await in_thread(lambda: switch.stop("anna", "drill"))
    await disk.turn(8)
    assert disk.provisioners.asked == []
    await in_thread(lambda: switch.resume("anna"))
    await disk.turn(8)
    assert len(disk.provisioners.asked) == 1


async def test_a_hold_keeps_the_provisioner_from_being_asked(disk: Disk) -> None:
    await disk.complained()
    await disk.turn()
    until = format_time(datetime.now(UTC) + timedelta(hours=1))
    spec = {"target": {"machine": "m1"}, "reason": "its disk is being copied", "owner": "anna", "until": until}
    await disk.make({"kind": "Hold", "metadata": {"name": "h1"}, "spec": spec})
    await disk.turn(8)
    assert disk.provisioners.asked == []


async def test_who_cancels_before_the_request_keeps_the_disk(disk: Disk) -> None:
    box = await disk.complained()
    await disk.turn()
    assert disk.provisioners.asked == []
    await cancel(disk)
    await disk.turn(8)
    assert (box.installs, disk.provisioners.asked) == (0, [])
    assert (await disk.operations())[0]["status"]["phase"] == "Cancelled"
    assert (await disk.end())[0] == "NeedsPerson"


async def test_who_cancels_after_the_request_gets_the_host_back_and_ordinary_work_fills_it(disk: Disk) -> None:
    box = await disk.complained()
    await disk.until_asked()
    await cancel(disk)
    await disk.turn(ENDS)
    (operation,) = await disk.operations()
    assert operation["status"]["phase"] == "Cancelled"
    assert ("reinstall", "Reinstalled") in await disk.steps()
    assert (box.installs, box.packages["pouch"]["declared"]) == (1, "1.0")
    newest = (await disk.faults("operations"))[-1]
    assert (newest["spec"]["verb"], newest["spec"]["owner"], newest["status"]["why"]) == ("Reconcile", "spec", "change")


async def cancel(disk: Disk) -> None:
    await disk.conn.execute(
        """UPDATE machines_operation SET spec = spec || '{"cancelledBy": "anna"}' WHERE ended_at IS NULL"""
    )


async def test_a_silent_host_is_installed_anew_without_its_word(disk: Disk) -> None:
    box = await disk.complained()
    box.faults["hang"] = {"at": disk.hosts.now}
    await disk.until_asked()
    await disk.well()
    assert await disk.until_ended() == ("Resolved", "Succeeded")
    assert (await disk.steps())[3:5] == [("collect-evidence", "NotCollected"), ("reinstall", "Reinstalled")]


async def test_a_silent_host_that_answers_again_keeps_its_disk(disk: Disk) -> None:
    box = await disk.complained()
    box.faults["hang"] = {"at": disk.hosts.now}
    await disk.turn(2)
    del box.faults["hang"]
    await disk.well()
    await disk.turn(12)
    assert (box.installs, disk.provisioners.asked) == (0, [])
    assert ("reinstall", "HostAnswers") in await disk.steps()
    assert ("provision", "NotNeeded") in await disk.steps()
    assert await disk.end() == ("Resolved", "Succeeded")


async def test_a_set_that_is_accepted_meanwhile_is_what_the_empty_host_gets(disk: Disk) -> None:
    box = await disk.complained()
    await disk.until_asked()
    await disk.well()
    await disk.make(package("pouch", "2.0"))
    for _ in range(ENDS):
        await disk.turn()
        if ("provision", "Planned") in await disk.steps():
            break
    await disk.edit("machines", "m1", versions={"pouch": "2.0"})
    await disk.turn(20)
    assert await disk.end() == ("Resolved", "Succeeded"), (await disk.operations())[0]["status"]
    assert box.packages["pouch"]["declared"] == "2.0"


async def test_only_silence_or_one_source_wipes_nothing(disk: Disk) -> None:
    await disk.playbook(RUNG, ASK)
    await disk.rule("corrupt", "FilesystemCorrupt", category="Hardware", severity="error", when=BROKEN)
    await running(disk)
    await disk.say("True", "npd")
    await disk.turn(3)
    assert (await disk.fault())["status"]["repair"]["reason"] == "OneSource"
    await disk.say("False")
    await disk.say("True", "fleet", "kubelet")
    await disk.turn(3)
    await disk.conn.execute("UPDATE recovery_evidence SET status = 'False' WHERE source NOT IN ('fleet', 'kubelet')")
    await disk.turn(3)
    assert (await disk.fault())["status"]["repair"]["reason"] == "OnlySilence"
    assert await disk.operations() == []


async def test_the_host_key_of_the_new_system_takes_the_place_of_the_old_one(disk: Disk) -> None:
    await disk.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
    old = "ssh-ed25519 AAAAold"
    await disk.machine(versions={"pouch": "1.0"}, driver={"type": "simulated", "hostKeys": [old]})
    await disk.run(20)
    await disk.playbook(RUNG, ASK)
    await disk.rule("corrupt", "FilesystemCorrupt", category="Hardware", severity="error", when=BROKEN)
    await disk.say("True")
    await disk.detect()
    await disk.until_asked()
    await disk.well()
    assert await disk.until_ended() == ("Resolved", "Succeeded"), await disk.remediation()
    machine = await disk.get()
    assert machine is not None
    assert machine["spec"]["driver"] == {"type": "simulated", "hostKeys": [(await disk.box()).host_key]}


async def test_a_host_that_somebody_else_set_up_is_not_wiped(disk: Disk) -> None:
    box = await disk.complained()
    await disk.conn.execute(
        "UPDATE machine_fact SET facts = jsonb_set(facts, '{memory,adopted}', 'true') WHERE machine_id = (SELECT id FROM machine)"
    )
    box.units["pouch.service"].update(active="failed")  # so that the difference is not accepted by itself
    await disk.turn(12)
    assert (await disk.remediation())["status"]["rungs"][0]["outcome"] == "Adopted"
    assert (box.installs, disk.provisioners.asked) == (0, [])


STRIDE = 61  # more statements than a turn has, so that one dies and the next comes through


@pytest.mark.parametrize("first", range(0, STRIDE, 8))
async def test_killed_after_any_statement_it_ends_the_same_and_the_provisioner_is_asked_once(
    disk: Disk, first: int
) -> None:
    box = await disk.complained()
    real, crashes, done = disk.conn, 0, first
    for _ in range(3 * ENDS):
        mortal = Mortal(real)
        mortal.left = STRIDE - done % STRIDE
        disk.conn = mortal  # type: ignore[assignment]
        try:
            await disk.turn()
        except Died:
            crashes += 1
        done += mortal.done
        disk.conn = real
        await real.execute("UPDATE work_item SET holder = NULL, due_at = now()")
        if disk.provisioners.asked:
            await disk.well()
        if await disk.faults("remediations") and (await disk.end())[0] == "Resolved":
            break
    assert await disk.end() == ("Resolved", "Succeeded"), (crashes, (await disk.operations())[0]["status"])
    assert (len(disk.provisioners.asked), box.installs) == (1, 1)
    assert crashes > 10
    begun = [f for f in disk.hosts.started if f.startswith((await disk.operations())[0]["metadata"]["uid"])]
    assert len(begun) == len(set(begun))
    assert box.packages["pouch"]["declared"] == "1.0"
