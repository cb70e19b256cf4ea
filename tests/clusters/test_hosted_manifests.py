"""The objects of a Hosted control plane as plain data, and what of live ones counts as changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from clusters import pki
from clusters.hosted_manifests import command, difference, member_hosts, objects, start_map
from clusters.placing import FILE, Member, Placing
from clusters.planes import APISERVER, COMPONENTS, CONTROLLER_MANAGER, ETCD, FILES, SCHEDULER, Component, Hosting, Plane
from fleet.control.kinds import Json

KEYS = pki.ensure(pki.Names("10.0.0.2", "https://10.0.0.2:21000", "10.96.0.0/12"), {}, datetime.now(UTC)).all
NODES = tuple(Member(f"n{i}", f"n{i}.x", f"10.0.0.{i}") for i in (1, 2, 3))


def plane(*members: Member, front: str = "", args: dict[str, str] | None = None, **more: Any) -> Plane:
    where = Placing("fleet-web", front, members or NODES[:1])
    components = {
        n: Component(n, "3.7.3" if n == ETCD else "1.37.2", image=f"r.example/{n}:1", args=args or {})
        for n in COMPONENTS
    }
    made = Plane(
        "u1", "web", components, {**KEYS, FILE: where.text()}, "10.0.0.2", 21_000, etcd_replicas=len(where.members),
        meta=Hosting("meta", None, "fleet-web", 21_000),
    )  # fmt: skip
    return replace(made, **more)


def one(made: Plane, component: str, kind: str) -> Json:
    (found,) = (o for o in objects(made, component) if o["kind"] == kind)
    return found


def pod(made: Plane, component: str) -> Json:
    spec: Json = objects(made, component)[-1]["spec"]["template"]["spec"]
    return spec


def ports(made: Plane) -> dict[str, list[int]]:
    return {c: [p["hostPort"] for p in pod(made, c)["containers"][0]["ports"]] for c in COMPONENTS}


def test_each_component_has_ports_of_its_own_on_the_node() -> None:
    assert ports(plane()) == {
        ETCD: [21001, 21002, 21005],
        APISERVER: [21000],
        CONTROLLER_MANAGER: [21003],
        SCHEDULER: [21004],
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_pod_gets_the_keys_of_its_component_and_no_others(component: str) -> None:
    made = plane()
    secret = one(made, component, "Secret")
    assert set(secret["data"]) == set(FILES[component])
    assert [v["secret"]["secretName"] for v in pod(made, component)["volumes"] if "secret" in v] == [
        secret["metadata"]["name"]
    ]
    assert pod(made, component)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_are_probed_kept_apart_and_run_without_privileges(component: str) -> None:
    spec = pod(plane(), component)
    (container,) = spec["containers"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]


def test_a_port_below_1024_needs_a_right_of_its_own() -> None:
    made = plane(port=443)
    assert made.meta is not None
    low = replace(made, meta=replace(made.meta, port=443))
    assert pod(low, APISERVER)["containers"][0]["securityContext"]["capabilities"]["add"] == ["NET_BIND_SERVICE"]


def test_servers_know_all_members_and_members_are_told_of_each_other_by_the_config_map_alone() -> None:
    made = plane(*NODES)
    assert "--etcd-servers=https://10.0.0.1:21001,https://10.0.0.2:21001,https://10.0.0.3:21001" in command(
        made, APISERVER
    )
    words = command(made, ETCD)
    assert {"--name=$(POD_NAME)", "--listen-peer-urls=https://$(HOST_IP):21002"} <= set(words)
    assert not any(w.startswith("--initial-cluster=") for w in words)
    assert start_map(made, "new")["data"]["ETCD_INITIAL_CLUSTER"] == (
        "etcd-0=https://10.0.0.1:21002,etcd-1=https://10.0.0.2:21002,etcd-2=https://10.0.0.3:21002"
    )


def test_a_member_that_moves_restarts_none_of_the_others_by_its_flags() -> None:
    moved = plane(NODES[0], NODES[1], Member("n9", "n9.x", "10.0.0.9"))
    assert command(plane(*NODES), ETCD) == command(moved, ETCD)


def test_members_with_volumes_that_follow_them_have_names() -> None:
    made = plane(Member(), Member(), Member())
    assert made.meta is not None
    claimed = replace(made, meta=replace(made.meta, storage_class="fast"))
    assert list(member_hosts(claimed).values()) == [f"etcd-{i}.etcd.fleet-web.svc" for i in range(3)]
    assert [o["kind"] for o in objects(claimed, ETCD) if o["kind"] == "PersistentVolume"] == []
    assert one(claimed, ETCD, "StatefulSet")["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"


@pytest.mark.parametrize(
    ("made", "component", "away"),
    [
        pytest.param(plane(), ETCD, 0, id="one member on its node"),
        pytest.param(plane(*NODES), ETCD, 1, id="three members"),
        pytest.param(plane(front="n2"), APISERVER, 0, id="one server bound to its node"),
        pytest.param(plane(), APISERVER, 1, id="one server that can go elsewhere"),
        pytest.param(plane(), SCHEDULER, 1, id="scheduler"),
    ],
)
def test_how_many_may_be_evicted(made: Plane, component: str, away: int) -> None:
    assert one(made, component, "PodDisruptionBudget")["spec"]["maxUnavailable"] == away


def test_flags_on_which_safety_hangs_are_not_the_package_versions() -> None:
    words = command(plane(args={"authorization-mode": "AlwaysAllow", "v": "4"}), APISERVER)
    assert {"--authorization-mode=Node,RBAC", "--v=4"} <= set(words)


def test_one_of_several_api_servers_is_left_by_the_balancer_before_it_ends() -> None:
    one_server, several = plane(), plane(replicas=3)
    words = command(several, APISERVER)
    assert {"--shutdown-delay-duration=15s", "--goaway-chance=0.001"} <= set(words)
    assert not {"--shutdown-delay-duration=15s", "--goaway-chance=0.001"} & set(command(one_server, APISERVER))
    assert pod(several, APISERVER)["terminationGracePeriodSeconds"] > 15 + 60  # its own wait, and that for requests
    assert one(several, APISERVER, "Deployment")["spec"]["minReadySeconds"] == 10
    assert "minReadySeconds" not in one(one_server, APISERVER, "Deployment")["spec"]
    assert "terminationGracePeriodSeconds" not in pod(several, SCHEDULER)


def test_who_has_a_slow_balancer_gives_it_more_time() -> None:
    words = command(plane(replicas=2, args={"shutdown-delay-duration": "45s"}), APISERVER)
    assert [w for w in words if w.startswith("--shutdown-delay")] == ["--shutdown-delay-duration=45s"]


@pytest.mark.parametrize(
    ("wanted", "live", "where"),
    [
        pytest.param({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}, "", id="defaults and others' fields"),
        pytest.param({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b", id="value"),
        pytest.param({"a": {"b": 1}}, {"a": {}}, "a.b", id="missing"),
        pytest.param({"a": {"b": 1}}, {}, "a", id="missing whole"),
        pytest.param({"a": [{"n": 1}, {"n": 2}]}, {"a": [{"n": 1, "x": 0}, {"n": 3}]}, "a[1].n", id="in a list"),
        pytest.param({"a": [1]}, {"a": [1, 2]}, "a", id="added to a list"),
    ],
)
def test_what_counts_as_changed(wanted: Json, live: Json, where: str) -> None:
    assert difference(wanted, live) == where
