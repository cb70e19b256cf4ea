"""Nodes and pods of the simulated API server behave in time, which only the test moves."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fleet.api.errors import ApiError
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.kubelets import Times
from simulator.kube.resources import BUDGETS, EVENTS, LEASES, NODES, PODS
from simulator.kube.verbs import Options, Place

Json = dict[str, Any]
MINE = Options("test")


class World:
    """A cluster and a hand on its clock."""

    def __init__(self, nodes: int = 3, **times: float) -> None:
        self.now = 1_800_000_000.0
        self.cluster = SimulatedCluster(clock=lambda: self.now, times=Times(**times))
        self.cluster.kubelets.add([f"n{n}" for n in range(nodes)])
        self.cluster.tick()

    def wait(self, seconds: float, step: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.cluster.tick()

    def node(self, name: str = "n0") -> Json:
        found = self.cluster.store.of(NODES).get(name)
        assert found is not None
        return found

    def ready(self, name: str = "n0") -> tuple[str, str]:
        found = next(c for c in self.node(name)["status"]["conditions"] if c["type"] == "Ready")
        return found["status"], found["reason"]

    def taints(self, name: str = "n0") -> list[tuple[str, str]]:
        return [(t["key"].partition("/")[2], t["effect"]) for t in self.node(name)["spec"].get("taints", ())]

    def renewed(self, name: str = "n0") -> str:
        found = self.cluster.store.of(LEASES).get(f"kube-node-lease/{name}")
        assert found is not None
        return str(found["spec"]["renewTime"])

    def pod(self, name: str) -> Json | None:
        return self.cluster.store.of(PODS).get(f"default/{name}")

    def phase(self, name: str) -> str:
        return str((self.pod(name) or {"status": {"phase": "gone"}})["status"]["phase"])

    def make(self, name: str, on: str = "n0", grace: int = 30, **meta: Any) -> None:
        spec = {"nodeName": on, "terminationGracePeriodSeconds": grace, "containers": [{"name": "c", "image": "x"}]}
        obj = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, **meta}, "spec": spec}
        self.cluster.api.create(Place(PODS, "default"), obj, MINE)

    def delete(self, name: str, **options: Any) -> None:
        self.cluster.api.delete(Place(PODS, "default", name), options, MINE)

    def evict(self, key: str) -> int:
        namespace, _, name = key.partition("/")
        try:
            return self.cluster.budgets.evict(Place(PODS, namespace, name, "eviction"), b"{}", MINE).code
        except ApiError as error:
            return error.code


def test_a_well_kubelet_renews_its_lease_and_reports_now_and_then() -> None:
    world = World(lease=10, status=300)
    first, version = world.renewed(), world.node()["metadata"]["resourceVersion"]
    world.wait(11)
    assert world.renewed() > first and world.node()["metadata"]["resourceVersion"] == version
    world.wait(300, 5)
    assert world.node()["metadata"]["resourceVersion"] != version and world.ready() == ("True", "KubeletReady")


def test_a_kubelet_says_that_it_is_not_ready_and_is_well_again() -> None:
    world = World()
    world.cluster.kubelets.fail("n0", "NotReady")
    assert world.ready() == ("False", "KubeletNotReady") and world.ready("n1")[0] == "True"
    assert world.taints() == [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]
    first = world.renewed()
    world.wait(11)
    assert world.renewed() > first
    world.cluster.kubelets.fail("n0", "")
    assert world.ready()[0] == "True" and world.taints() == []


def test_a_dead_kubelet_is_noticed_after_its_grace_and_its_pods_are_deleted_later() -> None:
    world = World(grace=50, tolerated=300)
    world.make("p")
    world.wait(5)
    assert world.phase("p") == "Running"
    world.cluster.kubelets.fail("n0", "Dead")
    last = world.renewed()
    world.wait(45)
    assert world.ready()[0] == "True" and world.renewed() == last
    world.wait(10)
    assert world.ready() == ("Unknown", "NodeStatusUnknown") and ("unreachable", "NoExecute") in world.taints()
    assert (world.pod("p") or {})["status"]["conditions"][2]["status"] == "False"
    world.wait(400)
    assert "deletionTimestamp" in (world.pod("p") or {})["metadata"]  # nobody is there to end it
    world.cluster.kubelets.fail("n0", "")
    world.wait(2)
    assert world.pod("p") is None and world.ready()[0] == "True" and world.renewed() > last


def test_a_lying_kubelet_says_ready_and_does_nothing() -> None:
    world = World()
    world.make("before")
    world.wait(5)
    world.cluster.kubelets.fail("n0", "Lying")
    world.make("after")
    world.delete("before")
    world.wait(120)
    assert world.ready()[0] == "True" and world.phase("after") == "Pending" and world.phase("before") == "Running"
    world.cluster.kubelets.fail("n0", "")
    world.wait(5)
    assert world.phase("after") == "Running" and world.pod("before") is None


def test_a_kubelet_without_sandboxes_says_so_of_each_pod_until_it_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.kube.journal.MOST", 3)
    world = World()
    world.cluster.kubelets.fail("n0", "NoSandbox")
    world.make("p")
    world.wait(30)
    events = world.cluster.store.of(EVENTS)
    (told,) = [events.get(key) or {} for key in events.keys]
    assert (told["reason"], told["type"], told["count"], told["source"]["host"]) == ("FailedCreatePodSandBox", "Warning", 3, "n0")  # fmt: skip
    assert (world.phase("p"), world.ready()[0]) == ("Pending", "True")
    world.cluster.kubelets.fail("n0", "")
    world.make("q", on="n1")
    world.make("r", on="n1")
    world.wait(15)
    assert {world.phase(name) for name in "pqr"} == {"Running"}
    assert [(events.get(key) or {})["reason"] for key in events.keys] == ["Started"] * 3  # the oldest is forgotten


def test_a_deleted_pod_takes_its_grace_on_a_node_with_a_kubelet() -> None:
    world = World(start=2)
    world.make("p", grace=20)
    assert world.phase("p") == "Pending"
    world.wait(3)
    assert world.phase("p") == "Running" and (world.pod("p") or {})["status"]["hostIP"].startswith("10.")
    world.delete("p")
    world.wait(19)
    assert "deletionTimestamp" in (world.pod("p") or {})["metadata"]
    world.wait(2)
    assert world.pod("p") is None


def test_a_shorter_grace_ends_a_pod_sooner_and_a_finalizer_later() -> None:
    world = World()
    world.make("short", grace=600)
    world.make("kept", grace=1, finalizers=["example.com/test"])
    world.wait(3)
    for name in ("short", "kept"):
        world.delete(name)
    world.delete("short", gracePeriodSeconds=5)
    world.wait(6)
    assert world.pod("short") is None and (world.pod("kept") or {})["metadata"]["deletionGracePeriodSeconds"] == 0


def test_a_pod_on_a_node_without_a_kubelet_stays_pending() -> None:
    world = World()
    world.make("p", on="elsewhere")
    world.wait(60)
    assert world.phase("p") == "Pending"


def test_a_deleted_node_takes_its_lease_and_its_pods_along() -> None:
    world = World()
    world.make("p")
    world.cluster.api.delete(Place(NODES, "", "n0"), {}, MINE)
    world.wait(1)
    assert world.pod("p") is None and world.cluster.store.of(LEASES).get("kube-node-lease/n0") is None
    assert "n0" not in world.cluster.kubelets
    world.cluster.kubelets.add(["n0"])
    assert world.ready() == ("True", "KubeletReady")


def test_a_cordon_stays_while_its_kubelet_reports() -> None:
    world = World(status=10)
    body = orjson.dumps({"spec": {"unschedulable": True}})
    world.cluster.api.patch(Place(NODES, "", "n0"), body, "application/merge-patch+json", MINE)
    world.wait(30)
    assert world.node()["spec"]["unschedulable"] is True


def budget(world: World, name: str) -> tuple[int, int, int, int]:
    found = world.cluster.store.of(BUDGETS).get(f"default/{name}")
    assert found is not None
    status = found["status"]
    return status["expectedPods"], status["currentHealthy"], status["desiredHealthy"], status["disruptionsAllowed"]


@pytest.mark.parametrize(
    ("spec", "counted"),
    [({"minAvailable": 8}, (10, 10, 8, 2)), ({"minAvailable": "75%"}, (10, 10, 8, 2)), ({"maxUnavailable": 3}, (10, 10, 7, 3)), ({"maxUnavailable": "25%"}, (10, 10, 7, 3))],
    ids=["min", "min-percent", "max", "max-percent"],
)  # fmt: skip
def test_a_budget_lets_so_many_go_and_more_when_others_have_come(
    spec: Json, counted: tuple[int, int, int, int]
) -> None:
    world = World(nodes=5)
    world.cluster.workloads.add("default", "app", 10, grace_seconds=10, budget=spec)
    world.wait(5)
    assert budget(world, "app") == counted
    allowed = counted[3]
    keys = list(world.cluster.store.of(PODS).keys)
    assert [world.evict(key) for key in keys[: allowed + 1]] == [201] * allowed + [429]
    world.wait(30)
    assert budget(world, "app") == counted and len(world.cluster.store.of(PODS).keys) == 10
    assert world.evict(keys[allowed]) == 201


def test_a_workload_avoids_nodes_that_take_no_pods() -> None:
    world = World(nodes=3)
    world.cluster.kubelets.fail("n1", "NotReady")
    patch = orjson.dumps({"spec": {"unschedulable": True}})
    world.cluster.api.patch(Place(NODES, "", "n0"), patch, "application/merge-patch+json", MINE)
    world.cluster.workloads.add("default", "app", 8)
    pods = world.cluster.store.of(PODS)
    assert {p["spec"]["nodeName"] for key in pods.keys if (p := pods.get(key))} == {"n2"}


def test_a_run_with_one_seed_comes_out_the_same() -> None:
    def run() -> list[tuple[str, bytes]]:
        world = World(nodes=4)
        world.cluster.workloads.add("default", "app", 5)
        world.wait(20)
        collections = world.cluster.store.collections.values()
        return [(key, c.json(entry)) for c in collections for key, entry in c.entries.items()]

    assert run() == run()
