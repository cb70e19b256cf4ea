"""The kind ReadinessRule."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clusters.schema import CONDITIONS, condition
from clusters.schema_gates import GATES
from fleet.control.kinds import READINESS_RULE, Column, Json, Kind, Problem
from fleet.safety.schema import BY_LABELS, describe_target, one_of
from machines.gates import CONTINUOUS, REQUIRE_TRUE
from machines.rules import NOT_GATES

_GATE: Json = GATES["items"]["properties"]
_WAYS = ("clusters", "selector", "matchAll")


def _check_rule(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    problems = one_of(spec["target"], "spec.target", _WAYS)
    why = NOT_GATES.get(spec["conditionType"])
    if why:
        problems.append(
            Problem("spec.conditionType", f"{spec['conditionType']} cannot be a gate: {why}", "FieldValueForbidden")
        )
    for field in ("target", "conditionType"):
        if old is not None and spec[field] != old["spec"].get(field):
            text = "what a rule asks of whom never changes; make another rule"
            problems.append(Problem(f"spec.{field}", text, "FieldValueForbidden"))
    return problems


def _count(name: str) -> Any:
    def value(obj: Json, now: datetime) -> int | None:
        found: int | None = obj.get("status", {}).get(name)
        return found

    return value


READINESS_RULE_KIND = Kind(
    kind="ReadinessRule",
    plural="readinessrules",
    singular="readinessrule",
    number=READINESS_RULE,
    short_names=("rrule",),
    description="A readiness gate for many machines: what must be true of each before it takes workloads. A machine without an answer stays closed, and an open one stays open.",
    spec={
        "type": "object",
        "description": "What is asked, of which machines.",
        "required": ["conditionType", "target"],
        "properties": {
            "conditionType": {**_GATE["conditionType"], "description": "Condition of the machine that answers. Never changes."},
            "polarity": _GATE["polarity"],
            "mode": _GATE["mode"],
            "target": {
                "type": "object",
                "description": "Exactly one of clusters, selector, matchAll. Never changes.",
                "properties": {
                    "clusters": {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1, "maxLength": 253},
                        "maxItems": 1000,
                        "x-kubernetes-list-type": "set",
                        "description": "Names of clusters: all of their machines; empty is refused.",
                    },
                    "selector": BY_LABELS,
                    "matchAll": {"type": "boolean", "description": "true: every machine of this Fleet."},
                },
            },
            "ttlSeconds": {
                "type": "integer",
                "minimum": 30,
                "maximum": 604800,
                "description": "A report of the condition older than this becomes Unknown on these machines. Counts for reporters; off by default.",
            },
            "dryRun": {"type": "boolean", "description": "Count only: closes nothing and holds nothing closed."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer"},
            "machines": {"type": "integer", "description": "How many machines it covers."},
            "held": {"type": "integer", "description": "Machines whose condition answers no. In a dry run: that it would hold."},
            "released": {"type": "integer", "description": "Machines whose condition answers yes, or that a rule for the bootstrap does not ask any more."},
            "unknown": {"type": "integer", "description": "Machines of which nobody knows: they stay as they are, closed or open."},
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Condition", lambda o, now: o["spec"].get("conditionType", ""), description="What answers."),
        Column("Polarity", lambda o, now: o["spec"].get("polarity", REQUIRE_TRUE), description="RequireTrue or ForbidTrue."),
        Column("Mode", lambda o, now: o["spec"].get("mode", CONTINUOUS), description="Continuous or BootstrapOnly."),
        Column("Target", lambda o, now: describe_target(o["spec"].get("target", {})), description="Which machines."),
        Column("Held", _count("held"), "integer", "Machines that it holds closed."),
        Column("Released", _count("released"), "integer", "Machines that may open."),
        Column("Unknown", _count("unknown"), "integer", "Machines of which nobody knows."),
        Column("Effective", lambda o, now: condition(o, "Effective"), description="Whether it guards anything."),
        Column("Dry Run", lambda o, now: str(bool(o["spec"].get("dryRun"))).lower(), description="Counts only.", priority=1),
    ),
    selectable=("spec.conditionType",),
    validate=_check_rule,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "ReadinessRule",
        "metadata": {"name": "gpu-healthy"},
        "spec": {
            "conditionType": "GPUHealthy",
            "target": {"selector": {"matchLabels": {"pool": "gpu"}}},
            "mode": "Continuous",
            "dryRun": True,
        },
    },
)  # fmt: skip
