"""H10 (b): a cluster of 20,000 nodes is adopted: from nothing to every node in the database, linked to its machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from benchmarks.harness import Run, cpu_seconds
from benchmarks.simulated import simulated
from benchmarks.watching import LOOPBACK, Watching
from benchmarks.world import World, drop_clusters, more_machines
from clusters.kube import Kube
from fleet.control.endpoint import Endpoint

NODES = {"S": 1_000, "M": 20_000, "L": 20_000}
_FIRST, _NUMBER = 2_000_000, 240
_PEER = 1_000  # nodes that the official client reads
_FORGET = """
UPDATE machine_state SET is_node = false, k_cond = '{}', notes = NULL, cond_true = cond_true & ~1::bigint, cond_false = cond_false & ~1::bigint WHERE cluster_id = %s
"""


class Measure:
    title = "a cluster of 20,000 nodes is adopted: listed over HTTP, written, linked to machines; the floor receives and decodes"
    target = "at most 1 s CPU, 2 s wall"

    def prepare(self, world: World) -> None:
        self._count = self.count(world)
        self._cluster = more_machines(world, "adopted", _NUMBER, self._count, _FIRST)
        stack = contextlib.ExitStack()
        self._endpoint = stack.enter_context(self.server(self._count, _FIRST))
        self._close = stack.close

    def count(self, world: World) -> int:
        """Nodes of the cluster."""
        return NODES[world.size]

    @contextlib.contextmanager
    def server(self, count: int, first: int) -> Iterator[Endpoint]:
        """Where it is served."""
        with simulated(count, first) as url:
            yield Endpoint(url)

    def reset(self, world: World, who: str) -> None:
        world.sql("DELETE FROM node WHERE cluster_id = %s", [self._cluster])
        world.sql(_FORGET, [self._cluster])
        for table in ("node", "machine_state", "capacity", "work_item"):
            world.sql(f"VACUUM (ANALYZE) {table}")

    def floor(self, world: World) -> Run:
        """The same pages, decoded to the same typed struct."""
        from machines.watch.seen import node_page

        return Run(world.run(lambda conn: self._pages(node_page, lambda page: page.items)))

    async def _pages(self, decode: Callable[[bytes], Any], items: Callable[[Any], Any]) -> int:
        count = 0
        async with Kube(self._endpoint, networks=LOOPBACK, compressed=False) as kube:
            async for body in kube.pages("/api/v1/nodes"):
                count += len(items(decode(body)))
        return count

    def ours(self, world: World) -> Run:
        postgres = -cpu_seconds(world.postgres_pid) + time.process_time()
        own = -time.process_time()

        async def adopt(conn: Any) -> None:
            watching = Watching(conn, [(self._cluster, self._endpoint)])
            await watching.start()
            await watching.settled()
            await watching.stop()

        world.run(adopt)
        own += time.process_time()
        postgres += cpu_seconds(world.postgres_pid) - time.process_time()
        return Run(self._count, figures={"CPU of Fleet": own * 1_000, "CPU of PostgreSQL": postgres * 1_000})

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"raw dict": self._dict, "official client": self._client}

    def _dict(self, world: World) -> Run:
        """The same pages as plain dictionaries; nothing is written."""
        return Run(world.run(lambda conn: self._pages(orjson.loads, lambda page: page["items"])))

    def _client(self, world: World) -> Run:
        """The `kubernetes` client: models of every field; nothing is written."""
        from kubernetes import client

        configuration = client.Configuration()
        configuration.host = self._endpoint.server
        with client.ApiClient(configuration) as api:
            return Run(len(client.CoreV1Api(api).list_node(limit=_PEER).items))

    def check(self, world: World, who: str, run: Run) -> None:
        wanted = _PEER if who == "official client" else self._count
        assert run.count == wanted, f"{who} read {run.count} of {wanted} nodes"
        if who == "ours":
            sql = """SELECT count(*), count(DISTINCT n.machine_id), count(*) FILTER (WHERE m.name = n.name AND s.is_node AND s.cond_true & 1 = 1)
              FROM node n JOIN machine m ON m.id = n.machine_id JOIN machine_state s ON s.id = m.id WHERE n.cluster_id = %s"""
            told = world.sql(sql, [self._cluster])[0]
            assert told == (self._count,) * 3, f"of {self._count} nodes {told} are written, are machines, are Ready"

    def figures(self, world: World) -> Mapping[str, float]:
        self._close()
        drop_clusters(world, [self._cluster])
        return {}
