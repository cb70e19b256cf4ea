"""Real hosts from bare to their final state and back to it, whatever happens; all of it driven by kubectl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from lab.host import Host
from lab.packages import build_deb, build_rpm, build_tarball
from lab.store import sha256
from tests.lab.running import Cluster, Json, Loop
from tests.servers import Kubectl

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::ResourceWarning")]
UNIT = "[Unit]\nDescription=pouch\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
TOOL_UNIT = (
    "[Unit]\nDescription=tool\n[Service]\nExecStart=/bin/sh /opt/tool/run\n[Install]\nWantedBy=multi-user.target\n"
)


@pytest.fixture
def loop(kubectl: Kubectl, tmp_path: Path) -> Iterator[Loop]:
    """The Machine-Operator at work."""
    running = Loop(tmp_path / "loop.log")
    yield running
    running.stop()


@pytest.fixture
def fleet(kubectl: Kubectl, loop: Loop) -> Cluster:
    """kubectl in front of a running Fleet."""
    return Cluster(kubectl)


def artifact(lab: Lab, form: str, path: Path, **more: Any) -> Json:
    """An artifact in the lab's package store."""
    stored = lab.store.add(path)
    return {"format": form, "url": lab.store.url_for(stored), "sha256": sha256(stored), **more}


def pouch(lab: Lab, version: str, **more: Any) -> Json:
    """A version of the package pouch, as deb and as rpm, with a unit and a configuration file from a template."""
    files = {"/usr/bin/pouch": f"#!/bin/sh\necho {version}\n"}
    scripts = {k: more.pop(k) for k in ("postinst",) if k in more}
    deb = build_deb("pouch", version, files=files, units={"pouch.service": UNIT}, **scripts)
    rpm = build_rpm("pouch", version, files={**files, "/etc/systemd/system/pouch.service": UNIT})
    spec = {
        "packageName": "pouch", "version": version, "config": {"artifacts": [artifact(lab, "deb", deb), artifact(lab, "rpm", rpm)]},
        "configMaps": [{"name": "pouch-config", "value": "v1"}], "units": [{"name": "pouch.service", "enabled": True, "started": True}], **more,
    }  # fmt: skip
    return {"kind": "MachinePackageVersion", "metadata": {"name": f"pouch-{version}"}, "spec": spec}


def tool(lab: Lab) -> Json:
    """A tarball with a unit of its own."""
    tar = build_tarball("tool", "1.0", files={"run": "#!/bin/sh\nexec sleep infinity\n"})
    spec = {
        "packageName": "tool", "version": "1.0", "config": {"artifacts": [artifact(lab, "tarball", tar, destination="/opt/tool")]},
        "configMaps": [{"name": "tool-config", "value": "v1"}], "units": [{"name": "tool.service", "enabled": True, "started": True}],
    }  # fmt: skip
    return {"kind": "MachinePackageVersion", "metadata": {"name": "tool-1.0"}, "spec": spec}


CONFIGS: list[Json] = [
    {
        "kind": "MachineConfigVersion",
        "metadata": {"name": "pouch-config-v1"},
        "spec": {
            "configName": "pouch-config",
            "files": [
                {
                    "path": "/etc/pouch/pouch.conf",
                    "content": "host={{ machine.name }}\nlevel={{ level }}\n",
                    "mode": "0640",
                    "onChange": ["restart:pouch.service"],
                }
            ],
            "sysctls": {"net.ipv4.ip_forward": "1"},
        },
    },
    {
        "kind": "MachineConfigVersion",
        "metadata": {"name": "tool-config-v1"},
        "spec": {
            "configName": "tool-config",
            "files": [
                {"path": "/etc/systemd/system/tool.service", "content": TOOL_UNIT, "onChange": ["daemon-reload"]}
            ],
        },
    },
]


def machine(host: Host, name: str, **spec: Any) -> Json:
    """A Machine that stands for a host of the lab."""
    return {
        "kind": "Machine",
        "metadata": {"name": name},
        "spec": {
            "clusterName": "lab",
            "idc": "lab",
            "ip": host.address,
            "driver": {"hostKeys": [host.host_key]},
            **spec,
        },
    }


