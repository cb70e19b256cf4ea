"""What a pass tells about its machine: conditions of interest whose status changed. Pure."""

from __future__ import annotations

from typing import Final

from fleet.control.conditions import Condition, find
from machines.rows import NewEvent, Row

TOLD: Final = ("Reachable", "Drifted", "Stalled", "RemovalHeld", "Preflight", "Schedulable")


def news_of(row: Row, found: tuple[Condition, ...]) -> tuple[NewEvent, ...]:
    """News worth telling: conditions of interest that changed their status."""
    out = []
    for type_ in TOLD:
        now, before = find(found, type_), find(row.conditions, type_)
        if now is None or now.status == "Unknown" or (before.status if before else "Unknown") == now.status:
            continue
        good = now.status == ("True" if type_ in ("Reachable", "Preflight", "Schedulable") else "False")
        if good and before is None:
            continue
        word = "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(type_))
        message = now.message or f"{type_} is {now.status} ({now.reason})."
        out.append(NewEvent(f"dev.fleet.machine.{word}", 0 if good else 1, now.reason, message))
    return tuple(out)
