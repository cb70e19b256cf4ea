"""Real workers, beats and Valkey: losing what carries hints loses no work."""

from __future__ import annotations

import signal

import pytest
from django.db import connection

from tests.control.processes import PASSED, START_SECONDS, Fleet, due, fleet, number, rows, until

__all__ = ["fleet"]
pytestmark = [pytest.mark.usefixtures("fleet_db"), pytest.mark.faults]


def test_work_flows_and_outlives_a_flushed_and_a_stopped_valkey(fleet: Fleet) -> None:
    fleet.worker()
    beat = fleet.beat()
    fleet.ready(1)
    due(*range(1, 26))
    until(PASSED.format(25))
    assert number("SELECT count(DISTINCT object -> 'id') FROM tombstone WHERE kind = 99") == 25

    fleet.flush()  # schedule, lock and queues are gone
    due(1, 2, 3)
    if beat.poll() is None:
        beat.kill()  # `make up` starts it again when it ends over its lost lock; here we do
    fleet.beat()
    until(PASSED.format(28), seconds=START_SECONDS)

    fleet.valkey.stop()
    due(4, 5)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(1)")
    assert number("SELECT count(*) FROM tombstone WHERE kind = 99") == 28
    fleet.valkey.start()
    fleet.beat()
    until(PASSED.format(30), seconds=START_SECONDS)


def test_a_worker_that_is_asked_to_end_leaves_nothing_held_and_its_name(fleet: Fleet) -> None:
    process = fleet.worker()
    fleet.beat()
    fleet.ready(1)
    due(*range(1, 11))
    until(PASSED.format(10))
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    assert number("SELECT count(*) FROM work_item WHERE holder IS NOT NULL") == 0
    assert number("SELECT count(*) FROM worker") == 0


def test_two_beats_run_periodic_work_once_a_slot(fleet: Fleet) -> None:
    fleet.worker("one")
    fleet.worker("two")
    for _ in range(2):  # two schedules that know nothing of each other's lock
        fleet.start(
            "beat",
            "-lWARNING",
            "--scheduler=celery.beat:PersistentScheduler",
            f"--schedule={fleet.valkey.socket.parent}/beat-{_}",
            "--pidfile=",
        )
    rows("CREATE TABLE IF NOT EXISTS slot_taken (name text, slot bigint)")
    rows(
        "CREATE OR REPLACE FUNCTION slot_taken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO slot_taken VALUES (new.name, new.slot); RETURN new; END $$"
    )
    rows("CREATE TRIGGER slot_taken AFTER INSERT OR UPDATE OF slot ON slot FOR EACH ROW EXECUTE FUNCTION slot_taken()")
    try:
        until("SELECT count(*) >= 4 FROM slot_taken WHERE name = 'tick'", seconds=START_SECONDS)
        assert (
            rows("SELECT name, slot, count(*) FROM slot_taken WHERE slot > 0 GROUP BY 1, 2 HAVING count(*) > 1") == []
        )
    finally:
        fleet.stop()
        rows("DROP TRIGGER slot_taken ON slot")
        rows("DROP TABLE slot_taken")
        rows("DROP FUNCTION slot_taken()")


def test_workers_of_an_idc_take_only_their_own(fleet: Fleet) -> None:
    rows("INSERT INTO place (dim, name) VALUES ('idc', 'near'), ('idc', 'far')")
    fleet.worker("near", FLEET_IDCS="near")
    fleet.worker("common")
    fleet.beat()
    fleet.ready(2)
    place = number("SELECT id FROM place WHERE name = 'near'")
    due(*range(1, 21))
    rows(f"UPDATE work_item SET idc_id = {place} WHERE object_id <= 10")
    until(PASSED.format(20))
    near = "SELECT id FROM worker WHERE name = 'near@test'"
    assert (
        number(
            f"SELECT count(*) FROM tombstone WHERE kind = 99 AND ((object ->> 'id')::int <= 10) <> ((object ->> 'me')::int IN ({near}))"
        )
        == 0
    )
