"""The kinds FaultRule and Playbook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet.control.kinds import FAULT_RULE, PLAYBOOK, Column, Json, Kind, Problem
from fleet.safety.schema import BY_LABELS, describe_target, one_of
from recovery.playbooks import ACTIONS, BESIDE_REINSTALL, BOOTS, OF_PEOPLE
from recovery.schema import CATEGORIES, NAME, TYPE, number_at, path_of
from recovery.types import SEVERITIES, TYPES

_REASONS: Final[Json] = {
    "type": "array",
    "items": {"type": "string", "minLength": 1, "maxLength": 128},
    "maxItems": 32,
    "x-kubernetes-list-type": "set",
    "description": "Only with one of these reasons; left out = with any.",
}
_MATCH: Final[Json] = {
    "type": "object",
    "properties": {
        "condition": {
            "type": "string",
            "maxLength": 316,
            "minLength": 1,
            "description": "A condition of the machine, whoever reports it.",
        },
        "status": {
            "type": "string",
            "enum": ["True", "False", "Unknown"],
            "description": "Its status; True by default.",
        },
        "event": {
            "type": "string",
            "maxLength": 253,
            "minLength": 3,
            "description": "Instead of a condition: the beginning of the type of an event about the machine.",
        },
        "reasons": _REASONS,
        "keepSeconds": {
            "type": "integer",
            "minimum": 0,
            "maximum": 604800,
            "description": "Of an event: how long it speaks; 0 = until a person clears the fault.",
        },
    },
}
_STEP: Final[Json] = {
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {
            "type": "string",
            "enum": list(ACTIONS),
            "description": "What is done. Reinstall wipes the disks: it needs a Drain before it in its rung, and stands there with Isolate and Drain only.",
        },
        "units": {
            "type": "array",
            "items": {"type": "string", "maxLength": 255, "pattern": r"[A-Za-z0-9_][A-Za-z0-9:_.@\\-]{0,254}"},
            "maxItems": 32,
            "description": "RestartUnits: which; left out = those that the fault names, or that differ.",
        },
        "package": {
            "type": "string",
            "maxLength": 128,
            "description": "ReinstallPackage: which; left out = those that differ.",
        },
        "clean": {
            "type": "array",
            "items": {"type": "string", "enum": ["journal", "package-cache", "images"]},
            "maxItems": 3,
            "description": "CleanDisk: what may be cleaned.",
        },
        "timeoutSeconds": {
            "type": "integer",
            "minimum": 30,
            "maximum": 7200,
            "description": "Reboot, PowerCycle: how long until the host must be back; 900 by default.",
        },
        "task": {
            "type": "string",
            "maxLength": 1024,
            "description": "Replace, AskPerson: what the person is asked to do.",
        },
    },
}
_SECONDS: Final = {"type": "integer", "minimum": 0, "maximum": 86400}


def _check_rule(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    problems = list(one_of(spec["target"], "spec.target", ("clusters", "selector", "matchAll")))
    if not spec["when"]:
        problems.append(
            Problem(
                "spec.when",
                "a rule that looks for nothing finds nothing; name a condition or an event",
                "FieldValueRequired",
            )
        )
    for part in ("when", "also", "unless"):
        for index, match in enumerate(spec.get(part, ())):
            if ("condition" in match) == ("event" in match):
                problems.append(
                    Problem(f"spec.{part}[{index}]", "say exactly one of condition and event", "FieldValueRequired")
                )
            if "event" in match and "status" in match:
                problems.append(
                    Problem(f"spec.{part}[{index}].status", "an event has no status", "FieldValueForbidden")
                )
    if spec["faultType"] not in TYPES and not spec.get("category"):
        problems.append(
            Problem(
                "spec.category",
                f"say the category of {spec['faultType']}: Fleet does not know that type",
                "FieldValueRequired",
            )
        )
    flaps = spec.get("flaps", {})
    if flaps and not (flaps.get("count") and flaps.get("withinSeconds")):
        problems.append(Problem("spec.flaps", "say both count and withinSeconds", "FieldValueRequired"))
    return problems


FAULT_RULE_KIND = Kind(
    kind="FaultRule",
    plural="faultrules",
    singular="faultrule",
    number=FAULT_RULE,
    short_names=("frule",),
    description="When what is seen of a machine counts as a fault. A new rule is on trial (Shadow): it finds, counts and does nothing.",
    spec={
        "type": "object",
        "description": "What is looked for, on which machines, and what it means.",
        "required": ["faultType", "when", "target"],
        "properties": {
            "faultType": TYPE,
            "category": {"type": "string", "enum": list(CATEGORIES)},
            "severity": {"type": "string", "enum": list(SEVERITIES)},
            "when": {"type": "array", "items": _MATCH, "maxItems": 32, "description": "Any of these speaks for the fault; each says who its source is."},
            "also": {"type": "array", "items": _MATCH, "maxItems": 32, "description": "Speaks for the fault too, as a source of its own, where something of `when` is seen; by itself it makes none."},
            "unless": {"type": "array", "items": _MATCH, "maxItems": 32, "description": "With any of these the rule says nothing: it is another fault's."},
            "holdSeconds": {**_SECONDS, "description": "How long it must be seen before it counts; 30 by default."},
            "clearSeconds": {**_SECONDS, "description": "How long it must not be seen before it is over; 30 by default."},
            "sources": {"type": "integer", "minimum": 1, "maximum": 3, "description": "How many independent sources must say so; 1 by default. Reboots and worse ask for 2 in any case."},
            "flaps": {
                "type": "object",
                "properties": {"count": {"type": "integer", "minimum": 2, "maximum": 100}, "withinSeconds": {"type": "integer", "minimum": 10, "maximum": 86400}},
                "description": "What begins that often within that time counts without holding, and is over only after as long a calm.",
            },
            "playbook": {"type": "string", "maxLength": 253, "description": "What repairs it; by default that of the type."},
            "mode": {"type": "string", "enum": ["Active", "Shadow", "Disabled"], "description": "Shadow by default."},
            "target": {
                "type": "object",
                "description": "Exactly one of clusters, selector, matchAll.",
                "properties": {
                    "clusters": {"type": "array", "items": NAME, "maxItems": 1000, "x-kubernetes-list-type": "set"},
                    "selector": BY_LABELS,
                    "matchAll": {"type": "boolean", "description": "true: every machine of this Fleet."},
                },
            },
        },
    },
    status={
        "type": "object",
        "properties": {
            "live": {"type": "integer", "description": "Faults of it that are live now."},
            "confirmed": {"type": "integer", "description": "Faults that were confirmed in the last 30 days."},
            "fleeting": {"type": "integer", "description": "Faults that went away before they counted, in the last 30 days: what a shorter hold time would have made of them."},
            "repaired": {"type": "integer", "description": "Of the confirmed ones, those that a remediation ended."},
        },
    },
    columns=(
        Column("Fault", path_of("spec", "faultType"), description="What it finds."),
        Column("Mode", lambda o, now: o["spec"].get("mode", "Shadow"), description="Active, Shadow or Disabled."),
        Column("Target", lambda o, now: describe_target(o["spec"].get("target", {})), description="On which machines."),
        Column("Live", number_at("status", "live"), "integer", "Faults that are live now."),
        Column("Confirmed", number_at("status", "confirmed"), "integer", "In the last 30 days."),
        Column("Fleeting", number_at("status", "fleeting"), "integer", "Went away before they counted."),
    ),
    selectable=("spec.faultType", "spec.mode"),
    validate=_check_rule,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "FaultRule",
        "metadata": {"name": "gpu-fell-off"},
        "spec": {
            "faultType": "GpuLost", "category": "Hardware", "severity": "error", "when": [{"condition": "GPUHealthy", "status": "False", "reasons": ["Xid79"]}],
            "holdSeconds": 60, "playbook": "hardware", "target": {"selector": {"matchLabels": {"pool": "gpu"}}},
        },
    },
)  # fmt: skip


def _check_reinstall(actions: Sequence[str], path: str) -> Sequence[Problem]:
    """The disks are wiped: nothing may run there any more, and what else a rung would repair is gone with them."""
    if "Reinstall" not in actions:
        return ()
    at = actions.index("Reinstall")
    problems = []
    if "Drain" not in actions[:at]:
        text = "Reinstall wipes the disks: the rung needs a Drain before it"
        problems.append(Problem(f"{path}[{at}].action", text, "FieldValueRequired"))
    for number, action in enumerate(actions):
        if number != at and action not in BESIDE_REINSTALL | OF_PEOPLE:
            text = (
                f"{action} has no place beside Reinstall, which puts everything there anew: give it a rung of its own"
            )
            problems.append(Problem(f"{path}[{number}].action", text, "FieldValueForbidden"))
    return problems


def _check_playbook(new: Json, old: Json | None) -> Sequence[Problem]:
    problems: list[Problem] = []
    rungs = new["spec"]["rungs"]
    if not rungs:
        problems.append(Problem("spec.rungs", "a playbook without rungs repairs nothing", "FieldValueRequired"))
    for index, rung in enumerate(rungs):
        actions = [s["action"] for s in rung["steps"]]
        if not actions:
            problems.append(Problem(f"spec.rungs[{index}].steps", "a rung needs a step", "FieldValueRequired"))
        people = [a for a in actions if a in OF_PEOPLE]
        if people and len(people) != len(actions):
            problems.append(
                Problem(f"spec.rungs[{index}].steps", f"{people[0]} is a person's: give it a rung of its own")
            )
        if people and index != len(rungs) - 1:
            problems.append(
                Problem(f"spec.rungs[{index}].steps", f"{people[0]} ends the ladder: it can only be the last rung")
            )
        problems += _check_reinstall(actions, f"spec.rungs[{index}].steps")
        for at, step in enumerate(rung["steps"]):
            if "timeoutSeconds" in step and step["action"] not in BOOTS:
                problems.append(
                    Problem(
                        f"spec.rungs[{index}].steps[{at}].timeoutSeconds",
                        f"{step['action']} boots nothing; verifySeconds says how long the rung has to help",
                    )
                )
            if step["action"] == "CleanDisk" and not step.get("clean"):
                problems.append(
                    Problem(
                        f"spec.rungs[{index}].steps[{at}].clean",
                        "say what may be cleaned: journal, package-cache, images",
                        "FieldValueRequired",
                    )
                )
    names = [r["name"] for r in rungs]
    problems += [
        Problem(f"spec.rungs[{i}].name", f"{n} is there twice", "FieldValueDuplicate")
        for i, n in enumerate(names)
        if names.index(n) != i
    ]
    return problems


PLAYBOOK_KIND = Kind(
    kind="Playbook",
    plural="playbooks",
    singular="playbook",
    number=PLAYBOOK,
    description="How a fault is repaired: rungs from the gentlest to the hardest. Each is one Operation; it is verified, and the next is tried if it did not help. A remediation that runs keeps the rungs that it began with.",
    spec={
        "type": "object",
        "description": "The ladder.",
        "required": ["rungs"],
        "properties": {
            "description": {"type": "string", "maxLength": 1024},
            "rungs": {
                "type": "array",
                "maxItems": 12,
                "items": {
                    "type": "object",
                    "required": ["name", "steps"],
                    "properties": {
                        "name": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"},
                        "steps": {"type": "array", "items": _STEP, "maxItems": 16, "description": "In their order. Evidence is collected before the first that changes the host."},
                        "verifySeconds": {"type": "integer", "minimum": 0, "maximum": 86400, "description": "How long it may take until the fault is not seen any more; 120 by default."},
                        "drain": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "description": "Options of Drain, as in an Operation."},
                    },
                },
            },
            "probationSeconds": {"type": "integer", "minimum": 0, "maximum": 604800, "description": "How long the fault must stay away before the machine opens again; 60 by default."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "running": {"type": "integer", "description": "Remediations that run by it now."},
            "succeeded": {"type": "integer", "description": "In the last 30 days."},
            "escalated": {"type": "integer", "description": "That ended with a person, in the last 30 days."},
            "cancelled": {"type": "integer"},
            "medianSeconds": {"type": "integer", "description": "Median time to repair of those that succeeded."},
        },
    },
    columns=(
        Column("Rungs", lambda o, now: ",".join(r["name"] for r in o["spec"].get("rungs", [])), description="From the gentlest to the hardest."),
        Column("Running", number_at("status", "running"), "integer", "Remediations that run by it now."),
        Column("Succeeded", number_at("status", "succeeded"), "integer", "In the last 30 days."),
        Column("Escalated", number_at("status", "escalated"), "integer", "Ended with a person."),
        Column("Median Seconds", number_at("status", "medianSeconds"), "integer", "Time to repair."),
    ),
    validate=_check_playbook,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Playbook",
        "metadata": {"name": "gpu"},
        "spec": {
            "rungs": [
                {"name": "restart-device-plugin", "steps": [{"action": "RestartUnits", "units": ["nvidia-persistenced.service"]}]},
                {"name": "reboot", "steps": [{"action": "Drain"}, {"action": "Reboot"}], "verifySeconds": 300},
                {"name": "ask", "steps": [{"action": "AskPerson", "task": "Reseat the card."}]},
            ]
        },
    },
)  # fmt: skip
