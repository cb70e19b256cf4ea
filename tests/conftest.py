"""Fixtures for all tests; the services behind them start in `tests.services`, before Django."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from pytest_django import DjangoDbBlocker

from fleet.control import db
from fleet.control.db import Connection
from tests.services import reset_database


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """The instance goes with the process (see `tests.services`): dropping its database first only waits for sessions that are ending."""
    return True


@pytest.fixture
def transactional_db(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """In place of pytest-django's, which ends with a flush: a TRUNCATE (see `reset_database`), and 0.3 s a test."""
    with django_db_blocker.unblock():
        yield
        reset_database()


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
