"""Everything that runs for one cluster under one lease: streams, probe, writer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import orjson
import psycopg

from clusters.kube import Kube, KubeError, KubeUnreachable
from fleet.control.addresses import Network
from fleet.control.db import Connection
from fleet.control.endpoint import Endpoint
from fleet.control.work import backoff
from machines.watch.csrs import Approver, CsrStream
from machines.watch.leases import Lease, LeaseLost
from machines.watch.nodes import NodeStream
from machines.watch.pace import Pace
from machines.watch.reflect import ORDINARY, Times
from machines.watch.reporting import Reporting
from machines.watch.reports import Reports
from machines.watch.side import EventStream
from machines.watch.starts import Starts
from machines.watch.told import tell
from machines.watch.tripping import Tripping
from machines.watch.view import FRESH, STALE, View

log = logging.getLogger("fleet.watch")
T = TypeVar("T")
Borrow = Callable[[Callable[[Connection], Awaitable[T]]], Awaitable[T]]

GATHER_SECONDS: Final = (
    0.1  # at least between two writes of one cluster; the first news after a calm are written at once
)
QUIET_SECONDS: Final = 20.0  # after so long without a byte the server is asked whether it is there
PROBE_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 2.0
RELINK_SECONDS: Final = 30.0
REQUESTS: Final = 4  # at a time; streams not counted


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be watched. `by_name`: nodes that carry no provider id of Fleet's are machines of the same name."""

    endpoint: Endpoint
    by_name: bool = False
    certifies: bool = False  # Fleet answers the certificate requests of its kubelets


@dataclass(slots=True)
class ClusterWatch:
    """One cluster. `borrow` runs a job with one of the process's connections."""

    lease: Lease
    subject: Subject
    borrow: Callable[[Callable[[Connection], Awaitable[object]]], Awaitable[object]]
    networks: Sequence[Network] = ()
    times: Times = ORDINARY
    listing: asyncio.Semaphore | None = None
    view: View = field(init=False)
    nodes: NodeStream = field(init=False)
    reports: Reports = field(init=False)
    starts: Starts = field(default_factory=Starts)
    tripping: Tripping = field(init=False)
    lost: bool = False  # the lease went to another watcher

    async def run(self) -> None:
        """Until cancelled, or until the lease is lost. An error of one part ends all of it: the process starts it anew."""
        self.reports = Reports(self.lease)
        self.tripping = Tripping(self.lease, self.starts, self._with, lambda: self.view.state() == FRESH)
        self.view = View(self.lease, by_name=self.subject.by_name)
        pace = Pace()
        kube = Kube(
            self.subject.endpoint, networks=self.networks, requests=REQUESTS, agent="fleet-watcher", compressed=False
        )
        try:
            async with kube, asyncio.TaskGroup() as group:
                await self._with(self.view.load)
                await self._with(self.reports.load)
                self.view.leave(self.reports.declared.types())  # before the first list, or it would be read twice
                self.nodes = NodeStream(kube, self.view, times=self.times, pace=pace, listing=self.listing)
                for part in (self.nodes.run(), self._write(), self._settle(), self._probe(kube), self._relink()):
                    group.create_task(part)
                self._side(group, kube, pace)
        except* LeaseLost:
            self.lost = True
            log.warning("cluster %d is watched by another process now", self.lease.cluster_id)

    def _side(self, group: asyncio.TaskGroup, kube: Kube, pace: Pace) -> None:
        events = EventStream(kube, self.starts, times=self.times, pace=pace)
        reporting = Reporting(kube, self.reports, self._with, self._view_of_reports, times=self.times, pace=pace)
        for part in (
            self.view.telling.run(self._with),
            events.run(),
            self._tell(events),
            self.tripping.run(),
            reporting.run(),
        ):
            group.create_task(part)
        if self.subject.certifies:
            requests = CsrStream(kube, times=self.times, pace=pace)
            for part in (requests.run(), Approver(kube, self.lease, self.borrow, requests).run()):
                group.create_task(part)

    def _view_of_reports(self) -> bool:
        """Whether the cluster answers; nodes leave to reporters what is theirs."""
        if self.view.leave(self.reports.declared.types()):
            self.nodes.again.set()
        return self.view.state() != STALE

    async def _with(self, job: Callable[[Connection], Awaitable[object]]) -> None:
        """Run a job on the database, again and again while it is away: what was seen is not lost."""
        failures = 0
        while True:
            try:
                await self.borrow(job)
                return
            except (psycopg.OperationalError, OSError) as error:
                failures += 1
                log.warning("cluster %d: the database does not answer: %s", self.lease.cluster_id, error)
                await asyncio.sleep(backoff(failures, first=0.5, most=10.0))

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time() - GATHER_SECONDS
        while True:
            await self.view.news.wait()
            await asyncio.sleep(max(0.0, last + GATHER_SECONDS - loop.time()))
            last = loop.time()
            await self._with(self.view.flush)

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            await self._with(self.view.settle)
            if self.view.read_again and self.view.state() != STALE:
                self.nodes.again.set()

    async def _probe(self, kube: Kube) -> None:
        """What the server says it is; and, while the stream is silent, whether it still answers."""
        while True:
            if not self.view.version or self.view.quiet_seconds() > QUIET_SECONDS:
                try:
                    found = orjson.loads(await kube.send("GET", "/version", seconds=PROBE_SECONDS))
                    self.view.version = str(found.get("gitVersion", ""))[:64]
                except (KubeUnreachable, KubeError, ValueError, AttributeError) as error:
                    self.view.failed(str(error))
                else:
                    self.view.answered()
            await asyncio.sleep(PROBE_SECONDS)

    async def _relink(self) -> None:
        while True:
            await asyncio.sleep(RELINK_SECONDS)
            new: list[str] = []

            async def look(conn: Connection, found: list[str] = new) -> None:
                found[:] = await self.view.relink(conn)

            await self._with(look)
            if new:
                try:
                    await self.nodes.read(new)
                except (KubeUnreachable, KubeError) as error:
                    self.view.failed(str(error))  # the next round finds them again

    async def _tell(self, events: EventStream) -> None:
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            found = events.taken()
            if found:
                await self._with(lambda conn, found=found: tell(conn, self.lease, found))  # type: ignore[misc]
