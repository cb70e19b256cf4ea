"""One worker whose clock is hours off, beside one whose clock is right: nobody's work is taken, no time is written that is not PostgreSQL's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from lab.faketime import preload
from simulator import faults
from simulator.demo import seed_demo
from tests.control.processes import START_SECONDS, Fleet, fleet, number, rows, until

__all__ = ["fleet"]
pytestmark = [pytest.mark.lab, pytest.mark.faults, pytest.mark.usefixtures("fleet_db")]
MACHINES = 12
NEAR = timedelta(seconds=5)  # by so much a time that is PostgreSQL's may lie beside the test's own
SETTLED = "SELECT count(*) = 0 FROM machine_state WHERE drift <> 0 OR phase <> 'Running'"
AT_REST = "SELECT count(*) = 0 FROM machines_operation WHERE ended_at IS NULL"
WATCH = """
CREATE TABLE lease_taken (object_id bigint, before int, holder int);
CREATE FUNCTION lease_taken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO lease_taken VALUES (new.object_id, old.holder, new.holder); RETURN new; END $$;
CREATE TRIGGER lease_taken AFTER UPDATE OF holder ON work_item FOR EACH ROW WHEN (new.holder IS NOT NULL AND new.kind = 1) EXECUTE FUNCTION lease_taken();
"""
FORGET = "DROP TRIGGER lease_taken ON work_item; DROP FUNCTION lease_taken(); DROP TABLE lease_taken"


@pytest.fixture
def leases(fleet_db: None) -> Iterator[None]:
    """Who took which machine, and from whom."""
    rows(WATCH)
    yield
    rows(FORGET)


def times(value: Any) -> Iterator[datetime]:
    """All times of a status."""
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        if isinstance(each, list | dict):
            yield from times(each)
    if isinstance(value, dict):
        yield from (datetime.fromisoformat(v) for k, v in value.items() if k.endswith("Time") and isinstance(v, str))


@pytest.mark.parametrize("offset", ["+2h", "-90m"])
def test_a_worker_with_another_clock_works_by_postgresqls_and_takes_nothing_away(
    leases: None, fleet: Fleet, offset: str
) -> None:
    seed_demo(clusters=1, machines=MACHINES)
    faults.clear(list(faults.find_machines(everywhere=True)))
    faults.set_weather(0)
    fleet.application = "fleet.celery"
    begun = rows("SELECT now()")[0][0]
    fleet.worker("right")
    fleet.worker("wrong", **preload(offset))
    fleet.beat()
    fleet.ready(2)
    until(SETTLED, seconds=START_SECONDS)
    until(AT_REST, seconds=START_SECONDS)
    ended = rows("SELECT now()")[0][0]
    assert isinstance(begun, datetime) and isinstance(ended, datetime)

    both = {"right@test", "wrong@test"}
    assert {n for (n,) in rows("SELECT DISTINCT w.name FROM lease_taken JOIN worker w ON w.id = holder")} == both
    assert rows("SELECT * FROM lease_taken WHERE before IS NOT NULL") == []
    assert number("SELECT count(*) FROM recovery_fault") == 0
    assert rows("SELECT name, notes FROM machine_state WHERE notes::text LIKE '%ClockOff%'") == []
    assert number("SELECT count(*) FROM permit WHERE expires_at < granted_at + interval '1 s'") == 0
    statuses = [json.loads(str(s)) for (s,) in rows("SELECT status::text FROM machines_operation")]
    assert statuses
    written = [t for status in statuses for t in times(status)]
    assert written and all(begun - NEAR <= t <= ended + NEAR for t in written), sorted(written)
    twice = [s["name"] for status in statuses for s in status.get("steps", []) if s.get("attempt", 1) > 1]
    assert twice == []
