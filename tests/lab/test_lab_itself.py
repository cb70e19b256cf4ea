"""The lab's machines are real: they boot, reboot, lose power, install packages and boot other kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, LabError, requirements
from lab.host import Host
from lab.network import STATE
from lab.packages import SigningKey, build_deb, build_rpm, build_tarball, sha256
from lab.store import Fault
from lab.vm import VmHost

pytestmark = pytest.mark.lab

UNIT = """[Unit]
Description=A service for tests
[Service]
ExecStart=/usr/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
ROOT = Path(__file__).resolve().parents[2]


def run_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


# --- Debian and rpm hosts ---------------------------------------------------------------------------------------------


def test_three_deb_hosts_boot_side_by_side_and_are_whole(lab: Lab) -> None:
    hosts = lab.debs(["d1", "d2", "d3"])
    assert [host.text("hostname") for host in hosts] == ["d1", "d2", "d3"]
    assert [host.text("systemctl is-system-running --wait") for host in hosts] == ["running"] * 3
    assert len({host.boot_id() for host in hosts}) == 3
    assert len({host.text("cat /etc/machine-id") for host in hosts}) == 3
    assert all(host.host_key.startswith("ssh-ed25519 AAAA") for host in hosts)


def test_the_user_fleet_becomes_root_without_a_password(deb_host: Host, rpm_host: Host) -> None:
    assert deb_host.ssh("id -un; sudo -n id -un", user="fleet").stdout.split() == ["fleet", "root"]
    assert rpm_host.ssh("id -un; sudo -n id -un", user="fleet").stdout.split() == ["fleet", "root"]


def test_a_host_reaches_the_bridge_and_nothing_else(deb_host: Host) -> None:
    routes = deb_host.text("ip -4 route").splitlines()
    assert len(routes) == 1
    assert "dev host0" in routes[0]
    assert not routes[0].startswith("default")


def test_a_reboot_is_a_new_boot_and_keeps_the_disk(lab: Lab) -> None:
    host = lab.deb("reboots")
    before = host.boot_id()
    host.put("/var/lib/kept", "yes")
    host.reboot()
    assert host.boot_id() != before
    assert host.text("cat /var/lib/kept") == "yes"


def test_a_power_cut_gives_nothing_time_to_end(lab: Lab) -> None:
    host = lab.deb("cut")
    host.put(
        "/etc/systemd/system/tidy.service",
        "[Service]\nExecStart=/bin/sleep infinity\nExecStopPost=/bin/touch /var/lib/tidied\n",
    )
    host.ssh("systemctl daemon-reload && systemctl start tidy.service")
    before = host.boot_id()
    host.power_cut()
    assert not host.is_on()
    assert not host.answers()
    host.power_on()
    host.wait_ready()
    assert host.boot_id() != before
    assert host.ssh("test -e /var/lib/tidied", check=False).returncode == 1


def test_stopping_ends_services_in_order(lab: Lab) -> None:
    host = lab.deb("stops")
    host.put(
        "/etc/systemd/system/tidy.service",
        "[Service]\nExecStart=/bin/sleep infinity\nExecStopPost=/bin/touch /var/lib/tidied\n",
    )
    host.ssh("systemctl daemon-reload && systemctl start tidy.service")
    host.stop()
    assert not host.is_on()
    host.power_on()
    host.wait_ready()
    assert host.ssh("test -e /var/lib/tidied", check=False).returncode == 0


def test_a_link_that_is_down_stays_down_over_a_power_cycle(lab: Lab) -> None:
    host = lab.deb("unplugged")
    host.link_down()
    assert not host.answers()
    host.power_cut()
    host.power_on()
    with pytest.raises(LabError, match="not enterable"):
        host.wait_ready(4)
    host.link_up()
    host.wait_ready()


def test_a_swapped_host_key_is_another_key_at_the_same_address(lab: Lab) -> None:
    host = lab.deb("swapped")
    old = host.host_key
    new = host.swap_host_key()
    assert new != old
    assert host.text("hostname") == "swapped"
    host.host_key = old
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in host.ssh("true", check=False).stderr


# --- packages and the store -------------------------------------------------------------------------------------------


