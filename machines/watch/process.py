"""The watcher process: takes leases on clusters, runs one ClusterWatch each, and says how fresh the views are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg
from django.db import connection as django_connection
from django.db.utils import Error as DjangoError

from clusters.access import endpoints
from clusters.schema_cluster import MADE
from clusters.status import Part, Told, write_parts
from clusters.ways import networks_of
from fleet.api.storage import storage_for
from fleet.control import clock, db
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.events.publish import WARNING
from machines.watch import ingest, leases
from machines.watch.cluster import ClusterWatch, Subject
from machines.watch.leases import Lease, Sign
from machines.watch.reflect import ORDINARY, Times
from machines.watch.view import LISTING

log = logging.getLogger("fleet.watch")

TICK_SECONDS: Final = 3.0  # a fifth of the lease
MOST_CLUSTERS: Final = 100
CONNECTIONS: Final = 3  # a storm keeps two: one writes, one judges
LISTS: Final = 2  # at a time: a list of 20,000 nodes keeps a core busy
MOST_TOLD: Final = 20  # events about reports at a time
BY_NAME: Final = ("Imported", "Simulated")
_SUBJECTS: Final[LiteralString] = """
SELECT a.cluster_id, a.updated_at, coalesce(c.spec ->> 'provider', '')
FROM cluster_access a JOIN clusters_cluster c ON c.id = a.cluster_id WHERE a.cluster_id = ANY (%s)
"""


@dataclass(slots=True)
class _Running:
    watch: ClusterWatch
    task: asyncio.Task[None]
    stamp: tuple[Any, ...]
    told: tuple[Any, ...] = ()
    failures: int = 0


@dataclass(slots=True)
class Watcher:
    """`most`: clusters that this process takes. More processes share what there is."""

    most: int = MOST_CLUSTERS
    times: Times = ORDINARY
    tick_seconds: float = TICK_SECONDS
    me: int = field(default_factory=lambda: random.randrange(1, 2**31))
    _running: dict[int, _Running] = field(default_factory=dict)
    _held: dict[int, Lease] = field(default_factory=dict)
    # The one used last is used next: the others are opened only when they are needed.
    _free: asyncio.LifoQueue[Connection | None] = field(default_factory=asyncio.LifoQueue)
    _listing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LISTS))

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then everything is given back at once."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(None)
        try:
            while not stop.is_set():
                try:
                    await self._tick()
                except (psycopg.Error, DjangoError, OSError) as error:
                    log.warning("the database does not answer: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self.tick_seconds)
        finally:
            await self._end()

    def watch_of(self, cluster_id: int) -> ClusterWatch | None:
        """What runs for a cluster in this process."""
        found = self._running.get(cluster_id)
        return None if found is None else found.watch

    async def borrow(self, job: Callable[[Connection], Awaitable[object]]) -> object:
        """Run a job on one of the process's connections; a broken one is opened anew."""
        conn = await self._free.get()
        try:
            if conn is None or conn.closed:
                conn = None
                conn = await db.connect()
            return await job(conn)
        finally:
            self._free.put_nowait(conn)

    # -- the tick -----------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        subjects = await self._leases()
        for cluster, running in list(self._running.items()):
            stamp = subjects.get(cluster, (None,))[0]
            if running.task.done() or running.stamp != stamp or cluster not in self._held:
                await self._stop(cluster)
        for cluster, (stamp, subject) in subjects.items():
            if cluster not in self._running:
                self._start(cluster, stamp, subject)
        await self._say()

    async def _leases(self) -> dict[int, tuple[tuple[Any, ...], Subject]]:
        """Renew, take what is free; what is to be watched, by cluster."""

        async def job(conn: Connection) -> dict[int, tuple[tuple[Any, ...], Subject]]:
            await clock.set_by(conn)
            kept = await leases.renew(conn, self.me, [self._sign(lease) for lease in self._held.values()])
            self._held = {c: lease for c, lease in self._held.items() if c in kept}
            await leases.forget(conn)
            for lease in await leases.claim(conn, self.me, self.most - len(self._held)):
                self._held[lease.cluster_id] = lease
            return await self._subjects(conn)

        found = await self.borrow(job)
        assert isinstance(found, dict)
        return found

    async def _subjects(self, conn: Connection) -> dict[int, tuple[tuple[Any, ...], Subject]]:
        rows = await (await conn.execute(_SUBJECTS, [list(self._held)])).fetchall()
        stamps = {c: (self._held[c].epoch, at, provider) for c, at, provider in rows}
        stale = [c for c, stamp in stamps.items() if c not in self._running or self._running[c].stamp != stamp]
        opened = await endpoints(conn, stale) if stale else {}
        out = {}
        for cluster, stamp in stamps.items():
            if cluster in opened:
                out[cluster] = (stamp, Subject(opened[cluster], stamp[2] in BY_NAME, stamp[2] in MADE))
            elif cluster in self._running:
                out[cluster] = (stamp, self._running[cluster].watch.subject)
        return out

    def _sign(self, lease: Lease) -> Sign:
        running = self._running.get(lease.cluster_id)
        if running is None or not hasattr(running.watch, "view"):
            return Sign(lease, None, "", LISTING, "")
        view = running.watch.view
        return Sign(lease, view.age(), view.version, view.state(), view.condition().message)

    def _start(self, cluster: int, stamp: tuple[Any, ...], subject: Subject) -> None:
        watch = ClusterWatch(
            self._held[cluster],
            subject,
            self.borrow,
            networks=networks_of(stamp[2]),
            times=self.times,
            listing=self._listing,
        )
        self._running[cluster] = _Running(watch, asyncio.create_task(watch.run()), stamp)

    async def _stop(self, cluster: int) -> None:
        running = self._running.pop(cluster)
        running.task.cancel()
        ended = (await asyncio.gather(running.task, return_exceptions=True))[0]
        if running.watch.lost:
            self._held.pop(cluster, None)
        elif isinstance(ended, Exception):
            log.error("the watch of cluster %d broke and begins anew", cluster, exc_info=ended)

    async def _end(self) -> None:
        for cluster in list(self._running):
            await self._stop(cluster)
        with contextlib.suppress(psycopg.Error, OSError):
            await self.borrow(lambda conn: leases.release(conn, self.me, self._held.values()))
        while not self._free.empty():
            conn = self._free.get_nowait()
            if conn is not None:
                await conn.close()

    # -- what is said of clusters -------------------------------------------------------------------------------------

    async def _say(self) -> None:
        """`ViewFresh`, `ReportersHealthy`, the counts of nodes and the rate of pods on the Clusters where something moved."""
        parts: dict[int, Part] = {}
        told: dict[int, tuple[int, int]] = {}
        for cluster, running in self._running.items():
            view = getattr(running.watch, "view", None)
            if view is None:
                continue
            condition, reports, tripping = view.condition(), running.watch.reports, running.watch.tripping
            healthy = reports.condition()
            conditions = (condition,) if healthy is None else (condition, healthy)
            stamp = tuple((c.status, c.reason, c.message) for c in conditions)
            fields: dict[str, Any] = tripping.fields()
            if stamp == running.told and not (view.moved or reports.told or tripping.told or fields):
                continue
            if view.moved:
                view.moved = False
                counted: Any = await self.borrow(lambda conn, c=cluster: ingest.counts(conn, c))  # type: ignore[misc]
                ready = max(counted["ready"], view.cache.ready() if condition.status == "True" else 0)
                fields |= {"nodes": {**counted, "ready": ready}}
            refused, failing = reports.told[:MOST_TOLD], list(tripping.told)
            parts[cluster] = Part(fields, conditions, (*_told(running.told, condition), *refused, *failing))
            told[cluster] = len(refused), len(failing)
            running.told = stamp
        if parts:
            await asyncio.to_thread(_write_parts, parts)
        for cluster, (reported, tripped) in told.items():
            watch = self._running[cluster].watch
            del watch.reports.told[:reported], watch.tripping.told[:tripped]


def _told(before: tuple[Any, ...], condition: Condition) -> tuple[Told, ...]:
    """An event when the view is lost, and when it is back."""
    was = before[0] if before else ("", "", "")
    if condition.status == "False" and was[:2] != ("False", condition.reason):
        return (Told("view-lost", condition.reason, condition.message, WARNING),)
    if condition.status == "True" and was[0] == "False":
        return (Told("view-fresh", condition.reason, condition.message),)
    return ()


def _write_parts(parts: dict[int, Part]) -> None:
    try:
        write_parts(storage_for("clusters"), parts)
    finally:
        django_connection.close()
