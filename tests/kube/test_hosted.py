"""A Hosted control plane in a real API server without kubelets: what is applied, put right, refused and taken away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from clusters import pki
from clusters.hosted import Hosted
from clusters.kube import JSON_PATCH, STRATEGIC, Kube
from clusters.local import _LOOPBACK, Local
from clusters.meta import KINDS, collection
from clusters.placing import placing_of
from clusters.planes import APISERVER, COMPONENTS, CONTROLLER_MANAGER, ETCD, SCHEDULER, Component, Hosting, Plane
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, TemporaryError
from fleet.control.kinds import Json
from lab import kubernetes
from tests.kube.test_local import plane as local_plane
from tests.kube.test_local import up

pytestmark = pytest.mark.kube
NODES = ("m1", "m2", "m3")
HOSTED = Hosted(lambda: _LOOPBACK, "localhost/busybox:1")


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A control plane with three nodes that are Ready by word only."""
    folder = tmp_path_factory.mktemp("meta")
    local, made = Local(folder / "planes", kubernetes.folder(folder / "binaries")), local_plane()
    try:
        asyncio.run(up(local, made, ETCD, APISERVER, CONTROLLER_MANAGER))
        asyncio.run(_nodes(local.endpoint(made)))
        yield local.endpoint(made)
    finally:
        assert asyncio.run(local.remove(made))


