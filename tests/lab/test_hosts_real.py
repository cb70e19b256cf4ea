"""The SSH driver, the fence and every step verb against real hosts: systemd, sshd, dpkg and rpm as they are."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import Lab
from lab.host import Host
from lab.packages import SigningKey, build_deb, build_rpm, build_tarball, sha256
from machines.hosts import (
    Action,
    Artifact,
    Facts,
    Login,
    PackageFact,
    PackageFormat,
    StepOrder,
    StepRef,
    StepResult,
    Target,
    UnitFact,
    WantedFile,
    WantedPackage,
    WantedUnit,
)
from machines.ssh import SshHosts

pytestmark = pytest.mark.lab

UNIT = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
_numbers = itertools.count(1)


class Driver:
    """One machine under Fleet: `run` carries an action to its end, `see` looks."""

    def __init__(self, lab: Lab, hosts: SshHosts, host: Host, user: str = "root") -> None:
        self.lab, self.hosts, self.host = lab, hosts, host
        self.target = Target(
            key=1,
            uid=f"uid-{host.name}",
            name=host.name,
            address=host.address,
            port=host.port,
            login=Login(user, private_key=lab.private_key.read_text()),
            host_keys=(host.host_key,),
        )

    def order(self, action: Action, **more: object) -> StepOrder:
        ref = StepRef(f"op-{os.getpid()}-{time.monotonic_ns()}-{next(_numbers)}", "01-step", 1)
        return replace(StepOrder(self.target, ref, action, "inst-1", 1, 1), **more)  # type: ignore[arg-type]

    async def see(self, **wanted: object) -> Facts:
        [facts] = await self.hosts.observe([replace(self.target, **wanted)])  # type: ignore[arg-type]
        return facts

    async def poll(self, order: StepOrder) -> StepResult:
        facts = await self.see(polls=(order.ref,))
        assert facts.seen, facts
        return facts.steps[order.ref.folder]

    async def start(self, order: StepOrder) -> StepResult:
        [result] = await self.hosts.act([order])
        return result

    async def finish(self, order: StepOrder, seconds: float = 90) -> StepResult:
        result = await self.start(order)
        end = time.monotonic() + seconds
        while result.state == "Running" and time.monotonic() < end:
            await asyncio.sleep(0.3)
            result = await self.poll(order)
        return result

    async def run(self, action: Action, **more: object) -> StepResult:
        return await self.finish(self.order(action, **more))

    async def good(self, action: Action, **more: object) -> StepResult:
        result = await self.run(action, **more)
        assert result.state == "Succeeded", result
        return result

    async def back_from(self, boot_id: str) -> Facts:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            facts = await self.see()
            if facts.seen and facts.boot_id != boot_id:
                return facts
            await asyncio.sleep(0.3)
        raise AssertionError("the host did not come back in a new boot")

    def artifact(self, path: Path, **more: object) -> Artifact:
        formats: dict[str, PackageFormat] = {".deb": "deb", ".rpm": "rpm", ".gz": "tarball"}
        url = self.lab.store.url_for(self.lab.store.add(path))
        return replace(Artifact(formats[path.suffix], url, sha256(path)), **more)  # type: ignore[arg-type]

    def stage(self, name: str, version: str, artifact: Artifact, **more: object) -> Action:
        package = WantedPackage(name, version, (artifact,))
        return replace(Action("stage-package", package=package, artifact=artifact), **more)  # type: ignore[arg-type]

    async def put(self, name: str, version: str, path: Path, **more: object) -> StepResult:
        """Stage, then install."""
        action = self.stage(name, version, self.artifact(path), **more)
        await self.good(replace(action, values={}))
        return await self.run(replace(action, verb="install-package"))

    async def package(self, name: str) -> PackageFact | None:
        return (await self.see(packages=(name,))).packages.get(name)


def wanted(path: str, content: str, **more: object) -> WantedFile:
    return WantedFile(path, content, hashlib.sha256(content.encode()).hexdigest(), **more)  # type: ignore[arg-type]


def check(*argv: str, seconds: int = 3, timeout: int = 60) -> Action:
    package = WantedPackage("x", "1", (), health_check=argv, health_timeout_seconds=seconds)
    return Action("health-check", package=package, timeout_seconds=timeout)


@pytest.fixture
async def hosts() -> AsyncIterator[SshHosts]:
    driver = SshHosts(allowed=lambda address: None)
    yield driver
    await driver.close()


@pytest.fixture
def deb(lab: Lab, deb_host: Host, hosts: SshHosts) -> Driver:
    return Driver(lab, hosts, deb_host)


@pytest.fixture
def rpm(lab: Lab, rpm_host: Host, hosts: SshHosts) -> Driver:
    return Driver(lab, hosts, rpm_host)


@pytest.fixture
def own(lab: Lab, hosts: SshHosts, request: pytest.FixtureRequest) -> Driver:
    """A machine of the test's own, to be broken."""
    return Driver(lab, hosts, lab.deb(f"h{next(_numbers)}"))


