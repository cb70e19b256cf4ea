"""What a Hosted cluster is refused for when it is written, and what a meta cluster is kept for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from clusters.models import Cluster
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.control.kinds import API_VERSION, Json

BY = Write(by=SYSTEM)
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def create(plural: str, kind: str, name: str, spec: Json) -> None:
    create_object(plural, {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}, write=BY)


def version(name: str, *without: str) -> None:
    components = [
        {"name": n, "version": "3.7.3", "binary": n} | ({} if n in without else {"image": f"r.example/{n}:1"})
        for n in COMPONENTS
    ]
    create(
        "clusterpackageversions",
        "ClusterPackageVersion",
        name,
        {"kubernetesVersion": "1.37.2", "components": components},
    )


def hosted(
    name: str = "web", package: str = "v37", *, meta: str = "meta", exposure: Json | None = None, **plane: Any
) -> None:
    where = {
        "metaCluster": meta,
        "exposure": {"host": "10.0.0.2", "port": 7443} if exposure is None else exposure,
        **plane,
    }
    create("clusters", "Cluster", name, {"provider": "Hosted", "packageVersion": package, "controlPlane": where})


@pytest.fixture(autouse=True)
def meta(fleet_db: None) -> None:
    version("v37")
    create("clusters", "Cluster", "meta", {"provider": "Local", "packageVersion": "v37"})


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as error:
        act()
    return str(error.value)


def test_a_meta_cluster_has_to_be_there_and_to_stay() -> None:
    assert '"nowhere": there is no such Cluster' in refused(lambda: hosted(meta="nowhere"))
    assert '"web": a cluster cannot carry itself' in refused(lambda: hosted(meta="web"))
    Cluster.objects.filter(name="meta").update(deleted_at=timezone.now())
    assert '"meta": is being deleted' in refused(hosted)


def test_a_meta_cluster_has_a_control_plane_that_stands_on_no_other() -> None:
    create("clusters", "Cluster", "hosts", {})
    assert '"hosts": has no control plane; it is a group of plain hosts' in refused(lambda: hosted(meta="hosts"))
    hosted()
    assert '"web": is itself Hosted on meta; one hop is the most' in refused(lambda: hosted("second", meta="web"))


def test_a_version_without_images_is_refused_by_the_components_names() -> None:
    version("bare", "etcd", "kube-scheduler")
    text = refused(lambda: hosted(package="bare"))
    assert '"bare": names no image for etcd, kube-scheduler; a Hosted control plane runs images' in text
    hosted()

    def point(live: Json) -> Json:
        live["spec"]["packageVersion"] = "bare"
        return live

    assert "names no image for etcd" in refused(lambda: patch_object("clusters", "web", point, write=BY))


@pytest.mark.parametrize(
    ("exposure", "text"),
    [
        pytest.param({}, "needs the name or address of its API server", id="nothing"),
        pytest.param({"host": "127.0.0.1"}, "loopback is another machine for each node", id="loopback"),
        pytest.param(
            {"host": "h", "type": "NodePort", "port": 6443}, "a NodePort is one of 30000 to 32767", id="node port"
        ),
        pytest.param({"host": "h", "port": 65531}, "the five ports after it are taken as well", id="last ports"),
    ],
)
def test_its_address_is_one_that_machines_reach(exposure: Json, text: str) -> None:
    assert text in refused(lambda: hosted(exposure=exposure))


def test_neighbours_share_neither_ports_nor_a_namespace() -> None:
    hosted()
    near = {"host": "10.0.0.2", "port": 7440}
    assert "7440: cluster web takes 7443 to 7448 on the nodes of the same meta cluster" in refused(
        lambda: hosted("second", exposure=near)
    )
    far = {"host": "10.0.0.2", "port": 7449}
    assert '"fleet-web": is that of cluster web' in refused(
        lambda: hosted("second", exposure=far, namespace="fleet-web")
    )
    hosted("second", exposure=far)
    create("clusters", "Cluster", "other", {"provider": "Local", "packageVersion": "v37"})
    hosted("third", meta="other")


def test_ports_of_a_deleted_one_are_taken_while_its_data_is_kept() -> None:
    lay_down("old")
    assert "cluster old takes 7443 to 7448" in refused(hosted)


def lay_down(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO deleted_cluster (uid, name, spec, status, purge_at) VALUES (gen_random_uuid(), %s,
               '{"provider": "Hosted", "controlPlane": {"metaCluster": "meta", "exposure": {"host": "h", "port": 7443}}}', '{}', now() + interval '1 day')""",
            [name],
        )


def confirmed_delete(name: str) -> None:
    def confirm(live: Json) -> Json:
        live["metadata"]["annotations"] = {"fleet.dev/confirm-delete": name}
        return live

    patch_object("clusters", name, confirm, write=BY)
    delete_object("clusters", name, write=BY)


def test_a_meta_cluster_that_carries_others_is_not_deleted_and_names_them() -> None:
    hosted()
    assert "it carries the control planes of web; delete them first" in refused(lambda: confirmed_delete("meta"))
    Cluster.objects.filter(name="web").delete()
    lay_down("gone")
    assert "it carries the control planes of gone" in refused(lambda: confirmed_delete("meta"))
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM deleted_cluster")
    confirmed_delete("meta")


@pytest.mark.parametrize("field", ["metaCluster", "namespace", "storageClass", "etcdReplicas", "exposure"])
def test_what_a_control_plane_is_built_on_stays(field: str) -> None:
    hosted()
    values: Json = {
        "metaCluster": "x",
        "namespace": "x",
        "storageClass": "x",
        "etcdReplicas": 3,
        "exposure": {"host": "x", "port": 1},
    }

    def change(live: Json) -> Json:
        live["spec"]["controlPlane"][field] = values[field]
        return live

    assert f"spec.controlPlane.{field}: Forbidden: is fixed" in refused(
        lambda: patch_object("clusters", "web", change, write=BY)
    )


def test_data_of_one_provider_is_not_taken_up_by_another() -> None:
    lay_down("old")
    with connection.cursor() as cursor:
        cursor.execute("SELECT uid::text FROM deleted_cluster")
        uid = cursor.fetchone()[0]
    spec = {"provider": "Local", "packageVersion": "v37", "restoreFrom": uid}
    assert "its data is Hosted on meta, and cannot be taken up elsewhere" in refused(
        lambda: create("clusters", "Cluster", "new", spec)
    )
