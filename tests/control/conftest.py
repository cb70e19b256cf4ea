"""Connections and stand-in operators for tests of the loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from fleet.control import db, operators
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


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registered operators and chores of this test only."""
    monkeypatch.setattr(operators, "_operators", {})
    monkeypatch.setattr(operators, "_chores", {})
    yield
