"""`python -m simulator.clusters`: the API servers of all Clusters with provider Simulated, in one process until it is terminated.

Which clusters there are, and which simulated machines they have, stands in Fleet's database; the boxes of those machines decide
whether their kubelets run. What people and Fleet do to nodes and pods goes over HTTP only, as with any other API server.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit

import psycopg

from fleet.control.db import Connection
from simulator.kube.cluster import VERSION, SimulatedCluster
from simulator.kube.kubelets import Times
from simulator.kube.server import KubeServer
from simulator.nodes import HOSTS, Host, Seen, bring, host_of

log = logging.getLogger("simulator.clusters")

LOOK_SECONDS: Final = 3.0
HISTORY: Final = 5_000  # events a collection keeps: a reader that was away for longer lists anew
TIMES: Final = Times(lease=20.0)  # half as many writes as real kubelets, and still twice within what counts as silence
_LOCK: Final = 7_203_114  # of the one process that serves
# The version that each claims: of its package, or as new as the kubelets that it gives its machines.
_CLUSTERS: Final[LiteralString] = """
SELECT c.id, c.uid::text, coalesce(v.kubernetes_version, c.spec #>> '{machineVersions,kubelet}', ''), coalesce(s.url, '') FROM clusters_cluster c
LEFT JOIN clusters_clusterpackageversion v ON v.name = c.spec ->> 'packageVersion' LEFT JOIN simulated_cluster s ON s.uid = c.uid
WHERE c.spec ->> 'provider' = 'Simulated' AND c.deleted_at IS NULL
"""
_SERVED: Final[LiteralString] = """
INSERT INTO simulated_cluster (uid, url) VALUES (%s, %s) ON CONFLICT (uid) DO UPDATE SET url = excluded.url, since = now()
"""
_GONE: Final[LiteralString] = "DELETE FROM simulated_cluster WHERE uid <> ALL (%s::uuid[])"


class SimulatedClusters:
    """All of them. `connect` gives an autocommit connection of this object's own, `clock` the time in seconds."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Callable[[], float] = time.time) -> None:
        self._connect = connect
        self._clock = clock
        self._conn: Connection | None = None
        self._locked: Connection | None = None
        self.servers: dict[str, KubeServer] = {}  # by the cluster's uid
        self._hosts: dict[str, Mapping[str, Host]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. While the database is away, what is served goes on."""
        try:
            while not stop.is_set():
                try:
                    await self.look()
                except (psycopg.Error, OSError) as error:
                    log.warning("the database does not answer: %s", error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        finally:
            await self.close()

    async def look(self) -> None:
        """Serve what is to be served, bring kubelets to what their boxes say; nothing while another process does."""
        conn = await self._connection()
        is_ours = await self._lock(conn)
        wanted = {uid: (id_, version, url) for id_, uid, version, url in await self._rows(_CLUSTERS)} if is_ours else {}
        for uid in [u for u in self.servers if u not in wanted]:
            await self._end(uid)
        if not is_ours:
            return
        await conn.execute(_GONE, [list(wanted)])
        for uid, (_, version, url) in wanted.items():
            if uid not in self.servers:
                await self._begin(uid, url)
            self.servers[uid].cluster.version = version or VERSION
        await self._machines({id_: uid for uid, (id_, _, _) in wanted.items()})

    async def close(self) -> None:
        """End all servers and give the connection back."""
        for uid in list(self.servers):
            await self._end(uid)
        if self._conn is not None:
            await self._conn.close()
            self._conn = None

    async def _lock(self, conn: Connection) -> bool:
        """Whether this is the process that serves: as long as its connection lives."""
        if self._locked is not conn:
            row = await (await conn.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])).fetchone()
            self._locked = conn if row is not None and row[0] else None
        return self._locked is conn

    async def _begin(self, uid: str, url: str) -> None:
        """At the address where it was, so that readers find it again; its versions go on above all that were given before."""
        cluster = SimulatedCluster(
            seed=uuid.UUID(uid).int & 0xFFFFFFFF, clock=self._clock, times=TIMES, history=HISTORY
        )
        cluster.store.revision = int(self._clock() * 1_000)
        cluster.store.compact()
        server = KubeServer(cluster)
        try:
            await server.start(port=urlsplit(url).port or 0)
        except OSError:  # somebody else has the port by now
            await server.start()
        self.servers[uid], self._hosts[uid] = server, {}
        await (await self._connection()).execute(_SERVED, [uid, server.url])

    async def _end(self, uid: str) -> None:
        self._hosts.pop(uid, None)
        await self.servers.pop(uid).stop()

    async def _machines(self, uids: Mapping[int, str]) -> None:
        """Machines of these clusters, each as its box stands."""
        found: dict[str, dict[str, tuple[Host, Seen | None]]] = {uid: {} for uid in uids.values()}
        for row in await self._rows(HOSTS, [list(uids)]) if uids else ():
            host, seen = host_of(row)
            found[uids[host.cluster_id]][host.name] = host, seen
        for uid, hosts in found.items():
            await bring(self.servers[uid].cluster.kubelets, self._hosts[uid], hosts)
            self._hosts[uid] = {name: host for name, (host, _) in hosts.items()}

    async def _rows(self, sql: LiteralString, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        return await (await (await self._connection()).execute(sql, values)).fetchall()

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        return self._conn


async def main() -> None:
    """Serve until terminated."""
    from fleet.control.db import connect

    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    gc.freeze()  # what is loaded stays: no collection need look at it again
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await SimulatedClusters(connect).run(stop)


if __name__ == "__main__":
    asyncio.run(main())
