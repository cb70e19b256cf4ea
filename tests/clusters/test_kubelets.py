"""Kubelets and the API server of their cluster: counted before a change, waited for on the way back, checked where they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from clusters import kubelets, providers
from clusters.models import Cluster
from clusters.schema_cluster import LOCAL
from fleet.api.actions import create_object, patch_object
from fleet.api.errors import ApiError
from fleet.control.kinds import API_VERSION, Json
from fleet.control.threads import in_thread
from tests.clusters.test_operate import BY, Fake, change, cluster, said, shown, turn, version


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path, fleet_db: None) -> Fake:
    made = Fake()
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    monkeypatch.setitem(providers._made, LOCAL, lambda: made)
    return made


def execute(sql: str, values: Sequence[str | int] = ()) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, list(values))


def node(name: str, kubelet: str) -> None:
    execute("INSERT INTO node (cluster_id, name, kubelet_version) SELECT id, %s, %s FROM clusters_cluster ON CONFLICT (cluster_id, name) DO UPDATE SET kubelet_version = excluded.kubelet_version", [name, kubelet])  # fmt: skip


def make(plural: str, kind: str, name: str, **spec: Any) -> None:
    create_object(plural, {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}, write=BY)


def machine(name: str, **spec: Any) -> None:
    make("machines", "Machine", name, **{"clusterName": "c1", "ip": f"10.0.0.{sum(map(ord, name)) % 250}", **spec})


def wants(name: str, kubelet: str) -> None:
    """The machine has accepted a set with this kubelet."""
    body = f'{{"packages": [{{"name": "cni", "version": "9.9"}}, {{"name": "kubelet", "version": "{kubelet}"}}]}}'
    number = int(kubelet.replace(".", ""))
    execute("INSERT INTO accepted_set (hash, body) VALUES (%s, %s::jsonb) ON CONFLICT DO NOTHING", [number, body])
    execute(
        "UPDATE machine_state SET desired_hash = %s WHERE id = (SELECT id FROM machine WHERE name = %s)", [number, name]
    )


async def up(package: str = "v36", **spec: Any) -> None:
    for name, number in (("v35", "1.35.9"), ("v36", "1.36.3"), ("v37", "1.37.2")):
        await in_thread(lambda name=name, number=number: version(name, number))  # type: ignore[misc]
    await in_thread(lambda: cluster(package=package, rollout={"soakSeconds": 3600}, **spec))
    await turn()


async def test_kubelets_are_counted_as_nodes_tell_them_and_as_machines_shall_have_them(fake: Fake) -> None:
    await up()

    def count() -> dict[str, int]:
        node("n1", "v1.36.3")
        node("n2", "v1.36.3")
        node("n3", "")
        for name in ("a", "b", "c"):
            machine(name)
            wants(name, "1.37.2")
        execute("UPDATE machine_state SET phase = 'Retired' WHERE id = (SELECT id FROM machine WHERE name = 'c')")
        return kubelets.counted(Cluster.objects.get().pk)

    assert await in_thread(count) == {"1.36.3": 2, "1.37.2": 2}


@pytest.mark.parametrize("source", ["node", "machine"])
async def test_the_way_back_waits_until_no_kubelet_is_newer_and_then_goes_on_by_itself(fake: Fake, source: str) -> None:
    await up()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()

    def newer(number: str) -> None:
        if source == "node":
            node("n1", number)
            node("n2", number)
            return
        for name in ("a", "b"):
            wants(name, number)

    await in_thread(lambda: machine("a"))
    await in_thread(lambda: machine("b"))
    await in_thread(lambda: newer("1.37.2"))
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v36"))
    await turn()
    assert fake.log == []
    assert (await said("Ready"))[1:] == (
        "WaitsForMachines",
        "waits for machines: 2 kubelets are newer than Kubernetes 1.36.3, up to 1.37.2",
    )
    assert (await said("Stalled"))[0] == "False"
    assert ((await shown())["status"]["phase"], (await said("Reconciling"))[0]) == ("Upgrading", "True")
    await in_thread(lambda: newer("1.36.3"))
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v36"


async def test_an_upgrade_is_refused_while_kubelets_would_be_left_more_than_three_minors_behind(fake: Fake) -> None:
    await up()
    await in_thread(lambda: node("n1", "v1.33.5"))
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert fake.log == []
    assert (await said("Stalled"))[1:] == (
        "PreflightFailed",
        "1 kubelet is more than 3 minors older than Kubernetes 1.37.2, down to 1.33.5; upgrade them first",
    )
    await in_thread(lambda: node("n1", "v1.34.0"))
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v37"


@pytest.mark.parametrize(
    ("kubelet", "text"),
    [
        pytest.param("1.37.2", "is newer than", id="newer"),
        pytest.param("1.32.9", "is more than 3 minors older than", id="too old"),
    ],
)
async def test_a_kubelet_that_does_not_suit_the_api_server_is_refused_wherever_it_is_written(
    fake: Fake, kubelet: str, text: str
) -> None:
    await up()
    await in_thread(lambda: make("machineclasses", "MachineClass", "gpu", versions={"cni": "1.0"}))
    await in_thread(lambda: make("machineclasses", "MachineClass", "bad", versions={"kubelet": kubelet}))
    await in_thread(lambda: machine("a", className="gpu"))

    def patch(plural: str, name: str, **spec: Any) -> None:
        def do(live: Json) -> Json:
            live["spec"] |= spec
            return live

        patch_object(plural, name, do, write=BY)

    versions = {"kubelet": kubelet}
    of = rf'"{kubelet}": {text} the API server of cluster c1, 1.36.3'
    with pytest.raises(ApiError, match=rf"spec.machineVersions\[kubelet\].*{text} its API server, 1.36.3"):
        await in_thread(lambda: change(machineVersions=versions))
    with pytest.raises(ApiError, match=rf"spec.versions\[kubelet\].*{of}"):
        await in_thread(lambda: machine("b", versions=versions))
    with pytest.raises(ApiError, match=rf"spec.versions\[kubelet\].*{of}"):
        await in_thread(lambda: patch("machines", "a", versions=versions))
    with pytest.raises(ApiError, match=rf"spec.className.*{of}"):
        await in_thread(lambda: patch("machines", "a", className="bad"))
    with pytest.raises(ApiError, match=rf"spec.versions\[kubelet\].*{of}"):
        await in_thread(lambda: patch("machineclasses", "gpu", versions=versions))
    for plural, name in (("machines", "a"), ("machineclasses", "gpu")):
        await in_thread(lambda plural=plural, name=name: patch(plural, name, versions={"kubelet": "1.35.9"}))  # type: ignore[misc]
    await in_thread(lambda: machine("free", clusterName="", versions=versions))
    await in_thread(lambda: change(machineVersions={"kubelet": "1.34.0"}))


async def test_a_pinned_kubelet_must_suit_the_version_now_and_the_one_to_come(fake: Fake) -> None:
    await up("v37", machineVersions={"kubelet": "1.34.0"})
    await in_thread(lambda: version("v38", "1.38.0"))
    with pytest.raises(ApiError, match="more than 3 minors older than its API server, 1.38.0"):
        await in_thread(lambda: change(packageVersion="v38"))
    with pytest.raises(ApiError, match="is newer than its API server, 1.37.2"):
        await in_thread(lambda: change(packageVersion="v38", machineVersions={"kubelet": "1.38.0"}))
    await in_thread(lambda: change(packageVersion="v38", machineVersions={"kubelet": "1.37.2"}))


async def test_the_api_server_of_an_imported_cluster_is_what_it_says_of_itself(fleet_db: None) -> None:
    def imported() -> None:
        execute("""INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at)
          VALUES (gen_random_uuid(), 'c1', 1, 1, '{}', '{}', '[]', '[]', '{"provider": "Imported", "packageVersion": "v40"}', '{"kubernetesVersion": "1.36.3"}', now())""")  # fmt: skip

    await in_thread(imported)
    with pytest.raises(ApiError, match="is newer than the API server of cluster c1, 1.36.3"):
        await in_thread(lambda: machine("a", versions={"kubelet": "1.37.2"}))
    await in_thread(lambda: machine("a", versions={"kubelet": "1.36.0"}))
