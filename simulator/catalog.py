"""What the demo fleet declares: packages, configurations, classes and clusters, as people would write them."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from fleet.control.kinds import API_VERSION
from simulator.steps import host_version

Json = dict[str, Any]


def _object(kind: str, name: str, spec: Json, **meta: Any) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


def package(name: str, version: str, *, unit: bool = True, config: str = "", **more: Any) -> Json:
    """A MachinePackageVersion with a simulated deb."""
    spec: Json = {
        "packageName": name,
        "version": version,
        "config": {
            "artifacts": [
                {
                    "format": "deb",
                    "url": f"simulated:{name}_{version}_amd64.deb",
                    "sha256": hashlib.sha256(f"{name} {version}".encode()).hexdigest(),
                }
            ]
        },
    }
    if unit:
        spec["units"] = [{"name": f"{name}.service", "enabled": True, "started": True}]
        spec["healthCheck"] = {"command": [f"/usr/bin/{name}", "--healthcheck"], "timeoutSeconds": 10}
        spec["rollbackOnFailure"] = True
    if config:
        spec["configMaps"] = [{"name": f"{name}-config", "value": config}]
    return _object("MachinePackageVersion", f"{name}-{version}", spec | more)


def config(name: str, version: str, path: str, content: str, *, restart: str, **more: Any) -> Json:
    """A MachineConfigVersion with one file."""
    file = {"path": path, "content": content, "onChange": [f"restart:{restart}"]}
    spec = {"configName": name, "version": version, "files": [file], **more}
    return _object("MachineConfigVersion", f"{name}-{version}", spec)


_CONTAINERD_TOML = """version = 3
root = "/var/lib/containerd"
# {{ machine.name }} in {{ machine.idc }}

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "{{ registryPath }}"
"""
_KUBELET_YAML = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
clusterDNS: ["{{ clusterDns }}"]
clusterDomain: cluster.local
maxPods: {{ maxPods }}
cgroupDriver: systemd
"""
_NET_AGENT = """[agent]
mtu = {{ mtu }}
node = "{{ machine.name }}"
"""

CONFIGS: Final[tuple[Json, ...]] = (
    config("containerd-config", "v1", "/etc/containerd/config.toml", _CONTAINERD_TOML, restart="containerd.service"),
    config(
        "kubelet-config", "v3", "/var/lib/kubelet/config.yaml", _KUBELET_YAML, restart="kubelet.service",
        sysctls={"vm.max_map_count": "262144", "fs.inotify.max_user_watches": "524288"},
    ),
    config("kubelet-config", "v4", "/var/lib/kubelet/config.yaml", _KUBELET_YAML + "serializeImagePulls: false\n", restart="kubelet.service"),
    config(
        "net-agent-config", "v2", "/etc/net-agent/agent.conf", _NET_AGENT, restart="net-agent.service",
        sysctls={"net.ipv4.ip_forward": "1"}, modules=["br_netfilter"],
    ),
)  # fmt: skip

PACKAGES: Final[tuple[Json, ...]] = (
    package("containerd", "2.1.3", config="v1"),
    package("containerd", "2.1.4", config="v1"),
    package("kubelet", "1.33.4", config="v3", requires=["containerd"]),
    package("kubelet", "1.33.5", config="v4", requires=["containerd"]),
    package("npd", "0.8.20", disruption="None"),
    package("npd", "0.8.21", disruption="None"),
    package("net-agent", "1.4.2", config="v2", disruption="Drain"),
    package("net-agent", "1.5.0", config="v2", disruption="Drain"),
    package("disk-agent", "3.2", disruption="None"),
    package("kernel", "6.1.0-31", unit=False, kind="KernelPatch", disruption="Reboot"),
    package("kernel", "6.1.0-35", unit=False, kind="KernelPatch", disruption="Reboot"),
)

CLASSES: Final[tuple[Json, ...]] = (
    _object("MachineClass", "storage", {"versions": {"disk-agent": "3.2"}, "variables": {"maxPods": 60}}),
)

_DEFAULTS: Final[Json] = {
    "driver": {"type": "simulated"},
    "variables": {"registryPath": "/etc/containerd/certs.d", "clusterDns": "10.96.0.10", "maxPods": 110, "mtu": 1450},
}
SIMULATED: Final = "edge"  # the cluster with an API server; the others are groups of plain hosts
# One idc and cluster each: (idc, what its cluster is for, versions of its machines).
PLACES: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("iad1", "web", {"containerd": "2.1.4", "kubelet": "1.33.5", "npd": "0.8.21", "net-agent": "1.5.0"}),
    ("fra2", "data", {"containerd": "2.1.3", "kubelet": "1.33.4", "npd": "0.8.20", "net-agent": "1.4.2", "kernel": "6.1.0-31"}),
    ("sin3", "edge", {"containerd": "2.1.4", "kubelet": "1.33.4", "npd": "0.8.21", "net-agent": "1.4.2"}),
)  # fmt: skip


def place(number: int) -> tuple[str, str, dict[str, str]]:
    """Idc, cluster name and versions of the n-th cluster; beyond the named ones, more of the same."""
    idc, purpose, versions = PLACES[number % len(PLACES)]
    again = number // len(PLACES)
    idc = f"{idc}{chr(ord('a') + again - 1)}" if again else idc
    return idc, f"{idc}-{purpose}", versions


def image(versions: dict[str, str]) -> list[Json]:
    """What an image of these versions brings along, as packages of a box (`simulator.steps.put_package`)."""
    known = {p["metadata"]["name"]: p["spec"] for p in PACKAGES}
    return [
        {
            "name": name,
            "declared": version,
            "version": host_version(name, version, "deb"),
            "format": "deb",
            "units": [unit["name"] for unit in known[f"{name}-{version}"].get("units", [])],
            "broken": False,
            "kernel": known[f"{name}-{version}"].get("kind") == "KernelPatch",
        }
        for name, version in versions.items()
    ]


def idc_json(idc: str) -> Json:
    """An Idc."""
    return _object("Idc", idc, {"sshConnections": 200, "downloads": 50})


def cluster_json(number: int) -> Json:
    """A Cluster: a group of plain hosts with common defaults; one of the places has a simulated API server besides."""
    idc, name, versions = place(number)
    spec = {"idc": idc, "machineVersions": versions, **_DEFAULTS}
    if name.endswith(f"-{SIMULATED}"):
        spec["provider"] = "Simulated"
    return _object("Cluster", name, spec, labels={"demo": "true"})
