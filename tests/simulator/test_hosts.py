"""Simulated hosts behave like real ones: in time, behind a fence, for every process that looks."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

import simulator
from machines import host_reasons
from machines.hosts import Action, StepRef, WantedFile, WantedPackage, WantedUnit
from tests.simulator.conftest import CRON, Lab, digest, package


async def test_a_host_never_seen_is_a_bare_debian_and_looking_writes_nothing(lab: Lab) -> None:
    facts = await lab.look()
    assert (facts.os_id, facts.os_family, facts.marker, facts.fence_epoch) == ("debian", "debian", "", -1)
    assert facts.serial_number == "SN1"
    assert facts.packages == {}
    again = (await lab.other.observe([lab.target]))[0]
    assert again == facts


async def test_an_install_takes_time_and_is_seen_by_every_process(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    began = await lab.start(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    assert began.state == "Running"
    assert (await lab.look()).packages == {}
    lab.move(30)
    facts = (await lab.other.observe([replace(lab.target, polls=(began.ref,))]))[0]
    assert facts.steps[began.ref.folder].state == "Succeeded"
    assert facts.packages["pouch"].declared == "1.0"
    assert facts.packages["pouch"].version == facts.steps[began.ref.folder].facts["installedVersion"]
    assert facts.units["pouch.service"].active == "inactive"  # Fleet starts units itself


async def test_a_unit_that_runs_makes_the_health_check_pass(lab: Lab, pouch: WantedPackage) -> None:
    await lab.install(pouch)
    checks = {"pouch": ("/usr/bin/pouch", "ping")}
    assert (await lab.look(health_checks=checks)).health["pouch"][0] == 1
    await lab.do(Action("set-units", units=pouch.units), "02-units")
    assert (await lab.look(health_checks=checks)).health["pouch"] == (0, "pouch is healthy")


async def test_the_same_attempt_never_runs_twice(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    order = lab.order(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    await lab.hosts.act([order])
    lab.move(60)
    assert (await lab.other.act([order]))[0].state == "Succeeded"
    newer = lab.order(
        Action("install-package", package=package(version="2.0"), artifact=package(version="2.0").artifacts[0])
    )
    assert (await lab.hosts.act([newer]))[0].state == "Succeeded"  # the folder exists: the old attempt answers
    assert (await lab.look()).packages["pouch"].declared == "1.0"


async def test_two_workers_that_start_the_same_attempt_at_once_start_it_once(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    order = lab.order(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    first, second = await asyncio.gather(lab.hosts.act([order]), lab.other.act([order]))
    assert [first[0].state, second[0].state] == ["Running", "Running"]
    lab.move(60)
    assert (await lab.look(order.ref)).steps[order.ref.folder].state == "Succeeded"


async def test_an_older_epoch_or_incarnation_is_refused(lab: Lab, pouch: WantedPackage) -> None:
    await lab.start(Action("set-units", units=CRON), epoch=7)
    await lab.stage(pouch)
    stale = await lab.start(
        Action("install-package", package=pouch, artifact=pouch.artifacts[0]), "02-install", epoch=6
    )
    assert (stale.state, stale.reason) == ("Refused", "StaleEpoch")
    await lab.stage(pouch)
    older = await lab.start(
        Action("install-package", package=pouch, artifact=pouch.artifacts[0]), "02-install", epoch=9, incarnation=0
    )
    assert older.reason == "StaleEpoch"
    assert (await lab.look()).fence_epoch == 7
    lab.move(60)
    assert (await lab.look()).packages == {}


async def test_a_host_of_another_installation_is_refused(lab: Lab, pouch: WantedPackage) -> None:
    await lab.start(Action("set-units", units=CRON))
    foreign = replace(
        lab.order(Action("install-package", package=pouch, artifact=pouch.artifacts[0]), "02-install"),
        installation="another",
    )
    answer = (await lab.hosts.act([foreign]))[0]
    assert (answer.state, answer.reason) == ("Refused", "IdentityMismatch")


async def test_a_reboot_takes_time_and_comes_back_with_a_new_boot_id_and_the_newest_kernel(lab: Lab) -> None:
    before = await lab.look()
    await lab.install(package("kernel", "6.1.0-31", kind="KernelPatch", units=()), "01-kernel")
    await lab.do(Action("set-boot-parameters", values={"mitigations": "auto"}), "02-boot")
    assert (await lab.look()).kernel == before.kernel
    await lab.start(Action("reboot"), "03-reboot")
    lab.move(3)
    assert (await lab.look()).reason == "ConnectionRefused"
    lab.move(60)
    after = await lab.look()
    assert after.boot_id != before.boot_id
    assert after.kernel == "6.1.0-31-amd64"
    assert "mitigations=auto" in after.boot_parameters


async def test_files_are_as_written_and_a_refused_file_changes_nothing(lab: Lab) -> None:
    good = WantedFile("/etc/pouch.conf", "a = 1\n", digest("a = 1\n"))
    await lab.do(Action("write-files", files=(good,)), "01-files")
    bad = replace(good, content="!!invalid", sha256=digest("!!invalid"), validate=("pouch", "--check", "%s"))
    refused = await lab.do(Action("write-files", files=(bad,)), "02-files")
    assert (refused.state, refused.reason) == ("Failed", "ValidateFailed")
    fact = (await lab.look(files=("/etc/pouch.conf",), with_content_of=("/etc/pouch.conf",))).files["/etc/pouch.conf"]
    assert (fact.sha256, fact.content) == (digest("a = 1\n"), "a = 1\n")


async def test_a_removed_package_takes_its_units_along(lab: Lab, pouch: WantedPackage) -> None:
    await lab.install(pouch)
    await lab.do(Action("remove-package", names=("pouch",)), "02-remove")
    facts = await lab.look()
    assert facts.units["pouch.service"].load_state == "not-found"
    assert "pouch" not in facts.packages or facts.packages["pouch"].state == "config-files"


async def test_forgetting_removes_marker_and_fence(lab: Lab) -> None:
    await lab.do(Action("set-units", units=CRON), epoch=5)
    await lab.do(Action("forget-host", names=(lab.target.uid,)), "02-forget", epoch=5)
    facts = await lab.look()
    assert (facts.marker, facts.fence_epoch) == ("", -1)


async def test_bad_artifacts_end_with_a_reason_and_install_nothing(lab: Lab) -> None:
    seen = {}
    for number, url in enumerate(("https://x/404/p.deb", "https://x/corrupt/p.deb")):
        seen[url] = (await lab.install(package(url=url), f"{number:02}-install")).reason
    plain = package()
    unverifiable = replace(plain, artifacts=(replace(plain.artifacts[0], sha256=""),))
    seen["plain"] = (await lab.install(unverifiable, "09-install")).reason
    assert list(seen.values()) == ["DownloadFailed", "ChecksumMismatch", "InvalidAction"]
    assert (await lab.look()).packages == {}


async def test_a_unit_that_is_not_there_or_masked_does_not_start(lab: Lab) -> None:
    absent = await lab.do(Action("set-units", units=(WantedUnit("nosuch.service", started=True),)), "01-units")
    assert absent.reason == "UnitNotFound"
    await lab.do(Action("set-units", units=(WantedUnit("cron.service", masked=True),)), "02-units")
    masked = await lab.do(Action("restart-units", names=("cron.service",)), "03-restart")
    assert masked.reason == "UnitFailed"


async def test_an_attempt_that_was_never_started_is_unknown(lab: Lab) -> None:
    ref = StepRef("op", "01-install")
    assert (await lab.look(ref)).steps[ref.folder].state == "Unknown"


async def test_a_second_step_is_refused_while_one_runs(lab: Lab, pouch: WantedPackage) -> None:
    await lab.stage(pouch)
    await lab.start(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))
    second = await lab.start(Action("restart-units", names=("cron.service",)), "02-restart")
    assert (second.state, second.reason) == ("Refused", "StepRunning")


async def test_a_worker_that_wakes_after_the_decommission_does_not_claim_the_host_again(lab: Lab) -> None:
    await lab.do(Action("forget-host", names=(lab.target.uid,)), "01-forget", epoch=5)
    late = await lab.start(Action("set-units", units=CRON), "02-units", epoch=5)
    assert (late.state, late.reason) == ("Refused", "StaleEpoch")
    assert (await lab.start(Action("set-units", units=CRON), "03-units", epoch=6)).state == "Succeeded"


async def test_an_approver_may_let_a_machine_take_the_host_over(lab: Lab) -> None:
    await lab.do(Action("set-units", units=CRON), epoch=9)
    order = replace(
        lab.order(Action("set-units", units=CRON), "02-units"), installation="22222222-2222-2222-2222-222222222222"
    )
    assert (await lab.hosts.act([order]))[0].reason == "IdentityMismatch"
    taken = (await lab.hosts.act([replace(order, take_over=lab.target.uid)]))[0]
    assert taken.state in ("Running", "Succeeded")  # begun; whether it ended at once is the step's own affair
    assert (await lab.look()).marker.startswith("22222222")


async def test_a_package_that_was_not_staged_is_not_installed(lab: Lab, pouch: WantedPackage) -> None:
    assert (await lab.do(Action("install-package", package=pouch, artifact=pouch.artifacts[0]))).reason == "NotStaged"


def test_the_simulator_gives_no_reason_that_real_hosts_do_not_give() -> None:
    sources = "".join(path.read_text() for path in Path(simulator.__file__).parent.glob("*.py"))
    given = set(re.findall(r'Failure\(\s*"(\w+)"', sources)) | set(re.findall(r'reason="(\w+)"', sources))
    given |= set(re.findall(r'StepResult\(\w+(?:\.ref)?, "\w+", "(\w+)"', sources))
    assert len(given) > 15
    assert given <= set(host_reasons.ALL)


@pytest.mark.parametrize(
    "action",
    [
        Action("format-disk"),
        Action("install-package"),
        Action("set-units"),
        Action("remove-package"),
        Action("write-files", files=(WantedFile("/etc/a", "a", "00" * 32),)),
    ],
    ids=lambda action: action.verb,
)
async def test_what_may_not_reach_a_host_is_refused_and_leaves_no_trace(lab: Lab, action: Action) -> None:
    answer = await lab.start(action)
    assert (answer.state, answer.reason) == ("Refused", "InvalidAction")
    assert (await lab.look()).marker == ""


async def test_a_reboot_that_happened_already_is_not_done_again(lab: Lab) -> None:
    before = (await lab.look()).boot_id
    await lab.do(Action("reboot", values={"bootId": before}), "01-reboot")
    after = (await lab.look()).boot_id
    again = await lab.do(Action("reboot", values={"bootId": before}), "02-reboot")
    assert (again.state, again.facts["unchanged"]) == ("Succeeded", "true")
    assert (await lab.look()).boot_id == after != before


async def test_what_fleet_did_not_install_is_not_removed(lab: Lab) -> None:
    assert (await lab.do(Action("remove-package", names=("bash",)))).reason == "NotInstalledByFleet"


async def test_sysctls_and_boot_parameters_are_the_whole_set_at_the_next_boot(lab: Lab) -> None:
    await lab.do(Action("set-sysctls", values={"vm.swappiness": "10", "kernel.pid_max": "99"}), "01-sysctls")
    await lab.do(Action("set-sysctls", values={"vm.swappiness": "10"}), "02-sysctls")
    await lab.do(Action("set-boot-parameters", values={"quiet2": ""}), "03-boot")
    await lab.do(Action("set-boot-parameters", values={"mitigations": "auto"}), "04-boot")
    await lab.do(Action("reboot"), "05-reboot")
    facts = await lab.look(sysctls=("vm.swappiness", "kernel.pid_max"))
    assert facts.sysctls == {"vm.swappiness": "10", "kernel.pid_max": "4194304"}
    assert facts.boot_parameters.endswith("quiet mitigations=auto")
