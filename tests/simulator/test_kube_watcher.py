"""Fleet's watcher on the simulated API server: what kubelets say becomes true in Fleet, and no lie takes a node away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from machines.watch.process import Watcher
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.faults import Fault, script
from simulator.kube.server import KubeServer
from tests.machines.test_watch import cluster, nodes, provider_ids, ready_of, watching
from tests.machines.watch_server import until
from tests.machines.world import make, sql

pytestmark = pytest.mark.usefixtures("fleet_db")
COUNT = 30


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    made = KubeServer(SimulatedCluster(), bookmarks=0.5)
    await made.start()
    yield made
    await made.stop()


def filled(server: KubeServer) -> int:
    """A cluster with machines and their nodes."""
    c = cluster()
    make(COUNT, cluster_id=c)
    for name, provider in provider_ids().items():
        server.cluster.kubelets.add([name], provider=provider)
    return c


def watched(server: KubeServer, c: int) -> AbstractAsyncContextManager[Watcher]:
    """The watcher at work: it needs no more of a server than where it is."""
    return watching(cast(Any, server), c)


def ready() -> int:
    """Machines that Fleet believes to be Ready."""
    return int(sql("SELECT count(*) FROM machine_state WHERE cond_true & 1 = 1")[0][0])


def unready() -> int:
    """Machines that Fleet believes not to be Ready; of others it does not know."""
    return int(sql("SELECT count(*) FROM machine_state WHERE cond_false & 1 = 1")[0][0])


async def test_what_kubelets_say_is_what_fleet_believes(server: KubeServer) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        server.cluster.kubelets.fail("m-0003", "NotReady")
        await until(lambda: ready_of("m-0003") == "False")
        assert (ready(), unready()) == (COUNT - 1, 1)
        server.cluster.kubelets.fail("m-0003", "")
        await until(lambda: ready() == COUNT)


async def test_lists_that_lie_after_a_compaction_take_no_node_away(server: KubeServer) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        lie = server.cluster.order(Fault("empty", path="/api/v1/nodes", times=3))
        server.cluster.order(Fault("expired", path="/api/v1/nodes", verbs=("watch",), times=1))
        server.cut()
        await until(lambda: lie.met == 3)
        await until(lambda: ready() == COUNT)
        assert len(nodes()) == COUNT and unready() == 0


async def test_a_spell_of_foul_weather_ends_with_the_truth(server: KubeServer) -> None:
    c = filled(server)
    async with watched(server, c):
        await until(lambda: ready() == COUNT)
        for fault in script(7, 30.0, 2.0):
            fault.begin, fault.until = 0.0, None
            fault.times, fault.seconds = 2, 0.05
            server.cluster.order(fault)
        for name in ("m-0001", "m-0002"):
            server.cut()
            server.cluster.kubelets.fail(name, "NotReady")
        await until(lambda: ready_of("m-0001") == ready_of("m-0002") == "False", seconds=60.0)
        assert sum(fault["met"] for fault in server.cluster.faults.show()) > 5
        server.cluster.faults.clear()
        await until(lambda: (ready(), unready()) == (COUNT - 2, 2), seconds=60.0)
        assert len(nodes()) == COUNT
