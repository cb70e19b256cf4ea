"""Addons against a real control plane: discovery, definitions before what they define, a rollout that is waited for, drift, refusals; files and processes that come back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.db import connection

from clusters import addons
from clusters import tasks as _tasks  # registers the operator
from clusters.kube import Kube
from clusters.models import Cluster
from clusters.planes import APISERVER, COMPONENTS, CONTROLLER_MANAGER, ETCD, SCHEDULER, Plane
from clusters.providers import provider
from fleet.api.errors import ApiError
from fleet.api.storage import storage_for
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from lab import kubernetes
from tests.kube.test_cluster_operator import NEW, OLD, SECONDS, change, client, reached, running, stands_at, store, turn
from tests.kube.test_local import port

pytestmark = pytest.mark.kube
assert _tasks

WIDGETS = """apiVersion: example.com/v1
kind: Widget
metadata: {name: one, namespace: widgets}
spec: {size: {{ variables.size }}}
---
apiVersion: v1
kind: Namespace
metadata: {name: widgets}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
"""
WIDGET = "/apis/example.com/v1/namespaces/widgets/widgets/one"
DNS = "/apis/apps/v1/namespaces/kube-system/deployments/dns"


def dns(image: str, more: str = "") -> str:
    return f"""apiVersion: apps/v1
kind: Deployment
metadata: {{name: dns, namespace: kube-system, labels: {{cluster: '{{{{ cluster.name }}}}'}}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: dns}}}}
  template:
    metadata: {{labels: {{app: dns}}}}
    spec: {{tolerations: [{{operator: Exists}}], containers: [{{name: dns, image: '{image}'{more}}}]}}
"""


def package(
    name: str, kubernetes_version: str, *, binary: str = "", args: Json | None = None, **manifests: str
) -> None:
    components: list[Json] = [{"name": n, "binary": f"{kubernetes_version}/{n}"} for n in COMPONENTS[1:]]
    components[2] |= {"binary": binary} if binary else {}
    components[2] |= {"args": args} if args else {}
    components.append({"name": ETCD, "version": kubernetes.ETCD, "binary": "etcd", "args": {"unsafe-no-fsync": "true"}})
    spec = {
        "kubernetesVersion": kubernetes_version,
        "components": components,
        "addons": [{"name": n, "manifest": m} for n, m in manifests.items()],
    }
    store("clusterpackageversions", "ClusterPackageVersion", name, spec)


@pytest.fixture
async def first(fleet_db: None, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A cluster at the old version, with addons; the folder of its components."""
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    settings.FLEET_BINARIES = str(await asyncio.to_thread(kubernetes.folder, tmp_path / "binaries"))
    monkeypatch.setattr(addons, "_times", {})
    await in_thread(lambda: package(f"k8s-{OLD}", OLD, dns=dns("dns:1"), widgets=WIDGETS))
    exposure = {"type": "HostPort", "host": "127.0.0.1", "port": port()}
    spec = {
        "provider": "Local",
        "packageVersion": f"k8s-{OLD}",
        "variables": {"size": 3},
        "rollout": {"soakSeconds": 3600},
        "controlPlane": {"exposure": exposure},
    }
    await in_thread(lambda: store("clusters", "Cluster", "first", spec))
    uid = str(await in_thread(lambda: Cluster.objects.get().uid))
    try:
        await reached("first", stands_at(OLD))
        yield tmp_path / "clusters" / uid
    finally:
        assert await provider("Local").remove(Plane(uid, "first", {}, {}, "", 0))
    assert running(tmp_path) == []


async def node(kube: Kube) -> None:
    """A node that is ready, as its kubelet says it."""
    await kube.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "",
        "lastHeartbeatTime": None,
        "lastTransitionTime": None,
    }
    room = {"cpu": "8", "memory": "8Gi", "pods": "50"}
    await kube.patch(
        "/api/v1/nodes/n1/status", {"status": {"conditions": [ready], "capacity": room, "allocatable": room}}
    )


