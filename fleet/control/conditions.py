"""Conditions: the truth about an object, in Kubernetes' form. One condition has one owner; missing means Unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from fleet.control.times import format_time

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. `since` is None until it was stored: record keeps the old time where the status did not change."""

    type: str
    status: Status
    reason: str
    message: str = ""
    since: datetime | None = None

    def json(self, observed_generation: int | None = None) -> dict[str, Any]:
        """As it stands in `status.conditions[]`."""
        out: dict[str, Any] = {"type": self.type, "status": self.status, "reason": self.reason, "message": self.message}
        if self.since is not None:
            out["lastTransitionTime"] = format_time(self.since)
        if observed_generation is not None:
            out["observedGeneration"] = observed_generation
        return out

    def kept(self, status: dict[str, Any], observed_generation: int, now: datetime) -> dict[str, Any]:
        """As it is stored in place of the one in `status`: its time moves only when its status does."""
        old: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == self.type), {})
        since = old.get("lastTransitionTime") if old.get("status") == self.status else None
        return self.json(observed_generation) | {"lastTransitionTime": since or format_time(now)}


def conditions_schema(description: str, *, reported: bool = False) -> dict[str, Any]:
    """`status.conditions` of a kind, as an OpenAPI schema. `reported`: others than Fleet write some of them."""
    source = {
        "type": "string",
        "description": "The reporter that said so; without one it is Fleet's own, or the node's.",
    }
    return {
        "type": "array",
        "description": description,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status"],
            "properties": {
                "type": {"type": "string"},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "description": "One CamelCase word."},
                "message": {"type": "string", "description": "A sentence for people."},
                **({"source": source} if reported else {}),
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer"},
            },
        },
    }


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type, or None (which means Unknown)."""
    return next((c for c in conditions if c.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    """True only when the condition is there and True: Unknown is not True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"
