"""`spec.drain` of an Operation: what may be lost, how long it may take, which pods are left alone."""

from __future__ import annotations

from typing import Final

from fleet.control.kinds import Json, Problem
from machines.drain import HAND_OFF_SECONDS, TIMEOUT_SECONDS

DAY_SECONDS: Final = 86_400
DRAIN: Final[Json] = {
    "type": "object",
    "description": "How the node is drained, where the Operation drains it.",
    "properties": {
        "deleteEmptyDirData": {
            "type": "boolean",
            "description": "Pods with data in emptyDir may be evicted: it is lost. Otherwise they block.",
        },
        "evictUnmanaged": {
            "type": "boolean",
            "description": "Pods without a controller may be evicted: nobody makes them anew. Otherwise they block.",
        },
        "timeoutSeconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": DAY_SECONDS,
            "description": f"How long the whole drain may take; {TIMEOUT_SECONDS} by default.",
        },
        "handOffSeconds": {
            "type": "integer",
            "minimum": 0,
            "maximum": DAY_SECONDS,
            "description": f"How long owners have to move their pods before they are evicted; {HAND_OFF_SECONDS} by default, 0 asks no owner.",
        },
        "rules": {
            "type": "array",
            "maxItems": 32,
            "description": "Stronger than what pods say of themselves; the first that fits a pod holds.",
            "items": {
                "type": "object",
                "required": ["drain"],
                "properties": {
                    "namespace": {"type": "string", "maxLength": 63, "description": "Pods of this namespace."},
                    "labels": {
                        "type": "object",
                        "additionalProperties": {"type": "string", "maxLength": 63},
                        "maxProperties": 16,
                        "description": "Pods with all of these labels.",
                    },
                    "drain": {
                        "type": "string",
                        "pattern": "skip|wait|-?[0-9]{1,6}",
                        "description": "skip: leave them; wait: until they complete by themselves; a number in quotes: their order, lowest first.",
                    },
                },
            },
        },
    },
}


def drain_problems(spec: Json) -> list[Problem]:
    """A rule that names nothing would be one for all pods."""
    rules = (spec.get("drain") or {}).get("rules") or []
    why = "must name a namespace, labels or both"
    return [
        Problem(f"spec.drain.rules[{at}]", why, "FieldValueRequired")
        for at, rule in enumerate(rules)
        if not rule.get("namespace") and not rule.get("labels")
    ]
