"""A simulated box: the state that a real host keeps on its disk and in its memory, and what one look at it tells.

Pure: plain data and the time as seconds since the epoch. A box that was never touched is a bare Debian that its seed decides.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from machines.hosts import Facts, FileFact, PackageFact, StepRef, StepResult, Target, UnitFact

Json = dict[str, Any]

GIB: Final = 1 << 30
BARE_UNITS: Final[dict[str, Json]] = {
    name: {"load": "loaded", "enabled": "enabled", "active": "active"}
    for name in ("ssh.service", "cron.service", "systemd-journald.service", "systemd-timesyncd.service")
}
BARE_SYSCTLS: Final[dict[str, str]] = {
    "net.ipv4.ip_forward": "0",
    "net.core.somaxconn": "4096",
    "net.ipv4.tcp_syncookies": "1",
    "vm.swappiness": "60",
    "vm.max_map_count": "65530",
    "fs.inotify.max_user_watches": "65536",
    "kernel.pid_max": "4194304",
}
BARE_PACKAGES: Final[dict[str, str]] = {
    "openssh-server": "1:9.2p1-2+deb12u5",
    "systemd": "252.33-1~deb12u1",
    "coreutils": "9.1-1",
    "bash": "5.2.15-2+b8",
}
_KERNELS: Final = ("6.1.0-25-amd64", "6.1.0-26-amd64", "6.1.0-28-amd64")
_SHA_OF_SSHD_CONFIG: Final = hashlib.sha256(b"bare sshd_config").hexdigest()


def pick(seed: int, label: str) -> float:
    """A number in [0, 1) that seed and label decide: the only source of chance in the simulator."""
    digest = hashlib.blake2b(label.encode(), digest_size=8, key=(seed % (1 << 64)).to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") / (1 << 64)


def default_seed(uid: str) -> int:
    """The seed of a box nobody seeded: 63 bits of its uid."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(slots=True)
class Box:
    """One host. Faults: name -> {"until": time or None, "count": how often or None, "at": when it strikes}."""

    uid: str
    seed: int
    boots: int = 0
    boot_until: float = 0.0
    settled_at: float = 0.0
    incarnation: int = 0
    epoch: int = -1
    marker: str = ""
    forgotten: list[int] = field(default_factory=list)  # incarnation and epoch of the decommission
    serial: str = ""
    kernel: str = ""
    kernels: list[str] = field(default_factory=list)
    cmdline: Json = field(default_factory=dict)  # what the running kernel was given
    next_cmdline: Json = field(default_factory=dict)  # what the next boot gives it
    packages: dict[str, Json] = field(
        default_factory=dict
    )  # name -> {version, state, declared, format, units, broken, ...}
    files: dict[str, Json] = field(default_factory=dict)  # path -> {sha256, mode, owner, content}
    units: dict[str, Json] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    boot_sysctls: dict[str, str] = field(default_factory=dict)  # what /etc/sysctl.d gives at boot
    modules: list[str] = field(default_factory=list)
    boot_modules: list[str] = field(default_factory=list)  # what /etc/modules-load.d gives at boot
    staged: list[str] = field(default_factory=list)  # artifacts that lie verified in the store
    ops: dict[str, Json] = field(default_factory=dict)  # StepRef.folder -> {step, at, ends, order, state, ...}
    faults: dict[str, Json] = field(default_factory=dict)
    installs: int = 0  # how often its system was installed anew
    # What its provisioner remembers of it: id -> {at, begins, ends, and what became of it}.
    installations: dict[str, Json] = field(default_factory=dict)

    @property
    def host_key(self) -> str:
        """Of its sshd; another one with every system."""
        digest = hashlib.sha256(f"{self.uid} {self.installs}".encode()).digest()
        return "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + digest).decode()

    @property
    def boot_id(self) -> str:
        """Changes with every boot, like /proc/sys/kernel/random/boot_id."""
        return str(uuid.uuid5(uuid.UUID(self.uid), f"boot {self.boots}"))

    def has(self, fault: str, now: float) -> bool:
        """Is that fault with the box now?"""
        found = self.faults.get(fault)
        if found is None:
            return False
        until = found.get("until")
        return found.get("at", 0.0) <= now and (until is None or now < until)

    def strikes(self, fault: str, now: float) -> bool:
        """Like `has`, and uses up one of a counted fault's times."""
        if not self.has(fault, now):
            return False
        count = self.faults[fault].get("count")
        if count is not None:
            if count <= 1:
                del self.faults[fault]
            else:
                self.faults[fault]["count"] = count - 1
        return True


def bare(uid: str, seed: int) -> Box:
    """A freshly installed Debian 12 that nobody has touched."""
    kernel = _KERNELS[int(pick(seed, "kernel") * len(_KERNELS))]
    return Box(
        uid=uid,
        seed=seed,
        kernel=kernel,
        kernels=[kernel],
        packages={
            name: {"version": version, "state": "installed", "format": "deb"} for name, version in BARE_PACKAGES.items()
        },
        files={"/etc/ssh/sshd_config": {"sha256": _SHA_OF_SSHD_CONFIG, "mode": "0644", "owner": "root:root"}},
        units={name: dict(unit) for name, unit in BARE_UNITS.items()},
        sysctls=dict(BARE_SYSCTLS),
        modules=["overlay", "ext4", "virtio_net"],
    )