def test_a_deb_installs_and_its_unit_runs(lab: Lab, deb_host: Host) -> None:
    program = {"/usr/bin/lab-demo": "#!/bin/sh\necho one\n", "/etc/lab-demo.conf": "a=1\n"}
    package = build_deb(
        "lab-demo",
        "1.0-1",
        files=program,
        conffiles=["/etc/lab-demo.conf"],
        units={"lab-demo.service": UNIT},
        folder=lab.store.folder,
    )
    deb_host.ssh(f"curl -fsS -o /tmp/demo.deb {lab.store.url_for(package)}")
    deb_host.ssh(f"echo '{sha256(package)}  /tmp/demo.deb' | sha256sum -c && dpkg -i /tmp/demo.deb")
    assert deb_host.text("dpkg-query -W -f '${Version} ${Status}' lab-demo") == "1.0-1 install ok installed"
    assert deb_host.text("lab-demo") == "one"
    assert deb_host.text("systemctl is-active lab-demo; systemctl is-enabled lab-demo").split() == ["active", "enabled"]


def test_a_deb_with_an_unmet_dependency_is_refused(lab: Lab, deb_host: Host) -> None:
    package = build_deb("lab-needs", "1.0", depends=["nothing-has-this"], folder=lab.store.folder)
    deb_host.copy(package, "/tmp/needs.deb")
    done = deb_host.ssh("apt-get install -y /tmp/needs.deb", check=False)
    assert done.returncode == 100
    assert "nothing-has-this" in done.stderr + done.stdout


def test_an_rpm_host_knows_rpm_only(rpm_host: Host) -> None:
    assert rpm_host.text("systemctl is-system-running --wait") == "running"
    assert 'ID_LIKE="rhel fedora"' in rpm_host.text("cat /etc/os-release")
    assert rpm_host.text("command -v dpkg apt-get dpkg-query || echo none") == "none"
    assert rpm_host.text("rpm -q lab-base") == "lab-base-9-1.noarch"


def test_a_signed_rpm_is_verified_by_its_key_and_installs_without_flags(
    lab: Lab, rpm_host: Host, signing_key: SigningKey
) -> None:
    package = build_rpm(
        "lab-demo",
        "1.0",
        files={"/usr/bin/lab-demo": "#!/bin/sh\necho one\n"},
        units={"lab-demo.service": UNIT},
        requires=["/bin/sh", "systemd"],
        post="echo ran >/var/lib/post-ran",
        sign_key=signing_key,
        folder=lab.store.folder,
    )
    rpm_host.copy(package, "/tmp/demo.rpm")
    before = rpm_host.ssh("rpmkeys -K /tmp/demo.rpm", check=False)
    assert (before.returncode, "SIGNATURES NOT OK" in before.stdout) == (1, True)
    rpm_host.put("/tmp/key.asc", signing_key.public_key)
    assert rpm_host.text("rpmkeys --import /tmp/key.asc && rpmkeys -K /tmp/demo.rpm").endswith("digests signatures OK")
    rpm_host.ssh("rpm -i /tmp/demo.rpm")
    assert rpm_host.text("rpm -q lab-demo; lab-demo; cat /var/lib/post-ran").split() == [
        "lab-demo-1.0-1.noarch",
        "one",
        "ran",
    ]


def test_an_rpm_with_an_unmet_dependency_is_refused(rpm_host: Host, tmp_path: Path) -> None:
    rpm_host.copy(build_rpm("lab-needs", "1.0", requires=["nothing-has-this"], folder=tmp_path), "/tmp/needs.rpm")
    done = rpm_host.ssh("rpm -i /tmp/needs.rpm", check=False)
    assert (done.returncode, "nothing-has-this is needed by" in done.stderr) == (1, True)


def test_the_same_tarball_has_the_same_bytes(tmp_path: Path) -> None:
    files = {"bin/tool": "#!/bin/sh\n", "share/text": "text"}
    one = build_tarball("tool", "1", files=files, folder=tmp_path / "one")
    two = build_tarball("tool", "1", files=files, folder=tmp_path / "two")
    assert sha256(one) == sha256(two)


@pytest.mark.parametrize(
    ("fault", "code"), [("missing", 22), ("error", 22), ("truncated", 18), ("hang", 28)], ids=lambda value: str(value)
)
def test_the_store_serves_wrongly_on_demand(lab: Lab, deb_host: Host, fault: Fault, code: int) -> None:
    package = build_tarball("faulty", "1", files={"data": "x" * 1000}, folder=lab.store.folder)
    lab.store.fault(package, fault)
    command = f"curl -sf -m 2 -o /tmp/faulty {lab.store.url_for(package)}"
    assert deb_host.ssh(command, check=False).returncode == code
    lab.store.lift(package)
    assert deb_host.text(f"{command} && sha256sum </tmp/faulty").split()[0] == sha256(package)


