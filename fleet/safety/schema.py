"""The kind Hold, and what it shares with the other kinds of risk prevention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.control.conditions import conditions_schema
from fleet.control.kinds import HOLD, Column, Json, Kind, Problem
from fleet.control.times import NEEDS_ZONE, parse_time

LONGEST_HOLD: Final = timedelta(days=30)
BY_LABELS: Final[Json] = {
    "type": "object",
    "description": "Machines by their labels.",
    "properties": {
        "matchLabels": {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 63},
            "maxProperties": 20,
            "description": "All of these must be on the machine; empty is refused.",
        }
    },
}
TIME_PATTERN: Final = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})"
_TIME: Final[Json] = {
    "type": "string",
    "format": "date-time",
    "maxLength": 40,
    "pattern": TIME_PATTERN,
    "x-fleet-pattern-means": NEEDS_ZONE,
}
CONDITIONS: Final[Json] = conditions_schema("Effective: whether it guards anything now.")


def text_of(*path: str) -> Any:
    """A column that shows the text at that path."""

    def value(obj: Json, now: datetime) -> str:
        found: Any = obj
        for part in path:
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return str(found) if found not in ({}, None) else ""

    return value


def describe_target(target: Json) -> str:
    """A target or scope in a few words."""
    if target.get("matchAll"):
        return "everything"
    labels = target.get("selector", {}).get("matchLabels", {})
    if labels:
        return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    if target.get("clusters"):
        return ",".join(f"cluster/{name}" for name in target["clusters"])
    return "".join(f"{key}/{value}" for key, value in target.items() if isinstance(value, str))


def one_of(target: Json, path: str, choices: Sequence[str]) -> list[Problem]:
    """Exactly one way of saying what is meant, and none that could mean everything by mistake."""
    given = [key for key in choices if key in target]
    if len(given) != 1:
        return [
            Problem(
                path,
                f"say exactly one of {', '.join(choices)}; everything is written matchAll: true",
                "FieldValueRequired",
            )
        ]
    if target.get("matchAll") is False:
        return [Problem(f"{path}.matchAll", "matchAll is true or absent")]
    if given == ["clusters"] and not target["clusters"]:
        return [
            Problem(
                f"{path}.clusters",
                "an empty list selects nothing; everything is written matchAll: true",
                "FieldValueRequired",
            )
        ]
    if given == ["selector"] and not target["selector"].get("matchLabels"):
        return [
            Problem(
                f"{path}.selector.matchLabels",
                "an empty selector selects nothing; everything is written matchAll: true",
                "FieldValueRequired",
            )
        ]
    return []


def _check_hold(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new["spec"]
    problems = one_of(spec["target"], "spec.target", ("machine", "cluster", "selector", "matchAll"))
    if old is not None and spec["target"] != old["spec"].get("target"):
        problems.append(
            Problem("spec.target", "what a hold covers never changes; make another hold", "FieldValueForbidden")
        )
    if old is None or spec["until"] != old["spec"].get("until"):
        problems += _check_until(spec["until"])
    if not spec["reason"].strip():
        problems.append(Problem("spec.reason", "say why, for those who find the machine held", "FieldValueRequired"))
    return problems


def _check_until(text: str) -> list[Problem]:
    until, now = parse_time(text), datetime.now(UTC)
    if until is None:
        return [Problem("spec.until", f'"{text}": there is no such time')]
    if until <= now:
        return [Problem("spec.until", f"{text} is past")]
    if until > now + LONGEST_HOLD + timedelta(minutes=5):  # clocks differ a little
        return [Problem("spec.until", f"{text} is more than {LONGEST_HOLD.days} days away, the longest a hold lasts")]
    return []


HOLD_KIND = Kind(
    kind="Hold",
    plural="holds",
    singular="hold",
    number=HOLD,
    description="Leave this alone: for this reason, until then. What is held is still observed, and opened if Fleet had closed it; nothing else starts on it.",
    spec={
        "type": "object",
        "description": "What is held, why, and how long.",
        "required": ["target", "reason", "until"],
        "properties": {
            "target": {
                "type": "object",
                "description": "Exactly one of machine, cluster, selector, matchAll. Never changes.",
                "properties": {
                    "machine": {"type": "string", "minLength": 1, "maxLength": 253, "description": "Name of one machine."},
                    "cluster": {"type": "string", "minLength": 1, "maxLength": 253, "description": "Name of a cluster: all of its machines."},
                    "selector": BY_LABELS,
                    "matchAll": {"type": "boolean", "description": "true: every machine of this Fleet."},
                },
            },
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, for those who find it."},
            "owner": {"type": "string", "maxLength": 253, "description": "Who to ask; by default who made it."},
            "until": {**_TIME, "description": "When it ends by itself; at most 30 days away."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {"type": "string", "enum": ["Effective", "NoMatch", "Overdue"], "description": "Overdue: its time is over, it holds nothing any more and should be removed."},
            "machines": {"type": "integer", "description": "How many machines it covers."},
            "overdue": {"type": "boolean"},
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Target", lambda o, now: describe_target(o["spec"].get("target", {})), description="What is held."),
        Column("State", text_of("status", "phase"), description="Effective, NoMatch or Overdue."),
        Column("Machines", lambda o, now: o.get("status", {}).get("machines"), type="integer", description="How many machines it covers."),
        Column("Owner", text_of("spec", "owner"), description="Who to ask."),
        Column("Until", text_of("spec", "until"), description="When it ends."),
        Column("Reason", text_of("spec", "reason"), description="Why.", priority=1),
    ),
    selectable=("spec.owner", "spec.target.cluster", "spec.target.machine", "status.phase"),
    cluster_field="spec.target.cluster",
    writers="operator",
    validate=_check_hold,
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Hold",
        "metadata": {"name": "disk-swap-rack-7"},
        "spec": {
            "target": {"selector": {"matchLabels": {"rack": "r7"}}},
            "reason": "disks are swapped in rack 7",
            "owner": "olga",
            "until": "2026-02-01T18:00:00Z",
        },
    },
)  # fmt: skip
