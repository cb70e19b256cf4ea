"""Statistics follow a mass write at once."""

from __future__ import annotations

from fleet.control import statistics
from fleet.control.db import Connection
from tests.machines.world import make, sql
from tests.services import call_tables_empty


async def test_tables_that_were_filled_since_are_looked_at_again_and_then_left_alone(conn: Connection) -> None:
    make(2_000)
    call_tables_empty()
    await conn.execute("SELECT pg_stat_force_next_flush()")
    assert {"machine", "machine_state", "work_item"} <= set(await statistics.catch_up(conn))
    counted = "SELECT relname, reltuples FROM pg_class WHERE relname IN ('machine', 'machine_state')"
    assert dict(sql(counted)) == {"machine": 2_000, "machine_state": 2_000}
    assert not {"machine", "machine_state"} & set(await statistics.catch_up(conn))
