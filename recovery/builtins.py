"""The rules and playbooks that Fleet brings. They are objects like any other: people change them, switch them off, delete them.

Each is put there once in the life of an installation; what a person changed or deleted a new release leaves alone.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import connection

from fleet.api.actions import Write, create_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control.kinds import API_VERSION, Json

_ALL: Final = {"matchAll": True}


def _is(condition: str, status: str = "True", *reasons: str) -> Json:
    out: Json = {"condition": condition, "status": status}
    return out | ({"reasons": list(reasons)} if reasons else {})


def _event(type_: str, *reasons: str, keep: int = 0) -> Json:
    out: Json = {"event": type_} | ({"keepSeconds": keep} if keep else {})
    return out | ({"reasons": list(reasons)} if reasons else {})


def _rule(fault: str, when: list[Json], **more: Any) -> Json:
    return {"faultType": fault, "when": when, "target": _ALL, "mode": "Active", **more}


_SILENT: Final = _is("NodeReady", "Unknown", "NodeStatusUnknown")
_CRASHED: Final = _is("ComponentsHealthy", "False", "UnitNotRunning", "UnitMasked")

RULES: Final[dict[str, Json]] = {
    "component-crash": _rule("ComponentCrash", [_CRASHED, _is("FrequentKubeletRestart"), _is("FrequentContainerdRestart")], also=[_SILENT, _is("Probe/kubelet", "False")], holdSeconds=5, clearSeconds=10, playbook="component", flaps={"count": 4, "withinSeconds": 1800}),
    "configuration-error": _rule("ConfigurationError", [_is("ComponentsHealthy", "False", "ConfigurationDiffers")], holdSeconds=5, clearSeconds=10),
    "package-broken": _rule("PackageBroken", [_is("ComponentsHealthy", "False", "PackageBroken")], holdSeconds=5, clearSeconds=10),
    "health-check-fails": _rule("NotResponding", [_is("ComponentsHealthy", "False", "HealthCheckFailed"), _is("Probe/kubelet", "False")], unless=[_CRASHED, _is("Reachable", "False")], holdSeconds=30, clearSeconds=20),
    "kubelet-silent": _rule("NotResponding", [_SILENT, _is("Probe/kubelet", "False")], also=[_CRASHED], unless=[_is("Reachable", "False")], holdSeconds=20, clearSeconds=20, sources=2, playbook="kubelet"),
    "host-unreachable": _rule("HostUnreachable", [_is("Reachable", "False", "Timeout", "ConnectionRefused", "NoRoute", "ConnectionLost"), _is("Probe/ssh", "False")], also=[_SILENT, _is("Redfish/Power", "False")], unless=[_is("Reachable", "True")], holdSeconds=120, sources=2),
    "power-failure": _rule("PowerFailure", [_is("Redfish/Power", "False", "Off"), _is("PowerFailure"), _event("redfish.power", keep=3600)], unless=[_is("Reachable", "True")], holdSeconds=30),
    "disk-failure": _rule("DiskFailure", [_is("DiskFailure"), _is("Redfish/Drives", "False"), _event("redfish.drive", keep=86400)], holdSeconds=0),
    "memory-failure": _rule("MemoryFailure", [_is("MemoryFailure"), _is("Redfish/Memory", "False"), _event("redfish.memory", keep=86400)], holdSeconds=0),
    "motherboard-failure": _rule("MotherboardFailure", [_is("MotherboardFailure"), _is("Redfish/Board", "False"), _event("redfish.board", keep=86400)], holdSeconds=0),
    "nic-failure": _rule("NicFailure", [_is("NicFailure"), _is("Redfish/Network", "False"), _event("redfish.network", keep=86400)], holdSeconds=10),
    "filesystem-read-only": _rule("FilesystemReadOnly", [_is("FilesystemReadOnly"), _is("ReadonlyFilesystem")], holdSeconds=10),
    "kernel-fault": _rule("KernelFault", [_is("KernelDeadlock"), _is("FrequentUnregisterNetDevice")], holdSeconds=60),
    "disk-pressure": _rule("DiskPressure", [_is("DiskSpaceLow"), _is("DiskPressure")], holdSeconds=10, clearSeconds=10),
    "memory-pressure": _rule("MemoryPressure", [_is("MemoryLow"), _is("MemoryPressure")], holdSeconds=60, clearSeconds=60),
    "load-high": _rule("LoadHigh", [_is("LoadHigh")], holdSeconds=120, clearSeconds=60),
}  # fmt: skip

_ASK: Final = {
    "name": "ask-a-person",
    "steps": [{"action": "AskPerson", "task": "Look at the machine: every repair that Fleet knows was tried."}],
}
_UNITS: Final = {
    "name": "restart-units",
    "steps": [{"action": "Isolate"}, {"action": "RestartUnits"}],
    "verifySeconds": 90,
}
_REWRITE: Final = {
    "name": "rewrite-configuration",
    "steps": [{"action": "Isolate"}, {"action": "RewriteConfiguration"}],
    "verifySeconds": 90,
}
_REINSTALL: Final = {
    "name": "reinstall-package",
    "steps": [{"action": "Isolate"}, {"action": "ReinstallPackage"}],
    "verifySeconds": 120,
}
_REBOOT: Final = {
    "name": "reboot",
    "steps": [{"action": "Isolate"}, {"action": "Drain"}, {"action": "Reboot"}],
    "verifySeconds": 300,
}

PLAYBOOKS: Final[dict[str, Json]] = {
    "component": {"description": "A unit that shall run is started again; then its configuration and its package are put back.", "rungs": [_UNITS, _REWRITE, _REINSTALL, _REBOOT, _ASK], "probationSeconds": 30},
    "kubelet": {"description": "A kubelet that says nothing is started again, with its runtime; then the machine.", "rungs": [
        {"name": "restart-kubelet", "steps": [{"action": "Isolate"}, {"action": "RestartUnits", "units": ["kubelet.service"]}], "verifySeconds": 90},
        {"name": "restart-runtime", "steps": [{"action": "Isolate"}, {"action": "RestartUnits", "units": ["containerd.service", "kubelet.service"]}], "verifySeconds": 120}, _REBOOT, _ASK], "probationSeconds": 30},
    "configuration": {"description": "What differs from the accepted configuration is written anew, and what depends on it started again.", "rungs": [_REWRITE, _REINSTALL, _ASK], "probationSeconds": 30},
    "package": {"description": "A package that is not whole is installed again at its accepted version.", "rungs": [_REINSTALL, _ASK], "probationSeconds": 30},
    "disk-space": {"description": "Room is made by what may be thrown away: old journal, package cache, unused images. Never anything else.", "rungs": [
        {"name": "clean", "steps": [{"action": "CleanDisk", "clean": ["journal", "package-cache", "images"]}], "verifySeconds": 60},
        {"name": "ask-a-person", "steps": [{"action": "AskPerson", "task": "The disk is full of what Fleet may not delete."}]}], "probationSeconds": 30},
    "pressure": {"description": "The machine takes no new work until it has room again. Nothing is restarted or killed for that.", "rungs": [
        {"name": "close", "steps": [{"action": "Isolate"}], "verifySeconds": 7200},
        {"name": "ask-a-person", "steps": [{"action": "AskPerson", "task": "The machine has been out of memory or over its load for two hours."}]}], "probationSeconds": 60},
    "filesystem": {"description": "A file system that the kernel made read-only is checked at the next boot.", "rungs": [_REBOOT, {"name": "ask-a-person", "steps": [{"action": "AskPerson", "task": "The file system went read-only again, or does not come back: look at the disk."}]}], "probationSeconds": 60},
    "reboot": {"description": "Drained, then started anew.", "rungs": [_REBOOT, _ASK], "probationSeconds": 60},
    "power": {"description": "A machine that answers on no way is switched off and on, if its controller says that it may.", "rungs": [
        {"name": "power-cycle", "steps": [{"action": "PowerCycle"}], "verifySeconds": 600}, {"name": "ask-a-person", "steps": [{"action": "AskPerson", "task": "The machine does not come back after a power cycle."}]}], "probationSeconds": 60},
    "hardware": {"description": "Emptied, its evidence kept, and given to the people who replace hardware.", "rungs": [
        {"name": "empty", "steps": [{"action": "Isolate"}, {"action": "Drain"}], "verifySeconds": 0},
        {"name": "replace", "steps": [{"action": "Replace", "task": "Replace the part; the machine is empty and closed. Clear the fault when it is done."}]}], "probationSeconds": 300},
}  # fmt: skip


def install() -> list[str]:
    """Create what this installation has never had; names of what was made."""
    made = []
    for plural, kind, wanted in (("playbooks", "Playbook", PLAYBOOKS), ("faultrules", "FaultRule", RULES)):
        for name, spec in wanted.items():
            if _first_time(f"{plural}/{name}") and _create(plural, kind, name, spec):
                made.append(f"{plural}/{name}")
    return made


def _first_time(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO recovery_builtin (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
        return bool(cursor.rowcount)


def _create(plural: str, kind: str, name: str, spec: Json) -> bool:
    obj = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "labels": {"fleet.dev/built-in": "true"}},
        "spec": spec,
    }
    try:
        create_object(plural, obj, write=Write(by=SYSTEM, manager="fleet-recovery"))
    except ApiError as error:
        if error.code != 409:  # somebody has one of that name: theirs counts
            raise
        return False
    return True
