"""The kind Operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clusters.schema import CONDITIONS
from fleet.control.kinds import OPERATION, Column, Json, Kind, Problem
from machines.schema_drain import DRAIN, drain_problems
from machines.schema_versions import UNIT_PATTERN

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
            "batch": {
                "type": "string",
                "maxLength": 253,
                "description": "Set by Fleet: the OperationBatch that it is of.",
            },
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
