"""Connections, and events written as Fleet's own parts write them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fleet.control import db
from fleet.control.db import Connection


@pytest.fixture
async def conn(fleet_db: None) -> AsyncIterator[Connection]:
    """One connection of the loop on an empty database."""
    connection = await db.connect()
    yield connection
    await connection.close()


@pytest.fixture
async def other(fleet_db: None) -> AsyncIterator[Connection]:
    """A second one: another process."""
    connection = await db.connect()
    yield connection
    await connection.close()


async def tell(connection: Connection, name: str = "m-1", type_: str = "dev.fleet.machine.phase", n: int = 0) -> None:
    """One event of Fleet's own."""
    await connection.execute(
        "INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data) "
        "VALUES (fleet_pos(), %s, 1, 1, 1, 0, %s, '/machines', jsonb_build_object('name', %s::text, 'reason', 'Told'))",
        [n, type_, name],
    )
