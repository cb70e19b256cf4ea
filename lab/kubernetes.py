"""Kubernetes from Go modules, built once a machine: control planes, kubelet and etcd of the versions that the module proxy serves."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from lab.cache import cached

GO: Final = Path(__file__).parent / "go"
VERSIONS: Final = ("1.36.3", "1.37.2")
ETCD: Final = "3.7.3"
CONTROL_PLANE: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_ETCD: Final = {"etcd": "go.etcd.io/etcd/server/v3", "etcdutl": "go.etcd.io/etcd/etcdutl/v3"}


def binary(name: str, version: str) -> Path:
    """One component as a file; built if it is not there yet: 0.5 to 5 minutes of 2 cores for the first of a version, less for the next."""
    module = GO / (VERSIONS[-1] if name in _ETCD else version)
    if not module.exists():
        raise ValueError(f"{name} {version}: the lab builds {', '.join(VERSIONS)} and etcd {ETCD}")
    recipe = (module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()
    entry = f"kube-{name}-{ETCD if name in _ETCD else version}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    return cached(entry, lambda folder: _build(folder, name, version, module)) / name


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
    major, minor, _ = version.split(".")
    base = "k8s.io/component-base/version"
    stamp = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = "-s -w" if name in _ETCD else "-s -w " + " ".join(f"-X {base}.{k}={v}" for k, v in stamp.items())
    go = shutil.which("go") or "/usr/local/go/bin/go"
    package = _ETCD.get(name, f"k8s.io/kubernetes/cmd/{name}")
    command = ["nice", "-n", "10", go, "build", "-trimpath", "-ldflags", flags, "-o", str(target / name), package]
    subprocess.run(command, cwd=module, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
