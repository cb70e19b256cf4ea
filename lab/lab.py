"""A lab: real machines on a bridge of their own, made by a context manager and gone when it ends."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from lab import rootfs
from lab.command import run
from lab.host import Host, Place
from lab.image import vm_image
from lab.keys import SshKey, make_ssh_key
from lab.network import Slot, claim_slot
from lab.nspawn import NspawnHost
from lab.requirements import HOST_TOOLS, RPM_TOOLS, VM_TOOLS, LabError, check
from lab.store import PackageStore
from lab.vm import VmHost

HostKind = TypeVar("HostKind", bound=Host)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")


def allow_many_watches() -> None:
    """Raise the kernel's limit of 128 inotify instances for root: each machine takes eight, so the 16th fails to boot.

    The one thing a lab leaves as it set it: another lab may rely on it by then.
    """
    if int(_INSTANCES.read_text()) < 2_048:
        _INSTANCES.write_text("2048")


class Lab:
    """Use as `with Lab() as lab: host = lab.deb("h1")`. Several labs run side by side, each on a bridge of its own."""

    def __init__(self, *, made_by: str = "program") -> None:
        self.made_by = made_by
        self.hosts: dict[str, Host] = {}
        self._slot: Slot | None = None
        self._key: SshKey | None = None
        self._store: PackageStore | None = None
        self._routes: dict[str, Host] = {}

    def __enter__(self) -> Lab:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Take a slot, make its bridge and the user's key."""
        check(HOST_TOOLS)
        allow_many_watches()
        slot = claim_slot()
        try:
            slot.open()
            self._key = make_ssh_key(slot.folder / "id_ed25519")
        except BaseException:
            slot.sweep()
            slot.release()
            raise
        self._slot = slot
        self._record()

    def close(self) -> None:
        """End every machine at once and remove all that the lab made."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        try:
            if self._store is not None:
                self._store.stop()
            for host in self.hosts.values():
                host.power_cut()
        finally:
            slot.sweep()
            slot.release()
            self._store = None
            self._routes.clear()
            self.hosts.clear()

    @property
    def slot(self) -> Slot:
        """The slot of a lab that is open."""
        if self._slot is None:
            raise LabError("The lab is not open: use it as a context manager.")
        return self._slot

    @property
    def bridge(self) -> str:
        """The name of the bridge."""
        return self.slot.bridge

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return self.slot.gateway

    @property
    def private_key(self) -> Path:
        """The OpenSSH PEM file of the key that enters every host as root and as fleet."""
        if self._key is None:
            raise LabError("The lab is not open: use it as a context manager.")
        return self._key.private

    @property
    def store(self) -> PackageStore:
        """A package store on the bridge, started when first asked for; its files are in `store.folder`."""
        if self._store is None:
            self._store = PackageStore(self.slot.folder / "store", self.gateway)
            self._store.start()
        return self._store

    def pod_range(self, host: Host) -> str:
        """A range of addresses for the pods of a host: no other host has it, also in labs beside this one."""
        return f"10.{128 + self.slot.number}.{host.place.index}.0/24"

    def route(self, cidr: str, host: Host) -> None:
        """Send what goes to `cidr` (the pods of a host) to that host: from this machine and from all hosts, later ones too.

        It lasts over reboots of hosts, and ends with the lab: routes of this machine go with its bridge.
        """
        run(["ip", "route", "replace", cidr, "via", host.address, "dev", self.bridge])
        self._routes[cidr] = host
        for other in self.hosts.values():
            if other is not host and isinstance(other, NspawnHost):
                other.keep_route(cidr, host.address)
                if other.is_on():
                    other.ssh(["ip", "route", "replace", cidr, "via", host.address])

    def import_images(self, host: Host, *images: Path) -> None:
        """Put image tars (`lab.images`, `lab.oci`) into a host's containerd, when that runs. Pods take imagePullPolicy Never."""
        host.wait_for(
            lambda: host.ssh("ctr --connect-timeout 2s version", check=False).returncode == 0, 60, "running containerd"
        )
        for image in images:
            host.copy(image, "/var/tmp/image.tar")
            host.ssh(
                "ctr -n k8s.io images import --local /var/tmp/image.tar; code=$?; rm /var/tmp/image.tar; exit $code"
            )

    def deb(self, name: str, *, node: bool = False, binds: Iterable[str] = (), wait: bool = True) -> NspawnHost:
        """A Debian host. With `node` it can run a kubelet; `binds` are folders that are to be no overlay."""
        place = self._place(name)
        layers = rootfs.node_layers() if node else [rootfs.base()]
        return self._add(NspawnHost(place, layers, kind="deb", node=node, binds=binds), wait)

    def rpm(self, name: str, *, node: bool = False, binds: Iterable[str] = (), wait: bool = True) -> NspawnHost:
        """A host that knows rpm only (ID_LIKE="rhel fedora")."""
        check(RPM_TOOLS)
        place = self._place(name)
        return self._add(NspawnHost(place, rootfs.rpm_layers(), kind="rpm", node=node, binds=binds), wait)

    def vm(self, name: str, *, memory_mib: int = 512, wait: bool = True) -> VmHost:
        """A virtual machine with a kernel of its own, emulated: it boots in about half a minute."""
        check(VM_TOOLS)
        place = self._place(name)
        return self._add(VmHost(place, vm_image(), memory_mib=memory_mib), wait)

    def debs(self, names: Iterable[str], *, node: bool = False) -> list[NspawnHost]:
        """Several Debian hosts, booted side by side."""
        hosts = [self.deb(name, node=node, wait=False) for name in names]
        for host in hosts:
            host.wait_ready()
        return hosts

    def _place(self, name: str) -> Place:
        if not _NAME.fullmatch(name) or name in ("store",):
            raise LabError(f"Not a name for a machine: {name!r} (lower-case letters, digits, dashes).")
        if name in self.hosts:
            raise LabError(f"There is a machine {name} already.")
        assert self._key is not None
        # Machines stay in `hosts` until the lab ends, so their count is a number that no other has.
        return Place(self.slot, len(self.hosts) + 1, name, self._key)

    def _add(self, host: HostKind, wait: bool) -> HostKind:
        self.hosts[host.name] = host
        if isinstance(host, NspawnHost):
            for cidr, target in self._routes.items():
                host.keep_route(cidr, target.address)
        host.power_on()
        self._record()
        if wait:
            host.wait_ready()
        return host

    def _record(self) -> None:
        hosts = [
            {"name": h.name, "kind": h.kind, "address": h.address, "hostKey": h.host_key} for h in self.hosts.values()
        ]
        made = {"pid": os.getpid(), "madeBy": self.made_by}
        self.slot.write({**made, "bridge": self.bridge, "key": str(self.private_key), "hosts": hosts})
