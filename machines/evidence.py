"""What hosts showed of themselves before a repair: kept once a step, whichever pass hears it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from fleet.control.db import Connection
from machines.fence import EVIDENCE
from machines.hosts import StepResult
from machines.passes import Pass

_KEEP: Final[LiteralString] = """
INSERT INTO machine_evidence (operation_uid, step, machine_id, content)
SELECT * FROM unnest(%(op)s::uuid[], %(step)s::text[], %(machine)s::bigint[], %(content)s::text[]) ON CONFLICT DO NOTHING
"""
_ENDED: Final = ("Succeeded", "Failed")


def evidence_of(passes: Sequence[Pass]) -> list[tuple[int, StepResult]]:
    """(machine, answer of a step that collected evidence and has ended)."""
    out = []
    for each in passes:
        seen = list(each.facts.steps.values()) if each.facts is not None else []
        move = each.outcome.move
        at_once = [move.result] if move is not None and move.result is not None else []
        out += [
            (each.row.id, r) for r in (*seen, *at_once) if EVIDENCE in r.ref.step and r.state in _ENDED and r.output
        ]
    return out


async def keep_evidence(conn: Connection, found: Sequence[tuple[int, StepResult]]) -> None:
    """Store it beside the Operation."""
    if not found:
        return
    values = {
        "op": [r.ref.operation for _, r in found], "step": [f"{r.ref.step}-{r.ref.attempt}" for _, r in found],
        "machine": [m for m, _ in found], "content": [r.output for _, r in found],
    }  # fmt: skip
    await conn.execute(_KEEP, values)
