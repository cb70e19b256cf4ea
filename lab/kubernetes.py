"""Kubernetes from Go modules, built once a machine: control planes, kubelet, etcd and containerd of the versions that the module proxy serves."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final

from lab.cache import cached
from lab.requirements import go

GO: Final = Path(__file__).parent / "go"
VERSIONS: Final = ("1.36.3", "1.37.2")
ETCD: Final = "3.7.3"
CONTAINERD: Final = "2.4.2"
KUBE_PROXY: Final = VERSIONS[0]  # never newer than an API server of the lab, which Kubernetes asks for
CONTROL_PLANE: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
CONTAINERD_PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr")
_ETCD: Final = {"etcd": "go.etcd.io/etcd/server/v3", "etcdutl": "go.etcd.io/etcd/etcdutl/v3"}
_CONTAINERD: Final = "github.com/containerd/containerd/v2"


def binary(name: str, version: str) -> Path:
    """One component as a file; built if it is not there yet: 0.5 to 5 minutes of 2 cores for the first of a version, less for the next."""
    if name in CONTAINERD_PROGRAMS:
        module, known = GO / "containerd", version == CONTAINERD
    elif name in _ETCD:
        module, known = GO / VERSIONS[-1], version == ETCD
    elif name == "kube-proxy":
        # A module of its own: what is added to the others is a reason to build all of them anew.
        module, known = GO / name, version == KUBE_PROXY
    else:
        module, known = GO / version, version in VERSIONS
    if not known:
        raise ValueError(
            f"{name} {version}: the lab builds Kubernetes {', '.join(VERSIONS)}, etcd {ETCD}, containerd {CONTAINERD}"
        )
    recipe = (module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()
    entry = f"kube-{name}-{version}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    return cached(entry, lambda folder: _build(folder, name, version, module)) / name


def control_planes() -> list[Path]:
    """Everything that control planes of all versions are made of."""
    return [*(binary(n, v) for v in VERSIONS for n in CONTROL_PLANE), *(binary(n, ETCD) for n in _ETCD)]


def folder(target: Path) -> Path:
    """A folder as FLEET_BINARIES wants it: `<version>/<component>`, `etcd`, `etcdutl`; all of it links into the cache."""
    for version in VERSIONS:
        (target / version).mkdir(parents=True, exist_ok=True)
        for name in CONTROL_PLANE:
            _link(target / version / name, binary(name, version))
    for name in _ETCD:
        _link(target / name, binary(name, ETCD))
    return target


def _link(link: Path, file: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(file)


def _build(target: Path, name: str, version: str, module: Path) -> None:
    # The version is stamped in: an unstamped apiserver reports v0.0.0 and refuses its own feature gates.
    package, tags = f"k8s.io/kubernetes/cmd/{name}", ""
    stamp = {f"k8s.io/component-base/version.{k}": v for k, v in _stamp(version).items()}
    if name in _ETCD:
        package, stamp = _ETCD[name], {}
    elif name in CONTAINERD_PROGRAMS:
        package, tags = f"{_CONTAINERD}/cmd/{name}", "no_btrfs"  # its headers are no part of a bare Debian
        stamp = {f"{_CONTAINERD}/version.Version": f"v{version}"}
    flags = " ".join(["-s -w", *(f"-X {key}={value}" for key, value in stamp.items())])
    options = ["-trimpath", "-tags", tags, "-ldflags", flags, "-o", str(target / name)]
    command = ["nice", "-n", "10", go(), "build", *options, package]
    subprocess.run(command, cwd=module, env={**os.environ, "CGO_ENABLED": "0"}, check=True)


def _stamp(version: str) -> dict[str, str]:
    major, minor, _ = version.split(".")
    return {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
