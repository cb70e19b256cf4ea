"""Fixtures for all tests; the services behind them start in `tests.services`, before Django."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

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
