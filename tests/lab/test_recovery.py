"""Real faults of real hosts, each found, permitted, repaired by its playbook and verified; and silence, after which nothing may be done.

Without Kubernetes: what a node adds is in `test_recovery_node`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from lab import Lab, bmc
from lab.host import Host
from lab.packages import build_deb
from recovery.builtins import install
from tests.lab.running import Cluster, Json, Loop
from tests.lab.test_final_state import artifact, machine
from tests.servers import Kubectl

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::ResourceWarning")]
# Reads its configuration when it starts, as containerd does, and does not start with one that it cannot read.
UNIT = "[Service]\nExecStart=/bin/sh -c '. /etc/daemon/daemon.conf && exec sleep infinity'\n[Install]\nWantedBy=multi-user.target\n"
NAMES = ("killed", "misconfigured", "removed", "full", "pressed", "readonly", "dark")


def of_daemon(lab: Lab) -> list[Json]:
    """A package with a unit and a configuration from a template."""
    deb = build_deb("daemon", "1.0", files={"/usr/bin/daemon": "#!/bin/sh\n"}, units={"daemon.service": UNIT})
    spec = {
        "packageName": "daemon", "version": "1.0", "config": {"artifacts": [artifact(lab, "deb", deb)]}, "configMaps": [{"name": "daemon-config", "value": "v1"}],
        "units": [{"name": "daemon.service", "enabled": True, "started": True}],
    }  # fmt: skip
    files = [{"path": "/etc/daemon/daemon.conf", "content": "level=info\n"}]
    return [
        {"kind": "MachineConfigVersion", "metadata": {"name": "daemon-config-v1"}, "spec": {"configName": "daemon-config", "files": files}},
        {"kind": "MachinePackageVersion", "metadata": {"name": "daemon-1.0"}, "spec": spec},
    ]  # fmt: skip


def ground(lab: Lab, *, breaker: bool = False, **cluster: Any) -> list[Json]:
    """How hosts and controllers are entered; without `breaker` so many faults at a time are no storm here."""
    more: Json = {} if breaker else {"breaker": {"disabled": True}}
    login = {"username": "root", "privateKey": lab.private_key.read_text()}
    word = {"username": bmc.USER, "password": bmc.PASSWORD}
    policies = [
        {"kind": "SafetyPolicy", "metadata": {"name": f"lab-{dim}"}, "spec": {"scope": {dim: "lab"}, "maxUnavailable": {"count": 9, "percent": 100}, **more}}
        for dim in ("cluster", "idc")
    ]  # fmt: skip
    return [
        {"kind": "Credential", "metadata": {"name": "lab"}, "spec": {"type": "ssh", "data": login, "clusters": ["lab"]}},
        {"kind": "Credential", "metadata": {"name": "lab-bmc"}, "spec": {"type": "redfish", "data": word, "clusters": ["lab"]}},
        *policies,
        {"kind": "Cluster", "metadata": {"name": "lab"}, "spec": {"idc": "lab", "driver": {"credential": "lab"}, "rollout": {"soakSeconds": 1}, **cluster}},
    ]  # fmt: skip


class Recovery(Cluster):
    """kubectl in front of a Fleet whose built-in rules wait seconds where they would wait minutes."""

    def quicken(self, **holds: int) -> None:
        """Hold times of rules, probation of playbooks. All hosts but the virtual one share this machine's load and memory: those of that one alone count."""
        target = {"matchAll": None, "selector": {"matchLabels": {"pressed": "yes"}}}
        for rule in ("load-high", "memory-pressure"):
            self.kubectl("patch", "faultrule", rule, "--type=merge", "-p", json.dumps({"spec": {"target": target}}))
        for name in self.kubectl("get", "playbooks", "-o", "name").stdout.split():
            self.kubectl("patch", name, "--type=merge", "-p", '{"spec":{"probationSeconds":2}}')
        for rule, seconds in holds.items():
            patch = {"spec": {"holdSeconds": seconds, "clearSeconds": 2}}
            self.kubectl("patch", "faultrule", rule.replace("_", "-"), "--type=merge", "-p", json.dumps(patch))

    def items(self, kind: str, machine: str) -> list[Json]:
        done = self.kubectl("get", kind, f"--field-selector=spec.machine={machine}", "-o", "json")
        found: list[Json] = json.loads(done.stdout)["items"]
        return sorted(found, key=lambda o: o["metadata"]["creationTimestamp"])

    def fault(self, machine: str, type_: str) -> Json:
        """The newest of that type; empty while there is none."""
        found = [f for f in self.items("faults", machine) if f["spec"]["type"] == type_]
        return found[-1] if found else {}

    def phase(self, machine: str, type_: str) -> str:
        return str(self.fault(machine, type_).get("status", {}).get("phase", ""))

    def steps(self, machine: str) -> list[list[str]]:
        """Verbs of the steps of each repair."""
        found = [o for o in self.items("operations", machine) if o["spec"]["verb"] == "Repair"]
        return [[s["verb"] for s in o["status"]["steps"]] for o in found]

    def story(self, name: str) -> str:
        """With what recovery says of it."""
        found = [o for kind in ("faults", "remediations") for o in self.items(kind, name)]
        return "\n".join(
            [super().story(name), *(f"  {o['metadata']['name']} {json.dumps(o['status'])}" for o in found)]
        )

    def until_phase(self, machine: str, type_: str, *phases: str, seconds: float = 90) -> None:
        begun = time.monotonic()
        self.until(lambda: self.phase(machine, type_) in phases, f"{type_} of {machine} is {phases}", machine, seconds=seconds)  # fmt: skip
        sys.stdout.write(f"  {time.monotonic() - begun:5.1f} s more until {type_} of {machine} is {phases[0]}\n")


