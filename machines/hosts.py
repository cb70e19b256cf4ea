"""The port to hosts: what the Machine-Operator asks of a box, and what it learns.

Plain data and one Protocol; no Django here. Adapters: `machines.ssh` (asyncssh) and `simulator.hosts` (behaves, from a seed).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

StepState = Literal["Running", "Succeeded", "Failed", "Interrupted", "Refused", "Unknown"]
PackageFormat = Literal["deb", "rpm", "tarball"]
Disruption = Literal["None", "Reload", "Restart", "Drain", "Reboot"]


@dataclass(frozen=True, slots=True)
class Login:
    """How to enter a host. `private_key` and `password` are opened from a Credential in the worker only, never logged."""

    username: str = "root"
    private_key: str | None = field(default=None, repr=False)  # OpenSSH or PEM text
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file as it shall be; `content` is the rendered text, `sha256` its hex digest."""

    path: str
    content: str
    sha256: str
    mode: str = "0644"
    owner: str = "root:root"
    validate: tuple[str, ...] = ()  # argv; "%s" stands for the staged file
    on_change: tuple[str, ...] = ()  # "reload:UNIT", "restart:UNIT", "daemon-reload"
    source: str = ""  # name of the MachineConfigVersion


@dataclass(frozen=True, slots=True)
class WantedUnit:
    """A systemd unit as it shall be; None means: leave that property alone."""

    name: str
    enabled: bool | None = None
    started: bool | None = None
    masked: bool | None = None


@dataclass(frozen=True, slots=True)
class WantedPackage:
    """One resolved package version with the artifact that fits this host's class of machine (see `pick_artifact`)."""

    name: str  # packageName as people write it
    version: str  # as declared in the MachinePackageVersion
    artifacts: tuple[Artifact, ...]
    kind: Literal["Component", "Configuration", "KernelPatch"] = "Component"
    units: tuple[WantedUnit, ...] = ()
    disruption: Disruption = "Restart"
    requires: tuple[str, ...] = ()  # packageName or "packageName>=version"
    health_check: tuple[str, ...] = ()  # argv, exit code 0 = healthy
    health_timeout_seconds: int = 30
    rollback_on_failure: bool = False
    layer: str = "machine"  # which layer asked for it: machine, class, cluster, ...


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes to install. `gpg_key` is an ASCII-armoured public key; without it and without sha256 nothing is installed."""

    format: PackageFormat
    url: str
    sha256: str = ""
    gpg_key: str = ""
    os_family: str = ""  # "debian", "rhel"; empty = any
    architecture: str = ""  # "amd64", "arm64"; empty = any
    destination: str = ""  # tarball only: folder that it is unpacked into


@dataclass(frozen=True, slots=True)
class Target:
    """One host with what shall be looked at; `uid` is the Machine's uid, `key` the caller's row id."""

    key: int
    uid: str
    name: str
    address: str
    idc: str = ""
    port: int = 22
    login: Login | None = None
    host_keys: tuple[str, ...] = ()  # "ssh-ed25519 AAAA..."; empty = HostKeyNotEnrolled
    serial_number: str = ""
    packages: tuple[str, ...] = ()  # names to report, as known to dpkg/rpm or to Fleet's tarball ledger
    files: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    health_checks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # package name -> argv
    with_content_of: tuple[str, ...] = ()  # files whose text is wanted for a diff (at most 64 KiB each)
    polls: tuple[StepRef, ...] = ()  # running steps to look at in the same command


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file as seen; `sha256` is empty when it does not exist."""

    sha256: str = ""
    mode: str = ""
    owner: str = ""
    content: str | None = None

    @property
    def exists(self) -> bool:
        return bool(self.sha256)


@dataclass(frozen=True, slots=True)
class UnitFact:
    """As systemd says: load_state loaded|not-found|masked, enabled enabled|disabled|static|masked, active active|failed|inactive."""

    load_state: str = ""
    enabled: str = ""
    active: str = ""


