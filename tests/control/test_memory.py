"""A task that wants more memory than there is: its object is set aside, the others go on, the worker lives."""

from __future__ import annotations

import pytest

from tests.control.celery_app import POISON
from tests.control.processes import PASSED, START_SECONDS, Fleet, due, fleet, number, until

__all__ = ["fleet"]
pytestmark = [pytest.mark.usefixtures("fleet_db"), pytest.mark.faults]
OTHERS = "SELECT count(DISTINCT object -> 'id') = {} FROM tombstone WHERE kind = 99"
ASIDE = f"SELECT count(*) = 1 FROM work_item WHERE object_id = {POISON} AND attempts >= 2 AND holder IS NULL"


def test_a_pass_that_wants_more_than_its_bound_is_set_aside_with_its_reason(fleet: Fleet) -> None:
    worker = fleet.worker(TEST_POISON="greedy", FLEET_TASK_MEMORY_MIB="600")
    fleet.beat()
    fleet.ready(1)
    me = number("SELECT max(id) FROM worker")
    due(*range(1, 9), POISON)
    until(PASSED.format(8), seconds=START_SECONDS)
    until(ASIDE)
    due(9)
    until(PASSED.format(9))
    assert number(f"SELECT count(*) FROM tombstone WHERE kind = 99 AND (object ->> 'id')::int = {POISON}") == 0
    assert f"[{POISON}] of kind 99 are set aside: their pass ended in MemoryError" in fleet.log(worker)
    assert worker.poll() is None
    assert number("SELECT max(id) FROM worker") == me


def test_a_pass_whose_process_is_killed_for_its_memory_takes_no_other_object_with_it(fleet: Fleet) -> None:
    """It takes its batch along until it is suspected; from then on it goes alone."""
    worker = fleet.worker(TEST_POISON="killed", FLEET_LEASE_SECONDS="1")
    fleet.beat()
    fleet.ready(1)
    due(*range(1, 9), POISON)
    until(OTHERS.format(8), seconds=START_SECONDS)
    due(9)
    until(OTHERS.format(9), seconds=START_SECONDS)
    assert number(f"SELECT count(*) FROM tombstone WHERE kind = 99 AND (object ->> 'id')::int = {POISON}") == 0
    assert number(f"SELECT attempts FROM work_item WHERE object_id = {POISON}") >= 3
    assert worker.poll() is None
