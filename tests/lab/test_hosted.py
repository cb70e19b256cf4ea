"""Kube-on-kube in the lab: a business cluster as pods on a real node of a meta cluster, through its whole life by Fleet's loop."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusters import access, hosted_data, keep
from clusters import tasks as _tasks  # registers the operator
from clusters.etcd import BUMP
from clusters.kube import JSON_PATCH, Kube, KubeError, KubeUnreachable
from clusters.models import Cluster
from clusters.planes import APISERVER, COMPONENTS, CONTROLLER_MANAGER, ETCD, SCHEDULER
from clusters.providers import networks
from fleet.api.actions import delete_object
from fleet.api.errors import ApiError
from fleet.api.storage import storage_for
from fleet.control.endpoint import Endpoint
from fleet.control.kinds import Json
from fleet.control.operators import Seat
from fleet.control.threads import in_thread
from lab import Lab, control_plane_images, images, kubernetes, node_packages
from lab.host import Host
from tests.kube.test_cluster_operator import BY, MAPS, change, point_at, reached, stands_at, store, turn
from tests.kube.test_local import port
from tests.lab.test_nodes_by_hand import JOINING, Ground, _base64, join, kubeconfig
from tests.servers import Kubectl, kubectl_binaries

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
assert _tasks
OLD, NEW = kubernetes.VERSIONS
PORT = 7443
NAMESPACE = "fleet-web"


class Meta(Ground):
    """The meta cluster, a Fleet cluster with a Local control plane on the lab's bridge, and kubectl as its admin."""

    def __init__(self, host: str, number: int, files: dict[str, str], folder: Path) -> None:
        self.host, self.port, self.files = host, number, files
        self.server = f"https://{host}:{number}"
        pair = {f"client-{k}-data": _base64(files[f"admin.{n}"]) for k, n in (("certificate", "crt"), ("key", "key"))}
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig(self.server, files["ca.crt"], **pair)))
        self.kubectl = Kubectl(kubectl_binaries()[0], folder / "kubeconfig", folder / "cache")

    def pods(self) -> list[Json]:
        found: list[Json] = self.get("pods", "-n", NAMESPACE)["items"]
        return found


def package(version: str) -> None:
    components: list[Json] = [
        {"name": n, "binary": f"{version}/{n}", "image": control_plane_images.name_of(n, version)}
        for n in COMPONENTS[1:]
    ]
    etcd = {
        "name": ETCD,
        "version": kubernetes.ETCD,
        "binary": "etcd",
        "image": control_plane_images.name_of(ETCD, kubernetes.ETCD),
    }
    components.append({**etcd, "args": {"unsafe-no-fsync": "true"}})
    store(
        "clusterpackageversions",
        "ClusterPackageVersion",
        f"k8s-{version}",
        {"kubernetesVersion": version, "components": components},
    )


def node(lab: Lab, meta: Meta, name: str, *versions: str) -> Host:
    """A host that is a node of the meta cluster and has the images of these versions."""
    host = lab.debs([name], node=True)[0]
    lab.route(lab.pod_range(host), host)
    join(lab, meta, host, node_packages.manifests(lab.store), NEW)
    lab.import_images(host, images.pause(), images.busybox(), *control_plane_images.images(*versions))
    meta.approved_until(lambda: meta.ready(name) and meta.answers(name), f"{name} is Ready")
    meta.kubectl("taint", "node", name, "fleet.dev/joining-")
    return host


def hosted_spec(host: Host, **plane: Any) -> Json:
    """A business cluster whose API server is at the address of a node."""
    exposure = {"type": "HostPort", "host": host.address, "port": PORT}
    return {
        "provider": "Hosted", "packageVersion": f"k8s-{OLD}", "rollout": {"soakSeconds": 3600},
        "controlPlane": {"metaCluster": "meta", "exposure": exposure, **plane},
    }  # fmt: skip


async def endpoint_of(name: str) -> Endpoint:
    found = await in_thread(lambda: access.endpoint_named(name))
    assert found is not None
    return found


