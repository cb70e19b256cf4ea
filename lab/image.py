"""The disk of the virtual machine: the Debian base with a kernel, an initramfs and a boot loader of its own."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path
from typing import Final

from lab import rootfs
from lab.cache import build_layer, cached, key_of
from lab.command import run
from lab.requirements import LabError

_SIZE: Final[int] = 3 << 30  # bytes; sparse, about 0.6 GiB are written
_START: Final[int] = 2048  # first sector of the only partition; the boot loader lies before it
_KERNEL = re.compile(r"linux-image-(6\.1\.0-(\d+)-cloud-amd64)")

# grub-pc's questions are answered beforehand: there is no disk to install to while the layer is made. The initramfs
# names its modules, which halves the time that an emulated processor needs to unpack it and to make a new one.
_SCRIPT = """
apt-get update -qq
echo 'grub-pc grub-pc/install_devices_empty boolean true' | debconf-set-selections
mkdir -p /etc/initramfs-tools/conf.d
apt-get install -y -qq --no-install-recommends initramfs-tools udev grub-pc
printf 'MODULES=list\\nCOMPRESS=zstd\\nCOMPRESSLEVEL=1\\n' >/etc/initramfs-tools/conf.d/lab
printf 'virtio_pci\\nvirtio_blk\\nvirtio_net\\next4\\n' >>/etc/initramfs-tools/modules
cat >/etc/default/grub <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0"
GRUB_TERMINAL=console
GRUB_DISABLE_LINUX_UUID=true
GRUB_DISABLE_OS_PROBER=true
GRUB_DISABLE_RECOVERY=true
END
apt-get install -y -qq --no-install-recommends @KERNEL@
apt-get clean
rm -f /boot/grub/grub.cfg
mkdir -p /boot/grub/i386-pc
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /boot/grub/i386-pc/
cp /usr/lib/grub/i386-pc/boot.img /boot/grub/i386-pc/
grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img biosdisk part_msdos ext2 normal
cat >/boot/grub/grub.cfg <<END
linux /boot/vmlinuz-@RELEASE@ root=/dev/vda1 ro console=ttyS0
initrd /boot/initrd.img-@RELEASE@
boot
END
echo '/dev/vda1 / ext4 errors=remount-ro 0 1' >/etc/fstab
cat >/etc/systemd/system/lab-identity.service <<END
[Unit]
Description=Take the machine's name, address and keys from its second disk, once
DefaultDependencies=no
ConditionPathExists=!/var/lib/lab-identity
Requires=dev-vdb.device
After=dev-vdb.device systemd-remount-fs.service
Before=sysinit.target systemd-networkd.service ssh.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'tar -xf /dev/vdb -C / && hostname -F /etc/hostname && touch /var/lib/lab-identity'
[Install]
WantedBy=sysinit.target
END
systemctl enable lab-identity.service
systemctl mask grub-common.service e2scrub_reap.service
"""


def kernels() -> tuple[str, str]:
    """The releases of the oldest and the newest cloud kernel of this Debian's own series that apt offers."""
    listing = run(["apt-cache", "--names-only", "search", r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$"]).stdout
    found = sorted({(int(match[2]), match[1]) for match in _KERNEL.finditer(listing)})
    if len(found) < 2:
        raise LabError("The virtual machine needs two kernels to choose from: run 'apt-get update' first.")
    return found[0][1], found[-1][1]


def vm_image() -> Path:
    """A folder with `disk.raw` (boots the older kernel), `older`, `newer` (releases) and `newer.deb`."""
    below = rootfs.base()

    def build(folder: Path) -> None:
        older, newer = kernels()
        script = _SCRIPT.replace("@KERNEL@", f"linux-image-{older}").replace("@RELEASE@", older)
        disk = folder / "disk.raw"
        with disk.open("wb") as handle:
            handle.truncate(_SIZE)
        blocks = (_SIZE - _START * 512) // 4096
        make = f'mkfs.ext4 -q -F -L root -b 4096 -E offset={_START * 512},nodiscard -d "$merged" {disk} {blocks}'
        build_layer([below], folder, script, archive=rootfs.sources(), after=make)
        _install_boot_loader(disk, folder / "upper/boot/grub/i386-pc")
        shutil.rmtree(folder / "upper")
        run(["apt-get", "download", "-qq", f"linux-image-{newer}"], cwd=folder)
        next(folder.glob("linux-image-*.deb")).rename(folder / "newer.deb")
        (folder / "older").write_text(older)
        (folder / "newer").write_text(newer)

    return cached(f"vm-{key_of(str(below), _SCRIPT, str(_SIZE))}", build)


def _install_boot_loader(disk: Path, parts: Path) -> None:
    """Write GRUB's first sector, one partition entry and the core behind them, as grub-install lays them out.

    boot.img as it is loads sector 1, and grub-mkimage writes the length of the core into the core's own first sector.
    """
    boot = bytearray((parts / "boot.img").read_bytes()[:446])
    # status, CHS begin (unused), type Linux, CHS end (unused), first sector, number of sectors
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _START, _SIZE // 512 - _START)
    core = (parts / "core.img").read_bytes()
    if len(core) > (_START - 1) * 512:
        raise LabError("GRUB's core does not fit before the first partition.")
    with disk.open("r+b") as handle:
        handle.write(bytes(boot) + entry + bytes(48) + b"\x55\xaa" + core)
