"""A machine with a kernel of its own gets a newer one, with a boot parameter, and is believed only when it runs it."""

from __future__ import annotations

import subprocess

import pytest

from lab import Lab
from tests.lab.running import Cluster, Json, Loop
from tests.lab.test_final_state import artifact, fleet, ground, loop, machine

__all__ = ["fleet", "loop"]
pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_a_machine_is_rebooted_into_its_newer_kernel(lab: Lab, fleet: Cluster, loop: Loop) -> None:
    host = lab.vm("kernelvm")
    assert host.text("uname -r").strip() == host.older_release
    fields = subprocess.run(
        ["dpkg-deb", "-f", str(host.newer_kernel), "Package", "Version"], capture_output=True, text=True, check=True
    )
    name, version = (line.split(": ")[1] for line in fields.stdout.splitlines())
    config: Json = {
        "kind": "MachineConfigVersion",
        "metadata": {"name": "boot-v1"},
        "spec": {"configName": "boot", "bootParameters": ["fleet_lab=1"]},
    }
    kernel: Json = {
        "kind": "MachinePackageVersion",
        "metadata": {"name": "kernel-new"},
        "spec": {
            "packageName": name, "version": version, "kind": "KernelPatch", "disruption": "Reboot",
            "config": {"artifacts": [artifact(lab, "deb", host.newer_kernel)]}, "configMaps": [{"name": "boot", "value": "v1"}],
        },
    }  # fmt: skip
    before = host.boot_id()
    fleet.apply(
        *ground(lab), config, kernel, machine(host, "v1", serialNumber=host.serial_number, versions={name: version})
    )
    fleet.wait_ready("v1", seconds=600)
    assert host.text("uname -r").strip() == host.newer_release
    assert "fleet_lab=1" in host.text("cat /proc/cmdline")
    assert host.boot_id() != before
    assert fleet.condition("v1", "KernelUpToDate")["status"] == "True"
