"""Faults and remediations that are long past go, and evidence whose time is over: never what is live."""

from __future__ import annotations

from typing import Final, LiteralString

from fleet.control.db import Connection
from fleet.control.forgetting import KEEP_DAYS, forget
from fleet.control.kinds import FAULT, REMEDIATION

_FAULTS: Final[LiteralString] = """o.phase = 'Resolved' AND o.resolved_at < now() - %(days)s * interval '1 day'
  AND NOT EXISTS (SELECT FROM recovery_remediation r WHERE r.fault_id = o.id AND r.ended_at IS NULL)"""
_REMEDIATIONS: Final[LiteralString] = "o.ended_at < now() - %(days)s * interval '1 day'"
_EVIDENCE: Final[LiteralString] = (
    "DELETE FROM recovery_evidence WHERE ctid = ANY (ARRAY(SELECT ctid FROM recovery_evidence WHERE until < now() - interval '1 hour' LIMIT 1000))"
)


async def tidy(conn: Connection, *, keep_days: int = KEEP_DAYS) -> int:
    """Forget faults and remediations that ended so long ago, and evidence whose time is over; how many rows went."""
    faults = await forget(conn, "recovery_fault", _FAULTS, FAULT, "Fault", keep_days)
    repairs = await forget(conn, "recovery_remediation", _REMEDIATIONS, REMEDIATION, "Remediation", keep_days)
    return len(faults) + len(repairs) + (await conn.execute(_EVIDENCE)).rowcount
