"""A machine joins, is drained, dressed and leaves: the real reconciler against a simulated API server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from clusters.kube import KubeError
from fleet.api.actions import Write, change_object
from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from machines import join
from tests.machines.loop import package
from tests.machines.nodes_world import CLUSTER, NodesWorld, package_version, with_a_kubelet
from tests.simulator.api_servers import ApiServer, order

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def world(conn: Connection, api_server: ApiServer) -> AsyncIterator[NodesWorld]:
    async with with_a_kubelet(conn, api_server.endpoint) as made:
        yield made


async def steps(world: NodesWorld, verb: str = "Reconcile") -> list[Json]:
    """Steps of the newest Operation of that verb."""
    found = await (
        await world.loop.conn.execute(
            "SELECT status FROM machines_operation WHERE spec ->> 'verb' = %s ORDER BY id DESC LIMIT 1", [verb]
        )
    ).fetchone()
    return list(found[0]["steps"]) if found else []


def step(found: list[Json], verb: str) -> Json:
    return next((s for s in found if s["verb"] == verb), {})


async def joined(world: NodesWorld) -> None:
    """The machine is a node, open."""
    for _ in range(12):
        await world.turn()
        if step(await steps(world), "wait-for-node").get("startTime"):
            break
    await world.node()
    await world.turn(12)
    assert (await world.scheduling())["state"] == "Open", await world.scheduling()


async def test_a_machine_with_a_kubelet_joins_by_a_token_of_its_own(world: NodesWorld) -> None:
    await joined(world)
    found = await steps(world)
    verbs = [s["verb"] for s in found]
    assert verbs.index("join-node") < verbs.index("install-package"), "the kubelet finds what it joins with"
    assert step(found, "wait-for-node")["reason"] == "Joined"
    machine = await world.loop.get()
    assert machine is not None
    box = world.loop.hosts.boxes[machine["metadata"]["uid"]]
    assert box.files[join.BOOTSTRAP]["mode"] == "0600"
    rows = await (await world.loop.conn.execute("SELECT id, node, machine_id FROM join_token")).fetchall()
    assert len(rows) == 1
    assert rows[0][1] == "m1"
    secret = await world.kube.get(join.secret_path(rows[0][0]))
    assert secret["type"] == "bootstrap.kubernetes.io/token"
    assert machine["status"]["nodeName"] == "m1"
    assert await world.loop.phase() == "Running"


async def test_the_token_stands_nowhere_but_in_the_cluster_and_on_the_host(world: NodesWorld) -> None:
    await joined(world)
    rows = await (await world.loop.conn.execute("SELECT id FROM join_token")).fetchall()
    data = (await world.kube.get(join.secret_path(rows[0][0])))["data"]
    secret = base64.b64decode(data["token-secret"]).decode()
    for table in ("machines_operation", "machine_fact", "accepted_set", "event", "change", "scheduling", "join_token"):
        found = await (
            await world.loop.conn.execute(
                f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s".encode(), [f"%{secret}%"]
            )
        ).fetchone()
        assert found == (0,), table


async def test_an_api_server_that_takes_no_token_delays_the_join_and_nothing_is_sent(world: NodesWorld) -> None:
    order(
        world.endpoint.server,
        "faults",
        {"what": "refuse", "code": 503, "path": "/api/v1/namespaces/kube-system/secrets", "times": 2},
    )
    for _ in range(3):
        await world.turn()
    found = step(await steps(world), "join-node")
    assert found["reason"] == "ApiRefused", found
    machine = await world.loop.get()
    assert machine is not None
    assert join.BOOTSTRAP not in world.loop.hosts.boxes[machine["metadata"]["uid"]].files
    await joined(world)


async def test_a_node_that_never_comes_fails_with_its_reason(world: NodesWorld) -> None:
    for _ in range(12):
        await world.turn()
        if step(await steps(world), "wait-for-node").get("startTime"):
            break
    await world.loop.step(seconds=400)
    await world.turn(2)
    reasons = [
        r[0]
        for r in await (
            await world.loop.conn.execute(
                "SELECT data ->> 'reason' FROM event WHERE type = 'dev.fleet.operation.failed'"
            )
        ).fetchall()
    ]
    assert "NodeNotJoined" in reasons


async def test_labels_and_taints_of_the_machine_stand_on_its_node_and_go_with_it(world: NodesWorld) -> None:
    await joined(world)
    await world.kube.patch("/api/v1/nodes/m1", {"metadata": {"labels": {"foreign": "stays"}}})
    taint = {"key": "example.com/gpu", "value": "yes", "effect": "NoSchedule"}
    await world.loop.edit("machines", "m1", nodeLabels={"pool": "gpu"}, nodeTaints=[taint])
    await world.turn(3)
    node = await world.live()
    assert node["metadata"]["labels"]["pool"] == "gpu"
    assert taint in node["spec"]["taints"]
    await world.kube.patch("/api/v1/nodes/m1", {"metadata": {"labels": {"pool": "other"}}})
    await world.turn(3)
    assert (await world.live())["metadata"]["labels"]["pool"] == "gpu", "what was changed by hand comes back"
    await world.loop.edit("machines", "m1", nodeLabels=None, nodeTaints=None)
    await world.turn(3)
    node = await world.live()
    assert node["metadata"]["labels"].get("pool") is None
    assert node["metadata"]["labels"]["foreign"] == "stays"
    assert taint not in node["spec"].get("taints", [])


async def pod(world: NodesWorld, name: str, **more: Any) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": True}
    meta = {"name": name, "labels": {"app": "web"}, "ownerReferences": [owner]}
    spec = {"containers": [{"name": "c", "image": "x"}], "nodeName": "m1", **more}
    path = "/api/v1/namespaces/default/pods"
    await world.kube.create(path, {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": spec})
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await world.kube.patch(f"{path}/{name}/status", {"status": ready})


async def kubelet_ends(world: NodesWorld, name: str) -> None:
    """The kubelet has stopped what was evicted."""
    path = f"/api/v1/namespaces/default/pods/{name}"
    found = await world.kube.get(path)
    assert found["metadata"].get("deletionTimestamp"), "it was evicted"
    await world.kube.delete(path, grace_seconds=0)


async def test_a_drain_closes_the_node_evicts_its_pods_and_opens_it_again(world: NodesWorld) -> None:
    await joined(world)
    await pod(world, "web-1")
    await world.loop.make({"kind": "Operation", "metadata": {"name": "d1"}, "spec": {"machine": "m1", "verb": "Drain"}})
    await world.turn()
    seen = (await world.live())["metadata"].get("annotations", {}).get("fleet.dev/closed-by")
    assert seen == "operation:d1"
    await world.turn(2)
    await kubelet_ends(world, "web-1")
    await world.turn(3)
    found = step(await steps(world, "Drain"), "drain")
    assert found["status"] == "True", found
    await world.turn(3)
    assert not (await world.live())["spec"].get("unschedulable"), "the Operation is over: gates open the node again"


async def test_a_budget_that_blocks_is_named_and_a_person_who_opens_the_node_ends_the_drain(world: NodesWorld) -> None:
    await joined(world)
    await pod(world, "web-1")
    budget = {
        "kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }  # fmt: skip
    await world.kube.create("/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget)
    await world.loop.make({"kind": "Operation", "metadata": {"name": "d1"}, "spec": {"machine": "m1", "verb": "Drain"}})
    await world.turn(4)
    found = step(await steps(world, "Drain"), "drain")
    assert "web" in found["message"], found
    assert await world.kube.find("/api/v1/namespaces/default/pods/web-1") is not None
    await world.kube.patch("/api/v1/nodes/m1", {"spec": {"unschedulable": None}})
    await world.turn(2)
    ended = await (await world.loop.conn.execute("SELECT phase FROM machines_operation WHERE name = 'd1'")).fetchone()
    assert ended == ("Cancelled",)
    await world.turn(2)
    assert not (await world.live())["spec"].get("unschedulable")


async def test_a_deleted_machine_leaves_its_cluster(world: NodesWorld) -> None:
    await joined(world)
    await world.loop.delete("m1")
    for _ in range(30):
        await world.turn()
        if await world.loop.get() is None:
            break
    with pytest.raises(KubeError) as caught:
        await world.live()
    assert caught.value.code == 404
    assert await world.loop.get() is None


async def test_a_drain_whose_api_server_is_away_runs_out_of_time_all_the_same(world: NodesWorld) -> None:
    await joined(world)
    await pod(world, "web-1")
    drain = {"timeoutSeconds": 60}
    await world.loop.make(
        {"kind": "Operation", "metadata": {"name": "d1"}, "spec": {"machine": "m1", "verb": "Drain", "drain": drain}}
    )
    order(world.endpoint.server, "faults", {"what": "refuse", "code": 500, "path": "/api/v1/nodes"})
    await world.loop.step()
    await world.loop.step(seconds=100)
    await world.loop.step()
    ended = await (
        await world.loop.conn.execute("SELECT phase, status ->> 'message' FROM machines_operation WHERE name = 'd1'")
    ).fetchone()
    assert ended is not None
    assert ended[0] == "Failed", ended
    assert "60 s" in ended[1]


async def test_what_carries_fleet_is_disturbed_by_people_only(world: NodesWorld) -> None:
    await joined(world)

    def label(live: Json) -> Json:
        live["metadata"]["labels"] = {"fleet.dev/carries-fleet": "true"}
        return live

    await in_thread(lambda: change_object("machines", "m1", label, write=Write(by=SYSTEM), verb="update"))
    await world.loop.make(package("kubelet", "1.37.3", healthCheck={"command": ["true"]}))
    await world.loop.edit("machines", "m1", versions={"kubelet": "1.37.3"})
    before = len(world.loop.hosts.started)
    await world.turn(5)
    assert len(world.loop.hosts.started) == before
    assert (await world.loop.condition("Reconciling"))[1] == "CarriesFleet"
    spec = {"machine": "m1", "verb": "Reconcile", "reason": "tonight"}
    await world.loop.make({"kind": "Operation", "metadata": {"name": "by-ada"}, "spec": spec})
    await world.turn(12)
    assert (await world.loop.condition("UpToDate"))[0] == "True", "a person's word does it"


async def says(world: NodesWorld, *, replicas: str) -> None:
    """The hosted cluster is ready, with so many replicas of its API server."""
    ready = [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]
    status = {"conditions": ready, "components": [{"name": "etcd", "replicas": "3/3"}, {"name": "kube-apiserver", "replicas": replicas}]}  # fmt: skip
    await world.loop.conn.execute(
        "UPDATE clusters_cluster SET rv = rv + 1, status = status || %s::jsonb WHERE name = 'hosted'",
        [orjson.dumps(status).decode()],
    )


async def test_nodes_under_a_control_plane_that_is_not_ready_are_not_disturbed(world: NodesWorld) -> None:
    await joined(world)
    plane = {"metaCluster": CLUSTER, "exposure": {"type": "HostPort", "host": "10.0.0.9", "port": 7443}}
    spec = {"provider": "Hosted", "packageVersion": "k8s-images", "controlPlane": plane}
    version = package_version("k8s-images")
    for each in version["spec"]["components"]:
        each["image"] = f"example.com/{each['name']}:1"
    await world.loop.make(version, {"kind": "Cluster", "metadata": {"name": "hosted"}, "spec": spec})
    await world.loop.make(package("kubelet", "1.37.3", disruption="Drain", healthCheck={"command": ["true"]}))
    await world.loop.edit("machines", "m1", versions={"kubelet": "1.37.3"})
    await world.turn(4)
    status, reason, message = await world.loop.condition("Reconciling")
    assert (status, reason) == ("True", "CarriedPlaneNotReady")
    assert "Cluster hosted" in message
    await says(world, replicas="2/3")
    await world.turn(4)
    assert (await world.loop.condition("Reconciling"))[1] == "CarriedPlaneNotReady", "it lacks a replica"
    await says(world, replicas="3/3")
    await world.turn(14)
    assert (await world.loop.condition("UpToDate"))[0] == "True"


async def test_a_machine_that_was_given_up_is_gone_without_waiting_for_its_next_look(world: NodesWorld) -> None:
    await joined(world)
    await world.loop.annotate("m1", abandon="m1")
    await world.loop.delete("m1")
    for _ in range(3):
        await world.loop.step()
        waits = await (
            await world.loop.conn.execute("SELECT extract(epoch FROM due_at - now()) FROM work_item WHERE kind = 1")
        ).fetchall()
        assert all(seconds < 5 for (seconds,) in waits), waits
    assert await world.loop.get() is None
