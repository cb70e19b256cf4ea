"""Real workers, beats and Valkey: losing what carries hints loses no work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from django.db import connection

from fleet.dev.services import Valkey

pytestmark = [pytest.mark.usefixtures("fleet_db"), pytest.mark.faults]
PATIENCE_SECONDS = 60.0  # the promise: what was lost is found again within a minute
START_SECONDS = 180.0  # a process starts slowly on a busy machine; that is not what is tested


def rows(statement: str) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def number(statement: str) -> int:
    return int(str(rows(statement)[0][0]))


def until(statement: str, *, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until the database answers True; seconds it took."""
    began = time.monotonic()
    while not rows(statement)[0][0]:
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {statement}"
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.05)")
    return time.monotonic() - began


def due(*ids: int) -> None:
    values = ", ".join(f"(99, {i}, {i % 256})" for i in ids)
    rows(
        f"INSERT INTO work_item (kind, object_id, shard) VALUES {values} ON CONFLICT (kind, object_id) DO UPDATE SET due_at = now()"
    )


@dataclass
class Fleet:
    """Processes of one test, with a Valkey of its own."""

    valkey: Valkey
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, *arguments: str, app: str = "tests.control.celery_app", **environment: str
    ) -> subprocess.Popen[bytes]:
        name = str(connection.settings_dict["NAME"])
        settings = {
            **os.environ,
            "DATABASE_URL": os.environ["DATABASE_URL"].replace("/fleet?", f"/{name}?"),
            "REDIS_URL": self.valkey.url,
            "PYTHONPATH": str(Path.cwd()),
            **environment,
        }
        log = (self.valkey.socket.parent / f"process-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, *arguments],
            env=settings,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.processes.append(process)
        return process

    def worker(self, name: str = "one", **environment: str) -> subprocess.Popen[bytes]:
        return self.start(
            "worker",
            "--pool=prefork",
            "--concurrency=1",
            f"--hostname={name}@test",
            "--without-gossip",
            "--without-mingle",
            "-lWARNING",
            **environment,
        )

    def beat(self) -> subprocess.Popen[bytes]:
        return self.start("beat", "-lWARNING", app="fleet.beat")

    def ready(self, workers: int) -> None:
        """Wait until hearts beat and ticks arrive: from here on a promise holds."""
        until(f"SELECT count(*) >= {workers} FROM worker", seconds=START_SECONDS)
        until("SELECT count(*) > 0 FROM slot WHERE name = 'tick'", seconds=START_SECONDS)

    def flush(self) -> None:
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.valkey.stop()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="fleet-celery-") as folder:
        made = Fleet(Valkey(socket=Path(folder) / "valkey.sock"))
        made.valkey.start()
        yield made
        made.stop()
        for log in sorted(Path(folder).glob("*.log")):  # pytest shows them when the test failed
            sys.stderr.write(f"{log.name}: {log.read_text()[-3_000:]}\n")


PASSED = "SELECT count(*) = {} FROM tombstone WHERE kind = 99"


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
            app="fleet.beat",
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