@dataclass(frozen=True, slots=True)
class PackageFact:
    """A package as the host's own database says. `declared` is the declared version recorded when Fleet installed it."""

    version: str
    state: str = "installed"  # installed | half-installed | config-files | ...
    declared: str = ""
    intact: bool = True  # tarball: files as unpacked; deb/rpm: always True here


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything one observe command tells. `error` set means the rest is not known (reason is a condition reason)."""

    key: int
    reason: str = ""  # "" = seen; else Timeout, ConnectionRefused, AuthenticationFailed, HostKeyMismatch, HostKeyNotEnrolled, NoCredential, ...
    message: str = ""
    marker: str = ""  # "<installation id> <machine uid>" or "" when the host has none
    serial_number: str = ""
    os_id: str = ""
    os_version: str = ""
    os_family: str = ""  # debian | rhel | other
    architecture: str = ""  # amd64 | arm64 | ...
    kernel: str = ""
    boot_id: str = ""
    boot_parameters: str = ""  # /proc/cmdline
    system_state: str = ""  # systemctl is-system-running
    memory_bytes: int = 0
    disk_free_bytes: int = 0  # of the filesystem of /var
    disk_total_bytes: int = 0
    memory_available_bytes: int = 0  # 0 = not known
    cpus: int = 0  # 0 = not known
    read_only: tuple[str, ...] = ()  # mount points that shall be written to and cannot
    load1: float = 0.0
    clock_offset_seconds: float = 0.0  # host minus Fleet, half the round trip allowed for
    package_audit: str = ""  # text of `dpkg --audit`, empty = sound
    package_lock_holder: str = ""  # "unattended-upgr (pid 812)" while the lock is held
    unattended_upgrades: bool = False
    packages: Mapping[str, PackageFact] = field(default_factory=dict)
    files: Mapping[str, FileFact] = field(default_factory=dict)
    units: Mapping[str, UnitFact] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, bool] = field(default_factory=dict)
    # Fleet's own lists on the host, which the next boot reads: sysctls and modules by name, boot parameters as words.
    kept_sysctls: tuple[str, ...] = ()
    kept_modules: tuple[str, ...] = ()
    kept_boot: tuple[str, ...] = ()
    health: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # package -> (exit code, last line)
    fence_epoch: int = -1  # newest epoch that the host's fence has seen for this uid, -1 = none
    fence_incarnation: int = -1
    steps: Mapping[str, StepResult] = field(default_factory=dict)  # StepRef.folder -> state

    @property
    def seen(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class StepRef:
    """Names one attempt of one step on a host: the folder /var/lib/fleet/op/<operation>/<step>-<attempt>/."""

    operation: str  # uid of the Operation
    step: str  # "03-install-pouch": [a-z0-9.-]+
    attempt: int = 1

    @property
    def folder(self) -> str:
        return f"{self.operation}/{self.step}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a step. Failed carries a condition reason and a sentence; output is the tail of its log (<= 4 KiB)."""

    ref: StepRef
    state: StepState
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    output: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)  # e.g. {"installedVersion": "1.0-1~deb12u1"}


@dataclass(frozen=True, slots=True)
class Action:
    """What one step does. `verb` picks the script; `args` are its plain values (see `machines.scripts`).

    verbs: stage-package, install-package, remove-package, write-files, remove-files, set-units, restart-units, set-sysctls,
    load-modules, set-boot-parameters, reboot, health-check, configure-pending, forget-host, collect-evidence, clean-disk
    """

    verb: str
    package: WantedPackage | None = None
    artifact: Artifact | None = None
    files: tuple[WantedFile, ...] = ()
    units: tuple[WantedUnit, ...] = ()
    names: tuple[str, ...] = ()  # units to restart, files to remove, modules to load, package to remove (first)
    values: Mapping[str, str] = field(default_factory=dict)  # sysctls, boot parameters
    timeout_seconds: int = 300


@dataclass(frozen=True, slots=True)
class StepOrder:
    """One step to start on one host, under the fence of (incarnation, uid, epoch)."""

    target: Target
    ref: StepRef
    action: Action
    installation: str
    incarnation: int
    epoch: int
    take_over: str = ""  # uid whose marker may be replaced, named by an approver after an abandon


class Hosts(Protocol):
    """Hosts of one batch, side by side. Never raises for one host's sake: a failed host is a Facts/StepResult with a reason.

    `observe`: exactly one command a host on a kept connection; a pass lasts at most 20 s, then reason Timeout.
    `act`: starts one step a host under the fence and returns at once with Running, or with its end if it ended within ~2 s;
    starting the same ref again never runs it twice: the fence answers with the state of the attempt that exists.
    """

    async def observe(self, targets: Sequence[Target]) -> list[Facts]: ...

    async def act(self, orders: Sequence[StepOrder]) -> list[StepResult]: ...

    async def close(self) -> None: ...


def pick_artifact(package: WantedPackage, facts: Facts) -> Artifact | None:
    """The artifact for this host: format fits its OS family (tarball fits any), os_family and architecture match or are empty."""
    native: dict[str, str] = {"debian": "deb", "rhel": "rpm"}
    for artifact in package.artifacts:
        if artifact.format != "tarball" and native.get(facts.os_family) != artifact.format:
            continue
        if artifact.os_family and artifact.os_family != facts.os_family:
            continue
        if artifact.architecture and artifact.architecture != facts.architecture:
            continue
        return artifact
    return None