def evidence(machine: str) -> str:
    """What the host showed of itself before it was repaired."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(string_agg(e.content, ''), '') FROM machine_evidence e JOIN machine m ON m.id = e.machine_id WHERE m.name = %s",
            [machine],
        )
        (found,) = cursor.fetchone() or ("",)
    connection.close()
    return str(found)


def confirmed(fault_name: str) -> list[str]:
    """What was seen when the fault was believed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT data ->> 'message' FROM event WHERE data ->> 'fault' = %s AND type = 'dev.fleet.fault.confirmed' ORDER BY pos, n",
            [fault_name],
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.close()
    return found


@pytest.fixture
def fleet(kubectl: Kubectl, tmp_path: Path) -> Iterator[Recovery]:
    """Fleet at work."""
    install()
    connection.close()
    running = Loop(tmp_path / "loop.log", FLEET_OBSERVE_SECONDS="5")
    yield Recovery(kubectl)
    running.stop()
    sys.stdout.write((tmp_path / "loop.log").read_text()[-4000:])


def small_var(host: Host) -> None:
    """/var on a file system of its own that can be filled."""
    host.ssh(
        "mkdir /small && mount -t tmpfs -o size=480M,mode=755 none /small && cp -a /var/. /small && mount --bind /small /var && umount /small"
    )


def press(host: Host) -> None:
    """Little memory is left, and more wants to run than there are processors: of a machine with a kernel of its own, which is not ours."""
    host.ssh(
        'mount -t tmpfs -o size=100% none /mnt; kib() { awk "/^$1/{print \\$2}" /proc/meminfo; }; line=$(($(kib MemTotal) * 3 / 100));'
        "while more=$(($(kib MemAvailable) - line)); [ $more -gt 0 ]; do head -c $((more + 1024))K /dev/zero >>/mnt/fill; done;"
        "systemd-run -q --unit=busy --nice=19 sh -c 'for n in $(seq 16); do while :; do :; done & done; wait'"
    )


def relieve(host: Host) -> None:
    """There is memory again, and nothing waits for a processor."""
    host.ssh("systemctl stop busy; umount /mnt")


def report(fleet: Recovery, machine: str, type_: str, status: str) -> None:
    """A declared reporter says so."""
    body = {"apiVersion": "fleet.dev/v1", "kind": "ConditionReport", "conditions": [{"type": type_, "status": status}]}
    fleet.kubectl("replace", "--raw", f"/apis/fleet.dev/v1/machines/{machine}/conditions", "-f", "-", stdin=json.dumps(body))  # fmt: skip


