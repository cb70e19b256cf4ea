"""The file systems that machines are made from: the Debian base, and as layers on it the rpm host and what a node needs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lab.cache import build_layer, cached, key_of
from lab.command import run
from lab.packages import build_rpm
from lab.requirements import LabError

SUITE = "bookworm"

_INCLUDE = (
    "ca-certificates",
    "curl",
    "dbus",
    "gpg",
    "iproute2",
    "iptables",
    "kmod",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "xz-utils",
    "zstd",
)

# Runs inside the fresh base. apt's timers are masked because they would take the package lock at a time of their own.
_BASE_SCRIPT = """
rm -f /etc/ssh/ssh_host_* /etc/hostname
: >/etc/machine-id
ln -sf /etc/machine-id /var/lib/dbus/machine-id   # debootstrap's own, which every machine would take for its name
useradd --create-home --shell /bin/bash fleet
echo 'fleet ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/fleet
chmod 440 /etc/sudoers.d/fleet
for home in /root /home/fleet; do mkdir -p $home/.ssh; chmod 700 $home/.ssh; done
chown fleet:fleet /home/fleet/.ssh
cat >/etc/ssh/sshd_config.d/lab.conf <<END
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
MaxStartups 200:30:400
MaxSessions 100
END
systemctl enable ssh.service systemd-networkd.service
systemctl mask apt-daily.timer apt-daily-upgrade.timer systemd-networkd-wait-online.service \
    dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
systemctl set-default multi-user.target
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\\nSystemMaxUse=32M\\n' >/etc/systemd/journald.conf.d/lab.conf
apt-get clean
rm -rf /var/lib/apt/lists /etc/apt/sources.list   # no archive is in reach of a machine
"""

# Debian's own database of packages goes away, so that the host is asked by rpm alone. rpm on Debian keeps a database
# a user and refuses to install while it believes that it runs on Debian; both are settings.
_RPM_SCRIPT = """
apt-get update -qq
apt-get install -y -qq --no-install-recommends rpm
apt-get clean
cat >/usr/lib/os-release.new <<END
PRETTY_NAME="Fleet Lab Linux 9"
NAME="Fleet Lab Linux"
VERSION_ID="9"
VERSION="9"
ID=fleetlab
ID_LIKE="rhel fedora"
END
rm -f /etc/os-release /etc/debian_version
mv /usr/lib/os-release.new /usr/lib/os-release
ln -s ../usr/lib/os-release /etc/os-release
mkdir -p /etc/rpm /var/lib/rpm
printf '%%_dbpath /var/lib/rpm\\n%%_db_backend sqlite\\n' >>/etc/rpm/macros
rm -rf /root/.rpmdb
rm -rf /var/lib/dpkg /var/lib/apt /var/cache/apt /etc/apt /etc/dpkg
rm -f /usr/bin/dpkg* /usr/bin/apt* /usr/sbin/dpkg*
rpm --initdb
rpm -i /lab-base.rpm
rm -f /lab-base.rpm
"""

# What containerd and a kubelet call, and a machine that lets them work.
_NODE_SCRIPT = """
apt-get update -qq
apt-get install -y -qq --no-install-recommends runc conntrack ethtool
apt-get clean
mkdir -p /usr/local/sbin
cat >/usr/local/sbin/lab-node <<'END'
#!/bin/sh -e
# cgroup v1: nspawn shows the controllers read-only. Each is this machine's own part, which pods get groups in.
for controller in /sys/fs/cgroup/*; do
    if [ ! -L "$controller" ] && mountpoint -q "$controller"; then mount -o remount,rw,bind "$controller"; fi
done
# A kubelet sets these for the whole kernel, which is not this machine's: it finds them as it wants them and leaves them alone.
mkdir -p /run/lab-node
while read -r name value; do
    echo "$value" >"/run/lab-node/$name"
    mount --bind "/run/lab-node/$name" "/proc/sys/$(echo "$name" | tr . /)"
done <<SETTINGS
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
SETTINGS
END
chmod 755 /usr/local/sbin/lab-node
cat >/etc/systemd/system/lab-node.service <<END
[Unit]
Description=Let pods run on a machine that shares its kernel
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-node
[Install]
WantedBy=sysinit.target
END
systemctl enable lab-node.service
# The first process of a container is deaf to SIGTERM unless it listens for it: nobody waits 90 seconds for that.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\\nDefaultTimeoutStopSec=5s\\n' >/etc/systemd/system.conf.d/lab.conf
"""

# What the packages of the lab may require and Debian's files already bring: recorded once as a package, so that
# installing an rpm needs no flags.
_LAB_BASE_PROVIDES = (
    "/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/env", "/usr/bin/systemctl", "/usr/sbin/useradd",
    "bash", "coreutils", "glibc", "grep", "sed", "shadow-utils", "systemd", "systemd-units", "util-linux", "curl",
    "kmod", "iproute", "iptables", "procps-ng", "tar", "gzip", "xz", "libc.so.6()(64bit)",
    "libc.so.6(GLIBC_2.2.5)(64bit)", "libc.so.6(GLIBC_2.34)(64bit)", "rtld(GNU_HASH)",
)  # fmt: skip


def _archives() -> list[tuple[str, str, str]]:
    """Where this machine's own apt takes Debian from: (address, suite, component), the suite itself first."""
    fields = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    lines = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).stdout.splitlines()
    debian = [line.split()[1:] for line in lines if line.startswith("Debian ")]
    found = [(address, release, part) for address, release, part in debian if release.startswith(SUITE)]
    if not any(release == SUITE for _, release, _ in found):
        raise LabError(
            f"The lab builds Debian {SUITE} hosts, and apt knows no archive of it: run 'apt-get update' first."
        )
    return sorted(found, key=lambda archive: archive[1])


def sources() -> str:
    """The sources.list with which layers are built."""
    return "".join(f"deb {' '.join(archive)}\n" for archive in _archives())


def base() -> Path:
    """The root file system of a deb host, read-only to its users."""

    def build(folder: Path) -> None:
        root = folder / "root"
        run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(_INCLUDE)}", SUITE, root, _archives()[0][0]],
            timeout=900,
        )
        run(["chroot", root, "/bin/sh", "-e"], stdin="export LC_ALL=C\n" + _BASE_SCRIPT)

    return cached(f"base-{key_of(SUITE, *_INCLUDE, _BASE_SCRIPT)}", build) / "root"


def node_layers() -> list[Path]:
    """The layers of a deb host that can be a node, uppermost first."""
    below = base()

    def build(folder: Path) -> None:
        build_layer([below], folder, _NODE_SCRIPT, archive=sources())

    return [cached(f"node-{key_of(str(below), _NODE_SCRIPT)}", build) / "upper", below]


def rpm_layers() -> list[Path]:
    """The layers of an rpm host, uppermost first."""
    below = base()

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="flab-rpm-") as work:
            package = build_rpm("lab-base", "9", provides=_LAB_BASE_PROVIDES, folder=Path(work))
            seed = folder / "seed"
            seed.mkdir()
            shutil.copy(package, seed / "lab-base.rpm")
        build_layer([seed, below], folder, _RPM_SCRIPT, archive=sources())
        shutil.rmtree(seed)

    recipe = (str(below), _RPM_SCRIPT, *_LAB_BASE_PROVIDES)
    return [cached(f"rpm-{key_of(*recipe)}", build) / "upper", below]
