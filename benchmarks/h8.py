"""H8: memory per watched node: what a process has grown by once 100,000 nodes were listed, divided by them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping

from benchmarks.harness import Run
from benchmarks.simulated import simulated
from benchmarks.world import World, drop_clusters, more_machines

CLUSTERS = {"S": [1_000], "M": [20_000] * 5, "L": [20_000] * 5}
_SMALL = 500  # the first list, which is not counted
_FIRST, _NUMBER = 3_000_000, 200
_MOST = {"dict": 5_000, "model": 1_000}  # nodes that peers keep
BYTES = "bytes a node"


class Measure:
    title = "memory a watched node takes after the first list; each contender in a process of its own (its CPU is not counted)"
    target = "at most 500 bytes a node"

    def prepare(self, world: World) -> None:
        counts = [_SMALL, *CLUSTERS[world.size]]
        self._wanted = sum(counts[1:])
        self._ids, self._subjects = [], []
        stack, first = contextlib.ExitStack(), _FIRST
        for number, count in enumerate(counts):
            self._ids.append(more_machines(world, f"watched-{number}", _NUMBER + number, count, first))
            url = stack.enter_context(simulated(count, first))
            self._subjects.append(f"{url}={self._ids[-1]}")
            first += count
        self._close = stack.close

    def reset(self, world: World, who: str) -> None:
        world.sql("DELETE FROM node WHERE cluster_id = ANY (%s)", [self._ids])

    def _run(self, who: str) -> Run:
        most = _MOST.get(who, self._wanted)
        command = [sys.executable, "-m", "benchmarks.memory", who, str(most), *self._subjects]
        size, count = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        return Run(count, figures={BYTES: size / count})

    def floor(self, world: World) -> Run:
        """Columns of what is compared and written; nothing finds a node in them."""
        return self._run("floor")

    def ours(self, world: World) -> Run:
        return self._run("ours")

    def peers(self) -> Mapping[str, Callable[[World], Run]]:
        return {"raw dict": lambda world: self._run("dict"), "official client": lambda world: self._run("model")}

    def check(self, world: World, who: str, run: Run) -> None:
        wanted = min(
            self._wanted, {"raw dict": _MOST["dict"], "official client": _MOST["model"]}.get(who, self._wanted)
        )
        assert run.count == wanted, f"{who} kept {run.count} of {wanted} nodes"
        if who == "ours":
            sql = "SELECT count(*) FROM node n JOIN machine m ON m.id = n.machine_id WHERE n.cluster_id = ANY (%s) AND m.name = n.name"
            told = world.sql(sql, [self._ids])[0][0]
            assert told == self._wanted + _SMALL, f"{told} nodes are written and linked"

    def figures(self, world: World) -> Mapping[str, float]:
        self._close()
        drop_clusters(world, self._ids)
        return {}
