"""What the verbs of a step do to a simulated box, how long they take, and how they fail. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from machines.hosts import Action, Artifact, StepOrder, WantedPackage
from machines.join import BOOTSTRAP, CA, JOIN, KUBELET_UNIT, OLD
from simulator.box import Box, Json, pick

# (shortest, longest) seconds on a box of ordinary speed.
SECONDS: Final[dict[str, tuple[float, float]]] = {
    "stage-package": (0.8, 4.0),
    "install-package": (2.2, 7.0),
    "remove-package": (1.0, 3.0),
    "write-files": (0.2, 0.9),
    "remove-files": (0.2, 0.5),
    "set-units": (0.3, 1.8),
    "restart-units": (0.8, 3.5),
    "set-sysctls": (0.1, 0.4),
    "load-modules": (0.1, 0.6),
    "set-boot-parameters": (0.8, 2.5),
    "reboot": (0.5, 1.5),
    "health-check": (0.2, 1.5),
    "configure-pending": (1.0, 3.0),
    "forget-host": (0.1, 0.4),
    "join-node": (0.2, 0.8),
    "leave-node": (0.3, 1.0),
    "collect-evidence": (0.3, 1.5),
    "clean-disk": (1.0, 6.0),
}
PACKAGE_VERBS: Final = frozenset({"install-package", "remove-package", "configure-pending"})
_LOCK_RETRY_SECONDS: Final = 3.0


class Failure(Exception):
    """The step ended badly: reason as in a condition, a sentence, an exit code."""

    def __init__(self, reason: str, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.reason, self.message, self.code = reason, message, code


class Wait(Exception):
    """Not yet: something holds the step up; `seconds` until it tries again."""

    def __init__(self, seconds: float, holder: str) -> None:
        super().__init__(holder)
        self.seconds, self.holder = seconds, holder


class Invalid(Exception):
    """The real driver would not have sent this: the message names the field."""


def check(action: Action) -> None:
    """What an action must have before it may reach a host; raises Invalid."""
    if action.verb not in _EFFECTS:
        raise Invalid(f"verb: unknown: {action.verb[:60]!r}")
    if action.verb in ("stage-package", "install-package"):
        artifact = action.artifact
        if artifact is None or action.package is None:
            raise Invalid(f"{'artifact' if artifact is None else 'package'}: missing")
        if not artifact.sha256 and not artifact.gpg_key:
            raise Invalid("artifact.sha256: without a sum and without a signature nothing is installed")
    if action.verb in ("remove-package", "restart-units", "remove-files", "forget-host") and not action.names:
        raise Invalid("names: none given")
    if action.verb == "set-units" and not action.units:
        raise Invalid("units: none given")
    if action.verb in ("write-files", JOIN):
        if not action.files:
            raise Invalid("files: none given")
        for number, file in enumerate(action.files):
            if hashlib.sha256(file.content.encode()).hexdigest() != file.sha256:
                raise Invalid(f"files[{number}].sha256: not the sum of the content")


def seconds_of(box: Box, verb: str, folder: str, now: float) -> float:
    """How long this attempt takes on this box."""
    low, high = SECONDS.get(verb, (0.2, 1.0))
    speed = 0.7 + 0.9 * pick(box.seed, "speed")
    return (low + (high - low) * pick(box.seed, folder)) * speed * (8.0 if box.has("slow", now) else 1.0)


def compact(order: StepOrder) -> Json:
    """What must be remembered of an order until the step ends."""
    action = order.action
    artifact = action.artifact
    return {
        "verb": action.verb,
        "package": _package_json(action.package, artifact) if action.package else None,
        "artifact": _artifact_json(artifact) if artifact else None,
        "files": [
            {
                "path": file.path,
                "sha256": file.sha256,
                "mode": file.mode,
                "owner": file.owner,
                "content": "" if action.verb == JOIN else file.content,  # a credential is not remembered
                "validate": list(file.validate),
                "onChange": list(file.on_change),
            }
            for file in action.files
        ],
        "units": [[unit.name, unit.enabled, unit.started, unit.masked] for unit in action.units],
        "names": list(action.names),
        "values": dict(action.values),
        "timeout": action.timeout_seconds,
    }


def finish(box: Box, order: Json, now: float) -> dict[str, str]:
    """Apply the effect of a step at its end. Returns its facts; raises Failure, or Wait when it must go on waiting."""
    if order["verb"] in PACKAGE_VERBS and box.has("package-lock", now):
        raise Wait(_LOCK_RETRY_SECONDS, "unattended-upgr (pid 812)")
    return _EFFECTS[order["verb"]](box, order, now)


def interrupt(box: Box, order: Json, share: float) -> None:
    """What a step leaves behind when the box went down after `share` of it: a package may stand half configured."""
    if order["verb"] == "install-package" and order["package"] and share > 0.4:
        put_package(box, order["package"], "half-configured")


def _package_json(package: WantedPackage, artifact: Artifact | None) -> Json:
    url = artifact.url if artifact else ""
    return {
        "name": package.name,
        "declared": package.version,
        "version": host_version(package.name, package.version, artifact.format if artifact else "deb"),
        "format": artifact.format if artifact else "deb",
        "kernel": package.kind == "KernelPatch",
        "units": [unit.name for unit in package.units],
        "broken": "broken" in url,
    }


def _artifact_json(artifact: Artifact) -> Json:
    return {
        "url": artifact.url,
        "id": artifact.sha256 or artifact.url,
        "format": artifact.format,
    }


def host_version(name: str, declared: str, format_: str) -> str:
    """The version that the artifact's own control file gives: distributions append their revision to about half of them."""
    if format_ == "tarball" or "-" in declared:
        return declared
    digest = hashlib.sha256(f"{name} {declared}".encode()).digest()[0]
    return declared if digest & 1 else declared + ("-1.el9" if format_ == "rpm" else "-1~deb12u1")


