"""The kind SafetyPolicy: budgets, breakers, rates, windows and reserves of a scope."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from zoneinfo import available_timezones

from fleet.control.kinds import SAFETY_POLICY, Column, Json, Kind, Problem
from fleet.safety.schema import CONDITIONS, describe_target, one_of

POD_SUCCESS: Final[Json] = {
    "type": "object",
    "description": "When too few pods start in a cluster, its breaker opens too: under 80 % of at least 20 pods tried within 10 minutes. Only failures of nodes and of the control plane count, on at least two nodes. Said of a cluster, or with matchAll of those without a word of their own.",
    "properties": {
        "percent": {"type": "number", "minimum": 0, "maximum": 100, "description": "So many must start."},
        "atLeast": {"type": "integer", "minimum": 2, "maximum": 10000, "description": "With fewer pods tried it stays closed."},
        "windowSeconds": {"type": "integer", "minimum": 120, "maximum": 43200, "description": "Pods are counted so long. One that fails counts after a minute, if it has not started by then."},
        "disabled": {"type": "boolean", "description": "true: pods open no breaker here. Only if every policy with podSuccess for this scope says so."},
    },
}  # fmt: skip
SAYS: Final = ("maxUnavailable", "breaker", "rates", "windows", "domain", "minSchedulable")
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
BREAKER: Final[Json] = {
    "type": "object",
    "description": "When the breaker of a cluster, idc, rack or of the fleet opens. Without it: at 20 % of the machines in service, at least 2 and at most 50, within 10 minutes; the fleet's at 200 machines or 3 open clusters. Of several policies the strictest counts.",
    "properties": {
        "percent": {"type": "number", "minimum": 0.1, "maximum": 100, "description": "Of machines in service; at least 2 machines."},
        "count": {"type": "integer", "minimum": 1, "maximum": 100000, "description": "At most so many, whatever percent says."},
        "windowSeconds": {"type": "integer", "minimum": 60, "maximum": 43200, "description": "Machines are counted so long, and an open breaker cools down so long after the last."},
        "disabled": {"type": "boolean", "description": "true: no breaker here. Only if every policy with a breaker for this scope says so."},
        "podSuccess": POD_SUCCESS,
    },
}  # fmt: skip
RATES: Final[Json] = {
    "type": "array",
    "maxItems": 20,
    "description": "How often a verb may begin. Without a rate for it and that scope: Reboot 100, Reinstall 20, Wipe 10 a cluster within 10 minutes, and five times as many in the fleet.",
    "items": {
        "type": "object",
        "required": ["verb", "count", "windowSeconds"],
        "properties": {
            "verb": {"type": "string", "minLength": 1, "maxLength": 63, "description": "Reboot, Drain, Reinstall ...; upper and lower case are one."},
            "count": {"type": "integer", "minimum": 0, "maximum": 1000000},
            "windowSeconds": {"type": "integer", "minimum": 1, "maximum": 86400},
        },
    },
}  # fmt: skip
WINDOWS: Final[Json] = {
    "type": "array",
    "minItems": 1,
    "maxItems": 20,
    "description": "When planned changes may begin; outside of all of them none does. Repairs are not bound, and what began goes on.",
    "items": {
        "type": "object",
        "required": ["start", "durationMinutes"],
        "properties": {
            "days": {"type": "array", "items": {"type": "string", "enum": list(DAYS)}, "x-kubernetes-list-type": "set", "description": "On which days it begins; without, on each."},
            "start": {"type": "string", "maxLength": 5, "pattern": "([01][0-9]|2[0-3]):[0-5][0-9]", "x-fleet-pattern-means": "must be a time of day such as 22:30"},
            "durationMinutes": {"type": "integer", "minimum": 1, "maximum": 1440},
            "timeZone": {"type": "string", "maxLength": 64, "description": "As Europe/Berlin; without, UTC."},
            "jitterMinutes": {"type": "integer", "minimum": 0, "maximum": 720, "description": "Each place begins up to so much later, always the same for it."},
        },
    },
}  # fmt: skip


def _check_policy(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    problems = one_of(spec["scope"], "spec.scope", ("cluster", "idc", "rack", "hardwareModel", "matchAll"))
    if not any(key in spec for key in SAYS):
        problems.append(Problem("spec", f"say at least one of {', '.join(SAYS)}", "FieldValueRequired"))
    if "maxUnavailable" in spec and not spec["maxUnavailable"]:
        problems.append(
            Problem("spec.maxUnavailable", "say count, percent or both; the smaller counts", "FieldValueRequired")
        )
    if "breaker" in spec and not spec["breaker"]:
        problems.append(
            Problem(
                "spec.breaker", "say percent, count, windowSeconds, podSuccess or disabled: true", "FieldValueRequired"
            )
        )
    if "breaker" in spec and "hardwareModel" in spec["scope"]:
        problems.append(
            Problem("spec.breaker", "a breaker is of a cluster, an idc, a rack or of everything", "FieldValueForbidden")
        )
    problems += _check_pods(spec)
    if "domain" in spec and not {"cluster", "matchAll"} & set(spec["scope"]):
        problems.append(
            Problem("spec.domain", "is said of a cluster, or of everything by matchAll: true", "FieldValueForbidden")
        )
    for index, window in enumerate(spec.get("windows", [])):
        problems += _check_window(f"spec.windows[{index}]", window)
    return problems


def _check_pods(spec: Json) -> Sequence[Problem]:
    said = spec.get("breaker", {}).get("podSuccess")
    path = "spec.breaker.podSuccess"
    if said is None:
        return []
    if not said:
        return [Problem(path, "say percent, atLeast, windowSeconds or disabled: true", "FieldValueRequired")]
    if not {"cluster", "matchAll"} & set(spec["scope"]):
        return [Problem(path, "is said of a cluster, or of everything by matchAll: true", "FieldValueForbidden")]
    return []


def _check_window(path: str, window: Json) -> Sequence[Problem]:
    zone = window.get("timeZone", "UTC")
    problems = []
    if zone not in available_timezones():
        problems.append(Problem(f"{path}.timeZone", f"{zone} is no time zone; write one such as Europe/Berlin"))
    lasts = window["durationMinutes"]
    if window.get("jitterMinutes", 0) >= lasts:
        problems.append(Problem(f"{path}.jitterMinutes", f"must be less than the {lasts} minutes that the window lasts, or it may never be open"))  # fmt: skip
    return problems


def _warn_policy(obj: Json) -> Sequence[str]:
    zero = [key for key, value in obj["spec"].get("maxUnavailable", {}).items() if value == 0]
    warnings = [
        f"spec.maxUnavailable.{key}: 0 means that no change that takes a machine away is ever allowed here"
        for key in zero
    ]
    if obj["spec"].get("breaker", {}).get("podSuccess", {}).get("disabled"):
        warnings.append("spec.breaker.podSuccess.disabled: true means that pods that do not start open no breaker here")
    if obj["spec"].get("breaker", {}).get("disabled"):
        warnings.append("spec.breaker.disabled: true means that nothing stops a storm of repairs here but the budgets")
    return warnings


def _limit(obj: Json, now: datetime) -> str:
    limits = obj["spec"].get("maxUnavailable", {})
    parts = [f"{limits['percent']:g} %"] if "percent" in limits else []
    return " and ".join([*parts, str(limits["count"])] if "count" in limits else parts)


SAFETY_POLICY_KIND = Kind(
    kind="SafetyPolicy",
    plural="safetypolicies",
    singular="safetypolicy",
    number=SAFETY_POLICY,
    description="What may be done to the machines of a scope at a time. Without one: 3 % of a cluster may be unavailable, at most 600, at least 1, and its breaker opens at 20 % or 50 machines taken by faults within 10 minutes.",
    spec={
        "type": "object",
        "description": "A scope and what holds in it. Of several policies for one scope the strictest counts.",
        "required": ["scope"],
        "properties": {
            "scope": {
                "type": "object",
                "description": "Exactly one of these.",
                "properties": {
                    "cluster": {"type": "string", "minLength": 1, "maxLength": 253},
                    "idc": {"type": "string", "minLength": 1, "maxLength": 253},
                    "rack": {"type": "string", "minLength": 1, "maxLength": 253, "description": "As idc/rack: racks of two idcs may share a name."},
                    "hardwareModel": {"type": "string", "minLength": 1, "maxLength": 253},
                    "matchAll": {"type": "boolean", "description": "true: the whole fleet as one."},
                },
            },
            "maxUnavailable": {
                "type": "object",
                "description": "The smaller of the two; at least 1 unless one is 0, which means none.",
                "properties": {
                    "count": {"type": "integer", "minimum": 0, "maximum": 1000000},
                    "percent": {"type": "number", "minimum": 0, "maximum": 100},
                },
            },
            "breaker": BREAKER,
            "rates": RATES,
            "windows": WINDOWS,
            "domain": {"type": "string", "enum": ["rack", "idc", "none"], "description": "Planned changes of a cluster go on in one rack at a time, unless this says idc or none. For a cluster, or with matchAll for those without a word of their own."},
            "minSchedulable": {"type": "integer", "minimum": 1, "maximum": 1000000, "description": "So many machines of the scope stay available, whatever the budget says and whoever asks."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "limit": {"type": "integer", "description": "How many machines that is now."},
            "total": {"type": "integer", "description": "Machines in service in its scope."},
            "unavailable": {"type": "integer", "description": "How many of them are unavailable now."},
            "breaker": {
                "type": "object",
                "description": "The breaker of its scope.",
                "properties": {
                    "state": {"type": "string", "enum": ["closed", "open", "half-open", "off"]},
                    "threshold": {"type": "integer", "description": "Machines within the window that open it."},
                    "count": {"type": "integer", "description": "Counted now."},
                    "since": {"type": "string", "format": "date-time"},
                    "message": {"type": "string"},
                },
            },
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Scope", lambda o, now: describe_target(o["spec"].get("scope", {})), description="Where it holds."),
        Column("Max Unavailable", _limit, description="Percent and count."),
        Column("Limit", lambda o, now: o.get("status", {}).get("limit"), type="integer", description="In machines, now."),
        Column("Unavailable", lambda o, now: o.get("status", {}).get("unavailable"), type="integer", description="Used now."),
        Column("Breaker", lambda o, now: o.get("status", {}).get("breaker", {}).get("state", ""), description="Of its scope: closed, open, half-open or off."),
    ),
    validate=_check_policy,
    warn=_warn_policy,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "SafetyPolicy",
        "metadata": {"name": "payments"},
        "spec": {"scope": {"cluster": "payments"}, "maxUnavailable": {"percent": 1, "count": 20}},
    },
)  # fmt: skip
