"""A worker that is alive but deaf is ended by its watchdog and started again by its supervisor; real Valkeys behind a TCP proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from fleet.control.watchdog import CALLS, Watchdog
from fleet.dev.services import Valkey
from fleet.dev.supervisor import Supervisor
from tests.control.processes import PASSED, START_SECONDS, WORKER, Fleet, due, fleet, number, rows
from tests.fakes.proxy import Proxy

__all__ = ["fleet"]
DEAF_SECONDS = 8.0
RESUME_SECONDS = 120.0  # the promise


class Watched:
    """A worker behind the proxy, under the supervisor of `make up`, and a beat."""

    def __init__(self, fleet: Fleet, proxy: Proxy) -> None:
        self.fleet, self.proxy = fleet, proxy
        self.url = f"redis://127.0.0.1:{proxy.port}/0"
        self.supervisor = Supervisor({**fleet.environment(), "REDIS_URL": self.url}, fleet.folder, quiet=True)

    def worker(self, **environment: str) -> None:
        settings = {"FLEET_DEAF_SECONDS": str(DEAF_SECONDS), **environment}
        self.supervisor.add("worker", self.fleet.command(*WORKER, "--hostname=one@test"), **settings)

    def beat(self) -> None:
        self.supervisor.add("beat", self.fleet.command("beat", "-lWARNING"))

    def until(self, statement: str, seconds: float = RESUME_SECONDS) -> None:
        """The supervisor watches meanwhile."""
        end = time.monotonic() + seconds
        while not rows(statement)[0][0]:
            assert time.monotonic() < end, f"not within {seconds} s: {statement}"
            self.watch(0.1)

    def watch(self, seconds: float) -> None:
        """For some time nothing but the supervisor's work is done."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.supervisor.tick()
            rows("SELECT pg_sleep(0.05)")

    @property
    def log(self) -> str:
        return (self.fleet.folder / "fleet.log").read_text()


@pytest.fixture
def watched(fleet_db: None, fleet: Fleet) -> Iterator[Watched]:
    proxy = Proxy(fleet.valkey.socket)
    made = Watched(fleet, proxy)
    yield made
    proxy.latency = 0
    made.supervisor.stop()
    proxy.close()


@pytest.fixture
def other_valkey(fleet: Fleet) -> Iterator[Valkey]:
    made = Valkey(socket=fleet.folder / "other.sock")
    made.start()
    yield made
    made.stop()


@pytest.mark.faults
def test_a_worker_that_listens_at_the_server_of_before_is_started_again(watched: Watched, other_valkey: Valkey) -> None:
    """A failover that its connections did not notice: the old server goes on answering them, and says that there is nothing."""
    watched.worker()
    watched.fleet.ready(1)  # by the watchdog's own calls: there is no beat yet
    before = number("SELECT id FROM worker")
    due(1)
    watched.until(PASSED.format(1))

    watched.proxy.upstream = other_valkey.socket
    watched.beat()
    due(2, 3)
    watched.until(PASSED.format(3))
    assert "nothing was heard from the broker" in watched.log
    assert number("SELECT max(id) FROM worker") > before
    assert number("SELECT count(DISTINCT object -> 'id') FROM tombstone WHERE kind = 99") == 3


@pytest.mark.faults
def test_work_goes_on_after_all_connections_fell_into_a_black_hole(watched: Watched) -> None:
    watched.worker()
    watched.beat()
    watched.fleet.ready(1)
    watched.proxy.black_hole()
    due(1, 2)
    watched.until(PASSED.format(2))


@pytest.mark.faults
def test_work_goes_on_after_a_broker_was_slow_and_broke_connections_off(watched: Watched) -> None:
    watched.worker()
    watched.beat()
    watched.fleet.ready(1)
    watched.proxy.latency = 2.0
    for turn in range(1, 4):
        watched.proxy.reset()
        due(turn)
        watched.watch(8)  # in the middle of connecting anew, which takes twenty answers
    watched.proxy.latency = 0
    watched.until(PASSED.format(3))
    assert number("SELECT count(DISTINCT object -> 'id') FROM tombstone WHERE kind = 99") == 3


@pytest.mark.faults
def test_a_broker_that_is_away_for_everybody_ends_no_worker(watched: Watched) -> None:
    watched.worker(FLEET_DEAF_SECONDS="2")
    watched.beat()
    watched.fleet.ready(1)
    watched.fleet.valkey.stop()
    watched.watch(8)
    assert "nothing was heard" not in watched.log
    assert number("SELECT count(*) FROM worker WHERE NOT stopping") == 1
    watched.fleet.valkey.start()
    due(1)
    watched.until(PASSED.format(1))


@pytest.mark.faults
def test_a_worker_with_a_long_pass_is_not_deaf(watched: Watched) -> None:
    watched.worker(FLEET_DEAF_SECONDS="2", TEST_PASS_SECONDS="10")
    watched.beat()
    watched.fleet.ready(1)
    due(1)
    watched.until(PASSED.format(1), START_SECONDS)
    assert "nothing was heard" not in watched.log
    assert number("SELECT max(epoch) FROM work_item WHERE kind = 99") == 1


class Line:
    """What stands between a watchdog and its worker."""

    def __init__(self) -> None:
        self.broken = self.busy = False
        self.calls = 0

    def call(self) -> None:
        if self.broken:
            raise redis.ConnectionError("away")
        self.calls += 1


def test_it_is_deaf_that_answered_none_of_so_many_calls() -> None:
    line = Line()
    watchdog = Watchdog(line.call, lambda: line.busy)
    assert [watchdog.finds_it_deaf() for _ in range(CALLS + 1)] == [False] * CALLS + [True]
    watchdog.heard()
    assert [watchdog.finds_it_deaf() for _ in range(CALLS)] == [False] * CALLS


@pytest.mark.parametrize("what", ["broken", "busy"])
def test_the_count_starts_anew_where_a_call_could_not_be_heard(what: str) -> None:
    line = Line()
    watchdog = Watchdog(line.call, lambda: line.busy)
    for _ in range(CALLS):
        watchdog.finds_it_deaf()
    setattr(line, what, True)
    assert not any(watchdog.finds_it_deaf() for _ in range(3 * CALLS))
    setattr(line, what, False)
    assert [watchdog.finds_it_deaf() for _ in range(CALLS + 1)] == [False] * CALLS + [True]
    assert line.calls == 2 * CALLS + 1