async def _nodes(endpoint: Endpoint) -> None:
    async with Kube(endpoint, networks=_LOOPBACK) as kube:
        for number, name in enumerate(NODES):
            labels = {"kubernetes.io/hostname": f"{name}.example"}
            await kube.create(
                "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            )
            await ready(kube, name, f"10.1.1.{number + 1}")


async def ready(kube: Kube, name: str, address: str) -> None:
    status = {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Said", "message": "", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
        "addresses": [{"type": "InternalIP", "address": address}],
    }  # fmt: skip
    await kube.patch(f"/api/v1/nodes/{name}/status", {"status": status}, content_type=STRATEGIC)
    untainted = {"spec": {"taints": None}}
    await kube.patch(f"/api/v1/nodes/{name}", untainted)


@pytest.fixture
async def kube(meta: Endpoint) -> Any:
    async with Kube(meta, networks=_LOOPBACK) as made:
        for name in NODES:  # the node lifecycle controller taints nodes that do not speak
            await ready(made, name, f"10.1.1.{NODES.index(name) + 1}")
        yield made


async def hosted(meta: Endpoint, *, host: str = "10.1.1.2", etcd: int = 1, replicas: int = 1, **more: Any) -> Plane:
    uid = str(uuid.uuid4())
    components = {
        n: Component(n, kubernetes.ETCD if n == ETCD else "1.37.2", image=f"localhost/{n}:1") for n in COMPONENTS
    }
    where = Hosting("meta", meta, f"fleet-{uid[:8]}", 21_000, **more)
    bare = Plane(uid, "web", components, {}, host, 21_000, replicas, etcd, meta=where)
    placed = await HOSTED.place(bare)
    names = pki.Names(host, f"https://{host}:21000", bare.service_cidr, HOSTED.etcd_names(replace(bare, files=placed)))
    return replace(bare, files={**placed, **pki.ensure(names, {}, datetime.now(UTC)).all})


async def applied(made: Plane) -> None:
    for name in COMPONENTS:
        await HOSTED.apply(made, name)


async def changes(made: Plane) -> dict[str, str]:
    """Components that are not as they shall be, and why."""
    return {s.name: s.message for s in await HOSTED.observe(made) if s.digest != made.digest(s.name)}


async def everything(kube: Kube, made: Plane) -> dict[str, str]:
    """Versions of all objects with its label, its pods' own ones left out."""
    assert made.meta is not None
    out: dict[str, str] = {}
    for kind in (*KINDS, "Namespace", "PersistentVolume"):
        page = await kube.get(collection(kind, made.meta.namespace), labelSelector=f"fleet.dev/plane={made.uid}")
        out |= {f"{kind}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in page["items"]}
    return out


async def removed(made: Plane) -> bool:
    try:
        return await HOSTED.remove(made)
    except TemporaryError:  # a namespace that is a moment old has no service account for pods yet
        return False


async def gone(kube: Kube, made: Plane) -> None:
    """Takes it away, playing the kubelet that runs the pods which wipe folders."""
    assert made.meta is not None
    pods = collection("Pod", made.meta.namespace)
    async with asyncio.timeout(60):
        while not await removed(made):
            for pod in (await kube.get(pods))["items"]:
                if pod["metadata"]["name"].startswith("wipe-") and pod["status"].get("phase") != "Succeeded":
                    member = pod["metadata"]["name"].removeprefix("wipe-")
                    assert f"rm -rf /var/lib/fleet/{made.uid}/{member} " in pod["spec"]["containers"][0]["command"][2]
                    done = {"status": {"phase": "Succeeded"}}
                    await kube.patch(f"{pods}/{pod['metadata']['name']}/status", done)
                if "deletionTimestamp" in pod["metadata"] and pod["spec"].get("nodeName"):
                    await kube.delete(f"{pods}/{pod['metadata']['name']}", grace_seconds=0)
            await asyncio.sleep(0.2)


async def test_what_is_applied_is_seen_as_applied_and_applied_again_it_changes_nothing(
    kube: Kube, meta: Endpoint
) -> None:
    made = await hosted(meta, etcd=3, replicas=3, selector={})
    try:
        assert await HOSTED.observe(made) == []
        await applied(made)
        assert await changes(made) == {}
        before = await everything(kube, made)
        assert {
            "StatefulSet/etcd",
            "Deployment/kube-apiserver",
            "PodDisruptionBudget/etcd",
            "Service/kube-apiserver",
            "ConfigMap/etcd-start",
        } <= set(before)
        await applied(made)
        after = await everything(kube, made)
        own = {
            k: v
            for k, v in before.items()
            if not k.startswith(
                (
                    "Pod/",
                    "PersistentVolumeClaim/",
                    "Deployment/",
                    "StatefulSet/",
                    "PodDisruptionBudget/",
                    "PersistentVolume/",
                )
            )
        }
        assert {k: after[k] for k in own} == own
        workload = await kube.get(f"/apis/apps/v1/namespaces/{made.meta.namespace}/deployments/{APISERVER}")  # type: ignore[union-attr]
        assert workload["metadata"]["generation"] == 1
        assert all(s.ready is False for s in await HOSTED.observe(made))
    finally:
        await gone(kube, made)
    assert await everything(kube, made) == {}


async def test_members_of_etcd_are_bound_to_nodes_and_one_server_to_the_node_of_its_address(
    kube: Kube, meta: Endpoint
) -> None:
    made = await hosted(meta, host="10.1.1.2")
    try:
        await applied(made)
        volume = await kube.get(f"/api/v1/persistentvolumes/fleet-{made.uid}-etcd-0")
        assert volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == [
            "m2.example"
        ]
        deployment = await kube.get(f"/apis/apps/v1/namespaces/{made.meta.namespace}/deployments/{APISERVER}")  # type: ignore[union-attr]
        spec = deployment["spec"]["template"]["spec"]
        terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m2"]}]}]
        assert "--etcd-servers=https://10.1.1.2:21001" in spec["containers"][0]["command"]
        async with asyncio.timeout(30):  # the controllers of the meta cluster bind the claim
            while not await bound(kube, made):  # noqa: ASYNC110 - told by the API only
                await asyncio.sleep(0.2)
    finally:
        await gone(kube, made)


async def bound(kube: Kube, made: Plane) -> bool:
    volume = await kube.get(f"/api/v1/persistentvolumes/fleet-{made.uid}-etcd-0")
    return bool(volume["status"].get("phase") == "Bound")


EDITS = [
    pytest.param(SCHEDULER, "apis/apps/v1", "deployments/kube-scheduler", [{"op": "replace", "path": "/spec/replicas", "value": 0}], "spec.replicas", id="scaled"),
    pytest.param(SCHEDULER, "apis/apps/v1", "deployments/kube-scheduler", [{"op": "add", "path": "/spec/template/spec/containers/0/command/-", "value": "--v=9"}], "command", id="flag"),
    pytest.param(SCHEDULER, "apis/apps/v1", "deployments/kube-scheduler", [{"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": {"name": "X", "value": "1"}}], "env", id="env"),
    pytest.param(SCHEDULER, "apis/apps/v1", "deployments/kube-scheduler", [{"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "x", "image": "x"}}], "containers", id="container"),
    pytest.param(SCHEDULER, "apis/apps/v1", "deployments/kube-scheduler", [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil"}], "image", id="image"),
    pytest.param(APISERVER, "api/v1", "secrets/kube-apiserver-files", [{"op": "replace", "path": "/data/ca.crt", "value": "AAAA"}], "data.ca.crt", id="secret"),
    pytest.param(APISERVER, "api/v1", "services/kube-apiserver", [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 1}], "targetPort", id="service"),
    pytest.param(ETCD, "apis/policy/v1", "poddisruptionbudgets/etcd", [{"op": "replace", "path": "/spec/maxUnavailable", "value": 1}], "maxUnavailable", id="budget"),
    pytest.param(ETCD, "apis/apps/v1", "statefulsets/etcd", [{"op": "remove", "path": "/metadata/labels/fleet.dev~1plane"}], "gone", id="label"),
]  # fmt: skip


@pytest.mark.parametrize(("component", "group", "path", "patch", "where"), EDITS)
async def test_what_a_hand_changed_comes_back(
    kube: Kube, meta: Endpoint, component: str, group: str, path: str, patch: list[Json], where: str
) -> None:  # fmt: skip
    made = await hosted(meta)
    try:
        await applied(made)
        await kube.patch(f"/{group}/namespaces/{made.meta.namespace}/{path}", patch, content_type=JSON_PATCH)  # type: ignore[union-attr]
        if where == "gone":  # without our label it is another's: it is left alone and said so
            with pytest.raises(PermanentError, match="is not Fleet's"):
                await HOSTED.apply(made, component)
            back = {"metadata": {"labels": {"fleet.dev/plane": made.uid}}}
            await kube.patch(f"/{group}/namespaces/{made.meta.namespace}/{path}", back)  # type: ignore[union-attr]
            return
        found = await changes(made)
        assert list(found) == [component] and where in found[component], found
        await HOSTED.apply(made, component)
        assert await changes(made) == {}
    finally:
        await gone(kube, made)


async def test_what_a_hand_deleted_comes_back(kube: Kube, meta: Endpoint) -> None:
    made = await hosted(meta)
    try:
        await applied(made)
        base = f"/namespaces/{made.meta.namespace}"  # type: ignore[union-attr]
        await kube.delete(f"/apis/policy/v1{base}/poddisruptionbudgets/{SCHEDULER}")
        await kube.delete(f"/apis/apps/v1{base}/deployments/{CONTROLLER_MANAGER}")
        assert await changes(made) == {SCHEDULER: f"PodDisruptionBudget {SCHEDULER} is gone"}
        assert CONTROLLER_MANAGER not in {s.name for s in await HOSTED.observe(made)}
        await applied(made)
        assert await changes(made) == {} and len(await HOSTED.observe(made)) == len(COMPONENTS)
    finally:
        await gone(kube, made)


async def test_a_namespace_of_others_is_left_alone(kube: Kube, meta: Endpoint) -> None:
    made = await hosted(meta)
    name = f"theirs-{made.uid[:8]}"
    await kube.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert made.meta is not None
    bare = replace(made, files={}, meta=replace(made.meta, namespace=name))
    with pytest.raises(PermanentError, match="not Fleet's for this cluster"):
        await HOSTED.place(bare)
    shared = replace(bare, meta=replace(made.meta, namespace=name, shared=True))
    shared = replace(shared, files={**made.files, **await HOSTED.place(shared)})
    await kube.create(
        f"/api/v1/namespaces/{name}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}}
    )
    await applied(shared)
    await gone(kube, shared)
    assert await everything(kube, shared) == {}
    assert await kube.find(f"/api/v1/namespaces/{name}/secrets/theirs") is not None


async def test_stopped_it_keeps_volumes_and_addresses_but_no_keys(kube: Kube, meta: Endpoint) -> None:
    made = await hosted(meta)
    try:
        await applied(made)
        for name in reversed(COMPONENTS):
            await HOSTED.stop(made, name)
        left = {k.partition("/")[0] for k in await everything(kube, made)}
        assert {"PersistentVolume", "PersistentVolumeClaim", "Service"} <= left
        assert not {"Secret", "Deployment", "StatefulSet", "Pod"} & left
    finally:
        await gone(kube, made)


@pytest.mark.parametrize(
    ("exposure", "host", "expected"),
    [
        pytest.param("NodePort", "api.example", {"type": "NodePort", "ports": [{"nodePort": 30443, "port": 30443, "targetPort": 21000}]}, id="node-port"),
        pytest.param("LoadBalancer", "192.0.2.7", {"type": "LoadBalancer", "loadBalancerIP": "192.0.2.7"}, id="load-balancer"),
        pytest.param("ClusterIP", "10.96.7.7", {"type": "ClusterIP", "clusterIP": "10.96.7.7"}, id="cluster-ip"),
    ],
)  # fmt: skip
async def test_other_exposures_put_a_service_in_front(
    kube: Kube, meta: Endpoint, exposure: str, host: str, expected: Json
) -> None:
    made = replace(await hosted(meta, host=host, exposure=exposure), port=30443)
    try:
        await applied(made)
        assert await changes(made) == {}
        service = await kube.get(f"/api/v1/namespaces/{made.meta.namespace}/services/{APISERVER}")  # type: ignore[union-attr]
        for key, value in expected.items():
            found = service["spec"][key]
            assert (found[0].items() >= value[0].items()) if isinstance(value, list) else found == value
    finally:
        await gone(kube, made)


async def test_a_meta_cluster_that_does_not_answer_says_nothing_about_its_pods(kube: Kube, meta: Endpoint) -> None:
    made = await hosted(meta)
    assert made.meta is not None
    for endpoint in (None, replace(meta, server="https://127.0.0.1:1")):
        away = replace(made, meta=replace(made.meta, endpoint=endpoint))
        seen = await HOSTED.observe(away)
        assert [(s.name, s.ready) for s in seen] == [(n, None) for n in COMPONENTS]
        assert "meta cluster meta" in seen[0].message
        with pytest.raises(TemporaryError, match="meta cluster meta"):
            await HOSTED.apply(away, ETCD)


async def test_a_single_member_leaves_its_node_for_a_snapshot_alone(kube: Kube, meta: Endpoint) -> None:
    made = await hosted(meta, host="10.9.9.9")
    standing = placing_of(made)
    assert standing is not None
    gone_node = standing.members[0].node
    await kube.delete(f"/api/v1/nodes/{gone_node}")
    try:
        assert await HOSTED.place(made) == {}
        moved = placing_of(replace(made, files=await HOSTED.place(made, restoring=True)))
        assert moved is not None and moved.members[0].node in set(NODES) - {gone_node}
    finally:
        labels = {"kubernetes.io/hostname": f"{gone_node}.example"}
        await kube.create(
            "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": gone_node, "labels": labels}}
        )
        await ready(kube, gone_node, f"10.1.1.{NODES.index(gone_node) + 1}")


async def test_too_few_nodes_are_named_with_their_reasons(kube: Kube, meta: Endpoint) -> None:
    await kube.patch("/api/v1/nodes/m3", {"spec": {"unschedulable": True}})
    try:
        with pytest.raises(TemporaryError, match="has 2 nodes for 3 members of etcd: m3 "):
            await hosted(meta, etcd=3)
    finally:
        await kube.patch("/api/v1/nodes/m3", {"spec": {"unschedulable": None}})
