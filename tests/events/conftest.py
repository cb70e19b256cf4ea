"""Events written as Fleet's own parts write them."""

from __future__ import annotations

from fleet.control.db import Connection


async def tell(connection: Connection, name: str = "m-1", type_: str = "dev.fleet.machine.phase", n: int = 0) -> None:
    """One event of Fleet's own."""
    await connection.execute(
        "INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data) "
        "VALUES (fleet_pos(), %s, 1, 1, 1, 0, %s, '/machines', jsonb_build_object('name', %s::text, 'reason', 'Told'))",
        [n, type_, name],
    )
