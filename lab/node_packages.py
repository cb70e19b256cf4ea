"""What makes a Debian host a node, as Fleet installs it: containerd, CNI plugins and kubelets as debs, and their configuration.

`manifests` are plain Fleet objects. Their templates are right for ordinary hosts; what a host that shares its kernel needs
otherwise stands in `LAB_VARIABLES` (for a Cluster or MachineClass) and in the configuration `kubelet-lab`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lab import images, kubernetes, rootfs
from lab.cache import cached, key_of
from lab.command import run
from lab.packages import build_deb
from lab.requirements import LabError
from lab.store import PackageStore, sha256

Json = dict[str, Any]

CNI_PLUGINS: Final = "1.1.1"  # Debian's
# For templates, beside `podCIDR`, which each machine has its own of (`lab.pod_range(host)`).
LAB_VARIABLES: Final[Mapping[str, str | bool]] = {
    "pauseImage": images.PAUSE,
    "cgroupDriver": "cgroupfs",
    "restrictOomScoreAdj": True,
}

_CONTAINERD_UNIT: Final = """[Unit]
Description=containerd, which runs containers
After=network.target local-fs.target

[Service]
Type=notify
ExecStart=/usr/bin/containerd
Delegate=yes
KillMode=process
Restart=always
RestartSec=2
LimitNOFILE=1048576
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""
# KillMode=process there, because the shims of running pods are children of containerd and outlive its restart.

_KUBELET_UNIT: Final = """[Unit]
Description=kubelet, which makes this host a node
After=network-online.target containerd.service
Wants=network-online.target

[Service]
EnvironmentFile=-/etc/default/kubelet
ExecStartPre=/bin/mkdir -p /etc/kubernetes/kubelet.conf.d
ExecStart=/usr/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubeconfig --kubeconfig=/var/lib/kubelet/kubeconfig --cert-dir=/var/lib/kubelet/pki --config=/etc/kubernetes/kubelet.yaml --config-dir=/etc/kubernetes/kubelet.conf.d $KUBELET_ARGS
KillMode=process
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""

_CONTAINERD_CONFIG: Final = """version = 3

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{{ pauseImage | default("registry.k8s.io/pause:3.10.2") }}'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {{ restrictOomScoreAdj | default(false) | lower }}
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/opt/cni/bin']
    conf_dir = '/etc/cni/net.d'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = {{ (cgroupDriver | default("systemd") == "systemd") | lower }}
