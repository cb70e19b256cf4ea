"""The watcher against an API server and the real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clusters import access
from clusters.kube import Endpoint
from machines.watch.process import Watcher
from machines.watch.reflect import Times
from tests.machines.watch_server import ApiServer, node, until
from tests.machines.world import make, sql
from tests.threads import in_thread

pytestmark = pytest.mark.usefixtures("fleet_db")
FAST = Times(silence=2.0, recheck=0.01, relist=0.3, jitter=0.01, first=0.01, most=0.1)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    made = ApiServer()
    await made.start()
    yield made
    await made.stop()


def cluster(name: str = "c1", provider: str = "Local") -> int:
    """A row of a cluster."""
    rows = sql(
        "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) "
        "VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', jsonb_build_object('provider', %s::text), '{}', now()) RETURNING id",
        name, provider,
    )  # fmt: skip
    return int(rows[0][0])


def provider_ids() -> dict[str, str]:
    """Provider ids by the machine's name."""
    return {name: f"fleet://{uid}" for name, uid in sql("SELECT name, uid::text FROM machine")}


@asynccontextmanager
async def watching(server: ApiServer, *ids: int, **kept: Any) -> AsyncIterator[Watcher]:
    """A watcher at work on these clusters."""
    for each in ids:
        await in_thread(lambda each=each: access.store(each, Endpoint(server.url)))  # type: ignore[misc]
    stop = asyncio.Event()
    watcher = Watcher(times=FAST, tick_seconds=0.05, **kept)
    task = asyncio.create_task(watcher.run(stop))
    try:
        yield watcher
    finally:
        stop.set()
        await task


def ready_of(name: str) -> str:
    """What Fleet believes of NodeReady."""
    found = sql("SELECT cond_true & 1, cond_false & 1 FROM machine_state WHERE name = %s", name)
    return {(1, 0): "True", (0, 1): "False"}.get(tuple(found[0]), "Unknown")


def nodes() -> list[str]:
    return [row[0] for row in sql("SELECT name FROM node ORDER BY name")]


async def test_nodes_become_rows_and_their_conditions_the_machines(server: ApiServer) -> None:
    c = cluster()
    make(3, cluster_id=c)
    ids = provider_ids()
    for n, provider in enumerate(ids.values()):
        await server.put(node(f"node-{n}", provider=provider))
    async with watching(server, c):
        await until(lambda: len(nodes()) == 3 and all(ready_of(m) == "True" for m in ids))
        row = sql(
            "SELECT n.name, m.name, n.kubelet_version, n.boot_id, n.internal_ip, n.labels FROM node n JOIN machine m ON m.id = n.machine_id ORDER BY 1"
        )[0]
        assert row == ("node-0", "m-0000", "v1.37.2", "boot-node-0", "10.0.0.1", {"kubernetes.io/hostname": "node-0"})
        await server.put(node("node-1", provider=ids["m-0001"], ready="False"))
        await until(lambda: ready_of("m-0001") == "False")
        assert ready_of("m-0000") == "True"
