"""The dialogs of the console on a real control plane: made, upgraded, pointed back and deleted by what a browser posts."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from clusters import tasks as _tasks
from clusters.models import Cluster
from fleet.api.storage import storage_for
from fleet.control.operators import Seat
from fleet.control.threads import in_thread
from lab import kubernetes
from tests.kube.test_cluster_operator import NEW, OLD, reached, running, stands_at, turn, version
from tests.kube.test_local import port
from tests.servers import People

pytestmark = pytest.mark.kube


def browser() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.get(username="admin"))
    return client


def told(path: str, **form: str) -> Any:
    return browser().post(path, form).json()


def done(path: str, **form: str) -> str:
    """The way back of an act that was accepted."""
    answer = browser().post(path, form)
    assert answer.status_code == 303, answer.content.decode()[-1500:]
    return str(answer["Location"])


def page() -> str:
    return browser().get("/clusters/web").content.decode()


async def point_at(target: str, button: str) -> None:
    """Told, with nothing in the way; then done with the hash that was told."""
    found = await in_thread(lambda: told("/clusters/web/foresee", verb="upgrade", packageVersion=f"k8s-{target}"))
    assert found["may"], found["html"]
    assert "Nothing stands in the way" in found["html"], found["html"]
    assert found["go"] == f"{button} to k8s-{target}"
    form = {"verb": "upgrade", "packageVersion": f"k8s-{target}", "seen": found["seen"]}
    await in_thread(lambda: done("/clusters/web/do", **form))
    await reached("web", stands_at(target))


async def test_the_life_of_a_cluster_by_its_dialogs(people: People, settings: Any, tmp_path: Path) -> None:
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    settings.FLEET_BINARIES = str(await asyncio.to_thread(kubernetes.folder, tmp_path / "binaries"))
    for each in kubernetes.VERSIONS:
        await in_thread(partial(version, each))
    form = {
        "metadata.name": "web", "spec.provider": "Local", "spec.packageVersion": f"k8s-{OLD}",
        "spec.controlPlane.exposure.host": "127.0.0.1", "spec.controlPlane.exposure.port": str(port()),
    }  # fmt: skip
    uid = ""
    try:
        assert (await in_thread(lambda: told("/do/clusters/foresee", **form)))["may"]
        await in_thread(lambda: done("/do/clusters", **form))
        made = await reached("web", stands_at(OLD))
        uid = made["metadata"]["uid"]
        text = await in_thread(page)
        assert f"Kubernetes {OLD} is ready." in text
        assert text.count('aria-label="True"') >= 4
        assert "First certificate to end" in text

        await point_at(NEW, "Upgrade")
        text = await in_thread(page)
        assert f"Kubernetes {NEW} is ready. It speaks as" in text
        assert "-upgrade.db" in text
        await point_at(OLD, "Go back")

        found = await in_thread(lambda: told("/clusters/web/foresee", verb="delete"))
        assert found["may"] and f"restoreFrom: {uid}" in found["html"]
        await in_thread(lambda: done("/clusters/web/do", verb="delete", confirm="web", seen=found["seen"]))
        assert "Leaving" in await in_thread(page)
        await turn()
        assert await in_thread(lambda: storage_for("clusters").read("web")) is None
        assert running(tmp_path) == []
        assert "web, kept until" in await in_thread(lambda: browser().get("/clusters").content.decode())

        await in_thread(lambda: done("/do/clusters", **form, **{"spec.restoreFrom": uid}))
        assert (await reached("web", stands_at(OLD)))["metadata"]["uid"] != uid
    finally:
        await in_thread(lambda: Cluster.objects.all().delete())
        if uid:
            await in_thread(lambda: _lay_down(uid))
        await _tasks.purge(Seat(None, 1))  # type: ignore[arg-type]
    assert running(tmp_path) == []


def _lay_down(uid: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO deleted_cluster (uid, name, spec, status, purge_at) VALUES (%s, 'web', '{"provider": "Local"}', '{}', now())
               ON CONFLICT (uid) DO UPDATE SET purge_at = now()""",
            [uid],
        )
