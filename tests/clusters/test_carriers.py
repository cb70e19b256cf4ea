"""Which machines carry a Hosted control plane: by its pods and by the data of its etcd, and as it was known last while nobody tells."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from django.db import connection

from clusters import carriers
from clusters.hosted import nodes_of
from clusters.models import Cluster
from clusters.planes import APISERVER, ETCD, ComponentSeen
from fleet.api.actions import create_object
from fleet.control.kinds import API_VERSION
from tests.clusters.test_hosted_manifests import NODES
from tests.clusters.test_hosted_members import THREE, live, pod
from tests.clusters.test_operate import BY

PLANE = 4711


def seen(name: str, nodes: Iterable[str] | None) -> ComponentSeen:
    return ComponentSeen(name, "d", "1.37.2", True, 1, 1, nodes=None if nodes is None else frozenset(nodes))


def test_a_member_belongs_to_the_node_of_its_data_and_a_pod_to_its_own() -> None:
    there = pod("kube-apiserver-1", component=APISERVER) | {"spec": {"nodeName": "n7"}}
    waiting = pod("kube-apiserver-2", component=APISERVER) | {"spec": {}}
    found = live(THREE, there, waiting)
    assert nodes_of(THREE, APISERVER, found) == {"n7"}
    assert nodes_of(THREE, ETCD, found) == {m.node for m in NODES}  # none of them has a pod now


@pytest.fixture
def meta(fleet_db: None) -> str:
    """A meta cluster whose nodes n1 to n4 are machines 1 to 4; of n5 Fleet knows no machine."""
    obj = {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "meta"}, "spec": {}}
    create_object("clusters", obj, write=BY)
    at = Cluster.objects.get(name="meta").pk
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO node (cluster_id, name, machine_id) SELECT %s, 'n' || i, nullif(i, 5) FROM generate_series(1, 5) i",
            [at],
        )
        cursor.execute("INSERT INTO node (cluster_id, name, machine_id) VALUES (%s, 'n1', 99)", [at + 1])
    return "meta"


def kept() -> dict[int, bool]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT machine_id, member FROM carried WHERE plane_id = %s ORDER BY 1", [PLANE])
        return dict(cursor.fetchall())


@pytest.mark.django_db(transaction=True)
def test_what_was_seen_is_kept_until_something_else_is_seen(meta: str) -> None:
    carriers.note(PLANE, meta, [seen(ETCD, ("n1", "n2")), seen(APISERVER, ("n2", "n3", "n5"))])
    assert kept() == {1: True, 2: True, 3: False}
    carriers.note(PLANE, meta, [seen(ETCD, None), seen(APISERVER, None)])  # the meta cluster does not answer
    carriers.note(PLANE, meta, [])
    assert kept() == {1: True, 2: True, 3: False}
    carriers.note(PLANE, meta, [seen(APISERVER, ("n4",)), seen(ETCD, ("n1", "n3"))])
    assert kept() == {1: True, 3: True, 4: False}
    carriers.note(PLANE, meta, [seen(ETCD, ()), seen(APISERVER, ("n3",))])
    assert kept() == {3: False}
    carriers.forget(PLANE)
    assert kept() == {}