async def test_a_real_host_is_seen(deb: Driver, rpm: Driver) -> None:
    facts, other = await deb.hosts.observe(
        [replace(deb.target, packages=("bash",), units=("ssh.service",)), rpm.target]
    )
    assert (facts.os_id, facts.os_family, other.os_family) == ("debian", "debian", "rhel")
    assert facts.boot_id == deb.host.boot_id()
    assert facts.packages["bash"].state == "installed"
    assert facts.units["ssh.service"].active == "active"
    assert (facts.package_audit, facts.package_lock_holder, facts.serial_number) == ("", "", "")
    assert abs(facts.clock_offset_seconds) < 1
    assert facts.disk_free_bytes > 0


async def test_the_user_fleet_works_by_sudo(lab: Lab, hosts: SshHosts, deb_host: Host) -> None:
    fleet = Driver(lab, hosts, deb_host, user="fleet")
    assert (await fleet.see(files=("/etc/shadow",))).files["/etc/shadow"].exists
    assert (await fleet.good(check("id", "-u"))).message == "0"


async def test_a_deb_goes_up_and_down_and_away(deb: Driver) -> None:
    one = build_deb("updown", "1.0-1~deb12u1", files={"/usr/bin/updown": "#!/bin/sh\necho 1\n"})
    two = build_deb("updown", "2.0", files={"/usr/bin/updown": "#!/bin/sh\necho 2\n"})
    for path, declared, version in ((one, "1.0", "1.0-1~deb12u1"), (two, "2.0", "2.0"), (one, "1.0", "1.0-1~deb12u1")):
        result = await deb.put("updown", declared, path)
        assert (result.state, result.facts["installedVersion"]) == ("Succeeded", version), result
        assert await deb.package("updown") == PackageFact(version, "installed", declared)
        assert deb.host.text("updown") == declared[0]
    assert (await deb.put("updown", "1.0", one)).facts["unchanged"] == "true"
    await deb.good(Action("remove-package", names=("updown",)))
    assert await deb.package("updown") is None
    assert (await deb.good(Action("remove-package", names=("updown",)))).facts["unchanged"] == "true"


async def test_an_rpm_goes_up_and_down_and_away(rpm: Driver) -> None:
    one = build_rpm("updown", "1.0", release="3.el9", files={"/usr/bin/updown": "#!/bin/sh\necho 1\n"})
    two = build_rpm("updown", "2.0", files={"/usr/bin/updown": "#!/bin/sh\necho 2\n"})
    for path, declared, version in ((one, "1.0", "1.0-3.el9"), (two, "2.0", "2.0-1"), (one, "1.0", "1.0-3.el9")):
        result = await rpm.put("updown", declared, path)
        assert (result.state, result.facts["installedVersion"]) == ("Succeeded", version), result
        assert await rpm.package("updown") == PackageFact(version, "installed", declared)
        assert rpm.host.text("updown") == declared[0]
    await rpm.good(Action("remove-package", names=("updown",)))
    assert await rpm.package("updown") is None


