"""Why, or why not: every guard of the ledger for one machine, in the order in which permits ask them. Nothing is granted or written."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection


@dataclass(frozen=True, slots=True)
class Guard:
    """One rung. `reason` and `message` are what a refused permit would say; of a guard that holds `message` may say how far it is used."""

    text: str
    ok: bool
    reason: str
    message: str


def read_why(machine_id: int, verb: str, *, unplanned: bool = False, owner: str = "") -> list[Guard]:
    """All guards, those after the first that does not hold too. `owner`: whose permit on the machine would be renewed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT guard, ok, reason, message FROM safety_why(%s, %s, %s, %s)", [machine_id, verb, unplanned, owner]
        )
        return [Guard(*row) for row in cursor.fetchall()]