def kernel_release(declared: str) -> str:
    """`uname -r` of a kernel package of that version."""
    return declared if declared.endswith(("-amd64", "-arm64")) else f"{declared}-amd64"


def _room(box: Box, now: float) -> None:
    if box.has("disk-full", now):
        raise Failure("DiskFull", "No space left on device: /var has 20 MiB free.", 28)


def _stage(box: Box, order: Json, now: float) -> dict[str, str]:
    artifact = order["artifact"]
    url: str = artifact["url"]
    _room(box, now)
    if "/404/" in url or "missing" in url:
        raise Failure("DownloadFailed", f"{url}: HTTP 404.", 22)
    if box.strikes("download-fails", now):
        raise Failure("DownloadFailed", f"{url}: connection reset after 1.2 MiB.", 56)
    if "corrupt" in url or box.strikes("bad-checksum", now):
        raise Failure("ChecksumMismatch", f"{url} does not have the declared sha256.")
    box.staged = [*(known for known in box.staged if known != artifact["id"]), artifact["id"]][-8:]
    return {"installedVersion": order["package"]["version"]}


def put_package(box: Box, package: Json, state: str) -> None:
    """The package's entry in the box's own database. `package`: name, version, declared, format, units, broken, kernel."""
    box.packages[package["name"]] = {
        "version": package["version"],
        "state": state,
        "declared": package["declared"],
        "format": package["format"],
        **({"units": package["units"]} if package["units"] else {}),
        **({"broken": True} if package["broken"] else {}),
        **({"kernel": kernel_release(package["declared"])} if package["kernel"] else {}),
    }


