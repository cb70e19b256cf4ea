"""The kinds Fault and Remediation, and what the kinds of recovery have in common."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from fleet.control.kinds import FAULT, REMEDIATION, Column, Json, Kind, Problem
from recovery.types import LIVE, RESOLVED, SEVERITIES, TYPES

CATEGORIES: Final = ("Hardware", "Resource", "Component")
NAME: Final[Json] = {"type": "string", "minLength": 1, "maxLength": 253}
TYPE: Final[Json] = {
    "type": "string",
    "maxLength": 64,
    "pattern": r"[A-Z][A-Za-z0-9]{1,63}",
    "x-fleet-pattern-means": "must be one CamelCase word such as DiskFailure",
    "description": "One of " + ", ".join(TYPES) + ", or a word of your own.",
}
_CONDITIONLESS: Final[Json] = {
    "phase": {"type": "string"},
    "reason": {"type": "string"},
    "message": {"type": "string", "description": "A sentence for people."},
}


def path_of(*names: str) -> Any:
    """A column's value: the text at that path, or nothing."""

    def value(obj: Json, now: datetime) -> str:
        found: Any = obj
        for name in names:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return "" if found in ({}, None) else str(found)

    return value


def number_at(*names: str) -> Any:
    """A column's value: the number at that path, or nothing."""

    def value(obj: Json, now: datetime) -> int | None:
        found = path_of(*names)(obj, now)
        return int(found) if found else None

    return value


def _check_fault(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new.get("spec", {})
    if spec.get("type") not in TYPES and not spec.get("category") and old is None:
        return [
            Problem(
                "spec.category",
                f"say the category of {spec.get('type')}: Fleet does not know that type",
                "FieldValueRequired",
            )
        ]
    return ()


FAULT_KIND = Kind(
    kind="Fault",
    plural="faults",
    singular="fault",
    number=FAULT,
    description="Something that is wrong with one machine. Rules find them; people and tools may declare one. Open: seen, its time still runs; Suspected: a second source is waited for; Confirmed: its repair may begin.",
    cluster_field="spec.clusterName",
    writers="operator",
    immutable=True,
    spec={
        "type": "object",
        "description": "What is wrong, with which machine.",
        "required": ["machine", "type"],
        "properties": {
            "machine": {**NAME, "description": "Name of the Machine."},
            "clusterName": {"type": "string", "maxLength": 253, "description": "Set by Fleet: the machine's cluster."},
            "type": TYPE,
            "category": {"type": "string", "enum": list(CATEGORIES), "description": "By default that of the type."},
            "severity": {"type": "string", "enum": list(SEVERITIES), "description": "By default that of the type."},
            "playbook": {"type": "string", "maxLength": 253, "description": "What repairs it; by default that of the type."},
            "message": {"type": "string", "maxLength": 1024, "description": "What was seen, for whoever reads it."},
            "rule": {"type": "string", "maxLength": 253, "description": "Set by Fleet: the rule that found it."},
            "declaredBy": {"type": "string", "maxLength": 253, "description": "Set by Fleet: who declared it."},
        },
    },
    status={
        "type": "object",
        "properties": {
            **_CONDITIONLESS,
            "phase": {"type": "string", "enum": [*LIVE, RESOLVED]},
            "shadow": {"type": "boolean", "description": "Found by a rule on trial: nothing is done."},
            "count": {"type": "integer", "description": "How often it began."},
            "firstSeenTime": {"type": "string", "format": "date-time"},
            "lastSeenTime": {"type": "string", "format": "date-time"},
            "confirmedTime": {"type": "string", "format": "date-time"},
            "resolvedTime": {"type": "string", "format": "date-time"},
            "sources": {"type": "array", "items": {"type": "string"}, "description": "Who says so, independently of each other."},
            "evidence": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "description": "What speaks for it."},
            "remediation": {"type": "string", "description": "The Remediation that works on it, or did."},
            "ticket": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "description": "Of a part to be replaced: id, state (Posted, or why not yet), message."},
            "repair": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "description": "Why it is not repaired now: reason, message, since."},
        },
    },
    columns=(
        Column("Machine", path_of("spec", "machine"), description="Its machine."),
        Column("Type", path_of("spec", "type"), description="What is wrong."),
        Column("Phase", path_of("status", "phase"), description="How far it is."),
        Column("Severity", path_of("spec", "severity"), description="normal, warning or error."),
        Column("Count", number_at("status", "count"), "integer", "How often it began."),
        Column("Sources", lambda o, now: ",".join(o.get("status", {}).get("sources", [])), description="Who says so."),
        Column("Message", path_of("status", "message"), priority=1, description="What is seen."),
    ),
    selectable=("spec.machine", "spec.clusterName", "spec.type", "spec.rule", "status.phase"),
    validate=_check_fault,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Fault",
        "metadata": {"generateName": "iad1-r1-u07-"},
        "spec": {"machine": "iad1-r1-u07", "type": "NicFailure", "message": "CRC errors on both ports since noon"},
    },
)  # fmt: skip


def _check_remediation(new: Json, old: Json | None) -> Sequence[Problem]:
    if old is not None and old["spec"].get("cancelledBy") and not new["spec"].get("cancelled"):
        return [
            Problem(
                "spec.cancelled",
                "what was cancelled is not begun again; a new remediation follows if the fault is confirmed anew",
                "FieldValueForbidden",
            )
        ]
    return ()


REMEDIATION_KIND = Kind(
    kind="Remediation",
    plural="remediations",
    singular="remediation",
    number=REMEDIATION,
    short_names=("rem",),
    description="One repair of one machine. Fleet makes them; a person may cancel one: spec.cancelled true ends it before the next step.",
    cluster_field="spec.clusterName",
    writers="operator",
    spec={
        "type": "object",
        "description": "What is repaired, by which playbook.",
        "properties": {
            "machine": {"type": "string", "maxLength": 253},
            "clusterName": {"type": "string", "maxLength": 253},
            "fault": {"type": "string", "maxLength": 253},
            "playbook": {"type": "string", "maxLength": 253},
            "ladder": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "description": "The playbook's rungs as they were when this began."},
            "cancelled": {"type": "boolean", "description": "A person's word: true ends it before the next step, and leaves the machine to people."},
            "cancelledBy": {"type": "string", "maxLength": 253, "description": "Set by Fleet."},
        },
    },
    status={
        "type": "object",
        "properties": {
            **_CONDITIONLESS,
            "rung": {"type": "integer", "description": "The present rung, from 1."},
            "rungs": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "description": "What was tried: name, operation, phase, outcome."},
            "startTime": {"type": "string", "format": "date-time"},
            "endTime": {"type": "string", "format": "date-time"},
        },
    },
    columns=(
        Column("Machine", path_of("spec", "machine"), description="Its machine."),
        Column("Fault", path_of("spec", "fault"), description="What it repairs."),
        Column("Playbook", path_of("spec", "playbook"), description="How."),
        Column("Phase", path_of("status", "phase"), description="How far it is."),
        Column("Rung", number_at("status", "rung"), "integer", "The present rung."),
        Column("Message", path_of("status", "message"), priority=1, description="What it does or waits for."),
    ),
    selectable=("spec.machine", "spec.clusterName", "spec.fault", "spec.playbook", "status.phase"),
    validate=_check_remediation,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Remediation",
        "metadata": {"name": "iad1-r1-u07-12"},
        "spec": {"machine": "iad1-r1-u07", "fault": "iad1-r1-u07-componentcrash-7", "playbook": "component"},
    },
)  # fmt: skip
