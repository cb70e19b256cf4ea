"""The Cluster-Operator in the loop with real components: applied, upgraded by its one reference, rolled back, healed, deleted, taken up again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from clusters import access
from clusters import tasks as _tasks  # registers the operator
from clusters.etcd import BUMP
from clusters.kube import Kube
from clusters.local import _LOOPBACK
from clusters.models import Cluster
from clusters.planes import APISERVER, COMPONENTS, ETCD, SCHEDULER
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control import db, work, worker
from fleet.control.kinds import API_VERSION, CLUSTER, Json
from fleet.control.operators import Seat
from fleet.control.threads import in_thread
from lab import kubernetes
from tests.kube.test_local import port

pytestmark = pytest.mark.kube
assert _tasks
BY = Write(by=SYSTEM)
OLD, NEW = kubernetes.VERSIONS
SECONDS = 240.0
MAPS = "/api/v1/namespaces/default/configmaps"


def store(plural: str, kind: str, name: str, spec: Json) -> None:
    create_object(plural, {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}, write=BY)


def version(kubernetes_version: str) -> None:
    components: list[Json] = [{"name": n, "binary": f"{kubernetes_version}/{n}"} for n in COMPONENTS[1:]]
    components.append({"name": ETCD, "version": kubernetes.ETCD, "binary": "etcd", "args": {"unsafe-no-fsync": "true"}})
    store(
        "clusterpackageversions",
        "ClusterPackageVersion",
        f"k8s-{kubernetes_version}",
        {"kubernetesVersion": kubernetes_version, "components": components},
    )


def change(name: str, do: Callable[[Json], None]) -> None:
    def changed(live: Json) -> Json:
        do(live)
        return live

    patch_object("clusters", name, changed, write=BY)


def point_at(name: str, kubernetes_version: str) -> None:
    change(name, lambda live: live["spec"].update(packageVersion=f"k8s-{kubernetes_version}"))


async def turn() -> None:
    await in_thread(lambda: work.wake(CLUSTER, list(Cluster.objects.values_list("id", flat=True))))
    await worker.run_once(kinds=[CLUSTER])


async def reached(name: str, done: Callable[[Json], bool]) -> Json:
    """Turns of the loop until its status is so."""
    async with asyncio.timeout(SECONDS):
        while True:
            await turn()
            found = await in_thread(lambda: storage_for("clusters").read(name))
            assert found is not None
            status: Json = found.obj.get("status", {})
            if done(status):
                return found.obj
            await asyncio.sleep(0.3)


def stands_at(kubernetes_version: str) -> Callable[[Json], bool]:
    def done(status: Json) -> bool:
        by_type = {c["type"]: c["status"] for c in status.get("conditions", [])}
        return status.get("packageVersion") == f"k8s-{kubernetes_version}" and by_type.get("Ready") == "True"

    return done


async def client() -> Kube:
    """As the watcher reaches the cluster."""
    conn = await db.connect()
    try:
        (endpoint,) = (await access.endpoints(conn)).values()
    finally:
        await conn.close()
    return Kube(endpoint, networks=_LOOPBACK)


async def test_the_life_of_a_cluster(fleet_db: None, settings: Any, tmp_path: Path) -> None:
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    settings.FLEET_BINARIES = str(await asyncio.to_thread(kubernetes.folder, tmp_path / "binaries"))
    for each in kubernetes.VERSIONS:
        await in_thread(partial(version, each))
    spec = {
        "provider": "Local", "packageVersion": f"k8s-{OLD}", "rollout": {"soakSeconds": 3600},
        "controlPlane": {"exposure": {"type": "HostPort", "host": "127.0.0.1", "port": port()}},
    }  # fmt: skip
    await in_thread(lambda: store("clusters", "Cluster", "first", spec))
    uid = ""
    try:
        made = await reached("first", stands_at(OLD))
        uid = made["metadata"]["uid"]
        assert made["status"]["kubernetesVersion"] == OLD
        async with await client() as kube:
            await kube.create(
                MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}}
            )

        await in_thread(lambda: point_at("first", NEW))
        upgraded = await reached("first", stands_at(NEW))
        assert upgraded["status"]["emulatedVersion"] == ".".join(OLD.split(".")[:2])
        assert upgraded["status"]["snapshots"][0]["why"] == "upgrade"
        assert {c["name"]: c["seen"] for c in upgraded["status"]["components"]}[APISERVER] == NEW

        await in_thread(lambda: point_at("first", OLD))
        back = await reached("first", stands_at(OLD))
        assert "emulatedVersion" not in back["status"]

        snapshot = upgraded["status"]["snapshots"][0]["name"]
        async with await client() as kube:
            await kube.create(
                MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {}}
            )
        await in_thread(
            lambda: change(
                "first",
                lambda live: live["metadata"].setdefault("annotations", {}).update({"fleet.dev/restore": snapshot}),
            )
        )
        await reached("first", lambda s: "work" not in s and stands_at(OLD)(s))
        async with await client() as kube:
            assert await kube.find(f"{MAPS}/later") is None
            kept = await kube.get(f"{MAPS}/kept")
            listed = await kube.get(MAPS)
        assert kept["data"] == {"a": "b"}
        assert int(listed["metadata"]["resourceVersion"]) > BUMP

        run = orjson.loads(await asyncio.to_thread((tmp_path / "clusters" / uid / SCHEDULER / "run.json").read_bytes))
        os.kill(run["pid"], signal.SIGKILL)
        await reached(
            "first",
            lambda s: (
                {c["name"]: c["ready"] for c in s["components"]}[SCHEDULER] == "False"
                or s["steps"][-1]["name"] == SCHEDULER
            ),
        )
        await reached("first", stands_at(OLD))

        await in_thread(
            lambda: change(
                "first",
                lambda live: (
                    live["metadata"].setdefault("annotations", {}).update({"fleet.dev/confirm-delete": "first"})
                ),
            )
        )
        await in_thread(lambda: delete_object("clusters", "first", write=BY))
        await turn()
        assert await in_thread(lambda: storage_for("clusters").read("first")) is None
        assert running(tmp_path) == []

        await in_thread(lambda: store("clusters", "Cluster", "again", {**spec, "restoreFrom": uid}))
        await reached("again", stands_at(OLD))
        async with await client() as kube:
            assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
    finally:
        await in_thread(lambda: Cluster.objects.all().delete())
        await in_thread(lambda: _lay_down_all(uid))
        await _tasks.purge(Seat(None, 1))  # type: ignore[arg-type]
    assert running(tmp_path) == []
    assert list((tmp_path / "clusters").iterdir()) == []


def _lay_down_all(uid: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO deleted_cluster (uid, name, spec, status, purge_at) VALUES (%s, 'again', '{"provider": "Local"}', '{}', now())
               ON CONFLICT (uid) DO UPDATE SET purge_at = now()""",
            [uid],
        )


def running(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    lines = (" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(folder) in line]