def test_changed_bytes_have_the_same_length_and_another_digest(lab: Lab, deb_host: Host) -> None:
    package = build_tarball("changed", "1", files={"data": "x"}, folder=lab.store.folder)
    lab.store.fault(package, "changed")
    size, digest = deb_host.text(
        f"curl -sf -o /tmp/changed {lab.store.url_for(package)}; stat -c %s /tmp/changed; sha256sum </tmp/changed"
    ).split()[:2]
    lab.store.lift(package)
    assert int(size) == package.stat().st_size
    assert digest != sha256(package)


# --- the virtual machine ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vm(lab: Lab) -> Iterator[VmHost]:
    host = lab.vm("v1")
    yield host
    host.power_cut()


def test_a_virtual_machine_boots_the_older_kernel(vm: VmHost) -> None:
    assert vm.text("uname -r") == vm.older_release
    assert vm.text("cat /sys/class/dmi/id/product_serial") == vm.serial_number
    assert vm.text("systemctl is-system-running --wait") == "running"


def test_a_virtual_machine_boots_a_newer_kernel_with_other_parameters(vm: VmHost) -> None:
    assert vm.newer_release != vm.older_release
    before = vm.boot_id()
    vm.copy(vm.newer_kernel, "/tmp/kernel.deb")
    vm.ssh("echo 'GRUB_CMDLINE_LINUX_DEFAULT=fleetlab=1' >>/etc/default/grub")
    vm.ssh("dpkg -i /tmp/kernel.deb", timeout=400)
    vm.reboot()
    assert vm.boot_id() != before
    assert vm.text("uname -r") == vm.newer_release
    assert "fleetlab=1" in vm.text("cat /proc/cmdline").split()


def test_what_a_virtual_machine_has_synced_outlives_a_power_cut(vm: VmHost) -> None:
    vm.ssh("echo kept >/var/lib/kept && sync /var/lib/kept /var/lib")
    vm.power_cut()
    assert not vm.answers()
    vm.power_on()
    vm.wait_ready()
    assert vm.text("cat /var/lib/kept") == "kept"


# --- what is left behind ----------------------------------------------------------------------------------------------


def left_of(number: int) -> list[str]:
    """Everything on this machine that bears the mark of the lab in this slot."""
    links = [p.name for p in Path("/sys/class/net").iterdir() if p.name.startswith((f"vb-f{number}m", f"f{number}t"))]
    bridge = [f"flab{number}"] if Path(f"/sys/class/net/flab{number}").exists() else []
    folder = STATE / str(number)
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {folder}/" in line]
    groups = [p for p in Path("/proc").glob("[0-9]*/cgroup") if f"/fleet-lab/{number}/" in text_of(p)]
    # A zombie is dead: whoever inherited it has not looked yet.
    processes = [p.parent.name for p in groups if ") Z " not in text_of(p.with_name("stat"))]
    return links + bridge + mounts + processes + ([str(folder)] if folder.exists() else [])


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_lab_leaves_nothing_behind_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as second:
        second.deb("a")
        number = second.slot.number
        assert len(left_of(number)) > 4
        _ = 1 / 0
    assert left_of(number) == []


def test_what_a_killed_lab_left_is_removed_by_down() -> None:
    program = "from lab import Lab\nlab = Lab()\nlab.open()\nlab.deb('a')\nprint(lab.slot.number, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.kill()
    assert len(left_of(number)) > 4
    assert run_lab("down").returncode == 0
    assert left_of(number) == []


def test_up_keeps_a_lab_until_down() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "lab", "up", "--hosts", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        first = next(line for line in lines if line.startswith("lab "))
        number = int(first.split()[1].rstrip(":"))
        next(line for line in lines if line.startswith("Ctrl-C"))
        record = json.loads((STATE / str(number) / "state.json").read_text())
        assert [host["name"] for host in record["hosts"]] == ["h1"]
        assert f"process {process.pid}" in run_lab("status").stdout
        assert run_lab("down").returncode == 0
        assert process.wait(30) == 0
    assert left_of(number) == []


def test_a_missing_tool_is_one_sentence_that_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LabError, match="apt-get install .*debootstrap"):
        requirements.check(requirements.HOST_TOOLS)


def test_requirements_are_printed_on_one_line() -> None:
    assert run_lab("requirements").stdout.split() == list(requirements.APT_PACKAGES)