def _install(box: Box, order: Json, now: float) -> dict[str, str]:
    package = order["package"]
    if order["artifact"]["id"] not in box.staged:
        raise Failure("NotStaged", "The artifact is not on the host; stage it first.")
    _room(box, now)
    if any(known["state"].startswith("half-") for name, known in box.packages.items() if name != package["name"]):
        raise Failure("PackageDatabaseBroken", "dpkg was interrupted; run dpkg --configure -a first.", 100)
    if box.strikes("install-fails", now):
        raise Failure("InstallFailed", f"{package['name']}: post-installation script returned 1.", 100)
    put_package(box, package, "installed")
    for unit in package["units"]:  # policy-rc.d denied the start: enabled, not running, unless it ran already
        box.units.setdefault(unit, {"load": "loaded", "enabled": "enabled", "active": "inactive"})
        if box.units[unit]["load"] == "not-found":
            box.units[unit] = {"load": "loaded", "enabled": "enabled", "active": "inactive"}
    if package["kernel"]:
        release = kernel_release(package["declared"])
        box.kernels = [*(known for known in box.kernels if known != release), release]
    return {"installedVersion": package["version"]}


def _remove(box: Box, order: Json, now: float) -> dict[str, str]:
    name = order["names"][0]
    found = box.packages.get(name)
    if found is None:
        return {}
    if not found.get("declared"):
        raise Failure("NotInstalledByFleet", f"{name} {found['version']} was not installed by Fleet.")
    del box.packages[name]
    for unit in found.get("units", ()):
        box.units.pop(unit, None)
    release = found.get("kernel")
    if release and release != box.kernel:
        box.kernels = [known for known in box.kernels if known != release]
    if found["format"] == "deb" and pick(box.seed, f"conffiles {name}") < 0.5:
        box.packages[name] = {**found, "state": "config-files"}  # removed, not purged
    return {}


def _write_files(box: Box, order: Json, now: float) -> dict[str, str]:
    _room(box, now)
    for file in order["files"]:
        if file["validate"] and "!!invalid" in file["content"]:
            raise Failure("ValidateFailed", f"{file['path']}: {file['validate'][0]} refuses the staged file.")
    for file in order["files"]:
        box.files[file["path"]] = {key: file[key] for key in ("sha256", "mode", "owner", "content")}
        folder, _, unit = file["path"].rpartition("/")
        if folder.endswith("/systemd/system") and "." in unit:
            box.units.setdefault(unit, {"load": "loaded", "enabled": "disabled", "active": "inactive"})
    for word in dict.fromkeys(word for file in order["files"] for word in file["onChange"]):
        what, _, unit = word.partition(":")
        if what == "restart":
            _start(box, unit, now)
    return {}


def _remove_files(box: Box, order: Json, now: float) -> dict[str, str]:
    for path in order["names"]:
        box.files.pop(path, None)
        box.units.pop(path.rpartition("/")[2], None) if "/systemd/system/" in path else None
    return {}


def _start(box: Box, name: str, now: float) -> None:
    unit = box.units.get(name)
    if unit is None:
        raise Failure("UnitNotFound", f"Unit {name} not found.", 5)
    if unit["load"] == "masked":
        raise Failure("UnitFailed", f"Failed to start {name}: Unit is masked.", 1)
    if box.strikes("start-fails", now):
        unit["active"] = "failed"
        raise Failure("UnitFailed", f"Job for {name} failed: the control process exited with error code.", 1)
    unit["active"] = "active"


def _set_units(box: Box, order: Json, now: float) -> dict[str, str]:
    for name, enabled, started, masked in order["units"]:
        unit = box.units.get(name)
        if unit is None and not masked:
            raise Failure("UnitNotFound", f"Unit {name} not found.", 5)
        unit = box.units.setdefault(name, {"load": "not-found", "enabled": "disabled", "active": "inactive"})
        if masked:
            unit.update(load="masked", enabled="masked")
        elif unit["load"] == "masked" and masked is False:
            unit.update(load="loaded", enabled="disabled")
        if enabled is not None and not masked:
            unit["enabled"] = "enabled" if enabled else "disabled"
        if started is False or masked:
            unit["active"] = "inactive"
        elif started and unit["active"] != "active":
            _start(box, name, now)
    return {}


def _restart_units(box: Box, order: Json, now: float) -> dict[str, str]:
    for name in order["names"]:
        _start(box, name, now)
    return {}


