"""Processes of one test: Celery's workers and beats on the test's database, with a Valkey of their own."""

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

PATIENCE_SECONDS = 60.0  # the promise: what was lost is found again within a minute
START_SECONDS = 180.0  # a process starts slowly on a busy machine; that is not what is tested
PASSED = "SELECT count(*) = {} FROM tombstone WHERE kind = 99"  # objects that `celery_app` noted
WORKER = ("worker", "--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle", "-lWARNING")


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
    """Processes of one test, with a Valkey of its own. `application`: whose module has the app."""

    valkey: Valkey
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    application: str = "tests.control.celery_app"

    @property
    def folder(self) -> Path:
        """For sockets and logs; goes with the test."""
        return self.valkey.socket.parent

    def environment(self) -> dict[str, str]:
        """Of all processes of the test."""
        name = str(connection.settings_dict["NAME"])
        return {
            **os.environ,
            "DATABASE_URL": os.environ["DATABASE_URL"].replace("/fleet?", f"/{name}?"),
            "REDIS_URL": self.valkey.url,
            "PYTHONPATH": str(Path.cwd()),
        }

    def command(self, *arguments: str) -> list[str]:
        application = "fleet.beat" if arguments[0] == "beat" else self.application
        return [sys.executable, "-m", "celery", "-A", application, *arguments]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"process-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            self.command(*arguments), env={**self.environment(), **environment}, stdout=log, stderr=log
        )
        log.close()
        self.processes.append(process)
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What that process said so far."""
        return (self.folder / f"process-{self.processes.index(process)}.log").read_text()

    def worker(self, name: str = "one", **environment: str) -> subprocess.Popen[bytes]:
        return self.start(*WORKER, f"--hostname={name}@test", **environment)

    def beat(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("beat", "-lWARNING", **environment)

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