def ground(lab: Lab, **cluster: Any) -> list[Json]:
    """Credential and cluster."""
    login = {"username": "root", "privateKey": lab.private_key.read_text()}
    return [
        {
            "kind": "Credential",
            "metadata": {"name": "lab"},
            "spec": {"type": "ssh", "data": login, "clusters": ["lab"]},
        },
        *(
            # Of five hosts the second that breaks would open the breaker, and here most of them are broken at once.
            {
                "kind": "SafetyPolicy",
                "metadata": {"name": f"lab-{dim}"},
                "spec": {
                    "scope": {dim: "lab"},
                    "maxUnavailable": {"count": 5, "percent": 100},
                    "breaker": {"disabled": True},
                },
            }
            for dim in ("cluster", "idc")
        ),
        {
            "kind": "Cluster",
            "metadata": {"name": "lab"},
            "spec": {
                "idc": "lab",
                "driver": {"credential": "lab"},
                "variables": {"level": "info"},
                "rollout": {"soakSeconds": 2},
                **cluster,
            },
        },
    ]


def version_of(host: Host) -> str:
    return host.text("pouch").strip()


def test_five_hosts_reach_their_final_state_and_come_back_to_it(lab: Lab, fleet: Cluster, loop: Loop) -> None:
    debs = lab.debs([f"final{n}" for n in range(1, 5)])
    hosts: dict[str, Host] = {**{f"d{n}": h for n, h in enumerate(debs, 1)}, "r1": lab.rpm("finalrpm")}
    names = list(hosts)
    fleet.apply(
        *ground(lab, machineVersions={"pouch": "1.0", "tool": "1.0"}),
        *CONFIGS,
        pouch(lab, "1.0"),
        pouch(lab, "1.1"),
        tool(lab),
    )
    fleet.apply(*(machine(h, n) for n, h in hosts.items()))

    # from bare to final state
    fleet.wait_ready(*names)
    for name, host in hosts.items():
        assert version_of(host) == "1.0"
        assert host.text("cat /etc/pouch/pouch.conf") == f"host={name}\nlevel=info"
        assert host.text("stat -c %a /etc/pouch/pouch.conf").strip() == "640"
        assert host.text("cat /proc/sys/net/ipv4/ip_forward").strip() == "1"
        assert host.text("systemctl is-active pouch.service tool.service").split() == ["active", "active"]

    # upgraded by the shared layer: one canary, then the rest
    fleet.kubectl("patch", "cluster", "lab", "--type=merge", "-p", '{"spec":{"machineVersions":{"pouch":"1.1"}}}')
    fleet.until(
        lambda: all(version_of(h) == "1.1" for h in hosts.values()), "all hosts run pouch 1.1", *names, seconds=240
    )
    fleet.wait_ready(*names)

    # five ways to drift, one a host
    hosts["d1"].ssh("echo hacked > /etc/pouch/pouch.conf")
    hosts["d2"].ssh("systemctl stop pouch.service")
    hosts["d3"].ssh(
        "systemctl mask --now tool.service || { rm /etc/systemd/system/tool.service; ln -s /dev/null /etc/systemd/system/tool.service; systemctl daemon-reload; systemctl stop tool.service; }"
    )
    hosts["d4"].ssh("dpkg --remove pouch")
    hosts["r1"].ssh("echo 0 > /proc/sys/net/ipv4/ip_forward")
    fleet.until(
        lambda: hosts["d1"].text("cat /etc/pouch/pouch.conf") == "host=d1\nlevel=info", "the file is put back", "d1"
    )
    fleet.until(
        lambda: hosts["d2"].text("systemctl is-active pouch.service || true").strip() == "active",
        "the unit runs again",
        "d2",
    )
    fleet.until(
        lambda: hosts["d3"].text("systemctl is-active tool.service || true").strip() == "active",
        "the unit is unmasked",
        "d3",
    )
    fleet.until(lambda: "1.1" in hosts["d4"].text("pouch 2>/dev/null || true"), "the package is back", "d4")
    fleet.until(
        lambda: hosts["r1"].text("cat /proc/sys/net/ipv4/ip_forward").strip() == "1", "the sysctl is put back", "r1"
    )
    fleet.wait_ready(*names)

    # a bad version is rolled back
    fleet.apply(pouch(lab, "1.2", healthCheck={"command": ["/bin/false"], "timeoutSeconds": 3}, rollbackOnFailure=True))
    fleet.kubectl("patch", "machine", "d1", "--type=merge", "-p", '{"spec":{"versions":{"pouch":"1.2"}}}')
    fleet.until(lambda: fleet.condition("d1", "Stalled").get("reason") == "RolledBack", "d1 says RolledBack", "d1")
    assert version_of(hosts["d1"]) == "1.1"
    fleet.kubectl("patch", "machine", "d1", "--type=merge", "-p", '{"spec":{"versions":{"pouch":"1.1"}}}')
    fleet.wait_ready("d1")

    # one package is lost again by uninstall
    fleet.kubectl(
        "patch", "cluster", "lab", "--type=json", "-p", '[{"op":"remove","path":"/spec/machineVersions/tool"}]'
    )
    fleet.until(
        lambda: all("opt/tool/run" not in h.text("ls /opt/tool/run 2>/dev/null || true") for h in hosts.values()),
        "tool is gone",
        *names,
        seconds=240,
    )

    # kill -9 of the worker at five moments of an upgrade, and a reboot in the middle of a step
    fleet.apply(pouch(lab, "1.3", postinst="sleep 8"))
    fleet.kubectl("patch", "machine", "d2", "--type=merge", "-p", '{"spec":{"versions":{"pouch":"1.3"}}}')
    for moment in ("stage-package", "permit", "install-package", "write-files", "set-units"):
        fleet.until(lambda moment=moment: _reached(fleet, "d2", moment), f"the step {moment} is reached", "d2")  # type: ignore[misc]
        loop.kill_worker()
    fleet.until(lambda: version_of(hosts["d2"]) == "1.3", "the upgrade ends in spite of five kills", "d2")
    fleet.wait_ready("d2")
    assert hosts["d2"].text("dpkg-query -W -f='${Status}' pouch") == "install ok installed"

    fleet.kubectl("patch", "machine", "d3", "--type=merge", "-p", '{"spec":{"versions":{"pouch":"1.3"}}}')
    fleet.until(lambda: "sleep 8" in hosts["d3"].text("ps ax || true"), "the step is under way on d3", "d3")
    hosts["d3"].power_cut()
    hosts["d3"].power_on()
    fleet.until(
        lambda: hosts["d3"].answers() and "1.3" in hosts["d3"].text("pouch || true"),
        "d3 gets its version after the reboot",
        "d3",
        seconds=300,
    )
    fleet.wait_ready("d3")

    # a person's Operation: reboot with proof
    before = hosts["r1"].boot_id()
    made = fleet.kubectl(
        "create",
        "-f",
        "-",
        "-o",
        "name",
        stdin='{"apiVersion":"fleet.dev/v1","kind":"Operation","metadata":{"generateName":"reboot-"},"spec":{"machine":"r1","verb":"Reboot","reason":"try it"}}',
    ).stdout.strip()
    fleet.until(
        lambda: fleet.get("operation", made.split("/")[1])["status"].get("phase") == "Succeeded",
        "the reboot is proven",
        "r1",
    )
    assert hosts["r1"].boot_id() != before


