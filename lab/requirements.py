"""What the lab needs from the system, by Debian package, and how it says that something is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Final

# Everything that `apt-get install` must bring on a bare Debian 12; printed by `python -m lab requirements`.
APT_PACKAGES: Final[tuple[str, ...]] = (
    "debootstrap",
    "e2fsprogs",
    "gnupg",
    "haproxy",
    "iproute2",
    "iptables",
    "libfaketime",
    "openssh-client",
    "qemu-system-x86",
    "qemu-utils",
    "rpm",
    "systemd-container",
    "util-linux",
)

# The package that brings each tool the lab calls.
PACKAGE_OF: Final[dict[str, str]] = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "gpg": "gnupg",
    "gpgconf": "gnupg",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "iptables": "iptables",
    "mkfs.ext4": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "rpmbuild": "rpm",
    "rpmsign": "rpm",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}

HOST_TOOLS: Final[tuple[str, ...]] = ("apt-get", "debootstrap", "ip", "ssh", "ssh-keygen", "systemd-nspawn", "unshare")
RPM_TOOLS: Final[tuple[str, ...]] = ("rpmbuild",)
BALANCER_TOOLS: Final[tuple[str, ...]] = ("haproxy",)
VM_TOOLS: Final[tuple[str, ...]] = ("mkfs.ext4", "qemu-img", "qemu-system-x86_64")


class LabError(RuntimeError):
    """The lab cannot do what was asked; the text is one sentence for people."""


def missing_tool(tool: str) -> LabError:
    """The sentence for a tool that is not installed."""
    package = PACKAGE_OF.get(tool, tool)
    return LabError(f"The lab needs {tool}: install it with 'apt-get install {package}'.")


def go() -> str:
    """The Go compiler: on PATH, or where Go's own archive puts it. Debian's is too old for what the lab builds."""
    found = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if found is None:
        raise LabError(
            "The lab builds Kubernetes and needs Go 1.26: unpack it from https://go.dev/dl to /usr/local/go."
        )
    return found


def check(tools: Iterable[str]) -> None:
    """Raise LabError unless this is root on a machine that has every tool; one sentence names all that is missing."""
    if os.geteuid() != 0:
        raise LabError("The lab makes machines and bridges and therefore needs root.")
    missing = sorted({PACKAGE_OF.get(tool, tool) for tool in tools if shutil.which(tool) is None})
    if missing:
        raise LabError(f"The lab needs more packages: install them with 'apt-get install {' '.join(missing)}'.")
