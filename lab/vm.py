"""A machine with a kernel of its own by qemu, emulated in software: for kernels, boot parameters and durability."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from lab.command import run
from lab.host import Host, Place, identity

_USER_FLEET = 1000  # the first account of the base


class VmHost(Host):
    """A virtual machine on a copy-on-write disk over `image` (see `lab.image.vm_image`)."""

    kind = "vm"
    boot_seconds = 240

    def __init__(self, place: Place, image: Path, *, memory_mib: int = 512) -> None:
        super().__init__(place)
        self.newer_kernel = image / "newer.deb"
        self.older_release = (image / "older").read_text()
        self.newer_release = (image / "newer").read_text()
        self.serial_number = f"LAB-{place.slot.number}-{place.index}"
        self._memory = memory_mib
        self._tap = f"f{place.slot.number}t{place.index}"
        self._process: subprocess.Popen[bytes] | None = None
        run(
            [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                image / "disk.raw",
                self.folder / "disk.qcow2",
            ]
        )
        (self.folder / "identity.tar").write_bytes(_identity_disk(place, identity(place, self._key)))
        run(["ip", "tuntap", "add", self._tap, "mode", "tap"])
        run(["ip", "link", "set", self._tap, "master", place.slot.bridge, "up"])

    def power_on(self) -> None:
        if self.is_on():
            return
        argv = self.group.joining(self._argv())
        with (self.folder / "qemu.log").open("ab") as log:
            # A session of its own: Ctrl-C in a terminal is for the lab, which then ends its machines itself.
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def power_cut(self) -> None:
        self.group.kill()
        if self._process is not None:
            self._process.wait(10)

    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def link_down(self) -> None:
        run(["ip", "link", "set", self._tap, "down"])

    def link_up(self) -> None:
        run(["ip", "link", "set", self._tap, "up"])

    def _argv(self) -> list[str]:
        index, slot = self.place.index, self.place.slot.number
        argv = [
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi,tb-size=256",
            "-machine",
            "pc",
            "-m",
            str(self._memory),
            "-smp",
            "1",
        ]
        argv += ["-nodefaults", "-display", "none", "-no-user-config", "-serial", f"file:{self.folder}/console.log"]
        # cache=unsafe would lose what the guest synced when the power is cut; writeback keeps what the guest flushed.
        argv += ["-drive", f"file={self.folder}/disk.qcow2,if=virtio,format=qcow2,cache=writeback"]
        argv += ["-drive", f"file={self.folder}/identity.tar,if=virtio,format=raw,readonly=on"]
        argv += ["-netdev", f"tap,id=n0,ifname={self._tap},script=no,downscript=no"]
        argv += ["-device", f"virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:77:{slot:02x}:{index:02x}"]
        argv += ["-device", "virtio-rng-pci", "-smbios", f"type=1,manufacturer=Lab,serial={self.serial_number}"]
        return argv


def _identity_disk(place: Place, files: dict[str, tuple[str, int]]) -> bytes:
    """A tar of the machine's own files, as the bytes of a disk."""
    disk = io.BytesIO()
    with tarfile.open(fileobj=disk, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            if name.startswith("home/fleet/"):
                member.uid = member.gid = _USER_FLEET
            archive.addfile(member, io.BytesIO(content.encode()))
    return disk.getvalue().ljust(1 << 20, b"\0")