def _reached(fleet: Cluster, name: str, verb: str) -> bool:
    """Whether the machine's newest Operation began (or passed) a step of that verb."""
    import json

    items = json.loads(
        fleet.kubectl("get", "operations", f"--field-selector=spec.machine={name}", "-o", "json").stdout
    )["items"]
    newest = max(items, key=lambda o: o["metadata"]["creationTimestamp"])
    return any(
        verb in s["name"] and (s.get("startTime") or s.get("endTime")) for s in newest["status"].get("steps", [])
    )


@pytest.mark.parametrize("fault", ["wrong-checksum", "missing"])
def test_a_package_that_cannot_be_trusted_is_never_installed(lab: Lab, fleet: Cluster, fault: str) -> None:
    host = lab.deb(f"bad{fault[:5]}")
    deb = lab.store.add(build_deb("evil", "1.0", files={"/usr/bin/evil": "#!/bin/sh\n"}, postinst="touch /evil-ran"))
    url = lab.store.url_for(deb) + ("" if fault == "wrong-checksum" else ".gone")
    spec = {"packageName": "evil", "version": "1.0", "config": {"deb": url, "sha256": "0" * 64}}
    fleet.apply(
        *ground(lab),
        {"kind": "MachinePackageVersion", "metadata": {"name": "evil-1.0"}, "spec": spec},
        machine(host, "victim", versions={"evil": "1.0"}),
    )
    wanted = "ChecksumMismatch" if fault == "wrong-checksum" else "DownloadFailed"
    fleet.until(lambda: wanted in fleet.story("victim"), f"the machine says {wanted}", "victim")
    assert host.text("ls /evil-ran /usr/bin/evil 2>/dev/null || true") == ""


def test_a_host_under_another_key_is_refused_and_nothing_is_sent(lab: Lab, fleet: Cluster) -> None:
    host = lab.deb("otherkey")
    wrong = lab.deb("keysource").host_key
    fleet.apply(*ground(lab), machine(host, "stranger", driver={"hostKeys": [wrong]}))
    fleet.until(
        lambda: fleet.condition("stranger", "Reachable").get("reason") == "HostKeyMismatch",
        "the key is refused",
        "stranger",
    )
    assert host.text("ls -d /var/lib/fleet 2>/dev/null || true") == ""
