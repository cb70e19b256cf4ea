"""What is over and long past goes, in the sight of watchers: never what is live. A thousand of each at a time."""

from __future__ import annotations

from typing import Final, LiteralString

from fleet.control.db import Connection
from fleet.control.kinds import FAULT, REMEDIATION

KEEP_DAYS: Final = 180

# `old`: rows to forget, of the table that is named last. Each leaves a change and a tombstone, as a deletion does.
_OLD: Final[LiteralString] = "WITH old AS MATERIALIZED (SELECT id, rv, uid, name, cluster_id, created_at FROM "
_GONE: Final[LiteralString] = """ ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM old) + 4) AS base),
n AS MATERIALIZED (SELECT old.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), rv + 1) AS new_rv FROM old),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT new_rv, id, cluster_id, %(kind)s, 3 FROM n),
tb AS (INSERT INTO tombstone (rv, kind, name, object) SELECT new_rv, %(kind)s, name, jsonb_build_object('apiVersion', 'fleet.dev/v1', 'kind', %(word)s::text, 'spec', '{}'::jsonb,
  'metadata', jsonb_build_object('name', name, 'uid', uid, 'resourceVersion', new_rv::text, 'creationTimestamp', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))) FROM n),
wi AS (DELETE FROM work_item w USING n WHERE w.kind = %(kind)s AND w.object_id = n.id)
DELETE FROM """
_FAULTS: Final[LiteralString] = (
    _OLD
    + """recovery_fault f WHERE f.phase = 'Resolved' AND f.resolved_at < now() - %(days)s * interval '1 day'
  AND NOT EXISTS (SELECT FROM recovery_remediation r WHERE r.fault_id = f.id AND r.ended_at IS NULL)"""
    + _GONE
    + "recovery_fault USING n WHERE recovery_fault.id = n.id"
)
_REMEDIATIONS: Final[LiteralString] = (
    _OLD
    + "recovery_remediation WHERE ended_at < now() - %(days)s * interval '1 day'"
    + _GONE
    + "recovery_remediation USING n WHERE recovery_remediation.id = n.id"
)
_EVIDENCE: Final[LiteralString] = (
    "DELETE FROM recovery_evidence WHERE ctid = ANY (ARRAY(SELECT ctid FROM recovery_evidence WHERE until < now() - interval '1 hour' LIMIT 1000))"
)


async def tidy(conn: Connection, *, keep_days: int = KEEP_DAYS) -> int:
    """Forget faults and remediations that ended so long ago, and evidence whose time is over; how many rows went."""
    gone = (await conn.execute(_FAULTS, {"days": keep_days, "kind": FAULT, "word": "Fault"})).rowcount
    gone += (
        await conn.execute(_REMEDIATIONS, {"days": keep_days, "kind": REMEDIATION, "word": "Remediation"})
    ).rowcount
    return gone + (await conn.execute(_EVIDENCE)).rowcount
