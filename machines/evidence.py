"""What hosts showed of themselves before a repair: kept once a step, whichever pass hears it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from django.db import connection

from fleet.api.rights import Actor
from fleet.control.db import Connection
from fleet.control.kinds import Json
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


_READ: Final = """
SELECT v.step, to_char(v.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), v.content FROM machine_evidence v WHERE v.operation_uid = ANY (%s::uuid[]) ORDER BY v.at, v.step
"""
KEEP_DAYS: Final = 90


def evidence(operation_uids: Sequence[str]) -> Json:
    """`GET …/operations/<name>/evidence` and `…/remediations/<name>/evidence`: {"evidence": [{step, time, content}]}, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, [list(operation_uids)])
        return {"evidence": [{"step": step, "time": at, "content": content} for step, at, content in cursor.fetchall()]}


def evidence_shown(obj: Json, actor: Actor) -> Json:
    """What the steps of one Operation collected."""
    return evidence([obj["metadata"]["uid"]])


async def forget_old(conn: Connection) -> int:
    """Evidence older than 90 days goes, a thousand at a time."""
    sql: LiteralString = "DELETE FROM machine_evidence WHERE ctid = ANY (ARRAY(SELECT ctid FROM machine_evidence WHERE at < now() - %s * interval '1 day' LIMIT 1000))"
    return (await conn.execute(sql, [KEEP_DAYS])).rowcount
