"""Reports by ConfigMaps and pods, through the watcher, from the simulated API server and from a real one alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from clusters import access
from clusters.kube import Kube, KubeError
from fleet.control.threads import in_thread
from machines.watch import reporting
from machines.watch.process import Watcher
from machines.watch.reflect import Times
from tests.machines.test_reports_watched import believed, declare, entry, healthy, status_of
from tests.machines.test_watch import cluster
from tests.machines.watch_server import until
from tests.machines.world import make, sql
from tests.simulator.api_servers import ApiServer, Json

pytestmark = pytest.mark.usefixtures("fleet_db")
EXAMPLE: Final = Path(__file__).parents[2] / "docs/examples/reporter-daemonset.yaml"
SPACE, NAME, TYPE = "fleet-reports", "storage-reporter", "StorageReady"
CORE: Final = f"/api/v1/namespaces/{SPACE}"
NODES: Final = ("rep-0000", "rep-0001", "rep-0002")
REPORTER: Final = {"name": "storage", "namespace": SPACE, "daemonSet": NAME, "conditionTypes": [TYPE]}
POD_GATE: Final = f"daemonset/{SPACE}/{NAME}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "LOOK_SECONDS", 0.1)


async def applied(kube: Kube) -> None:
    """The example of the documentation as it is; the simulated server knows no accounts and rights."""
    for obj in yaml.safe_load_all(EXAMPLE.read_text()):
        kind, meta = obj["kind"], obj["metadata"]
        paths = {
            "Namespace": f"/api/v1/namespaces/{meta['name']}",
            "ServiceAccount": f"{CORE}/serviceaccounts/{meta['name']}",
            "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SPACE}/roles/{meta['name']}",
            "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SPACE}/rolebindings/{meta['name']}",
            "DaemonSet": f"/apis/apps/v1/namespaces/{SPACE}/daemonsets/{meta['name']}",
        }
        if kind in ("Namespace", "DaemonSet") or real(kube):
            await kube.apply(paths[kind], obj)


def real(kube: Kube) -> bool:
    return kube.endpoint.server.startswith("https:")


async def node(kube: Kube, name: str) -> None:
    try:
        await kube.create("/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}})
    except KubeError as error:
        assert error.code == 409


async def pod_on(kube: Kube, where: str) -> str:
    """The DaemonSet's pod on a node; its name. A real controller makes it and a scheduler would bind it; here that is done by hand."""
    if real(kube):
        found: list[Json] = await until(lambda: _mine(kube, where))
        name = str(found[0]["metadata"]["name"])
        if not found[0]["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": where}
            body = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": name}, "target": target}
            await kube.send("POST", f"{CORE}/pods/{name}/binding", body=body)
        return name
    owner = await kube.get(f"/apis/apps/v1/namespaces/{SPACE}/daemonsets/{NAME}")
    reference = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": NAME, "uid": owner["metadata"]["uid"], "controller": True}  # fmt: skip
    meta = {"name": f"{NAME}-{where}", "labels": {"app": NAME}, "ownerReferences": [reference]}
    spec = {"nodeName": where, "containers": [{"name": "c", "image": "x"}]}
    await kube.create(f"{CORE}/pods", {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": spec})
    return str(meta["name"])


async def _mine(kube: Kube, where: str) -> list[Json]:
    listed = await kube.get(f"{CORE}/pods", labelSelector=f"app={NAME}")
    return [p for p in listed["items"] if where in str(p["spec"])]


async def say_pod(kube: Kube, name: str, ready: str) -> None:
    """What its kubelet would say."""
    condition = {"type": "Ready", "status": ready, "reason": "ContainersNotReady"}
    body = {"status": {"phase": "Running", "conditions": [condition]}}
    content = "application/strategic-merge-patch+json" if real(kube) else "application/merge-patch+json"
    await kube.patch(f"{CORE}/pods/{name}/status", body, content_type=content)


async def say(kube: Kube, **statuses: str | None) -> None:
    """As the example's pods write: each its own key, by a merge patch. None takes the key away."""
    data = {n.replace("_", "-"): None if s is None else entry(s, TYPE) for n, s in statuses.items()}
    meta: Json = {"labels": {"fleet.dev/conditions": "true"}, "annotations": {"fleet.dev/reporter": "storage"}}
    try:
        await kube.patch(f"{CORE}/configmaps/storage", {"metadata": meta, "data": data})
    except KubeError as error:
        assert error.code == 404
        body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "storage", **meta}, "data": data}
        await kube.create(f"{CORE}/configmaps", body)


