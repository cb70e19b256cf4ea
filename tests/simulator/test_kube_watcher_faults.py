"""The watcher process with PostgreSQL when a simulated API server forgets, refuses, lies, falls silent; and when whole zones do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from clusters import access
from fleet.control.endpoint import Endpoint
from fleet.control.threads import in_thread
from machines.watch.nodes import NODES
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.faults import Fault
from simulator.kube.kubelets import Times
from simulator.kube.server import KubeServer
from tests.machines.test_watch import FAST, nodes, provider_ids, ready_of
from tests.machines.test_watch_faults import view_fresh
from tests.machines.watch_server import until
from tests.machines.world import sql
from tests.simulator.test_kube_watcher import COUNT, filled, ready, unready, watched

pytestmark = [pytest.mark.usefixtures("fleet_db"), pytest.mark.faults]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    made = KubeServer(SimulatedCluster(times=Times(grace=0.3, tolerated=600.0)), bookmarks=0.5)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def asked(server: KubeServer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """Requests for nodes as they come: (when, verb)."""
    seen: list[tuple[float, str]] = []
    meeting = server._meeting

    def noted(verb: str, request: Any) -> list[Fault]:
        if request.path == NODES:
            seen.append((time.monotonic(), verb))
        return meeting(verb, request)

    monkeypatch.setattr(server, "_meeting", noted)
    return seen


def verbs(asked: list[tuple[float, str]]) -> list[str]:
    return [verb for _, verb in asked]


def fresh_at() -> Any:
    """How late the view is known to be, by PostgreSQL's clock."""
    return sql("SELECT fresh_at FROM shard")[0][0]


def closed() -> int:
    """Machines that somebody closed, or that an Operation was begun for."""
    return int(
        sql("SELECT (SELECT count(*) FROM machine_state WHERE NOT open) + (SELECT count(*) FROM machines_operation)")[
            0
        ][0]
    )