@pytest.mark.parametrize("kind", ["deb", "rpm"])
async def test_a_tarball_is_switched_repaired_and_removed(deb: Driver, rpm: Driver, kind: str) -> None:
    driver = {"deb": deb, "rpm": rpm}[kind]
    for version in ("1.0", "1.1", "1.0"):
        path = build_tarball("tools", version, files={"bin/tool": f"#!/bin/sh\necho {version}\n"})
        assert (await driver.put("tools", version, path)).state == "Succeeded"
        assert driver.host.text("/opt/fleet/tools/current/bin/tool") == version
        assert await driver.package("tools") == PackageFact(version, "installed", version)
    driver.host.put("/opt/fleet/tools/1.0/bin/tool", "#!/bin/sh\necho evil\n", mode="0755")
    broken = await driver.package("tools")
    assert broken is not None and not broken.intact
    await driver.put("tools", "1.0", path)
    assert driver.host.text("/opt/fleet/tools/current/bin/tool") == "1.0"
    await driver.good(Action("remove-package", names=("tools",)))
    assert driver.host.ssh("ls /opt/fleet/tools", check=False).returncode != 0


async def test_a_tarball_goes_into_a_shared_folder_without_touching_others(deb: Driver) -> None:
    deb.host.put("/srv/shared/theirs", "theirs")
    one = deb.artifact(build_tarball("plug", "1", files={"ours": "1"}), destination="/srv/shared")
    two = deb.artifact(build_tarball("plug", "2", files={"ours": "2", "theirs": "2"}), destination="/srv/shared")
    await deb.good(deb.stage("plug", "1", one))
    await deb.good(replace(deb.stage("plug", "1", one), verb="install-package"))
    assert deb.host.text("cat /srv/shared/ours") == "1"
    await deb.good(deb.stage("plug", "2", two))
    result = await deb.run(replace(deb.stage("plug", "2", two), verb="install-package"))
    assert (result.reason, deb.host.text("cat /srv/shared/theirs")) == ("WouldOverwrite", "theirs")
    await deb.good(Action("remove-package", names=("plug",)))
    assert deb.host.text("ls /srv/shared") == "theirs"


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("missing", "DownloadFailed", "HTTP 404"),
        ("error", "DownloadFailed", "HTTP 503"),
        ("truncated", "DownloadTruncated", "before"),
        ("changed", "ChecksumMismatch", "sha256"),
        ("hang", "DownloadTimeout", "did not arrive"),
    ],
)
@pytest.mark.parametrize("tool", ["curl", "apt-helper"])
async def test_a_bad_download_has_its_reason_and_is_not_installed(
    deb: Driver, fault: str, reason: str, words: str, tool: str
) -> None:
    path = deb.lab.store.add(build_deb(f"bad-{fault}", "1", files={"/usr/share/bad": os.urandom(300_000)}))
    deb.lab.store.fault(path, fault)  # type: ignore[arg-type]
    if tool == "apt-helper":
        deb.host.ssh("mv /usr/bin/curl /usr/bin/curl.away")
    try:
        stage = deb.stage(f"bad-{fault}", "1", deb.artifact(path), timeout_seconds=18)
        result = await deb.run(stage)
        installed = await deb.run(replace(stage, verb="install-package"))
    finally:
        deb.lab.store.lift(path)
        if tool == "apt-helper":
            deb.host.ssh("mv /usr/bin/curl.away /usr/bin/curl")
    if (tool, fault) == ("apt-helper", "truncated"):
        # apt tells a short download only by its words, which differ between versions.
        assert result.reason in ("DownloadTruncated", "DownloadFailed", "ChecksumMismatch")
    else:
        assert (result.state, result.reason) == ("Failed", reason), result
        assert words in result.message
    assert installed.reason == "NotStaged"


async def test_only_the_declared_key_opens_an_rpm(rpm: Driver, signing_key: SigningKey) -> None:
    with SigningKey("Other <other@lab.invalid>") as other:
        signed = build_rpm("signed", "1", files={"/usr/share/signed": "1"}, sign_key=signing_key)
        unsigned = build_rpm("unsigned", "1", files={"/usr/share/unsigned": "1"})
        right = rpm.artifact(signed, sha256="", gpg_key=signing_key.public_key)
        wrong = rpm.artifact(signed, sha256="", gpg_key=other.public_key)
        none = rpm.artifact(unsigned, sha256="", gpg_key=signing_key.public_key)
        assert (await rpm.run(rpm.stage("signed", "1", wrong))).reason == "SignatureInvalid"
        assert (await rpm.run(rpm.stage("unsigned", "1", none))).reason == "SignatureInvalid"
        await rpm.good(rpm.stage("signed", "1", right))
        await rpm.good(replace(rpm.stage("signed", "1", right), verb="install-package"))


