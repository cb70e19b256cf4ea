"""H2: watch ingest: from the first byte of the streams to the last changed condition committed; steady (1 % change) and storm (all)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from benchmarks.harness import Run
from benchmarks.nodes import Remote, feeder
from benchmarks.watching import LOOPBACK, PATIENT, Watching
from benchmarks.world import World, drop_clusters, more_machines
from clusters.kube import Kube
from fleet.control.endpoint import Endpoint

STREAMS = 30  # one a cluster, all in one watcher process
EVENTS = {"S": 100, "M": 1_500, "L": 2_000}  # of one stream in a burst
_STEADY, _STORM = 100, 1  # every n-th event flips Ready
_PEER = 2_000
_FIRST, _NUMBER = 1_000_000, 150
NODES = "/api/v1/nodes"


class Measure:
    title = (
        "events of 9 kB taken in by the 30 streams of one process: 1 in 100 changes a condition; the storm changes all"
    )
    target = "at most 1.23x the floor's CPU (10.8 against 8.8 us an event); at most 0.04x the official client's; storm at least 25,000 committed changes/s"

    def prepare(self, world: World) -> None:
        stack = contextlib.ExitStack()
        self._streams, self._events = STREAMS, EVENTS[world.size]
        per = self._events  # each node is told of once in a burst
        self._remote: Remote = stack.enter_context(feeder(2 * self._streams + 1, per, per, _FIRST))
        self._close = stack.close
        self._ids = [
            more_machines(world, f"streamed-{n}", _NUMBER + n, per, _FIRST + n * per) for n in range(self._streams)
        ]
        self._ours = Watching(world.conn, [(c, Endpoint(self._remote.of(n))) for n, c in enumerate(self._ids)])

        async def start(conn: Any) -> None:
            await self._ours.start()
            await self._ours.reached(["1"] * self._streams)
            await asyncio.sleep(1.0)  # streams are open

        world.run(start)

    def reset(self, world: World, who: str) -> None:
        every = _STORM if "storm" in who else _STEADY
        self._order = {"first": self._first(who), "streams": 1 if "client" in who or "dict" in who else self._streams}
        events = _PEER if self._order["streams"] == 1 else self._events
        self._versions = self._remote.ask("prepare", events=events, every=every, **self._order)
        for table in ("machine_state", "work_item", "capacity", "node"):
            world.sql(f"VACUUM (ANALYZE) {table}")
        world.kept["from"] = world.sql("SELECT fleet_horizon()")[0][0]

    def _first(self, who: str) -> int:
        return 0 if who.startswith("ours") else self._streams if who == "floor" else 2 * self._streams

    def floor(self, world: World) -> Run:
        """Receive and decode to the same typed struct; nothing is kept or compared."""
        from machines.watch.seen import node_line

        self._remote.ask("go", **self._order)
        readers = [self._lines(self._streams + n, self._events, node_line) for n in range(self._streams)]

        async def read(conn: Any) -> int:
            return sum(await asyncio.gather(*readers))

        return Run(world.run(read))

    async def _lines(self, cluster: int, wanted: int, decode: Callable[[bytes], Any]) -> int:
        count = 0
        async with Kube(Endpoint(self._remote.of(cluster)), networks=LOOPBACK) as kube:
            async for line in kube.watch(NODES, "1", silence_seconds=PATIENT.silence):
                decode(line)
                count += 1
                if count == wanted:
                    break
        return count

    def ours(self, world: World) -> Run:
        async def burst(conn: Any) -> None:
            await asyncio.to_thread(self._remote.ask, "go", **self._order)
            await self._ours.reached([str(self._versions[f"c{n}"]) for n in range(self._streams)])

        world.run(burst)
        return Run(self._streams * self._events)

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"ours, storm": self.ours, "raw dict": self._dict, "official client": self._client}

    def _dict(self, world: World) -> Run:
        """The same client, orjson to plain dictionaries."""
        self._remote.ask("go", **self._order)
        return Run(world.run(lambda conn: self._lines(2 * self._streams, _PEER, orjson.loads)))

    def _client(self, world: World) -> Run:
        """The `kubernetes` client: Watch over list_node, models of every field."""
        from kubernetes import client, watch

        configuration = client.Configuration()
        configuration.host = self._remote.of(2 * self._streams)
        self._remote.ask("go", **self._order)
        count = 0
        with client.ApiClient(configuration) as api:
            stream = watch.Watch()
            for _ in stream.stream(client.CoreV1Api(api).list_node, resource_version="1"):
                count += 1
                if count == _PEER:
                    break
        return Run(count)

    def check(self, world: World, who: str, run: Run) -> None:
        wanted = _PEER if self._order["streams"] == 1 else self._streams * self._events
        assert run.count == wanted, f"{who} read {run.count} of {wanted} events"
        if who.startswith("ours"):
            flips = self._streams * (self._events if "storm" in who else -(-self._events // _STEADY))
            told = world.sql(
                "SELECT count(*), count(DISTINCT object_id) FROM event WHERE type = 'dev.fleet.machine.node' AND pos >= %s",
                [world.kept["from"]],
            )[0]
            assert told == (flips, flips), f"{who} committed {told} of {flips} changes"

    def figures(self, world: World) -> Mapping[str, float]:
        world.run(lambda conn: self._ours.stop())
        self._close()
        drop_clusters(world, self._ids)
        return {}
