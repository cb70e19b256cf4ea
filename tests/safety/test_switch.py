"""The kill switch stops and resumes straight on the database, within seconds, whatever else is down or busy."""

from __future__ import annotations

import time

import psycopg
import pytest
from django.db import connection

from fleet.safety import switch
from tests.simulator.conftest import dsn

pytestmark = pytest.mark.usefixtures("fleet_db")


def may_begin() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {switch.NOT_STOPPED}")
        return bool(cursor.fetchone()[0])


def test_stop_and_resume_are_seen_by_the_very_next_effect() -> None:
    assert may_begin()
    begun = time.monotonic()
    stopped = switch.stop("olga", "power failure", dsn=dsn())
    assert not may_begin()
    assert time.monotonic() - begun < 5
    assert (stopped.stopped, stopped.by, stopped.why) == (True, "olga", "power failure")
    switch.resume("pavel", dsn=dsn())
    assert may_begin()
    assert switch.state(dsn=dsn()).by == "pavel"


def test_stopping_again_keeps_who_stopped_first_and_why() -> None:
    switch.stop("olga", "power failure")
    again = switch.stop("pavel", "me too")
    assert (again.by, again.why) == ("olga", "power failure")


@pytest.mark.parametrize("why", ["", "  "])
def test_stopping_without_a_reason_is_refused(why: str) -> None:
    with pytest.raises(switch.SwitchError, match="Say why"):
        switch.stop("olga", why)
    assert may_begin()


def test_a_ledger_locked_by_another_session_is_said_within_five_seconds() -> None:
    begun = time.monotonic()
    with psycopg.connect(dsn()) as other:
        other.execute("SELECT 1 FROM ledger FOR UPDATE")
        with pytest.raises(switch.SwitchError, match="locked by another session"):
            switch.stop("olga", "fire")
    assert time.monotonic() - begun < 5


def test_a_database_without_a_ledger_says_so() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM ledger")
    with pytest.raises(switch.SwitchError, match="not prepared"):
        switch.stop("olga", "fire")
