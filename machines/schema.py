"""The kinds of the Machine-Operator: Machine, MachineClass, MachinePackageVersion, MachineConfigVersion, Operation."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime

from clusters.schema import CONDITIONS, DRIVER, NAME_PATTERN, VARIABLES, VERSIONS, condition, quote_versions
from clusters.schema_gates import GATES
from fleet.control.kinds import (
    MACHINE,
    MACHINE_CLASS,
    Column,
    Json,
    Kind,
    Problem,
)
from machines.schema_bmc import BMC, bmc_problems
from machines.schema_operation import OPERATION_KIND, VERBS
from machines.schema_rules import READINESS_RULE_KIND
from machines.schema_versions import (
    CONFIG_VERSION_KIND,
    PACKAGE_VERSION_KIND,
    artifacts_of,
    config_version,
    package_version,
)

__all__ = [
    "CONFIG_VERSION_KIND", "KINDS", "MACHINE_CLASS_KIND", "MACHINE_KIND", "OPERATION_KIND", "PACKAGE_VERSION_KIND", "READINESS_RULE_KIND", "STATES", "VERBS",
    "artifacts_of", "config_version", "package_version", "state_of",
]  # fmt: skip

_TEXT = {"type": "string", "maxLength": 253}
LABEL_KEY = r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
STATES = ("off", "bad", "held", "unknown", "busy", "warn", "gate", "ok")


def state_of(obj: Json) -> str:
    """A machine's state for people; the first that holds: off, bad, held, unknown, busy, warn, gate, ok."""
    status = obj.get("status", {})
    phase = status.get("phase", "Pending")
    if phase in ("Retired", "Decommissioning"):
        return "off"
    if phase == "Failed":
        return "bad"
    if obj["spec"].get("paused") or condition(obj, "Held") == "True":
        return "held"
    if condition(obj, "Reachable") != "True":
        return "unknown"
    if phase in ("Provisioning", "Updating") or condition(obj, "Reconciling") == "True":
        return "busy"
    if phase in ("Repairing", "Probation") or condition(obj, "Drifted") == "True":
        return "warn"
    if condition(obj, "Schedulable") == "False":
        return "gate"
    return "ok"


def _versions(obj: Json, now: datetime) -> str:
    seen = obj.get("status", {}).get("versions", {})
    return ",".join(f"{k}={v}" for k, v in sorted(seen.items()))


def _why(obj: Json, now: datetime) -> str:
    for type_ in ("Stalled", "Ready"):
        if condition(obj, type_) == ("True" if type_ == "Stalled" else "False"):
            return condition(obj, type_, "message")
    return ""


def _check_machine(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new.get("spec", {})
    try:
        ipaddress.ip_address(spec.get("ip") or "0.0.0.0")
    except ValueError:
        return [Problem("spec.ip", f'"{spec["ip"]}": must be an IPv4 or IPv6 address')]
    return bmc_problems(spec.get("bmc"))


NODE_TAINTS: Json = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["key", "effect"],
    "maxItems": 50,
    "description": "Taints that Fleet keeps on the machine's node; those of others stay.",
    "items": {
        "type": "object",
        "required": ["key", "effect"],
        "properties": {
            "key": {"type": "string", "maxLength": 316, "pattern": LABEL_KEY},
            "value": {"type": "string", "maxLength": 63},
            "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        },
    },
}
_PACKAGES: Json = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": _TEXT,
            "state": _TEXT,
            "wanted": _TEXT,
            "seen": _TEXT,
            "from": _TEXT,
            "message": {"type": "string"},
        },
    },
}