async def test_only_the_declared_key_opens_a_tarball(deb: Driver, signing_key: SigningKey) -> None:
    path = deb.lab.store.add(build_tarball("sealed", "1", files={"a": "1"}))
    artifact = deb.artifact(path, sha256="", gpg_key=signing_key.public_key)
    assert (await deb.run(deb.stage("sealed", "1", artifact))).reason == "SignatureInvalid"
    signature = signing_key.sign_detached(path)
    deb.lab.store.add(signature).rename(deb.lab.store.folder / (path.name + ".asc"))
    await deb.good(deb.stage("sealed", "1", artifact))
    path.write_bytes(path.read_bytes() + b"x")
    assert (await deb.run(deb.stage("sealed", "1", artifact))).reason == "SignatureInvalid"


async def test_a_foreign_format_is_refused(deb: Driver, rpm: Driver) -> None:
    assert (await rpm.put("alien", "1", build_deb("alien", "1"))).reason == "ForeignFormat"
    assert (
        await deb.put("alien", "1", build_rpm("alien", "1", files={"/usr/share/alien": "1"}))
    ).reason == "ForeignFormat"


async def test_nothing_beyond_the_declared_package_changes(own: Driver) -> None:
    assert (await own.put("ground", "1", build_deb("ground", "1"))).state == "Succeeded"
    assert (await own.put("tenant", "1", build_deb("tenant", "1", depends=["ground"]))).state == "Succeeded"
    rival = await own.put("rival", "1", build_deb("rival", "1", conflicts=["tenant"]))
    needy = await own.put("needy", "1", build_deb("needy", "1", depends=["nonesuch (>= 2)"]))
    away = await own.run(Action("remove-package", names=("ground",)))
    foreign = await own.run(Action("remove-package", names=("bash",)))
    assert (rival.reason, "tenant" in rival.message) == ("WouldChangeOthers", True)
    assert (needy.reason, "nonesuch" in needy.message) == ("DependenciesMissing", True)
    assert (away.reason, "tenant" in away.message) == ("WouldChangeOthers", True)
    assert foreign.reason == "NotInstalledByFleet"
    facts = await own.see(packages=("ground", "tenant", "rival", "needy", "bash"))
    assert sorted(facts.packages) == ["bash", "ground", "tenant"]


async def test_a_held_lock_is_waited_for_and_named(own: Driver) -> None:
    slow = own.artifact(build_deb("slow", "1", postinst="sleep 12"))
    await own.good(own.stage("slow", "1", slow))
    own.host.ssh(f"systemd-run --unit=blocker dpkg -i /var/lib/fleet/stage/{slow.sha256}/artifact.deb")
    own.host.wait_for(lambda: "slow" in own.host.text("cat /var/lib/dpkg/status"), 20, "busy with dpkg")
    assert "dpkg (pid " in (await own.see()).package_lock_holder
    quick = own.stage("quick", "1", own.artifact(build_deb("quick", "1")))
    await own.good(quick)
    install = replace(quick, verb="install-package")
    held = await own.run(replace(install, values={"lockWaitSeconds": "2"}))
    assert (held.reason, "dpkg (pid " in held.message) == ("PackageLockHeld", True)
    await own.good(install)


async def test_services_are_not_started_and_the_hosts_own_policy_comes_back(own: Driver) -> None:
    policy = "#!/bin/sh\nexit 0\n"
    own.host.put("/usr/sbin/policy-rc.d", policy, mode="0755")
    await own.put("daemon", "1", build_deb("daemon", "1", units={"daemon.service": UNIT}))
    assert (await own.see(units=("daemon.service",))).units["daemon.service"].active == "inactive"
    stuck = own.stage("stuck", "1", own.artifact(build_deb("stuck", "1", postinst="sleep 300")), timeout_seconds=5)
    await own.good(stuck)
    result = await own.run(replace(stuck, verb="install-package"))
    assert (result.state, result.reason) == ("Failed", "StepTimeout")
    assert own.host.text("cat /usr/sbin/policy-rc.d") + "\n" == policy
    assert (await own.see(packages=("stuck",))).packages["stuck"].state == "half-configured"


