"""Where etcd of a Hosted control plane stands: chosen once, spread, and never on a node that may not carry it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clusters.placing import FILE, place, placing_of, why_not
from clusters.planes import Hosting, Plane
from fleet.control.errors import TemporaryError
from fleet.control.kinds import Json

HOSTING = Hosting("meta", None, "fleet-web", 21_000)
PLANE = Plane("u1", "web", {}, {}, "10.0.0.2", 21_000, meta=HOSTING)


def node(name: str, address: str = "", ready: str = "True", **spec: Any) -> Json:
    status = {
        "conditions": [{"type": "Ready", "status": ready}],
        "addresses": [{"type": "InternalIP", "address": address or f"10.0.0.{name[1:]}"}],
    }
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": f"{name}.x", "pool": "masters"}},
        "spec": spec,
        "status": status,
    }


NODES = [node(f"n{i}") for i in range(1, 5)]


def nodes_of(
    plane: Plane, nodes: list[Json], carried: dict[str, int] | None = None, lost: frozenset[int] = frozenset()
) -> list[str]:
    return [m.node for m in place(plane, nodes, carried or {}, lost).members]


def kept(plane: Plane, nodes: list[Json]) -> Plane:
    return replace(plane, files={FILE: place(plane, nodes, {}).text()})


def test_a_single_member_stands_beside_the_server_that_is_bound_to_the_node_of_its_address() -> None:
    found = place(PLANE, NODES, {"n2": 9})
    assert (found.front, [m.node for m in found.members]) == ("n2", ["n2"])
    assert (found.members[0].hostname, found.members[0].address) == ("n2.x", "10.0.0.2")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"replicas": 2}, id="several servers"),
        pytest.param({"host": "api.example"}, id="a name"),
        pytest.param({"meta": replace(HOSTING, exposure="LoadBalancer")}, id="a balancer"),
    ],
)
def test_a_server_that_may_stand_anywhere_is_bound_to_no_node(change: dict[str, Any]) -> None:
    assert place(replace(PLANE, **change), NODES, {}).front == ""


def test_members_stand_apart_on_those_that_carry_least() -> None:
    assert nodes_of(replace(PLANE, etcd_replicas=3, host="10.9.9.9"), NODES, {"n1": 2, "n2": 1}) == ["n3", "n4", "n2"]


def test_what_was_chosen_is_read_back_and_stays_when_other_nodes_would_be_chosen_now() -> None:
    three = kept(replace(PLANE, etcd_replicas=3, host="10.9.9.9"), NODES)
    assert placing_of(three) == place(three, NODES, {"n1": 50})
    assert placing_of(PLANE) is None


def test_only_the_lost_member_is_placed_anew() -> None:
    three = kept(replace(PLANE, etcd_replicas=3, host="10.9.9.9"), NODES)
    assert nodes_of(three, NODES) == ["n1", "n2", "n3"]
    assert nodes_of(three, [n for n in NODES if n["metadata"]["name"] != "n2"], lost=frozenset({1})) == [
        "n1",
        "n4",
        "n3",
    ]


def test_a_server_is_bound_no_longer_to_a_node_that_is_gone_with_its_member() -> None:
    one = kept(PLANE, NODES)
    found = place(one, [n for n in NODES if n["metadata"]["name"] != "n2"], {}, frozenset({0}))
    assert (found.front, [m.node for m in found.members]) == ("", ["n1"])


@pytest.mark.parametrize(
    ("found", "why"),
    [
        pytest.param(node("n1"), "", id="well"),
        pytest.param(node("n1", ready="Unknown"), "is not Ready", id="unknown"),
        pytest.param(node("n1", unschedulable=True), "is cordoned", id="cordoned"),
        pytest.param(node("n1", taints=[{"key": "gpu", "effect": "NoSchedule"}]), "has the taint gpu", id="taint"),
        pytest.param(node("n1", taints=[{"key": "gpu", "effect": "PreferNoSchedule"}]), "", id="preference"),
        pytest.param({**node("n1"), "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, "has no address", id="address"),
        pytest.param({"metadata": {"name": "n1"}}, "lacks the label pool=masters", id="label"),
    ],
)  # fmt: skip
def test_who_may_carry(found: Json, why: str) -> None:
    assert why_not(found, {"pool": "masters"}) == why


def test_too_few_nodes_are_told_with_their_reasons() -> None:
    with pytest.raises(TemporaryError, match="meta has 1 nodes for 3 members of etcd: n2 is cordoned, n3 is not Ready"):
        place(
            replace(PLANE, etcd_replicas=3), [NODES[0], node("n2", unschedulable=True), node("n3", ready="False")], {}
        )


def test_volumes_that_follow_their_pods_bind_members_to_no_node() -> None:
    found = place(replace(PLANE, etcd_replicas=3, meta=replace(HOSTING, storage_class="fast")), [], {})
    assert [m.node for m in found.members] == [""] * 3
