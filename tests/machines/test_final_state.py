"""Nodes open when every gate holds and close by a gate that is freshly False: the real reconciler against a simulated API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from machines.gate_counts import count_gates
from machines.gates import CLOSED_BY
from machines.why import why
from tests.machines.loop import Loop
from tests.machines.nodes_world import CLUSTER, TAINT, NodesWorld
from tests.simulator.api_servers import ApiServer, order

pytestmark = pytest.mark.django_db(transaction=True)
GATE = {"conditionType": "example.com/NetworkReady"}


@pytest.fixture
async def world(conn: Connection, api_server: ApiServer) -> AsyncIterator[NodesWorld]:
    made = NodesWorld(Loop(conn), api_server.endpoint)
    await made.begin(readinessGates=[GATE])
    await made.loop.machine(clusterName=CLUSTER)
    yield made
    await made.end()
    await made.loop.clusters.close()  # type: ignore[attr-defined]


def closed_by(node: Json) -> str:
    return str(node["metadata"].get("annotations", {}).get(CLOSED_BY, ""))


async def opened(world: NodesWorld) -> None:
    """The machine's node, open."""
    await world.node()
    await world.tell("example.com/NetworkReady", "True")
    await world.turn(4)
    assert not (await world.live())["spec"].get("unschedulable")


async def test_a_new_node_joins_closed_and_opens_when_every_gate_holds(world: NodesWorld) -> None:
    await world.node()
    await world.turn(2)
    node = await world.live()
    assert node["spec"]["unschedulable"] is True, "the kubelet's taint became a cordon"
    assert all(t["key"] != TAINT["key"] for t in node["spec"].get("taints", []))
    assert closed_by(node) == "join"
    assert (await world.scheduling())["state"] == "Closed"
    machine = await world.loop.get()
    assert machine is not None
    gates = {g["conditionType"]: g for g in machine["status"]["readinessGates"]}
    assert gates["example.com/NetworkReady"]["status"] == "Unknown"
    assert (await world.loop.condition("Schedulable"))[:2] == ("False", "GatesMissing")
    assert "example.com/NetworkReady" in (await world.loop.condition("GatesHold"))[2]
    await world.tell("example.com/NetworkReady", "True")
    await world.turn(2)
    node = await world.live()
    assert not node["spec"].get("unschedulable")
    assert closed_by(node) == ""
    assert await world.loop.condition("Schedulable") == ("True", "Open", "")
    assert (await world.scheduling())["state"] == "Open"


async def test_a_missing_condition_keeps_a_closed_node_closed_and_unknown_never_closes_an_open_one(
    world: NodesWorld,
) -> None:
    await opened(world)
    await world.tell("example.com/NetworkReady", "Unknown")
    await world.turn(3)
    assert not (await world.live())["spec"].get("unschedulable")


async def test_a_gate_that_is_freshly_false_closes_with_a_permit_and_opens_again(world: NodesWorld) -> None:
    await opened(world)
    await world.tell("example.com/NetworkReady", "False")
    await world.turn(2)
    node = await world.live()
    assert node["spec"].get("unschedulable") is True
    assert closed_by(node) == "gate:example.com/NetworkReady"
    held = await (await world.loop.conn.execute("SELECT owner, verb FROM permit WHERE released_at IS NULL")).fetchall()
    assert len(held) == 1
    assert held[0][0].startswith("gate:")
    await world.tell("example.com/NetworkReady", "True")
    await world.turn(3)
    assert not (await world.live())["spec"].get("unschedulable")
    held = await (await world.loop.conn.execute("SELECT owner FROM permit WHERE released_at IS NULL")).fetchall()
    assert held == []


async def test_a_refused_closing_leaves_the_node_open_and_says_so(world: NodesWorld) -> None:
    await opened(world)
    until = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"target": {"cluster": CLUSTER}, "reason": "an audit", "until": until}
    await world.loop.make({"kind": "Hold", "metadata": {"name": "audit"}, "spec": spec})
    await world.tell("example.com/NetworkReady", "False")
    await world.turn(2)
    assert not (await world.live())["spec"].get("unschedulable")
    status, reason, message = await world.loop.condition("Schedulable")
    assert (status, reason) == ("True", "GateWouldClose")
    assert "an audit" in message


async def test_a_persons_cordon_is_left_alone(world: NodesWorld) -> None:
    await opened(world)
    await world.kube.patch("/api/v1/nodes/m1", {"spec": {"unschedulable": True}})
    await world.turn(3)
    node = await world.live()
    assert node["spec"]["unschedulable"] is True
    assert (await world.scheduling())["state"] == "CordonedByPerson"
    assert (await world.loop.condition("Ready"))[1] == "CordonedByPerson"


async def test_a_person_who_uncordons_wins_until_the_gate_has_held_once(world: NodesWorld) -> None:
    await opened(world)
    await world.tell("example.com/NetworkReady", "False")
    await world.turn(2)
    assert (await world.live())["spec"]["unschedulable"] is True
    await world.kube.patch("/api/v1/nodes/m1", {"spec": {"unschedulable": None}})
    await world.turn(3)
    assert not (await world.live())["spec"].get("unschedulable"), "its cause does not close it again"
    assert (await world.loop.condition("Schedulable"))[1] == "OpenedByPerson"
    await world.tell("example.com/NetworkReady", "True")
    await world.turn(2)
    await world.tell("example.com/NetworkReady", "False")
    await world.turn(2)
    assert (await world.live())["spec"]["unschedulable"] is True, "having held once, it counts again"


