"""A cluster with a simulated API server around the reconciler; what a watcher would write is written when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from clusters import access
from clusters.kube import Kube
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.control.endpoint import Endpoint
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from machines import packing
from machines.watch import ingest
from machines.watch.ingest import Observed
from machines.watch.leases import Lease
from machines.watch.seen import conditions_of, one_node
from tests.machines.loop import Loop, package
from tests.simulator.api_servers import LOOPBACK

CLUSTER: Final = "iad1-web"
_ORDER: Final = """
INSERT INTO machines_operation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch)
SELECT nextval('machines_operation_id_seq'), gen_random_uuid(), 'm1-repair-' || currval('machines_operation_id_seq'), fleet_pos(4), 1, '{}', '{}', '[]', '[]',
  jsonb_build_object('machine', 'm1', 'clusterName', %s::text, 'verb', 'Repair', 'owner', 'remediation/r1', 'steps', %s::jsonb), '{"steps": []}', now(), id, uid, cluster_id, 2, 'Pending', 0 FROM machine
"""
TAINT: Final = {"key": "fleet.dev/joining", "effect": "NoSchedule"}


def package_version(name: str) -> Json:
    """A ClusterPackageVersion that nothing here starts."""
    components = [
        {"name": n, "binary": n, **({"version": "3.7.3"} if n == "etcd" else {})}
        for n in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    ]
    spec = {"kubernetesVersion": "1.37.2", "components": components}
    return {"kind": "ClusterPackageVersion", "metadata": {"name": name}, "spec": spec}


@dataclass
class NodesWorld:
    """One cluster, its API server, and the reconciler."""

    loop: Loop
    endpoint: Endpoint
    cluster_id: int = 0
    kube: Kube = field(init=False)
    packed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    async def begin(self, **spec: Any) -> None:
        """The cluster, the way to it, and a fresh view."""
        if spec.get("packageVersion"):
            await self.loop.make(package_version(spec["packageVersion"]))
        self.kube = Kube(self.endpoint, networks=LOOPBACK)
        await self.loop.make({"kind": "Cluster", "metadata": {"name": CLUSTER}, "spec": spec})
        row = await (
            await self.loop.conn.execute("SELECT id FROM clusters_cluster WHERE name = %s", [CLUSTER])
        ).fetchone()
        assert row is not None
        self.cluster_id = int(row[0])
        await in_thread(lambda: access.store(self.cluster_id, self.endpoint))
        await self.loop.conn.execute(
            "INSERT INTO shard (cluster_id, holder, epoch, lease_until, state, fresh_at) VALUES (%s, 7, 1, now() + interval '1 h', 'Fresh', now())",
            [self.cluster_id],
        )

    async def end(self) -> None:
        await self.kube.close()

    @property
    def lease(self) -> Lease:
        return Lease(self.cluster_id, 7, 1)

    async def node(self, name: str = "m1", *, taints: tuple[Json, ...] = (TAINT,), **more: Any) -> None:
        """A kubelet registers its node, Ready, as the machine of that name."""
        machine = await self.loop.get(name)
        assert machine is not None
        uid = machine["metadata"]["uid"]
        spec = {"providerID": f"fleet://{uid}", "taints": list(taints)} | more
        obj = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}
        await self.kube.create("/api/v1/nodes", obj)
        await self.report(name)

    async def report(self, name: str = "m1", **conditions: str) -> None:
        """The kubelet says its conditions."""
        said = {"Ready": "True"} | conditions
        listed = [
            {"type": t, "status": s, "reason": "KubeletReady" if s == "True" else "KubeletNotReady"}
            for t, s in said.items()
        ]
        path = f"/api/v1/nodes/{name}/status"
        await self.kube.patch(path, {"status": {"conditions": listed}})

    async def live(self, name: str = "m1") -> Json:
        return await self.kube.get(f"/api/v1/nodes/{name}")

    async def sync(self) -> None:
        """What a watcher writes of the nodes as they are now."""
        raw = orjson.loads(await self.kube.send("GET", "/api/v1/nodes"))
        nodes = [one_node(orjson.dumps(n)) for n in raw["items"]]
        await ingest.remove_nodes(self.loop.conn, self.lease, await self.known() - {n.metadata.name for n in nodes})
        machine_of = await ingest.links(self.loop.conn, self.lease, nodes, by_name=False)
        await ingest.write_nodes(self.loop.conn, self.lease, nodes, machine_of)
        seen = [
            Observed(m, conditions_of(n.status.conditions), self.packed.get(n.metadata.name, ()))
            for n in nodes
            if (m := machine_of.get(n.metadata.name))
        ]
        packed, _ = await ingest.write_conditions(self.loop.conn, self.lease, seen)
        by_id = {m: n for n, m in machine_of.items()}
        self.packed |= {by_id[m]: array for m, array in packed.items()}

    async def known(self) -> set[str]:
        """Nodes that the watcher wrote."""
        found = await self.loop.conn.execute("SELECT name FROM node WHERE cluster_id = %s", [self.cluster_id])
        return {row[0] for row in await found.fetchall()}

    async def turn(self, passes: int = 1) -> None:
        """The watcher looks, the reconciler works."""
        for _ in range(passes):
            await self.sync()
            await self.loop.step()

    async def tell(self, type_: str, status: str, machine: str = "m1") -> None:
        """A reporter's condition on the machine."""
        conn = self.loop.conn
        condition = Condition(type_, status, "Reported", f"it is {status}")  # type: ignore[arg-type]
        await packing.ensure_entries(conn, [condition])
        packed = packing.pack([condition], (), datetime.now(UTC))
        await conn.execute("UPDATE machine_state SET x_cond = %s WHERE name = %s", [packed.array, machine])

    async def repair(self, *rung: Json) -> None:
        """A rung of these steps for m1, as recovery orders it; nobody else may ask for a Repair."""
        await self.loop.conn.execute(_ORDER, [CLUSTER, orjson.dumps(rung).decode()])

    async def scheduling(self, name: str = "m1") -> Json:
        found = await self.loop.get(name)
        assert found is not None
        out: Json = found["status"].get("scheduling", {})
        return out

    async def stale(self) -> None:
        await self.loop.conn.execute("UPDATE shard SET state = 'Stale' WHERE cluster_id = %s", [self.cluster_id])


@asynccontextmanager
async def with_a_kubelet(conn: Connection, endpoint: Endpoint, **machine: Any) -> AsyncIterator[NodesWorld]:
    """A cluster whose control plane is Fleet's, and one machine with a kubelet; `machine`: more of its spec."""
    made = NodesWorld(Loop(conn), endpoint)
    await made.begin(provider="Local", packageVersion="k8s-1.37.2")
    await made.loop.make(package("kubelet", "1.37.2", healthCheck={"command": ["true"]}))
    await made.loop.machine(clusterName=CLUSTER, versions={"kubelet": "1.37.2"}, **machine)
    yield made
    await made.end()
    await made.loop.clusters.close()  # type: ignore[attr-defined]