async def test_a_bad_maintainer_script_is_rolled_back(own: Driver) -> None:
    good, bad = build_deb("shaky", "1"), build_deb("shaky", "2", postinst="echo no way >&2; exit 1")
    assert (await own.put("shaky", "1", good)).state == "Succeeded"
    failed = await own.put("shaky", "2", bad)
    assert (failed.reason, "shaky" in (await own.see()).package_audit) == ("InstallFailed", True)
    other = await own.put("other", "1", build_deb("other", "1"))
    assert other.reason == "PackageDatabaseBroken"
    assert (await own.put("shaky", "1", good)).state == "Succeeded"
    assert (await own.see()).package_audit == ""


async def test_units_files_and_sysctls_come_to_their_wanted_state_and_rest(own: Driver) -> None:
    unit = wanted("/etc/systemd/system/own.service", UNIT, on_change=("daemon-reload", "restart:own.service"))
    config = wanted("/etc/own/own.conf", "a $(touch /canary) 'b'\n", mode="0640", on_change=("restart:own.service",))
    files = Action("write-files", files=(unit, config))
    units = Action("set-units", units=(WantedUnit("own.service", enabled=True, started=True),))
    sysctls = Action("set-sysctls", values={"net.ipv4.ip_forward": "1", "net.ipv4.tcp_rmem": "4096 131072 6291456"})
    for action in (files, units, sysctls):
        await own.good(action)
    pid = own.host.text("systemctl show -p MainPID --value own.service")
    assert (await own.good(files)).facts["changed"] == "0"
    await own.good(units)
    assert own.host.text("systemctl show -p MainPID --value own.service") == pid
    changed = replace(config, content="new\n", sha256=hashlib.sha256(b"new\n").hexdigest())
    await own.good(Action("write-files", files=(unit, changed)))
    assert own.host.text("systemctl show -p MainPID --value own.service") != pid
    facts = await own.see(
        files=(config.path,), units=("own.service",), sysctls=tuple(sysctls.values), with_content_of=(config.path,)
    )
    assert (facts.files[config.path].content, facts.files[config.path].mode) == ("new\n", "0640")
    assert facts.units["own.service"] == UnitFact("loaded", "enabled", "active")
    assert facts.sysctls == sysctls.values
    await own.good(Action("set-units", units=(WantedUnit("own.service", False, False, None),)))
    await own.good(Action("remove-files", names=(config.path,)))
    facts = await own.see(files=(config.path, "/canary"), units=("own.service",))
    assert facts.units["own.service"] == UnitFact("loaded", "disabled", "inactive")
    assert not any(fact.exists for fact in facts.files.values())


