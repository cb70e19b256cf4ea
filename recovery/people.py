"""A person's word about a fault: it is over, or it is to be tried again. Audited by the write that carries it."""

from __future__ import annotations

from typing import Any, Final

from django.db import connection, transaction

from fleet.events.publish import hint

CLEAR: Final = "fleet.dev/clear"
RETRY: Final = "fleet.dev/retry"

_MOVE: Final = """
WITH st AS MATERIALIZED (SELECT * FROM recovery_fault WHERE machine_id = %(machine)s AND (%(type)s = '' OR type = %(type)s) AND (%(name)s = '' OR name = %(name)s) AND phase = ANY (%(from)s) ORDER BY id FOR NO KEY UPDATE),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.id, st.cluster_id, st.machine_id, st.phase AS was, st.name, st.type, st.spec ->> 'machine' AS machine, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), rv + 1) AS new_rv FROM st),
up AS (
  UPDATE recovery_fault f SET rv = n.new_rv, phase = %(to)s, resolved_at = CASE WHEN %(to)s = 'Resolved' THEN now() END, due_at = CASE WHEN %(to)s = 'Confirmed' THEN now() END,
    annotations = f.annotations - 'fleet.dev/clear' - 'fleet.dev/retry', confirmed_at = CASE WHEN %(to)s = 'Confirmed' THEN now() ELSE f.confirmed_at END, status = (f.status - 'repair') || jsonb_build_object('reason', %(reason)s::text, 'message', %(message)s::text)
  FROM n WHERE f.id = n.id),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT new_rv, 0, machine_id, cluster_id, 1, 0, 'dev.fleet.fault.' || lower(%(to)s), '/faults', jsonb_build_object('reason', %(reason)s::text, 'message', %(message)s::text, 'name', machine, 'fault', name, 'by', %(by)s::text) FROM n)
INSERT INTO change (rv, object_id, cluster_id, kind, op, old) SELECT new_rv, id, cluster_id, 14, 2, jsonb_build_object('fields', jsonb_build_object('status.phase', was)) FROM n
"""


def clear_faults(machine_id: int, type_: str, by: str, *, name: str = "") -> int:
    """Faults of that type (or name) are over, and nothing that events said of them counts any more; how many.

    One that a remediation works on is left to it: that is cancelled first.
    """
    return _move(
        machine_id,
        type_,
        name,
        by,
        ("Open", "Suspected", "Confirmed", "NeedsPerson"),
        "Resolved",
        "ClearedByPerson",
        f"{by} says that it is over.",
    )


def retry_fault(machine_id: int, name: str, by: str) -> int:
    """A fault that waits for a person is given to recovery once more."""
    return _move(
        machine_id, "", name, by, ("NeedsPerson",), "Confirmed", "RetriedByPerson", f"{by} asks for another try."
    )


def _move(
    machine_id: int, type_: str, name: str, by: str, before: tuple[str, ...], to: str, reason: str, message: str
) -> int:
    values: dict[str, Any] = {
        "machine": machine_id,
        "type": type_,
        "name": name,
        "from": list(before),
        "to": to,
        "reason": reason,
        "message": message,
        "by": by,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_MOVE, values)
        moved = int(cursor.rowcount)
        if moved:
            transaction.on_commit(_tell)
    return moved


def _tell() -> None:
    with connection.cursor() as cursor:
        hint(cursor)