def unseen(box: Box, target: Target, now: float) -> Facts | None:
    """Why the host does not answer now, or None when it does."""
    if box.has("power-off", now):
        return Facts(target.key, reason="NoRoute", message=f"No route to {target.address}:{target.port}.")
    if now < box.boot_until:
        return Facts(
            target.key, reason="ConnectionRefused", message=f"{target.address}:{target.port} refuses: it boots."
        )
    if box.has("unreachable", now):
        return Facts(target.key, reason="NoRoute", message=f"No route to {target.address}:{target.port}.")
    if box.has("hang", now):
        return Facts(
            target.key, reason="Timeout", message=f"{target.address} took the command and did not answer in 20 s."
        )
    # Nobody enrols the key of a box's first system; once it has another one, whatever is enrolled must be that.
    renewed = bool(box.installs and target.host_keys) and box.host_key not in target.host_keys
    if renewed or box.has("wrong-key", now):
        return Facts(
            target.key, reason="HostKeyMismatch", message=f"{target.address} shows a host key that is not enrolled."
        )
    return None


def look(box: Box, target: Target, now: float) -> Facts:
    """What one observe command tells of a settled box."""
    dark = unseen(box, target, now)
    if dark is not None:
        return dark
    seed = box.seed
    total = int((80 + 40 * int(pick(seed, "disk") * 9)) * GIB)
    full = box.has("disk-full", now)
    halves = sorted(name for name, package in box.packages.items() if package["state"].startswith("half-"))
    return Facts(
        key=target.key,
        marker=_marker(box, now),
        serial_number="SIM-ANOTHER-BOX" if box.has("wrong-serial", now) else box.serial or target.serial_number,
        os_id="debian",
        os_version="12",
        os_family="debian",
        architecture="amd64",
        kernel=box.kernel,
        boot_id=box.boot_id,
        boot_parameters=_cmdline(box),
        system_state="degraded" if any(unit["active"] == "failed" for unit in box.units.values()) else "running",
        memory_bytes=(32 << int(pick(seed, "memory") * 4)) * GIB,
        disk_free_bytes=20 * 1024 * 1024 if full else int(total * (0.55 + 0.35 * pick(seed, "free"))),
        disk_total_bytes=total,
        load1=round(0.05 + 3 * pick(seed, f"load {int(now // 60)}") ** 3, 2),
        clock_offset_seconds=95.0 if box.has("clock-skew", now) else round((pick(seed, "clock") - 0.5) / 10, 4),
        package_audit="".join(f"{name} is only half configured.\n" for name in halves),
        package_lock_holder="unattended-upgr (pid 812)" if box.has("package-lock", now) else "",
        unattended_upgrades=box.has("unattended-upgrades", now),
        packages={name: fact for name in target.packages if (fact := _package(box, name)) is not None},
        files={path: _file(box, path, path in target.with_content_of) for path in target.files},
        units={name: _unit(box, name) for name in target.units},
        sysctls={key: box.sysctls[key] for key in target.sysctls if key in box.sysctls},
        modules={name: name in box.modules for name in target.modules},
        kept_sysctls=tuple(sorted(box.boot_sysctls)),
        kept_modules=tuple(sorted(box.boot_modules)),
        kept_boot=tuple(sorted(f"{k}={v}" if v else k for k, v in box.next_cmdline.items())),
        health={name: _health(box, name, argv, now) for name, argv in target.health_checks.items()},
        fence_epoch=box.epoch,
        fence_incarnation=box.incarnation if box.epoch >= 0 else -1,
        steps={ref.folder: step_of(box, ref) for ref in target.polls},
    )


def step_of(box: Box, ref: StepRef) -> StepResult:
    """The state of an attempt as its folder tells: no folder = Unknown."""
    op = box.ops.get(ref.folder)
    if op is None:
        return StepResult(ref, "Unknown", "NoSuchStep", "The host has no folder for this attempt.")
    return StepResult(
        ref,
        op["state"],
        op.get("reason", ""),
        op.get("message", ""),
        op.get("exit"),
        op.get("output", ""),
        op.get("facts", {}),
    )


def _marker(box: Box, now: float) -> str:
    if box.has("wrong-host", now):
        return "00000000-0000-0000-0000-000000000000 00000000-0000-0000-0000-00000000dead"
    return box.marker


def _cmdline(box: Box) -> str:
    extra = [f"{key}={value}" if value != "" else key for key, value in box.cmdline.items()]
    return " ".join([f"BOOT_IMAGE=/boot/vmlinuz-{box.kernel}", "root=/dev/vda1", "ro", "quiet", *extra])


def _package(box: Box, name: str) -> PackageFact | None:
    found = box.packages.get(name)
    if found is None:
        return None
    return PackageFact(found["version"], found["state"], found.get("declared", ""), found.get("intact", True))


def _file(box: Box, path: str, with_content: bool) -> FileFact:
    found = box.files.get(path)
    if found is None:
        return FileFact()
    content = found.get("content")
    return FileFact(found["sha256"], found["mode"], found["owner"], content if with_content else None)


def _unit(box: Box, name: str) -> UnitFact:
    found = box.units.get(name)
    if found is None:
        return UnitFact("not-found", "", "inactive")
    return UnitFact(found["load"], found["enabled"], found["active"])


def _health(box: Box, name: str, argv: tuple[str, ...], now: float) -> tuple[int, str]:
    found = box.packages.get(name)
    command = argv[0] if argv else name
    if found is None or found["state"] != "installed":
        return 127, f"{command}: not found"
    if found.get("broken"):
        return 1, f"{name} {found['version']}: panic: runtime error: invalid memory address"
    if box.has("unhealthy", now):
        return 1, f"{name}: healthz answers 500"
    stopped = [unit for unit in found.get("units", ()) if _unit(box, unit).active != "active"]
    return (1, f"{stopped[0]} is not running") if stopped else (0, f"{name} is healthy")
