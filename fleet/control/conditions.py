"""Conditions: the truth about an object, in Kubernetes' form. One condition has one owner; missing means Unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

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
            out["lastTransitionTime"] = self.since.strftime("%Y-%m-%dT%H:%M:%SZ")
        if observed_generation is not None:
            out["observedGeneration"] = observed_generation
        return out


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type, or None (which means Unknown)."""
    return next((c for c in conditions if c.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    """True only when the condition is there and True: Unknown is not True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"