@asynccontextmanager
async def client(name: str) -> AsyncIterator[Kube]:
    async with Kube(await endpoint_of(name), networks=networks()) as kube:
        yield kube


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """A line for who runs the tests."""

    def tell(text: str) -> None:
        with capfd.disabled():
            sys.stdout.write(f"\n{text}\n")

    return tell


class Away:
    """How long an API gave no answer, asked ten times a second as a client of it would."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._end = endpoint, threading.Event()
        self.longest, self.whole, self.asked = 0.0, 0.0, 0

    def run(self) -> None:
        asyncio.run(self._ask())

    async def _ask(self) -> None:
        last = time.monotonic()
        while not self._end.is_set():
            begun = time.monotonic()
            try:
                async with Kube(self._endpoint, networks=networks()) as kube:
                    await kube.send("GET", MAPS, params={"limit": "1"}, seconds=1.0)
                self.asked += 1
                gap = time.monotonic() - last
                self.longest, self.whole = max(self.longest, gap), self.whole + (gap if gap > 1.0 else 0.0)
                last = time.monotonic()
            except (KubeError, KubeUnreachable):
                pass  # that is what is measured
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - begun)))

    def stop(self) -> None:
        self._end.set()


@contextmanager
def watched(endpoint: Endpoint, what: str, say: Callable[[str], None]) -> Iterator[Away]:
    away = Away(endpoint)
    thread = threading.Thread(target=away.run)
    thread.start()
    begun = time.monotonic()
    try:
        yield away
    finally:
        away.stop()
        thread.join()
    took = time.monotonic() - begun
    say(
        f"\n{what}: {took:.1f} s; the API was away {away.longest:.1f} s at a time, {away.whole:.1f} s in all ({away.asked} answers)"
    )


def config(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


async def back(name: str, version: str, seen: Callable[[], bool]) -> float:
    """Seconds until something that was lost is there again and the cluster is Ready."""
    begun = time.monotonic()

    async with asyncio.timeout(240):
        while not await asyncio.to_thread(seen):
            await turn()
            await asyncio.sleep(0.3)
    await reached(name, stands_at(version))
    return time.monotonic() - begun


@pytest.fixture
async def meta(fleet_db: None, settings: Any, lab: Lab, tmp_path: Path) -> AsyncIterator[Meta]:
    """A meta cluster that takes nodes, and nothing of it afterwards."""
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    settings.FLEET_BINARIES = str(await asyncio.to_thread(kubernetes.folder, tmp_path / "binaries"))
    settings.FLEET_ALLOWED_NETWORKS = [f"{lab.gateway.rpartition('.')[0]}.0/24"]
    settings.FLEET_TOOLS_IMAGE = images.BUSYBOX
    for each in kubernetes.VERSIONS:
        await in_thread(partial(package, each))
    number, uid = port(), ""
    spec = {
        "provider": "Local", "packageVersion": f"k8s-{NEW}",
        "controlPlane": {"exposure": {"type": "HostPort", "host": lab.gateway, "port": number}},
    }  # fmt: skip
    try:
        await in_thread(lambda: store("clusters", "Cluster", "meta", spec))
        uid = (await in_thread(lambda: storage_for("clusters").read("meta"))).obj["metadata"]["uid"]  # type: ignore[union-attr]
        await reached("meta", stands_at(NEW))
        files = await in_thread(lambda: keep.files(uid))
        made = Meta(lab.gateway, number, files, tmp_path)
        await asyncio.to_thread(made.apply, *JOINING)
        yield made
    finally:
        await in_thread(lambda: Cluster.objects.all().delete())
        await in_thread(lambda: _purge_now(uid))
        await _tasks.purge(Seat(None, 1))  # type: ignore[arg-type]


async def test_the_life_of_a_hosted_cluster(meta: Meta, lab: Lab, say: Callable[[str], None]) -> None:
    host = await asyncio.to_thread(node, lab, meta, "c1", *kubernetes.VERSIONS)
    spec = hosted_spec(host)
    begun = time.monotonic()
    await in_thread(lambda: store("clusters", "Cluster", "web", spec))
    made = await reached("web", stands_at(OLD))
    say(f"ready {time.monotonic() - begun:.1f} s after it was asked for")
    uid = made["metadata"]["uid"]
    assert made["status"]["kubernetesVersion"] == OLD
    async with client("web") as kube:
        await kube.create(MAPS, config("kept"))
    with pytest.raises(ApiError, match="carries the control planes of web"):
        await in_thread(lambda: _confirmed_delete("meta"))

    await _heals(meta, say)
    await _outlives_a_power_cut(host, say)

    endpoint = await endpoint_of("web")
    with watched(endpoint, f"upgrade {OLD} to {NEW}", say) as away:
        await in_thread(lambda: point_at("web", NEW))
        upgraded = await reached("web", stands_at(NEW))
    assert away.asked > 10 and away.longest < 60
    assert upgraded["status"]["emulatedVersion"] == ".".join(OLD.split(".")[:2])
    with watched(endpoint, f"back to {OLD}", say):
        await in_thread(lambda: point_at("web", OLD))
        await reached("web", stands_at(OLD))

    snapshot = upgraded["status"]["snapshots"][0]["name"]
    async with client("web") as kube:
        await kube.create(MAPS, config("later"))
    begun = time.monotonic()
    word = {"fleet.dev/restore": snapshot}
    await in_thread(lambda: change("web", lambda live: live["metadata"].setdefault("annotations", {}).update(word)))
    await reached("web", lambda s: "work" not in s and stands_at(OLD)(s))
    say(f"restored in {time.monotonic() - begun:.1f} s")
    async with client("web") as kube:
        assert await kube.find(f"{MAPS}/later") is None
        assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
        assert int((await kube.get(MAPS))["metadata"]["resourceVersion"]) > BUMP

    await in_thread(lambda: _confirmed_delete("web"))
    async with asyncio.timeout(120):
        while await in_thread(lambda: storage_for("clusters").read("web")) is not None:
            await turn()
            await asyncio.sleep(0.3)
    assert meta.pods() == []
    assert host.text("ls /var/lib/fleet-planes") != ""
    await in_thread(lambda: _due(uid))
    async with asyncio.timeout(120):
        while await in_thread(lambda: _kept(uid)):
            await _tasks.purge(Seat(None, 1))  # type: ignore[arg-type]
            await asyncio.sleep(0.5)
    assert meta.kubectl("get", "namespace", NAMESPACE, ok=False).returncode != 0
    assert meta.get("persistentvolumes")["items"] == []
    assert host.text("ls /var/lib/fleet-planes") == ""


async def _heals(meta: Meta, say: Callable[[str], None]) -> None:
    """A pod that is killed, a pod that is deleted, a manifest that is edited: each comes back."""

    def pod(component: str) -> Json:
        return next(p for p in meta.pods() if p["metadata"]["labels"]["app.kubernetes.io/component"] == component)

    for component in (APISERVER, ETCD, CONTROLLER_MANAGER):
        before = pod(component)["metadata"]
        meta.kubectl("delete", "pod", "-n", NAMESPACE, before["name"], "--wait=false")
        took = await back("web", OLD, lambda: pod(component)["metadata"]["uid"] != before["uid"])  # noqa: B023 - asked at once
        say(f"a deleted pod of {component} was replaced and the cluster Ready after {took:.1f} s")
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{SCHEDULER}"
    edit = [{"op": "add", "path": "/spec/template/spec/containers/0/command/-", "value": "--v=9"}]
    async with client("meta") as kube:
        await kube.patch(path, edit, content_type=JSON_PATCH)
        edited = (await kube.get(path))["metadata"]["generation"]

    def unedited() -> bool:
        found = meta.get("deployment", SCHEDULER, "-n", NAMESPACE)
        command = found["spec"]["template"]["spec"]["containers"][0]["command"]
        return bool(found["metadata"]["generation"] > edited and "--v=9" not in command)

    took = await back("web", OLD, unedited)
    say(f"an edited manifest was put right and the cluster Ready after {took:.1f} s")


async def _outlives_a_power_cut(host: Host, say: Callable[[str], None]) -> None:
    """The node of all its pods loses power: Fleet says that it does not know, touches nothing, and finds it again."""
    await asyncio.to_thread(host.power_cut)
    begun = time.monotonic()

    def unsure(status: Json) -> bool:
        return any(c["type"] == "APIServerReachable" and c["status"] != "True" for c in status["conditions"])

    off = await reached("web", unsure)
    assert {c["type"]: c["status"] for c in off["status"]["conditions"]}["APIServerReachable"] == "Unknown"
    steps = off["status"]["steps"]
    await asyncio.to_thread(host.power_on)
    on = await reached("web", stands_at(OLD))
    assert on["status"]["steps"] == steps
    async with client("web") as kube:
        assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
    say(f"Ready {time.monotonic() - begun:.1f} s after the power of its node was cut and given back")


def where(found: Meta) -> dict[str, str]:
    """Nodes of members that are ready."""
    pods = [p for p in found.pods() if p["metadata"]["labels"].get("app.kubernetes.io/component") == ETCD]
    ready = [
        p
        for p in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))
    ]
    return {p["metadata"]["name"]: p["spec"]["nodeName"] for p in ready}


async def test_a_lost_member_is_replaced_on_another_node(meta: Meta, lab: Lab, say: Callable[[str], None]) -> None:
    hosts = {name: await asyncio.to_thread(node, lab, meta, name, OLD) for name in ("m1", "m2", "m3", "m4")}
    await in_thread(lambda: store("clusters", "Cluster", "web", hosted_spec(hosts["m1"], etcdReplicas=3)))
    await reached("web", stands_at(OLD))
    before = await asyncio.to_thread(where, meta)
    assert sorted(before) == ["etcd-0", "etcd-1", "etcd-2"] and len(set(before.values())) == 3
    async with client("web") as kube:
        await kube.create(MAPS, config("kept"))

    lost = next(name for name, at in before.items() if at != "m1")
    spare = next(iter(set(hosts) - set(before.values())))
    begun = time.monotonic()
    await asyncio.to_thread(hosts[before[lost]].stop)
    for _ in range(10):
        await turn()
        await asyncio.sleep(0.5)
    assert [
        v["spec"]["claimRef"]["name"]
        for v in meta.get("persistentvolumes")["items"]
        if hosted_data.hostname_of(v) == before[lost]
    ] == [f"data-{lost}"]
    meta.kubectl("delete", "node", before[lost])

    def replaced(status: Json) -> bool:
        return bool(stands_at(OLD)(status)) and {c["name"]: c["replicas"] for c in status["components"]}[ETCD] == "3/3"

    async with asyncio.timeout(300):
        while (await asyncio.to_thread(where, meta)).get(lost) != spare:
            await turn()
            await asyncio.sleep(0.5)
    await reached("web", replaced)
    say(
        f"a member of etcd was replaced on another node {time.monotonic() - begun:.1f} s after its node lost power and was deleted"
    )
    assert await asyncio.to_thread(where, meta) == {**before, lost: spare}
    async with client("web") as kube:
        assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}


def _confirmed_delete(name: str) -> None:
    word = {"fleet.dev/confirm-delete": name}
    change(name, lambda live: live["metadata"].setdefault("annotations", {}).update(word))
    delete_object("clusters", name, write=BY)


def _due(uid: str) -> None:
    _sql("UPDATE deleted_cluster SET purge_at = now() WHERE uid = %s", uid)


def _kept(uid: str) -> bool:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM deleted_cluster WHERE uid = %s", [uid])
        return cursor.fetchone() is not None


def _purge_now(uid: str) -> None:
    """What a broken test leaves: the processes of the meta cluster, which the pods go with."""
    _sql(
        """INSERT INTO deleted_cluster (uid, name, spec, status, purge_at) VALUES (%s, 'meta', '{"provider": "Local"}', '{}', now())
           ON CONFLICT (uid) DO UPDATE SET purge_at = now()""",
        uid,
    )


def _sql(text: str, *values: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(text, values)
