"""Operations and batches that are long past go; what is open stays, however old it is."""

from __future__ import annotations

from typing import Final, LiteralString

from fleet.control.db import Connection
from fleet.control.forgetting import KEEP_DAYS, forget
from fleet.control.kinds import OPERATION, OPERATION_BATCH

_ENDED: Final[LiteralString] = "o.ended_at < now() - %(days)s * interval '1 day'"
_BATCH: Final[LiteralString] = "(o.status ->> 'endTime')::timestamptz < now() - %(days)s * interval '1 day'"


async def tidy(conn: Connection, *, keep_days: int = KEEP_DAYS) -> int:
    """Forget Operations that ended so long ago, and batches with their lists; how many went."""
    operations = await forget(conn, "machines_operation", _ENDED, OPERATION, "Operation", keep_days)
    batches = await forget(conn, "machines_operationbatch", _BATCH, OPERATION_BATCH, "OperationBatch", keep_days)
    if batches:
        await conn.execute("DELETE FROM operation_batch_target WHERE batch_id = ANY (%s)", [batches])
    return len(operations) + len(batches)