@asynccontextmanager
async def watched(api_server: ApiServer, c: int) -> AsyncIterator[None]:
    await in_thread(lambda: access.store(c, api_server.endpoint))
    stop = asyncio.Event()
    task = asyncio.create_task(Watcher(times=Times(first=0.05, most=0.5, relist=0.5), tick_seconds=0.1).run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def test_the_example_reports_and_what_it_says_counts_while_its_pod_lives(
    api_server: ApiServer, kube: Kube
) -> None:
    c = cluster("c1", "Imported")
    make(len(NODES), cluster_id=c, prefix="rep")
    gates = [{"namespace": SPACE, "name": NAME}]
    declare(c, conditionNamespaces=[SPACE], reporters=[REPORTER], daemonSetGates=gates)
    for name in NODES:
        await node(kube, name)
    async with watched(api_server, c):
        await until(lambda: healthy() == ("False", "NoDaemonSet"))
        await applied(kube)
        first, second = [await pod_on(kube, where) for where in NODES[:2]]
        for name in (first, second):
            await say_pod(kube, name, "True")
        await say(kube, rep_0000="True", rep_0001="False", rep_0002="True")
        await until(lambda: (status_of(NODES[0], TYPE), status_of(NODES[1], TYPE)) == ("True", "False"))
        assert believed(NODES[2], TYPE) == ("Unknown", "ReporterNotReady")  # no pod of it lives there
        await until(lambda: status_of(NODES[0], POD_GATE) == status_of(NODES[1], POD_GATE) == "True")
        await until(lambda: healthy() == ("True", "AllTaken"))
        await say_pod(kube, second, "False")
        await until(lambda: believed(NODES[1], POD_GATE) == ("False", "ContainersNotReady"))
        await until(lambda: believed(NODES[1], TYPE) == ("Unknown", "ReporterNotReady"))
        await say(kube, rep_0000=None)
        await until(lambda: believed(NODES[0], TYPE) == ("Unknown", "NotReported"))
        await kube.delete(f"{CORE}/configmaps/storage")
        await until(lambda: sql("SELECT count(*) FROM condition_map") == [(0,)])
    await kube.delete(f"/apis/apps/v1/namespaces/{SPACE}/daemonsets/{NAME}")
    for name in NODES:
        await kube.delete(f"/api/v1/nodes/{name}")


async def test_a_watch_that_breaks_loses_no_report(kube: Kube, api_server: ApiServer) -> None:
    """A compaction while nobody watches: what was said meanwhile is found by the list."""
    c = cluster("c1", "Imported")
    make(1, cluster_id=c, prefix="cut")
    declare(c, conditionNamespaces=["default"], reporters=[{"name": "storage", "namespace": "default", "conditionTypes": [TYPE]}])  # fmt: skip
    await node(kube, "cut-0000")
    labels, path = {"fleet.dev/conditions": "true"}, "/api/v1/namespaces/default/configmaps"

    def body(status: str) -> Any:
        meta = {"name": "cut", "labels": labels, "annotations": {"fleet.dev/reporter": "storage"}}
        return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta, "data": {"cut-0000": entry(status, TYPE)}}

    await kube.create(path, body("True"))
    async with watched(api_server, c):
        await until(lambda: status_of("cut-0000", TYPE) == "True")
    await kube.send("PUT", f"{path}/cut", body=body("False"))
    await asyncio.to_thread(api_server.compact)
    async with watched(api_server, c):
        await until(lambda: status_of("cut-0000", TYPE) == "False")
        await asyncio.to_thread(api_server.compact)
        await kube.send("PUT", f"{path}/cut", body=body("True"))
        await until(lambda: status_of("cut-0000", TYPE) == "True")
    await kube.delete(f"{path}/cut")
    await kube.delete("/api/v1/nodes/cut-0000")