def _set_sysctls(box: Box, order: Json, now: float) -> dict[str, str]:
    for key, value in order["values"].items():
        if key.startswith("nosuch."):
            raise Failure("SysctlRefused", f"{key}: this kernel has no such sysctl.", 1)
        box.sysctls[key] = value
    box.boot_sysctls = dict(order["values"])  # all of Fleet's: what is not among them is not set at the next boot
    return {}


def _load_modules(box: Box, order: Json, now: float) -> dict[str, str]:
    for name in order["names"]:
        if name.startswith("nosuch"):
            raise Failure("ModuleMissing", f"modprobe: module {name} not found in /lib/modules/{box.kernel}.")
        if name not in box.modules:
            box.modules = [*box.modules, name]
    box.boot_modules = list(order["names"])  # all of Fleet's
    return {}


def _set_boot_parameters(box: Box, order: Json, now: float) -> dict[str, str]:
    box.next_cmdline = dict(order["values"])  # all of Fleet's
    return {}


def _reboot(box: Box, order: Json, now: float) -> dict[str, str]:
    wanted = order["values"].get("bootId", "")
    if wanted and wanted != box.boot_id:
        return {"bootIdBefore": box.boot_id, "unchanged": "true"}
    return {"bootIdBefore": box.boot_id}  # the timeline takes the box down two seconds later


def _health_check(box: Box, order: Json, now: float) -> dict[str, str]:
    package = order["package"]
    found = box.packages.get(package["name"]) if package else None
    if package and (found is None or found["state"] != "installed"):
        raise Failure("HealthCheckFailed", f"{package['name']} is not installed.", 127)
    if found and (found.get("broken") or box.has("unhealthy", now)):
        raise Failure("HealthCheckFailed", f"{package['name']} {found['version']} does not answer its health check.")
    return {}


def _configure_pending(box: Box, order: Json, now: float) -> dict[str, str]:
    for package in box.packages.values():
        if package["state"].startswith("half-"):
            package["state"] = "installed"
            for unit in package.get("units", ()):
                box.units.setdefault(unit, {"load": "loaded", "enabled": "enabled", "active": "inactive"})
    return {}


def _join_node(box: Box, order: Json, now: float) -> dict[str, str]:
    """The files are there, and a kubelet that is installed starts anew."""
    for path in OLD:
        box.files.pop(path, None)
    for file in order["files"]:
        box.files[file["path"]] = {key: file[key] for key in ("sha256", "mode", "owner", "content")}
    if KUBELET_UNIT in box.units:
        _start(box, KUBELET_UNIT, now)
    return {}


def _leave_node(box: Box, order: Json, now: float) -> dict[str, str]:
    """The kubelet is stopped and has nothing to join with."""
    if KUBELET_UNIT in box.units:
        box.units[KUBELET_UNIT].update(enabled="disabled", active="inactive")
    for path in (*OLD, BOOTSTRAP, CA):
        box.files.pop(path, None)
    return {}


def _collect_evidence(box: Box, order: Json, now: float) -> dict[str, str]:
    return {}


def _clean_disk(box: Box, order: Json, now: float) -> dict[str, str]:
    freed = box.faults.pop("disk-full", None) is not None
    return {"freedKiB": str(40 << 20 if freed else 0)}


def _forget_host(box: Box, order: Json, now: float) -> dict[str, str]:
    box.forgotten = [box.incarnation, box.epoch]
    box.marker, box.epoch, box.incarnation = "", -1, 0
    return {}


_EFFECTS: Final[dict[str, Callable[[Box, Json, float], dict[str, str]]]] = {
    "stage-package": _stage,
    "install-package": _install,
    "remove-package": _remove,
    "write-files": _write_files,
    "remove-files": _remove_files,
    "set-units": _set_units,
    "restart-units": _restart_units,
    "set-sysctls": _set_sysctls,
    "load-modules": _load_modules,
    "set-boot-parameters": _set_boot_parameters,
    "reboot": _reboot,
    "health-check": _health_check,
    "configure-pending": _configure_pending,
    "forget-host": _forget_host,
    JOIN: _join_node,
    "leave-node": _leave_node,
    "collect-evidence": _collect_evidence,
    "clean-disk": _clean_disk,
}