async def test_a_unit_that_dies_at_once_is_not_called_started(own: Driver) -> None:
    own.host.put("/etc/systemd/system/dies.service", "[Service]\nExecStart=/bin/false\n")
    own.host.put("/etc/systemd/system/once.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
    dies = await own.run(Action("set-units", units=(WantedUnit("dies.service", started=True),)))
    assert (dies.reason, "status=1" in dies.message) == ("UnitFailed", True)
    await own.good(Action("set-units", units=(WantedUnit("once.service", started=True),)))
    missing = await own.run(Action("restart-units", names=("nonesuch.service",)))
    assert missing.reason == "UnitNotFound"


async def test_a_validator_keeps_the_old_file(deb: Driver) -> None:
    result = await deb.run(
        Action(
            "write-files",
            files=(wanted("/etc/sudoers.d/lab", "nonsense (", mode="0440", validate=("visudo", "-cf", "%s")),),
        )
    )
    assert (result.reason, "syntax error" in result.message) == ("ValidateFailed", True)
    assert deb.host.text("ls -A /etc/sudoers.d | grep lab || true") == ""


async def test_only_the_newest_owner_of_the_right_machine_acts(own: Driver) -> None:
    count = check("sh", "-c", "echo x >>/root/effects")
    await own.good(count, epoch=5)
    assert (await own.run(count, epoch=4)).reason == "StaleEpoch"
    await own.good(count, epoch=1, incarnation=2)
    assert (await own.run(count, epoch=9)).reason == "StaleEpoch"
    assert (await own.run(count, target=replace(own.target, uid="other"), incarnation=3)).reason == "IdentityMismatch"
    assert (await own.run(count, installation="other", incarnation=3)).reason == "IdentityMismatch"
    assert own.host.text("cat /root/effects").split() == ["x", "x"]
    facts = await own.see()
    assert (facts.marker, facts.fence_incarnation, facts.fence_epoch) == (f"inst-1 {own.target.uid}", 2, 1)


async def test_a_step_started_by_many_runs_once(own: Driver) -> None:
    order = own.order(check("sh", "-c", "echo x >>/root/effects; sleep 9", seconds=20))
    results = await asyncio.gather(*(own.hosts.act([order]) for _ in range(5)))
    assert {r[0].state for r in results} == {"Running"}
    other = await own.start(own.order(check("true")))
    assert (other.state, other.reason) == ("Refused", "StepRunning")
    assert (await own.finish(order)).state == "Succeeded"
    assert own.host.text("cat /root/effects") == "x"


@pytest.mark.parametrize("way", ["reboot", "power cut"])
async def test_a_host_that_goes_down_in_the_middle_interrupts_the_step_for_good(own: Driver, way: str) -> None:
    boot_id = (await own.see()).boot_id
    order = own.order(check("sh", "-c", "echo x >>/root/effects; sync; sleep 300", seconds=400, timeout=600))
    assert (await own.start(order)).state == "Running"
    if way == "reboot":
        own.host.ssh("systemctl --no-block reboot", check=False)
    else:
        own.host.power_cut()
        own.host.power_on()
    await own.back_from(boot_id)
    assert (await own.poll(order)).state == "Interrupted"
    assert (await own.start(order)).state == "Interrupted"
    assert own.host.text("cat /root/effects") == "x"
    await own.good(check("true"))


async def test_a_reboot_is_proved_by_the_boot_id_and_never_repeated(own: Driver) -> None:
    before = (await own.see()).boot_id
    order = own.order(Action("reboot", values={"bootId": before}))
    result = await own.finish(order)
    assert (result.state, result.facts["bootIdBefore"]) == ("Succeeded", before)
    after = (await own.back_from(before)).boot_id
    assert (await own.start(order)).state == "Succeeded"
    again = await own.run(Action("reboot", values={"bootId": before}))
    assert (again.state, again.facts["unchanged"]) == ("Succeeded", "true")
    assert (await own.see()).boot_id == after


async def test_a_full_disk_is_called_so_and_leaves_the_old_state(own: Driver) -> None:
    own.host.ssh(
        "mkdir -p /var/lib/fleet/stage /srv/small; mount -t tmpfs -o size=300k,mode=755 none /var/lib/fleet/stage"
    )
    own.host.ssh("mount -t tmpfs -o size=100k,mode=755 none /srv/small; echo old >/srv/small/a")
    stage = await own.run(
        own.stage("big", "1", own.artifact(build_deb("big", "1", files={"/usr/share/big": os.urandom(2_000_000)})))
    )
    write = await own.run(Action("write-files", files=(wanted("/srv/small/a", "x" * 200_000),)))
    assert (stage.reason, write.reason) == ("DiskFull", "DiskFull")
    assert own.host.text("cat /srv/small/a; ls -A /srv/small") == "old\na"


async def test_a_swapped_host_key_stops_everything(own: Driver) -> None:
    assert (await own.see()).seen
    own.host.swap_host_key()
    await own.hosts.close()
    assert (await own.see()).reason == "HostKeyMismatch"
    assert (await own.start(own.order(check("touch", "/root/canary")))).reason == "HostKeyMismatch"
    assert own.host.ssh("ls /root/canary", check=False).returncode != 0


async def test_a_host_off_the_network_times_out_and_spoils_nobody(own: Driver, deb: Driver) -> None:
    own.host.link_down()
    begin = time.monotonic()
    lost, seen = await own.hosts.observe([own.target, deb.target])
    assert (lost.reason in ("Timeout", "NoRoute"), seen.reason) == (True, "")
    assert time.monotonic() - begin < 20
    own.host.link_up()


async def test_farewell_frees_the_host_and_keeps_the_old_owner_out(own: Driver) -> None:
    await own.good(check("true"), epoch=7)
    await own.good(Action("forget-host", names=(own.target.uid,)), epoch=8)
    assert (await own.see()).marker == ""
    assert (await own.run(check("true"), epoch=8)).reason == "StaleEpoch"
    await own.good(check("true"), target=replace(own.target, uid="uid-next"))
