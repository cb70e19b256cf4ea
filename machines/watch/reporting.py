"""Follows what a Cluster says of reporters and gates: one stream for each namespace and DaemonSet, and the writer of what they bring."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from clusters.kube import Kube
from fleet.control.db import Connection
from machines.reporters import Declared, Pods
from machines.watch.maps import Problem
from machines.watch.pace import Pace
from machines.watch.pods import PodStream
from machines.watch.reflect import Reflector, Times
from machines.watch.reports import Reports
from machines.watch.side import MapStream

GATHER_SECONDS: Final = 0.1  # at least between two writes; the first news after a calm are written at once
LOOK_SECONDS: Final = 3.0
With = Callable[[Callable[[Connection], Awaitable[object]]], Awaitable[None]]


class Reporting:
    """All reports of one cluster. `answers`: whether its API server does."""

    def __init__(
        self, kube: Kube, reports: Reports, with_: With, answers: Callable[[], bool], *, times: Times, pace: Pace
    ) -> None:
        self._kube = kube
        self._reports = reports
        self._with = with_
        self._answers = answers
        self._times = times
        self._pace = pace
        self._followed: Declared | None = None
        self._maps: dict[str, tuple[MapStream, asyncio.Task[None]]] = {}
        self._pods: dict[Pods, tuple[PodStream, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                while True:
                    await self._with(lambda conn: self._look(conn, group))
                    self._reports.set_stale(not self._answers())
                    self._reports.troubles = self._troubles()
                    await self._with(self._reports.check)
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            for _, task in (*self._maps.values(), *self._pods.values()):
                task.cancel()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time() - GATHER_SECONDS
        while True:
            await self._reports.news.wait()
            await asyncio.sleep(max(0.0, last + GATHER_SECONDS - loop.time()))
            last = loop.time()
            await self._with(self._reports.flush)

    async def _look(self, conn: Connection, group: asyncio.TaskGroup) -> None:
        """What the Cluster says now; when it is something else, maps are read anew."""
        now = await self._reports.look(conn)
        if now == self._followed:
            return
        self._followed = now
        self._follow_pods(now, group)
        self._reports.declare(now)
        for _, task in self._maps.values():
            task.cancel()
        self._maps = {}
        for namespace in now.namespaces:
            stream = MapStream(
                self._kube, self._reports.lease.cluster_id, namespace, self._reports, times=self._times, pace=self._pace
            )
            self._maps[namespace] = stream, group.create_task(stream.run())

    def _follow_pods(self, now: Declared, group: asyncio.TaskGroup) -> None:
        wanted = now.daemon_sets()
        for pods in [p for p in self._pods if p not in wanted]:
            self._pods.pop(pods)[1].cancel()
        for pods in sorted(wanted - set(self._pods)):
            stream = PodStream(self._kube, pods, self._reports.pods_changed, times=self._times, pace=self._pace)
            self._pods[pods] = stream, group.create_task(stream.run())
        self._reports.pods = {pods: stream for pods, (stream, _) in self._pods.items()}

    def _troubles(self) -> dict[str, Problem]:
        """What cannot be read, and DaemonSets that are not there."""
        out: dict[str, Problem] = {}
        streams: list[tuple[str, Reflector]] = [(f"ConfigMaps in {n}", s) for n, (s, _) in self._maps.items()]
        streams += [(f"pods of {'/'.join(p)}", s) for p, (s, _) in self._pods.items()]
        for what, stream in streams:
            trouble = getattr(stream, "trouble", "")
            if trouble:
                out[what] = Problem("Unreadable", f"they cannot be read: {trouble}")
        for pods, (pod_stream, _) in self._pods.items():
            if pod_stream.missing:
                out[f"DaemonSet {'/'.join(pods)}"] = Problem("NoDaemonSet", "it is not there")
        return out