MACHINE_KIND = Kind(
    kind="Machine",
    plural="machines",
    singular="machine",
    number=MACHINE,
    short_names=("fm",),
    description="One host and what shall be on it.",
    cluster_field="spec.clusterName",
    writers="operator",
    spec={
        "type": "object",
        "description": "What the machine shall be.",
        "required": ["ip"],
        "properties": {
            "clusterName": {
                "type": "string",
                "maxLength": 253,
                "description": "Cluster that it belongs to and takes defaults from.",
            },
            "className": {"type": "string", "maxLength": 253, "description": "MachineClass of its pool."},
            "idc": {"type": "string", "maxLength": 128, "description": "Data centre."},
            "rack": {"type": "string", "maxLength": 128, "description": "Failure domain within the data centre."},
            "ip": {
                "type": "string",
                "maxLength": 45,
                "description": "Address that Fleet connects to; unique within the idc.",
            },
            "serialNumber": {
                "type": "string",
                "maxLength": 128,
                "description": "Compared with what the host says, where it can be read; unique.",
            },
            "hardwareModel": {"type": "string", "maxLength": 128, "description": "Kind of box."},
            "versions": VERSIONS | {"description": "Pins: package name to version, stronger than every shared layer."},
            "variables": VARIABLES,
            "disabledPackages": {
                "type": "array",
                "items": {"type": "string", "maxLength": 128, "pattern": NAME_PATTERN},
                "x-kubernetes-list-type": "set",
                "description": "Hands off: neither installed, upgraded, repaired nor removed.",
            },
            "driftPolicy": {
                "type": "string",
                "enum": ["Repair", "Report"],
                "description": "Repair (default) puts back what was changed by hand; Report only says so.",
            },
            "paused": {"type": "boolean", "description": "Look, but change nothing."},
            "driver": DRIVER,
            "bmc": BMC,
            "readinessGates": GATES,
            "nodeLabels": {
                "type": "object",
                "additionalProperties": {"type": "string", "maxLength": 63},
                "maxProperties": 100,
                "description": "Labels that Fleet keeps on the machine's node.",
            },
            "nodeTaints": NODE_TAINTS,
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {
                "type": "string",
                "description": "Pending, Provisioning, Running, Updating, Repairing, Probation, Failed, Decommissioning, Retired.",
            },
            "observedGeneration": {"type": "integer"},
            "desiredHash": {"type": "string", "description": "Hash of the accepted set."},
            "accepted": {
                "type": "object",
                "properties": {"hash": _TEXT, "generation": {"type": "integer"}, "time": _TEXT},
                "description": "The set that the machine follows until its spec or a rollout changes it.",
            },
            "nodeName": _TEXT,
            "versions": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Versions as seen on the host.",
            },
            "packages": _PACKAGES,
            "conditions": CONDITIONS,
            "readinessGates": {
                "type": "array",
                "description": "What each gate of the node says, since when, and whose word it is.",
                "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
            "scheduling": {
                "type": "object",
                "description": "Whether the node takes workloads (Joining, Open, Closed, CordonedByPerson), why and since when.",
                "properties": {"state": _TEXT, "reason": _TEXT, "message": {"type": "string"}, "since": _TEXT},
            },
            "operation": {"type": "string", "description": "The open Operation."},
            "plan": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "description": "What Fleet would do next, and how disruptive it is.",
            },
            "facts": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "description": "Last observation.",
            },
            "lastSeenTime": _TEXT,
        },
    },
    columns=(
        Column("State", lambda o, now: state_of(o), description="off, bad, held, unknown, busy, warn, gate or ok."),
        Column(
            "Phase",
            lambda o, now: o.get("status", {}).get("phase", "Pending"),
            description="Summary of the conditions.",
        ),
        Column("Cluster", lambda o, now: o["spec"].get("clusterName", ""), description="Its cluster."),
        Column("IP", lambda o, now: o["spec"].get("ip", ""), description="Address."),
        Column("Versions", _versions, priority=1, description="Versions as seen."),
        Column("Why", _why, priority=1, description="What it waits for."),
    ),
    selectable=("spec.clusterName", "spec.idc", "spec.ip", "status.phase"),
    validate=_check_machine,
    warn=lambda o: quote_versions(o.get("spec", {}).get("versions", {}), "spec.versions"),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Machine",
        "metadata": {"name": "iad1-r1-u07"},
        "spec": {
            "clusterName": "iad1-web",
            "idc": "iad1",
            "rack": "r1",
            "ip": "10.10.10.1",
            "versions": {"pouch": "1.0"},
        },
    },
)

MACHINE_CLASS_KIND = Kind(
    kind="MachineClass",
    plural="machineclasses",
    singular="machineclass",
    number=MACHINE_CLASS,
    short_names=("mcl",),
    description="What a pool of machines (GPU, storage) has in common; stronger than the cluster, weaker than the machine.",
    spec={
        "type": "object",
        "description": "The layer.",
        "properties": {
            "versions": VERSIONS,
            "variables": VARIABLES,
            "driver": DRIVER,
            "readinessGates": GATES,
        },
    },
    status={"type": "object", "properties": {"machines": {"type": "integer"}, "conditions": CONDITIONS}},
    columns=(
        Column("Machines", lambda o, now: o.get("status", {}).get("machines", 0), "integer", "Machines that name it."),
        Column(
            "Up-To-Date", lambda o, now: condition(o, "MachinesUpToDate"), description="Whether they have its layer."
        ),
    ),
    warn=lambda o: quote_versions(o.get("spec", {}).get("versions", {}), "spec.versions"),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "MachineClass",
        "metadata": {"name": "gpu"},
        "spec": {"versions": {"nvidia": "580.1"}},
    },
)

KINDS = (
    MACHINE_KIND,
    MACHINE_CLASS_KIND,
    PACKAGE_VERSION_KIND,
    CONFIG_VERSION_KIND,
    OPERATION_KIND,
    READINESS_RULE_KIND,
)