"""

_CNI_CONFIG: Final = """{
  "cniVersion": "1.0.0",
  "name": "fleet",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": {{ podMasquerade | default(true) | lower }},
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "{{ podCIDR }}"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""

_KUBELET_CONFIG: Final = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
cgroupDriver: {{ cgroupDriver | default("systemd") }}
clusterDNS: [{{ clusterDNS | default("10.96.0.10") }}]
clusterDomain: {{ clusterDomain | default("cluster.local") }}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
providerID: fleet://{{ machine.uid }}
registerWithTaints:
- key: fleet.dev/joining
  effect: NoSchedule
rotateCertificates: true
serverTLSBootstrap: true
"""

_KUBELET_ARGS: Final = "KUBELET_ARGS=--hostname-override={{ machine.name }} --node-ip={{ machine.ip }}\n"

# A machine that shares its kernel, its memory and its disk with its neighbours: no limits of its own, nothing is evicted,
# and it has no resolver.
_KUBELET_LAB: Final = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupsPerQOS: false
enforceNodeAllocatable: []
evictionHard:
  imagefs.available: 0%
  imagefs.inodesFree: 0%
  memory.available: 0%
  nodefs.available: 0%
  nodefs.inodesFree: 0%
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
resolvConf: ""
"""


def versions(kubelet: str) -> dict[str, str]:
    """`machineVersions` of a Cluster or ClusterPackageVersion whose nodes run this kubelet."""
    return {"containerd": kubernetes.CONTAINERD, "cni-plugins": CNI_PLUGINS, "kubelet": kubelet}


def manifests(store: PackageStore) -> list[Json]:
    """All packages and configurations of nodes; the debs lie in `store` afterwards."""
    return [*configurations(), *packages(store)]


def packages(store: PackageStore) -> list[Json]:
    """A MachinePackageVersion each for containerd, the CNI plugins and both kubelets."""
    container_unit, kubelet_unit = ([{"name": f"{n}.service", "enabled": True, "started": True}] for n in ("containerd", "kubelet"))  # fmt: skip
    return [
        _package(
            store, "containerd", kubernetes.CONTAINERD, units=container_unit, configMaps=[_pointer("containerd-config")],
            healthCheck={"command": ["ctr", "--connect-timeout", "5s", "version"], "timeoutSeconds": 30},
        ),
        _package(store, "cni-plugins", CNI_PLUGINS, configMaps=[_pointer("cni-config")], disruption="None"),
        *(
            _package(
                store, "kubelet", version, units=kubelet_unit, configMaps=[_pointer("kubelet-config"), _pointer("kubelet-lab")],
                # Kubernetes wants a node drained before its kubelet goes to another minor.
                requires=["cni-plugins", "containerd"], disruption="Drain", rollbackOnFailure=True,
                # Not its own health port: that opens only when the cluster has signed the node's certificate.
                healthCheck={"command": ["systemctl", "is-active", "--quiet", "kubelet.service"], "timeoutSeconds": 30},
            )
            for version in kubernetes.VERSIONS
        ),
    ]  # fmt: skip


def configurations() -> list[Json]:
    """The MachineConfigVersions that the packages point at."""
    restart_kubelet = ["restart:kubelet.service"]
    kubelet = [
        {"path": "/etc/kubernetes/kubelet.yaml", "content": _KUBELET_CONFIG, "onChange": restart_kubelet},
        {"path": "/etc/default/kubelet", "content": _KUBELET_ARGS, "onChange": restart_kubelet},
    ]
    lab = {"path": "/etc/kubernetes/kubelet.conf.d/50-lab.conf", "content": _KUBELET_LAB, "onChange": restart_kubelet}
    containerd = {"path": "/etc/containerd/config.toml", "content": _CONTAINERD_CONFIG, "onChange": ["restart:containerd.service"]}  # fmt: skip
    cni = {"path": "/etc/cni/net.d/10-fleet.conflist", "content": _CNI_CONFIG}
    return [
        _configuration("containerd-config", [containerd]),
        _configuration("cni-config", [cni], sysctls={"net.ipv4.ip_forward": "1"}),
        _configuration("kubelet-config", kubelet),
        _configuration("kubelet-lab", [lab]),
    ]


def debs() -> list[Path]:
    """All of them."""
    others = (("containerd", kubernetes.CONTAINERD), ("cni-plugins", CNI_PLUGINS))
    return [deb(name, version) for name, version in (*others, *(("kubelet", v) for v in kubernetes.VERSIONS))]


def deb(name: str, version: str) -> Path:
    """One of the packages as a file, built once a machine."""
    if name == "containerd":
        files = {f"/usr/bin/{n}": kubernetes.binary(n, version) for n in kubernetes.CONTAINERD_PROGRAMS}
        return _kept(name, version, files, {"containerd.service": _CONTAINERD_UNIT}, ("runc",))
    if name == "kubelet":
        files = {"/usr/bin/kubelet": kubernetes.binary(name, version)}
        return _kept(name, version, files, {"kubelet.service": _KUBELET_UNIT}, ("conntrack", "ethtool", "iptables", "mount", "util-linux"))  # fmt: skip
    if name == "cni-plugins":
        files = {f"/opt/cni/bin/{path.name}": path for path in sorted(_plugins().iterdir())}
        return _kept(name, version, files, {}, ("iptables",))
    raise LabError(f"The lab has no package {name}.")


def _kept(name: str, version: str, files: Mapping[str, Path], units: Mapping[str, str], depends: tuple[str, ...]) -> Path:  # fmt: skip
    def build(folder: Path) -> None:
        content = {path: file.read_bytes() for path, file in files.items()}
        architecture = run(["dpkg", "--print-architecture"]).stdout.strip()
        made = build_deb(name, version, files=content, units=units, depends=depends, architecture=architecture, folder=folder)  # fmt: skip
        made.rename(folder / f"{name}_{version}.deb")

    recipe = key_of(*(str(path) for path in files.values()), *units.values(), *depends)
    return cached(f"deb-{name}-{version}-{recipe}", build) / f"{name}_{version}.deb"


def _plugins() -> Path:
    """A folder with the programs of Debian's containernetworking-plugins."""

    def build(folder: Path) -> None:
        run(["apt-get", "download", "-qq", "containernetworking-plugins"], cwd=folder)
        package = next(folder.glob("containernetworking-plugins_*.deb"))
        if f"_{CNI_PLUGINS}" not in package.name:
            raise LabError(f"The lab expects containernetworking-plugins {CNI_PLUGINS}, apt offers {package.name}.")
        run(["dpkg-deb", "--extract", package, folder / "tree"])
        (folder / "tree/usr/lib/cni").rename(folder / "bin")
        shutil.rmtree(folder / "tree")
        package.unlink()

    return cached(f"cni-plugins-{CNI_PLUGINS}-{key_of(rootfs.SUITE)}", build) / "bin"


def _package(store: PackageStore, name: str, version: str, **spec: Any) -> Json:
    file = store.add(deb(name, version))
    artifact = {"format": "deb", "url": store.url_for(file), "sha256": sha256(file)}
    return {
        "apiVersion": "fleet.dev/v1",
        "kind": "MachinePackageVersion",
        "metadata": {"name": f"{name}-{version}"},
        "spec": {"packageName": name, "version": version, "config": {"artifacts": [artifact]}, **spec},
    }


def _configuration(name: str, files: list[Json], **spec: Any) -> Json:
    return {
        "apiVersion": "fleet.dev/v1",
        "kind": "MachineConfigVersion",
        "metadata": {"name": f"{name}-v1"},
        "spec": {"configName": name, "version": "v1", "files": files, **spec},
    }


def _pointer(name: str) -> Json:
    return {"name": name, "value": "v1"}
