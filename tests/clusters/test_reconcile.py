"""Phase and counts of clusters."""

from __future__ import annotations

import pytest
from django.db import connection
from django_fsm import TransitionNotAllowed

from clusters.models import Cluster
from clusters.reconcile import part_of, phase_of, reconcile
from clusters.status import Part, merged
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control.conditions import Condition
from fleet.control.kinds import API_VERSION, Json

BY = Write(by=SYSTEM)


@pytest.mark.parametrize(
    ("phases", "deleting", "phase"),
    [
        pytest.param({}, False, "Pending", id="no machines"),
        pytest.param({"Running": 3}, False, "Running", id="all run"),
        pytest.param({"Running": 3, "Updating": 1}, False, "Running", id="one is updated"),
        pytest.param({"Running": 3, "Pending": 1}, False, "Provisioning", id="one is new"),
        pytest.param({"Running": 3, "Failed": 1, "Pending": 1}, False, "Degraded", id="one failed"),
        pytest.param({"Running": 3}, True, "Deleting", id="it goes"),
    ],
)
def test_a_cluster_is_what_its_machines_are(phases: dict[str, int], deleting: bool, phase: str) -> None:
    assert phase_of(phases, deleting) == phase


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    first = merged({}, Part(conditions=(Condition("Ready", "True", "Running"),)), "t1")
    same = merged(first, Part(conditions=(Condition("Ready", "True", "Running", "more"),)), "t2")
    other = merged(same, Part(conditions=(Condition("Ready", "False", "Degraded"),)), "t3")
    assert [s["conditions"][0]["lastTransitionTime"] for s in (first, same, other)] == ["t1", "t1", "t3"]


def test_one_owner_leaves_the_conditions_of_another_alone() -> None:
    both = merged(
        {"conditions": [{"type": "MachinesUpToDate", "status": "True"}]}, part_of({"Running": 1}, 1, False, False), "t1"
    )
    assert [c["type"] for c in both["conditions"]] == ["Held", "MachinesUpToDate", "Ready"]


def cluster(**spec: object) -> Json:
    obj = {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "c1"}, "spec": spec}
    return create_object("clusters", obj, write=BY)


def machine() -> None:
    spec = {"clusterName": "c1", "ip": "10.0.0.1"}
    create_object(
        "machines", {"apiVersion": API_VERSION, "kind": "Machine", "metadata": {"name": "m1"}, "spec": spec}, write=BY
    )


def shown() -> Json:
    stored = storage_for("clusters").read("c1")
    assert stored is not None
    return stored.obj


def test_the_counters_become_the_status_and_then_nothing_moves(fleet_db: None) -> None:
    cluster()
    machine()
    assert len(reconcile()) == 1
    assert shown()["status"]["phase"] == "Provisioning"
    assert shown()["status"]["phases"] == {"Pending": 1}
    before = shown()["metadata"]["resourceVersion"]
    assert reconcile() == []
    assert shown()["metadata"]["resourceVersion"] == before


def test_a_cluster_is_deleted_in_two_steps_and_not_under_its_machines(fleet_db: None) -> None:
    cluster()
    with pytest.raises(ApiError) as refused:
        delete_object("clusters", "c1", write=BY)
    assert (refused.value.code, "fleet.dev/confirm-delete=c1" in refused.value.message) == (409, True)

    def confirm(live: Json) -> Json:
        live["metadata"]["annotations"] = {"fleet.dev/confirm-delete": "c1"}
        return live

    patch_object("clusters", "c1", confirm, write=BY)
    machine()
    with pytest.raises(ApiError) as used:
        delete_object("clusters", "c1", write=BY)
    assert (used.value.code, "1 machines" in used.value.message) == (409, True)


def test_the_phase_moves_along_its_transitions_beside_the_status(fleet_db: None) -> None:
    cluster()
    assert Cluster.objects.get().phase == "Pending"
    machine()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO count_delta (cluster_id, phase, n) SELECT id, 'Failed', 1 FROM clusters_cluster")
    reconcile()
    found = Cluster.objects.get()
    assert (found.phase, found.status["phase"]) == ("Degraded", "Degraded")


@pytest.mark.parametrize("phase", ["Pending", "Provisioning", "Running", "Upgrading", "Degraded", "Failed"])
def test_nothing_comes_back_from_a_deletion(phase: str) -> None:
    row = Cluster(phase="Deleting")
    with pytest.raises(TransitionNotAllowed):
        row.move_to(phase)


def test_a_provider_that_is_not_built_is_refused_by_its_field(fleet_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.schema_cluster.BUILT", ("Local",))
    with pytest.raises(ApiError) as refused:
        cluster(provider="Hosted")
    assert "spec.provider" in str(refused.value) and "not built yet" in str(refused.value)