async def run_pods(kube: Kube) -> None:
    """All pods are ready, as the kubelet of the node says it; those on their way out are gone."""
    for pod in (await kube.get("/api/v1/namespaces/kube-system/pods"))["items"]:
        path = f"/api/v1/namespaces/kube-system/pods/{pod['metadata']['name']}"
        if "deletionTimestamp" in pod["metadata"]:
            await kube.delete(path, grace_seconds=0)
        elif pod["spec"].get("nodeName") and pod["status"]["phase"] != "Running":
            ready = [{"type": t, "status": "True"} for t in ("Ready", "ContainersReady", "Initialized", "PodScheduled")]
            await kube.patch(f"{path}/status", {"status": {"phase": "Running", "conditions": ready}})


def condition(status: Json, type_: str) -> tuple[str, str, str]:
    found: Json = next((c for c in status["conditions"] if c["type"] == type_), {})
    return found["status"], found["reason"], found["message"]


async def shown() -> Json:
    found = await in_thread(lambda: storage_for("clusters").read("first"))
    assert found is not None
    status: Json = found.obj["status"]
    return status


async def said(kube: Kube, status: str, reason: str, *, pods: bool = True) -> str:
    """The message of AddonsUpToDate once it is so; kubelets do their part meanwhile."""
    async with asyncio.timeout(SECONDS):
        while True:
            if pods:
                await run_pods(kube)
            addons._times.clear()
            await turn()
            found = condition(await shown(), "AddonsUpToDate")
            if found[:2] == (status, reason):
                return found[2]
            await asyncio.sleep(0.3)


async def events() -> list[str]:
    def read() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT data ->> 'message' FROM event ORDER BY pos, n")
            return [str(row[0]) for row in cursor.fetchall()]

    return await in_thread(read)


def point_at(name: str) -> None:
    change("first", lambda live: live["spec"].update(packageVersion=name))


async def test_addons_from_the_first_node_to_an_upgrade_and_one_that_stops(first: Path) -> None:
    async with await client() as kube:
        text = await said(kube, "Unknown", "NoNodes")
        assert text == "dns: Deployment kube-system/dns: 0 of 2 replicas are available; there is no node yet"
        assert (await kube.get(WIDGET))["spec"] == {"size": 3}
        deployment = await kube.get(DNS)
        assert deployment["metadata"]["labels"] == {"cluster": "first"}
        assert "fleet" in {m["manager"] for m in deployment["metadata"]["managedFields"] if m["operation"] == "Apply"}

        await node(kube)
        await said(kube, "True", "UpToDate")

        await kube.patch(DNS, {"spec": {"replicas": 5, "template": {"metadata": {"annotations": {"mine": "stays"}}}}})
        await kube.delete(WIDGET)
        await said(kube, "True", "UpToDate")
        mended = await kube.get(DNS)
        assert mended["spec"]["replicas"] == 2
        assert mended["spec"]["template"]["metadata"]["annotations"] == {"mine": "stays"}
        assert (await kube.get(WIDGET))["spec"] == {"size": 3}
        told = {e for e in await events() if "as declared again" in e}
        assert told == {
            f"{w} was changed by somebody and is as declared again"
            for w in ("Deployment kube-system/dns", "Widget widgets/one")
        }

        bad = dns("dns:2", ", ports: [{containerPort: 99999}]")
        await in_thread(lambda: package("bad", NEW, dns=bad, widgets=WIDGETS))
        await in_thread(lambda: point_at("bad"))
        stopped = (await reached("first", lambda s: bool(s.get("stopped"))))["status"]
        status, reason, text = condition(stopped, "Stalled")
        assert (status, reason) == ("True", "AddonsNotReady")
        assert "stopped at addons, which was put back: addon dns: Deployment kube-system/dns: " in text
        assert "containerPort: Invalid value: 99999" in text
        assert {c["name"]: (c["seen"], c["ready"]) for c in stopped["components"]}[APISERVER] == (NEW, "True")
        assert stopped["packageVersion"] == f"k8s-{OLD}"
        assert (await kube.get(DNS))["spec"]["template"]["spec"]["containers"][0]["image"] == "dns:1"

        await in_thread(lambda: package(f"k8s-{NEW}", NEW, dns=dns("dns:2"), widgets=WIDGETS))
        await in_thread(lambda: point_at(f"k8s-{NEW}"))
        await reached("first", lambda s: any(x["name"] == "addons" and x["status"] == "Running" for x in s["steps"]))
        assert (await shown())["packageVersion"] == f"k8s-{OLD}", "it waits for the rollout"
        await said(kube, "True", "UpToDate")
        await reached("first", stands_at(NEW))
        assert (await kube.get(DNS))["spec"]["template"]["spec"]["containers"][0]["image"] == "dns:2"


