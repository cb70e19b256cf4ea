"""Connections for tests of the recovery."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fleet.control import db
from fleet.control.db import Connection
from recovery import blindness, reacting


@pytest.fixture(autouse=True)
def fresh_sight() -> None:
    """What a process remembers for a second outlives no test."""
    blindness._kept.clear()
    reacting._rules = None


@pytest.fixture
async def conn(fleet_db: None) -> AsyncIterator[Connection]:
    """One connection of the hot path on an empty database."""
    connection = await db.connect()
    yield connection
    await connection.close()


@pytest.fixture
async def other(fleet_db: None) -> AsyncIterator[Connection]:
    """A second one: another worker."""
    connection = await db.connect()
    yield connection
    await connection.close()
