"""The reconciler on the real database against hosts that behave."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.threads import in_thread
from machines.actions import let_go
from machines.reconcile import no_fault
from machines.why import why_of
from simulator.box import Box
from tests.machines.loop import INSTALLATION, Loop, config, package
from tests.machines.world_of_one import box_of, operation, read, running, simple


@pytest.fixture
def loop(conn: Connection) -> Loop:
    return Loop(conn)


async def test_a_bare_machine_gets_its_package_and_its_file_and_comes_to_rest(loop: Loop) -> None:
    await simple(loop)
    phases = await loop.run(20)
    machine = await loop.get()
    assert phases == ["Pending", "Provisioning", "Running"] or phases == ["Provisioning", "Running"]
    assert machine is not None
    box = loop.hosts.boxes[machine["metadata"]["uid"]]
    assert box.packages["pouch"]["state"] == "installed"
    assert box.files["/etc/pouch-config.conf"]["content"] == "idc=a\n"
    assert box.units["pouch.service"]["active"] == "active"
    assert await loop.condition("Ready") == ("True", "AsAccepted", "The machine is at its final state.")
    began = list(loop.hosts.started)
    await loop.run(3)
    assert loop.hosts.started == began


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(
            lambda box: box.files["/etc/pouch-config.conf"].update(sha256="0" * 64, content="by hand\n"),
            id="file edited",
        ),
        pytest.param(lambda box: box.files.pop("/etc/pouch-config.conf"), id="file removed"),
        pytest.param(lambda box: box.files["/etc/pouch-config.conf"].update(mode="0666"), id="mode changed"),
        pytest.param(lambda box: box.units["pouch.service"].update(active="inactive"), id="unit stopped"),
        pytest.param(
            lambda box: box.units["pouch.service"].update(load="masked", enabled="masked", active="inactive"),
            id="unit masked",
        ),
        pytest.param(lambda box: box.packages.pop("pouch"), id="package removed"),
        pytest.param(lambda box: box.packages["pouch"].update(version="0.9", declared=""), id="package replaced"),
    ],
)
async def test_what_a_hand_changed_is_put_back_by_way_of_repairing_and_probation(
    loop: Loop, harm: Callable[[Box], object]
) -> None:
    box = await running(loop)
    harm(box)
    await loop.step()
    assert (await loop.condition("Drifted"))[0] == "True"
    assert await loop.run(30) == ["Repairing", "Probation", "Running"]
    assert (await loop.condition("UpToDate"))[0] == "True"
    assert box.files["/etc/pouch-config.conf"]["content"] == "idc=a\n"
    assert box.units["pouch.service"]["active"] == "active"


async def test_the_report_policy_shows_the_difference_and_leaves_it(loop: Loop) -> None:
    box = await running(loop)
    await loop.edit("machines", "m1", driftPolicy="Report")
    await loop.run(3)
    box.files["/etc/pouch-config.conf"].update(sha256="0" * 64, content="by hand\n")
    began = list(loop.hosts.started)
    await loop.run(5)
    answer = await in_thread(lambda: why_of(read("m1"), SYSTEM))
    assert (await loop.condition("Drifted"))[0] == "True"
    assert loop.hosts.started == began
    assert "-by hand\n+idc=a" in answer["plan"]["diffs"][0]["diff"]
    await operation(loop, "Reconcile")
    await loop.run(12)
    assert box.files["/etc/pouch-config.conf"]["content"] == "idc=a\n"


async def test_a_new_version_is_an_update_and_keeps_the_old_one_in_mind(loop: Loop) -> None:
    box = await running(loop)
    await loop.make(package(version="1.1"))
    await loop.edit("machines", "m1", versions={"pouch": "1.1"})
    assert await loop.run(30) == ["Updating", "Running"]
    assert box.packages["pouch"]["declared"] == "1.1"
    found = await (await loop.conn.execute("SELECT version, previous FROM inventory")).fetchall()
    assert found == [("1.1", "1.0")]


async def test_a_bad_version_is_rolled_back_and_the_machine_waits_for_another_set(loop: Loop) -> None:
    box = await running(loop)
    await loop.make(package(version="2.0", url="simulated:broken-pouch.deb", rollbackOnFailure=True))
    await loop.edit("machines", "m1", versions={"pouch": "2.0"})
    await loop.run(40)
    assert box.packages["pouch"]["declared"] == "1.0"
    assert await loop.phase() == "Failed"
    assert (await loop.condition("Stalled"))[:2] == ("True", "RolledBack")
    began = list(loop.hosts.started)
    await loop.run(5)
    assert loop.hosts.started == began
    await loop.edit("machines", "m1", versions={"pouch": "1.0"})
    await loop.run(10)
    assert await loop.phase() == "Running"


async def test_a_package_that_no_layer_names_any_more_is_uninstalled(loop: Loop) -> None:
    await loop.make(
        config("other-config"), package(), package("other", configMaps=[{"name": "other-config", "value": "v1"}])
    )
    await loop.machine(versions={"pouch": "1.0", "other": "1.0"})
    await loop.run(30)
    box = await box_of(loop)
    assert {"pouch", "other"} <= set(box.packages)
    await loop.edit("machines", "m1", versions={"pouch": "1.0"})
    await loop.run(20)
    assert box.packages.get("other", {}).get("state") != "installed"
    assert "/etc/other-config.conf" not in box.files
    assert (await loop.condition("UpToDate"))[0] == "True"


async def test_the_last_package_goes_only_after_a_person_confirmed_it(loop: Loop) -> None:
    box = await running(loop)
    await loop.edit("machines", "m1", versions={})
    await loop.run(5)
    status, _, message = await loop.condition("RemovalHeld")
    assert (status, box.packages["pouch"]["state"]) == ("True", "installed")
    assert "/etc/pouch-config.conf" in box.files
    await loop.annotate("m1", confirm_removal=message.rpartition(" ")[2])
    await loop.run(20)
    assert box.packages.get("pouch", {}).get("state") != "installed"
    assert "fleet.dev/confirm-removal" not in ((await loop.get()) or {})["metadata"].get("annotations", {})


async def test_disabled_packages_are_left_alone_in_every_way(loop: Loop) -> None:
    box = await running(loop)
    await loop.edit("machines", "m1", disabledPackages=["pouch"])
    await loop.run(5)
    assert "/etc/pouch-config.conf" in box.files
    box.units["pouch.service"].update(active="inactive")
    began = list(loop.hosts.started)
    await loop.run(5)
    assert loop.hosts.started == began
    assert box.packages["pouch"]["state"] == "installed"


async def test_clearing_the_cluster_changes_nothing_on_the_host(loop: Loop) -> None:
    await loop.make(
        package(), {"kind": "Cluster", "metadata": {"name": "c1"}, "spec": {"machineVersions": {"pouch": "1.0"}}}
    )
    await loop.machine(clusterName="c1")
    await loop.run(20)
    box = await box_of(loop)
    assert box.packages["pouch"]["state"] == "installed"
    began = list(loop.hosts.started)
    await loop.edit("machines", "m1", clusterName=None)
    await loop.run(5)
    assert loop.hosts.started == began
    assert (await loop.condition("RemovalHeld"))[0] == "False"


async def test_a_changed_cluster_layer_waits_for_its_rollout(loop: Loop) -> None:
    await loop.make(
        package(),
        package(version="1.1"),
        {"kind": "Cluster", "metadata": {"name": "c1"}, "spec": {"machineVersions": {"pouch": "1.0"}}},
    )
    await loop.machine(clusterName="c1")
    await loop.run(20)
    await loop.edit("clusters", "c1", machineVersions={"pouch": "1.1"})
    await loop.run(5)
    assert (await box_of(loop)).packages["pouch"]["declared"] == "1.0"
    assert (await loop.condition("UpdateAvailable"))[0] == "True"
    assert (await loop.condition("UpToDate"))[0] == "True"
    await loop.machine("m2", clusterName="c1")
    await loop.run(20)
    assert (await box_of(loop, "m2")).packages["pouch"]["declared"] == "1.1"


async def test_a_package_version_may_come_after_its_machine(loop: Loop) -> None:
    await loop.machine(versions={"pouch": "1.0"})
    await loop.run(3)
    assert (await loop.condition("VersionsResolved"))[:2] == ("False", "VersionUnknown")
    await loop.make(package())
    await loop.run(20)
    assert await loop.phase() == "Running"


async def test_a_paused_machine_is_looked_at_and_not_touched(loop: Loop) -> None:
    await loop.make(package())
    await loop.machine(versions={"pouch": "1.0"}, paused=True)
    await loop.run(5)
    assert loop.hosts.started == []
    assert (await loop.condition("Held"))[:2] == ("True", "Paused")
    await loop.edit("machines", "m1", paused=False)
    await loop.run(20)
    assert await loop.phase() == "Running"


async def test_a_held_machine_is_looked_at_and_not_touched(loop: Loop) -> None:
    await simple(loop)
    until = (loop.moment + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"target": {"machine": "m1"}, "reason": "rack move", "until": until, "owner": "ana"}
    await loop.make({"kind": "Hold", "metadata": {"name": "h1"}, "spec": spec})
    await loop.run(5)
    assert loop.hosts.started == []
    assert "rack move" in (await loop.condition("Held"))[2]


async def test_an_unreachable_machine_keeps_its_phase_and_is_unknown(loop: Loop) -> None:
    box = await running(loop)
    box.faults["unreachable"] = {"until": loop.hosts.now + 20}
    await loop.step()
    assert await loop.phase() == "Running"
    assert (await loop.condition("Reachable"))[:2] == ("False", "NoRoute")
    assert (await loop.condition("UpToDate"))[0] == "Unknown"
    await loop.run(8)
    assert (await loop.condition("Ready"))[0] == "True"


async def test_a_wrong_checksum_stalls_and_nothing_is_installed(loop: Loop) -> None:
    await loop.make(package(url="simulated:corrupt.deb"))
    await loop.machine(versions={"pouch": "1.0"})
    await loop.run(10)
    assert "pouch" not in (await box_of(loop)).packages
    assert (await loop.condition("Stalled"))[:2] == ("True", "ChecksumMismatch")
    assert await loop.phase() == "Failed"


async def test_an_artifact_without_checksum_is_never_installed(loop: Loop) -> None:
    await loop.make(package(config={"deb": "http://x/pouch.deb"}))
    await loop.machine(versions={"pouch": "1.0"})
    await loop.run(5)
    assert loop.hosts.started == []
    assert (await loop.condition("Verifiable"))[0] == "False"


async def test_a_kernel_takes_a_reboot_and_the_boot_id_proves_it(loop: Loop) -> None:
    await loop.make(
        package(
            "linux", "6.12.0-9", kind="KernelPatch", disruption="Reboot", units=[], healthCheck={"command": ["true"]}
        )
    )
    await loop.machine(versions={"linux": "6.12.0-9"})
    await loop.step()
    box = await box_of(loop)
    before = box.boot_id
    await loop.run(40)
    assert await loop.phase() == "Running"
    assert box.boot_id != before
    assert box.kernel.startswith("6.12.0-9")


async def test_another_machines_host_behind_the_address_is_never_touched(loop: Loop) -> None:
    await simple(loop)
    machine = await loop.get()
    assert machine is not None
    loop.hosts.box(machine["metadata"]["uid"]).marker = f"{INSTALLATION} 99999999-9999-9999-9999-999999999999"
    await loop.run(3)
    assert loop.hosts.started == []
    assert (await loop.condition("Reachable"))[:2] == ("False", "IdentityMismatch")


async def test_a_host_that_somebody_set_up_is_changed_only_after_a_person_accepted_the_difference(loop: Loop) -> None:
    await simple(loop)
    machine = await loop.get()
    assert machine is not None
    box = loop.hosts.box(machine["metadata"]["uid"])
    box.packages["pouch"] = {"version": "0.8", "state": "installed", "declared": "", "format": "deb"}
    await loop.run(4)
    assert loop.hosts.started == []
    assert (await loop.condition("Stalled"))[:2] == ("True", "Adopted")
    answer = await in_thread(lambda: why_of(read("m1"), SYSTEM))
    await loop.annotate("m1", accept_diff=answer["plan"]["diffHash"])
    await loop.run(20)
    assert await loop.phase() == "Running"
    assert box.packages["pouch"]["declared"] == "1.0"


async def test_a_poisoned_machine_spoils_no_batch(loop: Loop) -> None:
    await simple(loop)
    await loop.machine("m2", versions={"pouch": "1.0"})
    loop.hosts.poisoned.add("m1")
    await loop.run(20)
    assert await loop.phase("m2") == "Running"
    assert (await loop.condition("Reconciling"))[1] == "PassFailed"
    loop.hosts.poisoned.clear()
    await loop.run(20)
    assert await loop.phase() == "Running"


async def test_a_spec_that_moves_in_the_middle_of_a_pass_is_not_overwritten(loop: Loop) -> None:
    await running(loop)
    await loop.make(package(version="1.1"))

    async def edit(point: int) -> None:
        if point == 2:
            loop.point = no_fault
            await loop.edit("machines", "m1", versions={"pouch": "1.1"})

    loop.point = edit
    await loop.step()
    machine = await loop.get()
    assert machine is not None
    assert machine["status"]["observedGeneration"] < machine["metadata"]["generation"]
    await loop.run(20)
    assert (await box_of(loop)).packages["pouch"]["declared"] == "1.1"


async def test_a_machine_that_is_gone_in_the_middle_of_a_pass_leaves_nothing_behind(loop: Loop) -> None:
    await simple(loop)

    async def remove(point: int) -> None:
        if point == 2:
            loop.point = no_fault
            await loop.delete("m1")
            await in_thread(lambda: let_go(["m1"]))

    loop.point = remove
    await loop.step()
    assert await loop.get() is None
    assert await (await loop.conn.execute("SELECT count(*) FROM machine_state")).fetchone() == (0,)


class Killed(BaseException):
    """The worker died."""


@pytest.mark.parametrize("point", range(1, 9))
async def test_a_worker_that_dies_at_any_point_changes_neither_the_end_nor_how_often_a_step_runs(
    loop: Loop, point: int
) -> None:
    await simple(loop)
    deaths = 0

    async def die(at: int) -> None:
        nonlocal deaths
        if at == point and deaths < 6:
            deaths += 1
            raise Killed

    loop.point = die
    for _ in range(60):
        try:
            await loop.step()
        except Killed:
            await loop.conn.execute("UPDATE work_item SET due_at = now() WHERE kind = 1")
    assert deaths == 6
    assert await loop.phase() == "Running"
    assert len(loop.hosts.started) == len(set(loop.hosts.started))
    steps = [folder.partition("/")[2] for folder in loop.hosts.started]
    assert len([s for s in steps if "install-package" in s]) == 1
    assert await (await loop.conn.execute("SELECT package, version FROM inventory")).fetchall() == [("pouch", "1.0")]


async def test_a_lost_answer_loses_nothing(loop: Loop) -> None:
    await simple(loop)
    loop.hosts.deaf = True
    await loop.run(30)
    assert await loop.phase() == "Running"
    assert len(loop.hosts.started) == len(set(loop.hosts.started))


async def test_a_sysctl_that_left_the_set_is_taken_off_the_hosts_list(loop: Loop) -> None:
    await loop.make(
        config(version="v1", sysctls={"net.core.somaxconn": "1024", "vm.swappiness": "10"}),
        config(version="v2", sysctls={"vm.swappiness": "10"}),
        package(configMaps=[{"name": "pouch-config", "value": "v1"}]),
        package(version="1.1", configMaps=[{"name": "pouch-config", "value": "v2"}]),
    )
    await loop.machine(versions={"pouch": "1.0"})
    await loop.run(20)
    box = await box_of(loop)
    assert set(box.boot_sysctls) == {"net.core.somaxconn", "vm.swappiness"}
    await loop.edit("machines", "m1", versions={"pouch": "1.1"})
    await loop.run(20)
    assert set(box.boot_sysctls) == {"vm.swappiness"}
    assert await loop.phase() == "Running"