async def test_nothing_is_decided_from_a_stale_view(world: NodesWorld) -> None:
    await opened(world)
    await world.stale()
    await world.tell("example.com/NetworkReady", "False")
    await world.turn(2)
    assert not (await world.live())["spec"].get("unschedulable")
    assert (await world.loop.condition("Schedulable"))[1] == "ViewStale"


async def test_the_kill_switch_stops_opening_too(world: NodesWorld) -> None:
    await world.node()
    await world.turn(2)
    await world.loop.conn.execute("UPDATE ledger SET stopped = true, stopped_by = 'ada', stopped_why = 'storm'")
    await world.tell("example.com/NetworkReady", "True")
    await world.turn(2)
    assert (await world.live())["spec"]["unschedulable"] is True
    await world.loop.conn.execute("UPDATE ledger SET stopped = false")
    await world.turn(2)
    assert not (await world.live())["spec"].get("unschedulable")


async def test_gates_of_a_cluster_that_was_adopted_run_dry(world: NodesWorld) -> None:
    await world.loop.edit("clusters", CLUSTER, enforceGates=False)
    await opened(world)
    await world.tell("example.com/NetworkReady", "False")
    await world.turn(2)
    assert not (await world.live())["spec"].get("unschedulable")
    assert (await world.loop.condition("Schedulable"))[1] == "GateWouldClose"


async def test_an_api_server_that_does_not_answer_is_told_and_tried_again(
    world: NodesWorld, api_server: ApiServer
) -> None:
    await world.node()
    order(
        api_server.endpoint.server,
        "faults",
        {"what": "refuse", "code": 500, "verbs": ["patch"], "path": "/api/v1/nodes", "times": 1},
    )
    await world.turn()
    assert (await world.live())["spec"].get("taints"), "nothing was changed"
    assert (await world.loop.condition("Schedulable"))[1] == "ApiRefused"
    await world.turn()
    assert (await world.live())["spec"].get("unschedulable") is True


async def test_a_cluster_tells_how_many_machines_each_gate_holds_and_releases(world: NodesWorld) -> None:
    await world.loop.machine("m2", clusterName=CLUSTER)
    await opened(world)
    await world.node("m2")
    await world.turn(3)
    assert await in_thread(count_gates) == 1
    cluster = await world.loop.get(CLUSTER, "clusters")
    assert cluster is not None
    counted = {g["conditionType"]: g for g in cluster["status"]["gates"]}
    assert counted["example.com/NetworkReady"] == {
        "conditionType": "example.com/NetworkReady", "polarity": "RequireTrue", "mode": "Continuous", "source": f"Cluster {CLUSTER}",
        "held": 0, "released": 1, "unknown": 1,
    }  # fmt: skip
    assert cluster["status"]["scheduling"] == {"Open": 1, "Closed": 1}
    assert await in_thread(count_gates) == 0, "nothing moved: nothing is written"


async def test_why_names_the_gate_that_a_node_waits_for_and_whose_word_it_is(world: NodesWorld) -> None:
    await world.node()
    await world.turn(3)
    machine = await world.loop.get()
    assert machine is not None
    ladder = next(each for each in why(machine, {}, None) if "take workloads" in each["question"])
    assert ladder["question"] == "Why does the node of m1 not take workloads?"
    first = next(r for r in ladder["rungs"] if r["answer"] != "holds")
    assert first["text"] == f"example.com/NetworkReady is True (Cluster {CLUSTER})"
    assert first["answer"] == "unknown"


async def test_a_rule_is_a_gate_of_each_machine_that_it_covers_and_a_dry_run_holds_nothing(world: NodesWorld) -> None:
    target = {"clusters": [CLUSTER]}
    spec = {"conditionType": "example.com/DiskReady", "target": target}
    await world.loop.make({"kind": "ReadinessRule", "metadata": {"name": "disk"}, "spec": spec})
    await world.loop.make(
        {
            "kind": "ReadinessRule",
            "metadata": {"name": "trial"},
            "spec": {**spec, "conditionType": "Trial", "dryRun": True},
        }
    )
    await world.node()
    await world.tell("example.com/NetworkReady", "True")
    await world.turn(3)
    assert (await world.scheduling())["state"] == "Closed"
    assert "DiskReady (ReadinessRule disk)" in (await world.scheduling())["message"]
    machine = await world.loop.get()
    assert machine is not None
    assert [g for g in machine["status"]["readinessGates"] if g.get("dryRun")][0]["conditionType"] == "Trial"
    await world.loop.edit("readinessrules", "disk", dryRun=True)
    await world.turn(2)
    assert (await world.scheduling())["state"] == "Open"


async def test_a_node_without_a_way_to_its_host_is_in_service_once_it_was_ready_and_its_gates_draw_on_the_budget(
    world: NodesWorld,
) -> None:
    await world.loop.machine("bare", clusterName=CLUSTER, driver={"type": "ssh"})
    await world.node("bare")
    await world.tell("example.com/NetworkReady", "True", "bare")
    await world.turn(4)
    assert await world.loop.phase("bare") == "Running"
    assert (await world.scheduling("bare"))["state"] == "Open"
    budget = {"scope": {"cluster": CLUSTER}, "maxUnavailable": {"count": 0}}
    await world.loop.make({"kind": "SafetyPolicy", "metadata": {"name": "none"}, "spec": budget})
    await world.tell("example.com/NetworkReady", "False", "bare")
    await world.turn(2)
    assert (await world.scheduling("bare"))["reason"] == "GateWouldClose"
    assert not (await world.live("bare"))["spec"].get("unschedulable")
