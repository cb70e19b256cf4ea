"""How rules and playbooks do: counted from faults and remediations of the last 30 days, one statement a kind."""

from __future__ import annotations

from typing import Any, Final

from django.db import connection

from fleet.api.storage import storage_for

_RULES: Final = """
SELECT r.id, count(f.id) FILTER (WHERE f.phase <> 'Resolved'), count(f.id) FILTER (WHERE f.confirmed_at > now() - interval '30 days'),
  count(f.id) FILTER (WHERE f.phase = 'Resolved' AND f.confirmed_at IS NULL AND f.resolved_at > now() - interval '30 days'),
  count(f.id) FILTER (WHERE f.phase = 'Resolved' AND f.confirmed_at > now() - interval '30 days' AND EXISTS (SELECT FROM recovery_remediation m WHERE m.fault_id = f.id AND m.phase = 'Succeeded'))
FROM recovery_faultrule r LEFT JOIN recovery_fault f ON f.rule = r.name AND f.created_at > now() - interval '31 days' GROUP BY r.id
"""
# Of remediations `m`: how those of a playbook stand and ended.
OUTCOMES: Final = """count(m.id) FILTER (WHERE m.ended_at IS NULL) AS running, count(m.id) FILTER (WHERE m.phase = 'Succeeded') AS succeeded,
  count(m.id) FILTER (WHERE m.phase = 'Escalated') AS escalated, count(m.id) FILTER (WHERE m.phase = 'Cancelled') AS cancelled,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM m.ended_at - m.created_at)) FILTER (WHERE m.phase = 'Succeeded') AS "medianSeconds\""""
_PLAYBOOKS: Final = f"""
SELECT p.id, {OUTCOMES}
FROM recovery_playbook p LEFT JOIN recovery_remediation m ON m.playbook = p.name AND m.created_at > now() - interval '30 days' GROUP BY p.id
"""


def refresh_figures() -> int:
    """Statuses of rules and playbooks; how many changed."""
    rules = {r[0]: {"live": r[1], "confirmed": r[2], "fleeting": r[3], "repaired": r[4]} for r in _rows(_RULES)}
    playbooks: dict[int, dict[str, Any]] = {}
    for id_, running, succeeded, escalated, cancelled, median in _rows(_PLAYBOOKS):
        playbooks[id_] = {"running": running, "succeeded": succeeded, "escalated": escalated, "cancelled": cancelled}
        if median is not None:
            playbooks[id_]["medianSeconds"] = round(median)
    return len(storage_for("faultrules").write_status(rules)) + len(storage_for("playbooks").write_status(playbooks))


def _rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())