def test_each_fault_has_its_repair(lab: Lab, fleet: Recovery) -> None:
    hosts: dict[str, Host] = {"pressed": lab.vm("pressed", memory_mib=2048, wait=False)}
    hosts |= {
        n: lab.deb(n, binds=["/srv/data"] if n == "readonly" else (), wait=False) for n in NAMES if n not in hosts
    }
    for host in hosts.values():
        host.wait_ready()
    small_var(hosts["full"])
    dark = hosts["dark"]
    with bmc.Controller(dark, lab.gateway, serial_number="SN-DARK") as controller:
        _run(lab, fleet, hosts, controller)


def _run(lab: Lab, fleet: Recovery, hosts: Mapping[str, Host], controller: bmc.Controller) -> None:
    reporter = {"name": "disks", "user": "admin", "conditionTypes": ["ReadonlyFilesystem"]}
    fleet.apply(*ground(lab, machineVersions={"daemon": "1.0"}, reporters=[reporter]), *of_daemon(lab))
    more: dict[str, Json] = {"dark": {"serialNumber": "SN-DARK", "bmc": {**controller.spec, "credential": "lab-bmc"}}}
    fleet.apply(*(machine(h, n, **more.get(n, {})) for n, h in hosts.items()))
    quick = (
        "component_crash",
        "configuration_error",
        "package_broken",
        "disk_pressure",
        "memory_pressure",
        "load_high",
    )
    fleet.quicken(**dict.fromkeys((*quick, "filesystem_read_only", "host_unreachable"), 1))
    fleet.kubectl("label", "machine", "pressed", "pressed=yes")
    fleet.wait_ready(*NAMES, seconds=300)
    pids = {n: h.text("systemctl show -p MainPID --value daemon.service") for n, h in hosts.items()}
    boots = {n: hosts[n].boot_id() for n in ("readonly", "dark")}

    # All at once.
    hosts["killed"].ssh("systemctl kill -s KILL daemon.service")
    hosts["misconfigured"].ssh("echo 'level=(' >/etc/daemon/daemon.conf; systemctl restart daemon.service || true")
    hosts["removed"].ssh("dpkg --remove daemon")
    hosts["full"].ssh("fallocate -l 300M /var/cache/apt/archives/junk_1_all.deb")
    press(hosts["pressed"])
    hosts["readonly"].ssh("mount -o remount,bind,ro /srv/data")
    hosts["dark"].power_cut()

    # What runs no more is started, what differs is written anew, what is gone is installed again.
    fleet.until_phase("killed", "ComponentCrash", "Resolved")
    assert fleet.steps("killed") == [["permit", "isolate", "collect-evidence", "set-units", "post-check"]]
    assert "daemon.service" in evidence("killed") and "killed" in evidence("killed")
    fleet.until_phase("misconfigured", "ConfigurationError", "Resolved")
    assert hosts["misconfigured"].text("cat /etc/daemon/daemon.conf") == "level=info"
    assert "level=(" not in hosts["misconfigured"].text("cat /etc/daemon/daemon.conf")
    fleet.until_phase("removed", "PackageBroken", "Resolved")
    for name in ("killed", "misconfigured", "removed"):
        assert hosts[name].text("systemctl is-active daemon.service") == "active"
        assert hosts[name].text("systemctl show -p MainPID --value daemon.service") != pids[name]

    # Room is made by what may be thrown away, and nothing is restarted.
    fleet.until_phase("full", "DiskPressure", "Resolved")
    assert fleet.steps("full") == [["permit", "collect-evidence", "clean-disk", "post-check"]]
    assert hosts["full"].text("ls /var/cache/apt/archives | grep -c deb || true") == "0"

    # Pressure is waited out.
    fleet.until_phase("pressed", "MemoryPressure", "Recovering", "Confirmed", seconds=180)
    fleet.until_phase("pressed", "LoadHigh", "Recovering", "Confirmed", seconds=180)
    assert fleet.steps("pressed") == [["permit", "isolate", "collect-evidence", "post-check"]]
    relieve(hosts["pressed"])
    fleet.until_phase("pressed", "MemoryPressure", "Resolved", seconds=180)
    fleet.until_phase("pressed", "LoadHigh", "Resolved", seconds=300)
    for name in ("full", "pressed"):
        assert hosts[name].text("systemctl show -p MainPID --value daemon.service") == pids[name]

    # A machine without power: silent by SSH, and its controller says Off.
    fleet.until_phase("dark", "HostUnreachable", "Resolved", seconds=120)
    (said,) = confirmed(fleet.fault("dark", "HostUnreachable")["metadata"]["name"])
    assert "Reachable is False" in said and "Redfish/Power is False (Off)" in said, said
    assert fleet.steps("dark") == [["permit", "power-cycle", "post-check"]]
    assert controller.resets == ["On"]
    assert hosts["dark"].boot_id() != boots["dark"]

    # A reboot asks for a second source; with one it comes, and the file system can be written to again.
    fleet.until(lambda: fleet.fault("readonly", "FilesystemReadOnly")["status"].get("repair", {}).get("reason") == "OneSource", "the reboot waits for a second source", "readonly")  # fmt: skip
    assert fleet.steps("readonly") == []
    report(fleet, "readonly", "ReadonlyFilesystem", "True")
    fleet.until(lambda: _booted(hosts["readonly"]) not in ("", boots["readonly"]), "it was rebooted", "readonly")  # fmt: skip
    hosts["readonly"].ssh("touch /srv/data/written")
    report(fleet, "readonly", "ReadonlyFilesystem", "False")
    fleet.until_phase("readonly", "FilesystemReadOnly", "Resolved")
    assert fleet.steps("readonly") == [["permit", "isolate", "drain", "collect-evidence", "reboot", "post-check"]]
    assert "/srv/data" in evidence("readonly")
    fleet.wait_ready(*NAMES)