def pid_of(folder: Path, component: str) -> int:
    return int(orjson.loads((folder / component / "run.json").read_bytes())["pid"])


async def test_killed_processes_and_edited_files_come_back_and_the_events_tell_why(first: Path) -> None:
    before = {c: pid_of(first, c) for c in COMPONENTS}
    for component in (ETCD, APISERVER, CONTROLLER_MANAGER):
        os.kill(before[component], signal.SIGKILL)
    await reached(
        "first",
        lambda s: (
            stands_at(OLD)(s) and all(pid_of(first, c) != before[c] for c in (ETCD, APISERVER, CONTROLLER_MANAGER))
        ),
    )

    edited = first / SCHEDULER / "files" / "scheduler.kubeconfig"
    right = edited.read_text()
    edited.write_text(right.replace("127.0.0.1", "10.9.8.7"))
    pid = pid_of(first, SCHEDULER)
    await reached("first", lambda s: stands_at(OLD)(s) and pid_of(first, SCHEDULER) != pid)
    assert edited.read_text() == right
    story = await events()
    assert f"kube-scheduler is started at k8s-{OLD}: scheduler.kubeconfig was changed by somebody" in story
    assert [e for e in story if e.startswith(f"etcd is started at k8s-{OLD}: etcd has ended")]


async def test_what_cannot_run_is_refused_or_put_back(first: Path) -> None:
    await in_thread(lambda: package("gone", NEW, binary="9.9.9/kube-scheduler", dns=dns("dns:1"), widgets=WIDGETS))
    await in_thread(lambda: package("crash", NEW, args={"no-such-flag": "1"}, dns=dns("dns:1"), widgets=WIDGETS))
    before = {c: pid_of(first, c) for c in COMPONENTS}
    await in_thread(lambda: point_at("gone"))
    refused = await reached("first", lambda s: condition(s, "Stalled")[0] == "True")
    assert condition(refused["status"], "Stalled")[1] == "PreflightFailed"
    assert "9.9.9/kube-scheduler is no program on this host" in condition(refused["status"], "Stalled")[2]
    assert {c: pid_of(first, c) for c in COMPONENTS} == before

    await in_thread(lambda: point_at("crash"))
    stopped = (await reached("first", lambda s: bool(s.get("stopped"))))["status"]
    assert (
        "stopped at kube-scheduler, which was put back: kube-scheduler has ended: " in condition(stopped, "Stalled")[2]
    )
    assert "unknown flag: --no-such-flag" in condition(stopped, "Stalled")[2]
    whole = (await reached("first", lambda s: all(c["ready"] == "True" for c in s["components"])))["status"]
    assert {c["name"]: c["seen"] for c in whole["components"]} == {
        ETCD: kubernetes.ETCD,
        APISERVER: NEW,
        CONTROLLER_MANAGER: NEW,
        SCHEDULER: OLD,
    }
    with pytest.raises(ApiError, match="one minor at a time"):
        await in_thread(partial(package, "far", "1.38.0"))
        await in_thread(lambda: point_at("far"))
