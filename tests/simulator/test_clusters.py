"""Clusters with provider Simulated: served, watched, their machines are nodes; restarted without a loss; deleted without a trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from clusters import tasks as _tasks  # registers the operator
from clusters.kube import Kube
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control import db, work, worker
from fleet.control.endpoint import Endpoint
from fleet.control.kinds import API_VERSION, CLUSTER, Json
from fleet.control.threads import in_thread
from machines.watch.process import Watcher
from simulator.clusters import SimulatedClusters
from tests.machines.test_watch import FAST, ready_of
from tests.machines.watch_server import until
from tests.machines.world import make, sql
from tests.simulator.api_servers import LOOPBACK

assert _tasks
pytestmark = pytest.mark.usefixtures("fleet_db")
BY = Write(by=SYSTEM)
KUBELET = {"units": {"kubelet.service": {"load": "loaded", "enabled": "enabled", "active": "active"}}, "packages": {"kubelet": {"declared": "1.37.2"}}}  # fmt: skip
JOINING = [{"key": "fleet.dev/joining", "effect": "NoSchedule"}]


@pytest.fixture
async def simulated() -> AsyncIterator[SimulatedClusters]:
    made = SimulatedClusters(db.connect)
    yield made
    await made.close()


def cluster(name: str = "c1", **spec: Any) -> None:
    wanted = {"provider": "Simulated", "driver": {"type": "simulated"}, **spec}
    create_object(
        "clusters", {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": name}, "spec": wanted}, write=BY
    )


def filled(count: int, **spec: Any) -> int:
    """A simulated cluster and its machines."""
    cluster(**spec)
    ((number,),) = sql("SELECT id FROM clusters_cluster")
    make(count, cluster_id=number, clusterName="c1")
    return int(number)


async def turn(name: str = "c1") -> Json:
    """A pass of the Cluster-Operator; what it says."""
    await in_thread(lambda: work.wake(CLUSTER, [row[0] for row in sql("SELECT id FROM clusters_cluster")]))
    await worker.run_once(kinds=[CLUSTER])
    found = await in_thread(lambda: storage_for("clusters").read(name))
    assert found is not None
    status: Json = found.obj["status"]
    return status | {"by": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}}


@asynccontextmanager
async def watching() -> AsyncIterator[Watcher]:
    """The watcher at work on all clusters that Fleet knows a way to."""
    stop, watcher = asyncio.Event(), Watcher(times=FAST, tick_seconds=0.05)
    task = asyncio.create_task(watcher.run(stop))
    try:
        yield watcher
    finally:
        stop.set()
        await task


@asynccontextmanager
async def client() -> AsyncIterator[Kube]:
    ((url,),) = await in_thread(lambda: sql("SELECT url FROM simulated_cluster"))
    async with Kube(Endpoint(url), networks=LOOPBACK) as kube:
        yield kube


def node(name: str = "m-0000") -> tuple[Any, ...]:
    """(taints, unschedulable, boot id, kubelet's version) of a node as Fleet sees it; () where it sees none."""
    found = sql("SELECT taints, unschedulable, boot_id, kubelet_version FROM node WHERE name = %s", name)
    return tuple(found[0]) if found else ()


async def test_its_machines_are_closed_nodes_that_the_watcher_sees_ready(simulated: SimulatedClusters) -> None:
    await in_thread(lambda: filled(5))
    status = await turn()
    assert status["by"]["Ready"] == ("False", "NotSimulated") and status["phase"] == "Provisioning"
    await simulated.look()
    status = await turn()
    assert (status["phase"], status["kubernetesVersion"]) == ("Running", "1.37.2")
    assert status["by"]["APIServerReachable"] == ("True", "Ready")
    async with watching():
        await until(lambda: all(ready_of(f"m-{n:04}") == "True" for n in range(5)))
        assert node()[0] == JOINING
        ((same,),) = sql(
            "SELECT count(*) FROM node n JOIN machine m ON m.id = n.machine_id AND n.provider_id = 'fleet://' || m.uid"
        )
        assert same == 5
        fresh = "SELECT 1 FROM clusters_cluster c, jsonb_array_elements(c.status -> 'conditions') v WHERE v ->> 'type' = 'ViewFresh' AND v ->> 'status' = 'True'"
        await until(lambda: sql(fresh))
        async with client() as kube:
            await kube.patch("/api/v1/nodes/m-0000", {"spec": {"unschedulable": True, "taints": None}})
        await until(lambda: node()[:2] == ([], True))


async def test_a_kubelet_runs_while_its_box_is_up_and_its_unit_is_active(simulated: SimulatedClusters) -> None:
    await in_thread(lambda: filled(2, machineVersions={"kubelet": "1.37.2"}))
    await simulated.look()
    (kubelets,) = [s.cluster.kubelets for s in simulated.servers.values()]
    assert len(kubelets) == 0
    box = "INSERT INTO simulated_host (uid, seed, boots, host) SELECT uid, 1, 3, %s::jsonb FROM machine WHERE name = 'm-0000'"
    await in_thread(lambda: sql(box, orjson.dumps(KUBELET).decode()))
    await simulated.look()
    assert list(kubelets.names) == ["m-0000"]
    async with client() as kube:
        info = (await kube.get("/api/v1/nodes/m-0000"))["status"]["nodeInfo"]
        assert info["kubeletVersion"] == "v1.37.2"
        await in_thread(lambda: sql("UPDATE simulated_host SET boots = 4, boot_until = now() + interval '1 min'"))
        await simulated.look()
        assert kubelets.mode("m-0000") == "Dead"
        await in_thread(lambda: sql("UPDATE simulated_host SET boot_until = now()"))
        await simulated.look()
        after = (await kube.get("/api/v1/nodes/m-0000"))["status"]["nodeInfo"]
    assert kubelets.mode("m-0000") == "" and after["bootID"] != info["bootID"]


async def test_a_restart_of_the_simulation_takes_nodes_up_as_they_stood(simulated: SimulatedClusters) -> None:
    await in_thread(lambda: filled(3))
    await simulated.look()
    await turn()
    async with watching():
        await until(lambda: ready_of("m-0002") == "True")
        async with client() as kube:
            await kube.patch("/api/v1/nodes/m-0001", {"spec": {"unschedulable": True, "taints": None}, "metadata": {"annotations": {"fleet.dev/closed-by": "operator"}}})  # fmt: skip
        await until(lambda: node("m-0001")[:2] == ([], True))
        before = (
            sql("SELECT name, uid, taints, unschedulable, closed_by FROM node ORDER BY 1"),
            sql("SELECT url FROM simulated_cluster"),
        )
        await simulated.close()
        await simulated.look()
        after = sql("SELECT url FROM simulated_cluster")
        (server,) = simulated.servers.values()
        server.cluster.kubelets.fail("m-0000", "NotReady")
        await until(lambda: ready_of("m-0000") == "False")
        assert (sql("SELECT name, uid, taints, unschedulable, closed_by FROM node ORDER BY 1")[1:], after) == (
            before[0][1:],
            before[1],
        )


async def test_a_deleted_cluster_leaves_nothing(simulated: SimulatedClusters) -> None:
    number = await in_thread(lambda: filled(2))
    await simulated.look()
    await turn()
    async with watching() as watcher:
        await until(lambda: ready_of("m-0001") == "True")
        sql("DELETE FROM machine")

        def delete() -> None:
            def confirm(live: Json) -> Json:
                live["metadata"]["annotations"] = {"fleet.dev/confirm-delete": "c1"}
                return live

            patch_object("clusters", "c1", confirm, write=BY)
            assert delete_object("clusters", "c1", write=BY)[1]

        await in_thread(delete)
        await simulated.look()
        assert not simulated.servers
        await until(lambda: watcher.watch_of(number) is None)
        for table in ("simulated_cluster", "cluster_access", "shard", "node"):
            await until(lambda table=table: sql(f"SELECT count(*) FROM {table}") == [(0,)])


async def test_a_second_process_serves_nothing_until_the_first_is_gone(simulated: SimulatedClusters) -> None:
    await in_thread(cluster)
    await simulated.look()
    second = SimulatedClusters(db.connect)
    try:
        await second.look()
        assert not second.servers
        await simulated.close()

        async def serves() -> bool:
            await second.look()
            return len(second.servers) == 1

        await until(serves)  # PostgreSQL notices a moment later that a session has ended
    finally:
        await second.close()


async def test_it_claims_the_version_of_its_package(simulated: SimulatedClusters) -> None:
    def write() -> None:
        spec: Json = {"kubernetesVersion": "1.36.3", "components": [{"name": n, "binary": n} for n in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")]}  # fmt: skip
        spec["components"][0]["version"] = "3.7.3"
        obj = {"apiVersion": API_VERSION, "kind": "ClusterPackageVersion", "metadata": {"name": "v36"}, "spec": spec}
        create_object("clusterpackageversions", obj, write=BY)
        cluster(packageVersion="v36")

    await in_thread(write)
    await simulated.look()
    assert (await turn())["kubernetesVersion"] == "1.36.3"
