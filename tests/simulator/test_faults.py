"""Faults of simulated hosts strike when they shall, last as long as they shall, and are the same for the same seed and clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import connection

from fleet.control.threads import in_thread
from machines.hosts import Action, WantedFile, WantedPackage
from simulator import faults
from simulator.box import bare
from simulator.timeline import HOUR, settle
from tests.simulator.conftest import CRON, Lab, digest, package

NOW = 1_800_000_000.0


async def put(lab: Lab, fault: str, **more: float) -> None:
    await in_thread(lambda: faults.inject(fault, [lab.target.uid], now=lab.now(), **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("unreachable", "NoRoute"), ("hang", "Timeout"), ("wrong-key", "HostKeyMismatch")],
)
async def test_a_dark_host_says_why_for_as_long_as_it_lasts(lab: Lab, fault: str, reason: str) -> None:
    await put(lab, fault, seconds=100)
    assert (await lab.look()).reason == reason
    assert (await lab.start(Action("set-units", units=CRON))).state == "Unknown"
    lab.move(200)
    assert (await lab.look()).seen


@pytest.mark.parametrize(
    ("fault", "field", "expected"),
    [
        ("package-lock", "package_lock_holder", "unattended-upgr (pid 812)"),
        ("unattended-upgrades", "unattended_upgrades", True),
        ("clock-skew", "clock_offset_seconds", 95.0),
        ("wrong-serial", "serial_number", "SIM-ANOTHER-BOX"),
        ("disk-full", "disk_free_bytes", 20 * 1024 * 1024),
    ],
)
async def test_faults_that_a_look_shows(lab: Lab, fault: str, field: str, expected: object) -> None:
    assert getattr(await lab.look(), field) != expected
    await put(lab, fault)
    assert getattr(await lab.look(), field) == expected


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("install-fails", "InstallFailed"),
        ("download-fails", "DownloadFailed"),
        ("bad-checksum", "ChecksumMismatch"),
    ],
)
async def test_counted_faults_strike_once_and_the_next_attempt_goes_through(
    lab: Lab, pouch: WantedPackage, fault: str, reason: str
) -> None:
    await put(lab, fault)
    assert (await lab.install(pouch)).reason == reason
    assert (await lab.look()).packages == {}
    assert (await lab.install(pouch, attempt=2)).state == "Succeeded"


async def test_a_full_disk_installs_nothing(lab: Lab, pouch: WantedPackage) -> None:
    await put(lab, "disk-full")
    assert (await lab.install(pouch)).reason == "DiskFull"
    assert (await lab.look()).packages == {}


async def test_a_held_package_lock_is_waited_for(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    await put(lab, "package-lock", seconds=40)
    began = await lab.start(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    lab.move(30)
    assert (await lab.look(began.ref)).steps[began.ref.folder].state == "Running"
    lab.move(30)
    assert (await lab.look(began.ref)).steps[began.ref.folder].state == "Succeeded"


async def test_a_lock_that_is_never_freed_ends_the_step_naming_its_holder(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    await put(lab, "package-lock")
    ended = await lab.do(Action("install-package", package=pouch, artifact=pouch.artifacts[0], timeout_seconds=20))
    assert ended.reason == "PackageLockHeld"
    assert "unattended-upgr" in ended.message


async def test_a_stuck_step_runs_into_its_limit(lab: Lab) -> None:
    await put(lab, "stuck")
    began = await lab.start(Action("restart-units", names=("cron.service",), timeout_seconds=50))
    assert began.state == "Running"
    lab.move(60)
    assert (await lab.look(began.ref)).steps[began.ref.folder].reason == "StepTimeout"


async def test_a_lost_answer_loses_nothing(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    await put(lab, "lost-answer")
    answer = await lab.start(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    assert (answer.state, answer.reason) == ("Unknown", "Disconnected")
    lab.move(60)
    assert (await lab.look(answer.ref)).steps[answer.ref.folder].state == "Succeeded"


async def test_a_reboot_in_the_middle_of_an_install_interrupts_it_and_a_new_attempt_heals(
    lab: Lab, pouch: WantedPackage
) -> None:
    await lab.stage(pouch)
    began = await lab.start(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    lab.move(1.9)
    await put(lab, "reboot")
    lab.move(60)
    facts = await lab.look(began.ref)
    assert facts.steps[began.ref.folder].state == "Interrupted"
    await lab.do(Action("configure-pending"), "02-configure")
    assert (await lab.look()).package_audit == ""
    assert (await lab.install(pouch, attempt=2)).state == "Succeeded"


async def test_a_half_configured_package_blocks_others_until_it_is_configured(lab: Lab) -> None:
    box = bare(lab.target.uid, 1)
    box.packages["other"] = {"version": "1", "state": "half-configured", "declared": "1", "format": "deb"}
    lab_box = replace(lab.target, packages=("other",))
    await lab.install(package("other"), "01-install")
    with_half = await in_thread(lambda: _make_half_configured(lab.target.uid))
    assert with_half == 1
    facts = (await lab.hosts.observe([lab_box]))[0]
    assert "half configured" in facts.package_audit
    assert (await lab.install(package(), "02-install")).reason == "PackageDatabaseBroken"
    await lab.do(Action("configure-pending"), "03-configure")
    assert (await lab.install(package(), "04-install")).state == "Succeeded"


def _make_half_configured(uid: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE simulated_host SET host = jsonb_set(host, '{packages,other,state}', '\"half-configured\"') WHERE uid = %s",
            [uid],
        )
        return int(cursor.rowcount)


async def test_a_reboot_that_does_not_happen_keeps_the_boot_id(lab: Lab) -> None:
    before = await lab.look()
    await put(lab, "reboot-ignored")
    assert (await lab.do(Action("reboot"))).state == "Succeeded"
    assert (await lab.look()).boot_id == before.boot_id


async def test_a_box_that_never_returns_comes_back_when_somebody_clears_it(lab: Lab) -> None:
    await put(lab, "never-returns")
    await lab.start(Action("reboot"))
    lab.move(86_400)
    assert (await lab.look()).reason == "ConnectionRefused"
    assert await in_thread(lambda: faults.clear([lab.target.uid])) == 1
    lab.move(60)
    assert (await lab.look()).seen


@pytest.mark.parametrize("fault", ["drift-file", "drift-unit", "drift-mask", "drift-package", "drift-sysctl"])
async def test_a_hand_changes_what_fleet_put_there(lab: Lab, pouch: WantedPackage, fault: str) -> None:
    config = WantedFile("/etc/pouch.conf", "a = 1\n", digest("a = 1\n"))
    wanted = {"files": (config.path,), "sysctls": ("vm.swappiness",)}
    await lab.install(pouch)
    await lab.do(Action("write-files", files=(config,)), "02-files")
    await lab.do(Action("set-units", units=pouch.units), "03-units")
    await lab.do(Action("set-sysctls", values={"vm.swappiness": "10"}), "04-sysctls")
    before = await lab.look(**wanted)
    await put(lab, fault)
    after = await lab.look(**wanted)
    changed = {
        "drift-file": before.files != after.files,
        "drift-unit": after.units["pouch.service"].active == "inactive",
        "drift-mask": after.units["pouch.service"].load_state == "masked",
        "drift-package": "pouch" not in after.packages,
        "drift-sysctl": after.sysctls["vm.swappiness"] == "60",
    }
    assert changed[fault]
    assert [name for name, seen in changed.items() if seen] in ([fault], ["drift-unit", fault])


async def test_an_unknown_fault_and_an_empty_selection_are_refused(lab: Lab) -> None:
    with pytest.raises(faults.FaultError, match="no fault 'gremlin'"):
        await put(lab, "gremlin")
    with pytest.raises(faults.FaultError, match="Name machines"):
        await in_thread(faults.find_machines)


def test_weather_is_the_same_for_the_same_seed_and_clock_however_often_one_looks() -> None:
    def world(steps: int) -> tuple[int, str, list[str]]:
        box = bare("00000000-0000-0000-0000-000000000007", 7)
        box.settled_at = NOW
        for step in range(1, steps + 1):
            settle(box, NOW + step * 48 * HOUR / steps, rate=0.9)
        return box.boots, box.boot_id, sorted(box.faults)

    assert world(1) == world(7) == world(480)
    assert world(1)[0] > 0


def test_weather_comes_at_about_the_rate_asked_and_never_at_zero() -> None:
    def moved(rate: float) -> int:
        boxes = [bare(f"00000000-0000-0000-0000-{seed:012}", seed) for seed in range(2000)]
        for box in boxes:
            box.settled_at = NOW
        return sum(settle(box, NOW + HOUR, rate) for box in boxes)

    assert moved(0.0) == 0
    assert 60 < moved(0.05) < 140