async def test_a_retry_after_is_waited_for(
    server: KubeServer, asked: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.machines.test_watch.FAST", replace(FAST, most=60.0))
    c = filled(server)
    server.cluster.order(Fault("refuse", path=NODES, code=429, retry=1, times=1))
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
    (refused, _), (again, _) = asked[:2]
    assert again - refused >= 0.95


@pytest.mark.parametrize("code", [410, 429, 500, 503])
async def test_refusals_in_mid_stream_lose_nothing(server: KubeServer, code: int) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        refusals = server.cluster.order(Fault("refuse", path=NODES, code=code, times=8))
        server.cut()
        await until(lambda: refusals.met)
        server.cluster.kubelets.fail("m-0007", "NotReady")
        await until(lambda: ready_of("m-0007") == "False", seconds=60.0)
        assert refusals.met == 8
        assert (len(nodes()), ready(), unready()) == (COUNT, COUNT - 1, 1)


async def test_a_storm_of_410_is_met_by_lists_and_takes_no_node_away(
    server: KubeServer, asked: list[tuple[float, str]]
) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        rv = sql("SELECT sum(rv) FROM machine_state")
        server.cluster.order(Fault("expired", path=NODES, times=10))
        server.cut()
        await until(lambda: verbs(asked).count("list") == 11, seconds=60.0)
        assert sql("SELECT sum(rv) FROM machine_state") == rv
        server.cluster.kubelets.fail("m-0007", "NotReady")
        await until(lambda: ready_of("m-0007") == "False")
        assert len(nodes()) == COUNT


async def test_a_list_that_breaks_in_its_middle_is_no_list(server: KubeServer) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        half = server.cluster.order(Fault("cut", path=NODES, verbs=("list",), times=3))
        server.cluster.order(Fault("expired", path=NODES, verbs=("watch",), times=1))
        server.cut()
        await until(lambda: half.met == 3)
        server.cluster.kubelets.fail("m-0007", "NotReady")
        await until(lambda: ready_of("m-0007") == "False")
        assert len(nodes()) == COUNT and view_fresh(c) == ("True", "Streaming")


async def test_bookmarks_alone_keep_a_quiet_view_fresh_and_its_version_young(
    server: KubeServer, asked: list[tuple[float, str]]
) -> None:
    c = filled(server)
    async with watched(server, c) as watcher:
        await until(lambda: ready() == COUNT)
        before = await until(fresh_at)
        watch = watcher.watch_of(c)
        assert watch is not None
        version = int(watch.nodes.version)
        for name in provider_ids():
            server.cluster.kubelets._renew(name)  # leases go on, nodes stand still
        await until(lambda: int(watch.nodes.version) > version and fresh_at() > before)
        server.cluster.store.compact()
        server.cut()
        server.cluster.kubelets.fail("m-0007", "NotReady")
        await until(lambda: ready_of("m-0007") == "False")
        assert verbs(asked).count("list") == 1


async def test_a_half_open_stream_lets_the_view_grow_old_until_it_is_opened_anew(
    server: KubeServer, asked: list[tuple[float, str]]
) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        mute = server.cluster.order(Fault("mute", path=NODES))
        server.cut()
        await until(lambda: mute.met == 1)
        await asyncio.sleep(0.2)
        before, begun = await until(fresh_at), time.monotonic()
        server.cluster.kubelets.fail("m-0007", "NotReady")
        await until(lambda: mute.met == 2)
        assert time.monotonic() - begun > 1.0  # the silence that is borne
        late = fresh_at() - before  # some milliseconds between two clocks
        assert late < timedelta(seconds=0.5) and ready_of("m-0007") == "True"
        server.cluster.faults.clear()
        await until(lambda: ready_of("m-0007") == "False" and fresh_at() - before > timedelta(seconds=1))
        assert verbs(asked).count("list") == 1


@pytest.mark.parametrize(
    "lie", [Fault("empty", path=NODES), Fault("lacking", path=NODES, part=0.5)], ids=["nothing", "half"]
)
async def test_lists_that_go_on_lying_take_no_node_away_and_make_nobody_unwell(server: KubeServer, lie: Fault) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        server.cluster.order(lie)
        server.cluster.order(Fault("expired", path=NODES, verbs=("watch",), times=1))
        server.cut()
        await until(lambda: view_fresh(c) == ("False", "ListShrank"))
        met = lie.met
        await until(lambda: lie.met >= met + 4)
        hidden = sum(lie.hides(name, server.cluster.faults.seed) for name in provider_ids())
        assert hidden > COUNT // 10
        assert (len(nodes()), unready(), closed()) == (COUNT, 0, 0)
        await until(lambda: ready() == COUNT - hidden)
        server.cluster.faults.clear()
        await until(lambda: ready() == COUNT and view_fresh(c) == ("True", "Streaming"))


def zone(number: int) -> list[str]:
    """Nodes of one of the three zones that a simulated cluster has."""
    return [f"m-{n:04}" for n in range(number, COUNT, 3)]


@pytest.mark.parametrize("silent", [zone(1), [*zone(0), *zone(1), *zone(2)]], ids=["a zone", "all"])
async def test_silent_nodes_are_unknown_never_down_and_their_times_restart(
    server: KubeServer, silent: list[str]
) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        for name in silent:
            server.cluster.kubelets.fail(name, "Dead")
        await until(lambda: ready() == COUNT - len(silent))
        assert {ready_of(name) for name in silent} == {"Unknown"}
        assert (len(nodes()), unready(), closed()) == (COUNT, 0, 0)
        assert view_fresh(c) == ("True", "Streaming")
        await until(lambda: time.time() % 1 < 0.2)  # times are whole seconds: the return is in a later one
        await asyncio.sleep(1.0)
        back = int(time.time())
        for name in silent:
            server.cluster.kubelets.fail(name, "")
        await until(lambda: ready() == COUNT)
        since = "SELECT min(v & 4294967295) FROM machine_state s, unnest(s.k_cond) v JOIN condition_kind k ON k.id = v >> 32 WHERE k.type = 'NodeReady' AND s.name = ANY (%s)"
        assert sql(since, silent)[0][0] >= back


async def test_a_cluster_that_cannot_be_reached_is_unknown_never_down_and_its_times_restart(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machines.watch.view.FAILING_SECONDS", 0.2)
    monkeypatch.setattr("machines.watch.cluster.SETTLE_SECONDS", 0.05)
    c = filled(server)
    port = int(server.url.rpartition(":")[2])
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        await server.stop()
        await until(lambda: ready() == 0 and view_fresh(c) == ("False", "NoAnswer"))
        assert (len(nodes()), unready(), closed()) == (COUNT, 0, 0)
        begun = int(time.time())
        await server.start(port=port)
        await until(lambda: ready() == COUNT and view_fresh(c) == ("True", "Streaming"))
        since = "SELECT min(v & 4294967295) FROM machine_state s, unnest(s.k_cond) v JOIN condition_kind k ON k.id = v >> 32 WHERE k.type = 'NodeReady'"
        assert sql(since)[0][0] >= begun


@contextmanager
def process() -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py watch` on the test database."""
    url = os.environ["DATABASE_URL"].replace("/fleet?", f"/{settings.DATABASES['default']['NAME']}?")
    made = subprocess.Popen([sys.executable, "manage.py", "watch"], cwd=ROOT, env={**os.environ, "DATABASE_URL": url})
    try:
        yield made
    finally:
        made.kill()
        made.wait()


async def test_a_watcher_that_is_killed_is_followed_by_another_that_misses_nothing(server: KubeServer) -> None:
    c = filled(server)
    await in_thread(lambda: access.store(c, Endpoint(server.url)))
    held: Callable[[], Any] = lambda: sql("SELECT holder, epoch FROM shard")  # noqa: E731
    with process() as first:
        await until(lambda: ready() == COUNT, seconds=60.0)
        before = held()
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert held() == before
    server.cluster.kubelets.fail("m-0007", "NotReady")
    sql("UPDATE shard SET lease_until = now()")  # as if the time of the lease had passed
    with process() as second:
        await until(lambda: ready_of("m-0007") == "False", seconds=60.0)
        assert held()[0][1] == before[0][1] + 1 and len(nodes()) == COUNT
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 30) == 0
    assert held()[0][0] is None