def _booted(host: Host) -> str:
    """Its boot id; "" while it cannot be entered."""
    return host.ssh("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip()


def test_silence_is_no_fault_of_the_machines(lab: Lab, fleet: Recovery) -> None:
    names = [f"net{n}" for n in range(1, 6)]
    hosts = dict(zip(names, lab.debs(names), strict=True))
    fleet.apply(*ground(lab))
    fleet.apply(*(machine(h, n, rack="r1" if n in names[:3] else "r2") for n, h in hosts.items()))
    fleet.quicken(host_unreachable=1)
    fleet.wait_ready(*names)

    # One machine: a single source says so, and that is not enough for anything.
    hosts["net5"].link_down()
    fleet.until_phase("net5", "HostUnreachable", "Suspected")
    assert fleet.condition("net5", "Reachable")["status"] == "False"
    assert fleet.condition("net5", "HostHealthy")["status"] == "Unknown"
    assert fleet.fault("net5", "HostUnreachable")["status"]["reason"] == "OneSource"

    # A rack, then everything: more likely Fleet cannot see them.
    for name in names[:3]:
        hosts[name].link_down()
    fleet.until(lambda: _blind(fleet, names[:3]), "the view of the rack is broken", *names[:3])
    for name in names[3:4]:
        hosts[name].link_down()
    fleet.until(lambda: _blind(fleet, names), "the view of the cluster is broken", *names)
    assert "of the cluster are silent" in fleet.fault("net5", "HostUnreachable")["status"]["message"]

    for host in hosts.values():
        host.link_up()
    for name in names:
        fleet.until_phase(name, "HostUnreachable", "Resolved", seconds=120)
    fleet.wait_ready(*names)
    for kind in ("remediations", "permits"):
        assert fleet.kubectl("get", kind, "-o", "name").stdout == ""
    for name in names:
        assert fleet.items("operations", name) == []


def test_a_reporter_that_calls_everything_broken_is_stopped_by_the_breaker(lab: Lab, fleet: Recovery) -> None:
    names = [f"told{n}" for n in range(1, 6)]
    hosts = dict(zip(names, lab.debs(names), strict=True))
    reporter = {"name": "npd", "user": "admin", "conditionTypes": ["DaemonSick"]}
    rung = {"name": "restart", "steps": [{"action": "RestartUnits", "units": ["daemon.service"]}], "verifySeconds": 5}
    ladder = {"rungs": [rung, {"name": "ask", "steps": [{"action": "AskPerson", "task": "Look."}]}]}
    rule = {
        "faultType": "ComponentCrash", "when": [{"condition": "DaemonSick", "status": "True"}], "holdSeconds": 1, "clearSeconds": 1,
        "mode": "Active", "target": {"matchAll": True}, "playbook": "restart-daemon",
    }  # fmt: skip
    fleet.apply(
        *ground(lab, breaker=True, machineVersions={"daemon": "1.0"}, reporters=[reporter]), *of_daemon(lab),
        {"kind": "Playbook", "metadata": {"name": "restart-daemon"}, "spec": ladder},
        {"kind": "FaultRule", "metadata": {"name": "daemon-sick"}, "spec": rule},
    )  # fmt: skip
    fleet.apply(*(machine(h, n) for n, h in hosts.items()))
    fleet.wait_ready(*names)
    pids = {n: h.text("systemctl show -p MainPID --value daemon.service") for n, h in hosts.items()}

    for name in names:
        report(fleet, name, "DaemonSick", "True")
    fleet.until(lambda: len(_kept_back(fleet, names)) == 3, "the breaker keeps three from being touched", *names)
    begun = [n for n in names if n not in _kept_back(fleet, names)]
    for name in begun:
        fleet.until_phase(name, "ComponentCrash", "NeedsPerson")
    for name, host in hosts.items():
        now = host.text("systemctl show -p MainPID --value daemon.service")
        assert (now != pids[name]) == (name in begun), name
    assert len(begun) == 2  # a fifth of five is one; two are let through at least

    # What heals is seen while the breaker is open, and nothing else is begun.
    for name in names:
        report(fleet, name, "DaemonSick", "False")
    for name in names:
        fleet.until_phase(name, "ComponentCrash", "Resolved")
    fleet.wait_ready(*names)
    assert [n for n in names if fleet.steps(n)] == begun


def _kept_back(fleet: Recovery, names: list[str]) -> list[str]:
    found = {n: fleet.fault(n, "ComponentCrash").get("status", {}) for n in names}
    return [n for n, s in found.items() if s.get("repair", {}).get("reason") == "ClusterBreaker"]


def test_a_reboot_that_never_returns_goes_up_the_ladder_to_a_person(lab: Lab, fleet: Recovery) -> None:
    host = lab.deb("gone", binds=["/srv/data"])
    with bmc.Controller(host, lab.gateway, serial_number="SN-GONE") as controller:
        reporter = {"name": "disks", "user": "admin", "conditionTypes": ["ReadonlyFilesystem"]}
        fleet.apply(*ground(lab, reporters=[reporter]))
        fleet.apply(machine(host, "gone", serialNumber="SN-GONE", bmc={**controller.spec, "credential": "lab-bmc"}))
        fleet.quicken(filesystem_read_only=1)
        # The silence that follows is another fault; here the ladder of the first is looked at.
        fleet.kubectl("patch", "faultrule", "host-unreachable", "--type=merge", "-p", '{"spec":{"mode":"Shadow"}}')
        rungs = [
            {"name": "reboot", "steps": [{"action": "Drain"}, {"action": "Reboot", "timeoutSeconds": 45}], "verifySeconds": 10},
            {"name": "power", "steps": [{"action": "PowerCycle", "timeoutSeconds": 45}], "verifySeconds": 10},
            {"name": "ask", "steps": [{"action": "AskPerson", "task": "It does not boot."}]},
        ]  # fmt: skip
        fleet.kubectl("patch", "playbook", "filesystem", "--type=merge", "-p", json.dumps({"spec": {"rungs": rungs}}))
        fleet.wait_ready("gone")

        host.ssh(
            "mv /usr/lib/systemd/systemd /usr/lib/systemd/systemd.gone"
        )  # what runs runs on; nothing boots any more
        host.ssh("mount -o remount,bind,ro /srv/data")
        report(fleet, "gone", "ReadonlyFilesystem", "True")
        fleet.until_phase("gone", "FilesystemReadOnly", "NeedsPerson", seconds=400)
        (remediation,) = fleet.items("remediations", "gone")
        outcomes = [(r["name"], r["outcome"]) for r in remediation["status"]["rungs"]]
        assert outcomes[:2] == [("reboot", "HostSilent"), ("power", "StayedOff")], remediation["status"]
        assert not host.is_on()
        assert controller.resets == ["On", "On"]  # asked for twice, and never a third time
        assert fleet.fault("gone", "FilesystemReadOnly")["status"]["message"] == "It does not boot."
        assert fleet.condition("gone", "Ready")["status"] != "True"


def _blind(fleet: Recovery, names: list[str]) -> bool:
    found = [fleet.fault(n, "HostUnreachable").get("status", {}) for n in names]
    return all((f.get("phase"), f.get("reason")) == ("Open", "ViewBroken") for f in found)
