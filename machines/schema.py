"""The kinds of the Machine-Operator: Machine, MachineClass, MachinePackageVersion, MachineConfigVersion, Operation."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clusters.schema import CONDITIONS, DRIVER, NAME_PATTERN, VARIABLES, VERSIONS, condition, quote_versions
from clusters.schema_gates import GATES
from fleet.control.kinds import (
    MACHINE,
    MACHINE_CLASS,
    OPERATION,
    Column,
    Json,
    Kind,
    Problem,
)
from machines.schema_bmc import BMC, bmc_problems
from machines.schema_drain import DRAIN, drain_problems
from machines.schema_rules import READINESS_RULE_KIND
from machines.schema_versions import (
    CONFIG_VERSION_KIND,
    PACKAGE_VERSION_KIND,
    UNIT_PATTERN,
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

VERBS = ("Reconcile", "Restart", "Reboot", "RunAgain", "Drain", "Cancel")
OWN_VERBS = ("Update", "Decommission", "Repair")  # of rollouts, deletions and remediations; nobody else asks for them


def _check_operation(new: Json, old: Json | None) -> Sequence[Problem]:
    spec: dict[str, Any] = new.get("spec", {})
    if spec.get("verb") == "Restart" and not spec.get("units"):
        return [Problem("spec.units", "Restart needs the units that it restarts", "FieldValueRequired")]
    if spec.get("verb") == "RunAgain" and not spec.get("operation"):
        return [Problem("spec.operation", "RunAgain needs the Operation that it runs again", "FieldValueRequired")]
    return drain_problems(spec)


OPERATION_KIND = Kind(
    kind="Operation",
    plural="operations",
    singular="operation",
    number=OPERATION,
    short_names=("op",),
    description="The intent: what is done to one machine, for whom, in which steps. People create them; so do rollouts, recovery and drift repair.",
    cluster_field="spec.clusterName",
    writers="operator",
    immutable=True,
    spec={
        "type": "object",
        "description": "What shall be done.",
        "required": ["machine", "verb"],
        "properties": {
            "machine": {"type": "string", "maxLength": 253, "description": "Name of the Machine."},
            "clusterName": {"type": "string", "maxLength": 253, "description": "Set by Fleet: the machine's cluster."},
            "verb": {
                "type": "string",
                "enum": [*VERBS, *OWN_VERBS],
                "description": "Reconcile, Restart (units), Reboot, RunAgain (a failed Operation), Drain, Cancel (the open Operation).",
            },
            "units": {
                "type": "array",
                "items": {"type": "string", "maxLength": 255, "pattern": UNIT_PATTERN},
                "maxItems": 32,
                "description": "Restart: which units.",
            },
            "operation": {"type": "string", "maxLength": 253, "description": "RunAgain, Cancel: which Operation."},
            "drain": DRAIN,
            "reason": {"type": "string", "maxLength": 1024, "description": "Why, for whoever reads it later."},
            "owner": {"type": "string", "maxLength": 253, "description": "Set by Fleet: who wants it."},
            "cancelledBy": {"type": "string", "maxLength": 253, "description": "Set by Fleet: who cancelled it."},
            "remediation": {
                "type": "string",
                "maxLength": 253,
                "description": "Set by Fleet: the Remediation that it is a rung of.",
            },
            "steps": {
                "type": "array",
                "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "description": "Set by Fleet: what a rung of a playbook does.",
            },
            "again": {
                "type": "object",
                "description": "Set by Fleet: what RunAgain runs.",
                "properties": {"verb": {"type": "string"}, "units": {"type": "array", "items": {"type": "string"}}},
            },
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {"type": "string", "description": "Pending, Running, Succeeded, Failed, Cancelled."},
            "disruption": {"type": "string"},
            "message": {"type": "string"},
            "permit": {"type": "string"},
            "bootIdBefore": {"type": "string"},
            "startTime": {"type": "string"},
            "endTime": {"type": "string"},
            "steps": {
                "type": "array",
                "description": "Steps in order; True = done, False = failed, Unknown = not yet.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "x-kubernetes-preserve-unknown-fields": True,
                    "properties": {
                        "name": {"type": "string"},
                        "status": {"type": "string"},
                        "reason": {"type": "string"},
                        "message": {"type": "string"},
                    },
                },
            },
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Machine", lambda o, now: o["spec"].get("machine", ""), description="Its machine."),
        Column("Verb", lambda o, now: o["spec"].get("verb", ""), description="What is done."),
        Column("Phase", lambda o, now: o.get("status", {}).get("phase", "Pending"), description="How far it is."),
        Column("Owner", lambda o, now: o["spec"].get("owner", ""), description="Who wants it."),
        Column(
            "Message",
            lambda o, now: o.get("status", {}).get("message", ""),
            priority=1,
            description="What it waits for.",
        ),
    ),
    selectable=("spec.machine", "spec.clusterName", "status.phase"),
    validate=_check_operation,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Operation",
        "metadata": {"generateName": "reboot-"},
        "spec": {"machine": "iad1-r1-u07", "verb": "Reboot", "reason": "new kernel"},
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
