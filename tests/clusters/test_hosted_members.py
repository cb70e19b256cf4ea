"""Which member of etcd is lost for good: by its node, by its data, never because it is only away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from clusters.hosted import is_rolled_out, seen_of
from clusters.hosted_manifests import labels, objects
from clusters.hosted_members import client, lost
from clusters.meta import Live
from clusters.placing import FILE, Member, Placing
from clusters.planes import APISERVER, ETCD, Plane
from fleet.control.errors import TemporaryError
from fleet.control.kinds import Json
from tests.clusters.test_hosted_manifests import NODES, plane

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
THREE = plane(*NODES)


def pod(
    name: str,
    *,
    ready: bool = True,
    starts: int = 0,
    since: str = "2026-11-25T10:00:00Z",
    component: str = ETCD,
    made: Plane = THREE,
) -> Json:
    template = objects(made, component)[-1]["spec"]["template"]["metadata"]
    status = {
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}], "startTime": since, "hostIP": "10.0.0.7",
        "containerStatuses": [{"name": component, "restartCount": starts}],
    }  # fmt: skip
    meta = {"name": name, "labels": labels(made, component), "annotations": template["annotations"]}
    return {"kind": "Pod", "metadata": meta, "status": status}


def live(made: Plane, *pods: Json, **changed: Any) -> Live:
    """All objects of etcd as they were applied, and these pods."""
    found = {(o["kind"], o["metadata"]["name"]): {**o, **changed.get(o["kind"], {})} for o in objects(made, ETCD)}
    return Live({**found, **{("Pod", p["metadata"]["name"]): p for p in pods}})


BROKEN = pod("etcd-1", ready=False, starts=5)


@pytest.mark.parametrize(
    ("pods", "names"),
    [
        pytest.param([pod("etcd-0"), pod("etcd-1"), pod("etcd-2")], [], id="all well"),
        pytest.param([pod("etcd-0"), BROKEN, pod("etcd-2")], ["etcd-1"], id="fails again and again"),
        pytest.param([pod("etcd-0"), pod("etcd-1", ready=False), pod("etcd-2")], [], id="away, never started again"),
        pytest.param([pod("etcd-0"), pod("etcd-1", ready=False, starts=5, since="2026-11-25T11:55:00Z"), pod("etcd-2")], [], id="for a moment"),
        pytest.param([pod("etcd-0", ready=False), BROKEN, pod("etcd-2")], [], id="another is not ready"),
        pytest.param([BROKEN], [], id="the others are not seen"),
        pytest.param([pod("etcd-0"), pod("etcd-2")], [], id="no pod"),
    ],
)  # fmt: skip
def test_who_is_lost_by_its_data(pods: list[Json], names: list[str]) -> None:
    assert list(lost(THREE, live(THREE, *pods), NOW)) == names


def test_a_member_that_was_placed_anew_is_lost_until_its_volume_is_the_new_one() -> None:
    moved = replace(
        THREE,
        files={
            **THREE.files,
            FILE: Placing("fleet-web", "", (NODES[0], Member("n9", "n9.x", "10.0.0.9"), NODES[2])).text(),
        },
    )
    assert lost(moved, live(THREE), NOW) == {"etcd-1": "the node of etcd-1 is gone"}
    assert lost(moved, live(moved), NOW) == {}


def test_what_was_begun_is_ended_though_nothing_else_tells_of_it() -> None:
    volume = objects(THREE, ETCD)[3]
    assert volume["metadata"]["name"].endswith("etcd-1")
    marked = {**volume, "metadata": {**volume["metadata"], "annotations": {"fleet.dev/replaced": "true"}}}
    found = Live({**live(THREE).objects, ("PersistentVolume", volume["metadata"]["name"]): marked})
    assert list(lost(THREE, found, NOW)) == ["etcd-1"]


def test_a_single_member_is_never_given_up() -> None:
    one = plane()
    assert lost(one, live(one, pod("etcd-0", ready=False, starts=50, made=one)), NOW) == {}


def test_etcd_is_reached_at_a_member_that_is_ready() -> None:
    found = client(THREE, [BROKEN, pod("etcd-2")])
    assert (found.server, found.server_name) == ("https://10.0.0.7:21001", "localhost")
    with pytest.raises(TemporaryError, match="no member of etcd is ready"):
        client(THREE, [BROKEN])


def stateful_set(made: Plane, *, revision: str = "b") -> Json:
    workload = objects(made, ETCD)[-1]
    status = {
        "observedGeneration": 1,
        "currentRevision": "b",
        "updateRevision": revision,
        "replicas": made.etcd_replicas,
    }
    return {**workload, "metadata": {**workload["metadata"], "generation": 1}, "status": status}


@pytest.mark.parametrize(
    ("ready", "revision", "is_up", "serves", "text"),
    [
        pytest.param(3, "b", True, True, "", id="all"),
        pytest.param(2, "b", True, True, "2 of 3 pods are ready: etcd-2 ended with 1: panic", id="a majority"),
        pytest.param(1, "b", False, False, "1 of 3 pods are ready: etcd-1 ended with 1: panic", id="no majority"),
        pytest.param(3, "c", False, True, "", id="still being replaced"),
        pytest.param(2, "c", False, True, "2 of 3 pods are ready: etcd-2 ended with 1: panic", id="one at a time"),
    ],
)
def test_etcd_is_ready_while_a_majority_is(ready: int, revision: str, is_up: bool, serves: bool, text: str) -> None:
    pods = [pod(f"etcd-{i}", ready=i < ready) for i in range(3)]
    for each in pods[ready:]:
        each["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"exitCode": 1, "message": "log\npanic"}}
    whole = stateful_set(THREE, revision=revision)
    seen = seen_of(THREE, ETCD, live(THREE, *pods, StatefulSet=whole), "")
    assert seen is not None
    assert (seen.ready, seen.replicas_ready, seen.message, seen.digest) == (is_up, ready, text, THREE.digest(ETCD))
    assert seen.serves is serves


def servers(made: Plane, *ready: bool, progress: str = "NewReplicaSetAvailable") -> dict[tuple[str, str], Json]:
    """All objects of API servers as they were applied, and their pods."""
    found = {(o["kind"], o["metadata"]["name"]): o for o in objects(made, APISERVER)}
    workload = found[("Deployment", APISERVER)]
    done = {
        "observedGeneration": 1,
        "conditions": [{"type": "Progressing", "status": "True", "reason": progress}],
    }
    found[("Deployment", APISERVER)] = {
        **workload,
        "metadata": {**workload["metadata"], "generation": 1},
        "status": done,
    }
    pods = [pod(f"a{i}", component=APISERVER, made=made, ready=is_one) for i, is_one in enumerate(ready)]
    return {**found, **{("Pod", p["metadata"]["name"]): p for p in pods}}


SILENT = "its pods are ready, but it does not answer at 10.0.0.2:21000: connection refused"


@pytest.mark.parametrize(
    ("silent", "progress", "expected"),
    [
        pytest.param("", "NewReplicaSetAvailable", (True, True, ""), id="answers"),
        pytest.param("", "ReplicaSetUpdated", (False, True, ""), id="answers while others are replaced"),
        pytest.param("connection refused", "NewReplicaSetAvailable", (None, False, SILENT), id="silent"),
        pytest.param("connection refused", "ReplicaSetUpdated", (False, False, SILENT), id="silent while it is replaced"),
    ],
)  # fmt: skip
def test_an_api_server_that_runs_but_gives_fleet_no_answer_is_unknown(
    silent: str, progress: str, expected: tuple[bool | None, bool, str]
) -> None:
    made = plane(replicas=2)
    seen = seen_of(made, APISERVER, Live(servers(made, True, True, progress=progress)), silent)
    assert seen is not None and (seen.ready, seen.serves, seen.message) == expected


def test_api_servers_serve_while_a_hand_has_changed_one_of_their_objects() -> None:
    made = plane(replicas=3)
    found = servers(made, True, True, True)
    budget = found[("PodDisruptionBudget", APISERVER)]
    found[("PodDisruptionBudget", APISERVER)] = {**budget, "spec": {**budget["spec"], "maxUnavailable": 3}}
    seen = seen_of(made, APISERVER, Live(found), "")
    assert seen is not None and (seen.ready, seen.serves, seen.digest) == (False, True, "changed")


def test_a_rollout_is_over_when_its_controller_says_so_of_the_newest_manifest() -> None:
    base: Json = {"kind": "Deployment", "metadata": {"generation": 2}, "spec": {}}
    over = {"conditions": [{"type": "Progressing", "reason": "NewReplicaSetAvailable"}]}
    assert is_rolled_out({**base, "status": {**over, "observedGeneration": 2}})
    assert not is_rolled_out({**base, "status": {**over, "observedGeneration": 1}})
    assert not is_rolled_out({**base, "status": {"observedGeneration": 2}})
