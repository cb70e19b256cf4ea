"""What ran on a machine whose power is off is let go by its cluster before the power is switched on, and not when it would be lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from fleet.control.db import Connection
from fleet.control.kinds import Json
from machines.releasing import MARK, OUT_OF_SERVICE
from simulator.box import Box
from tests.machines.nodes_world import NodesWorld, with_a_kubelet
from tests.machines.pods import DAEMONS, pod
from tests.simulator.api_servers import ApiServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def world(conn: Connection, api_server: ApiServer) -> AsyncIterator[NodesWorld]:
    """A machine with a controller that was a node, and lost its power."""
    async with with_a_kubelet(conn, api_server.endpoint, bmc={"address": "10.200.0.1"}) as made:
        await made.turn(20)
        await made.node()
        await made.turn(20)
        assert (await made.scheduling())["state"] == "Open"
        yield made


async def box(world: NodesWorld) -> Box:
    machine = await world.loop.get()
    assert machine is not None
    return world.loop.hosts.box(machine["metadata"]["uid"])


async def put(world: NodesWorld, *pods: Json) -> None:
    for each in pods:
        await world.kube.create("/api/v1/namespaces/default/pods", each)
        path = f"/api/v1/namespaces/default/pods/{each['metadata']['name']}/status"
        await world.kube.patch(path, {"status": {"phase": "Running"}})


async def names(world: NodesWorld) -> list[str]:
    found = orjson.loads(await world.kube.send("GET", "/api/v1/pods"))
    return sorted(p["metadata"]["name"] for p in found["items"])


async def without_power(world: NodesWorld, **ready: str) -> None:
    (await box(world)).faults["power-off"] = {"at": world.loop.hosts.now}
    await world.report(**({"Ready": "Unknown"} | ready))
    await world.repair({"action": "PowerCycle"})


async def step(world: NodesWorld) -> Json:
    """The power cycle of the newest repair."""
    found = await world.loop.conn.execute(
        "SELECT status FROM machines_operation WHERE spec ->> 'verb' = 'Repair' ORDER BY id DESC LIMIT 1"
    )
    row = await found.fetchone()
    assert row is not None
    out: Json = next((s for s in row[0]["steps"] if s["verb"] == "power-cycle"), {})
    return out


async def until(world: NodesWorld, reason: str, most: int = 40) -> Json:
    for _ in range(most):
        await world.turn()
        if (found := await step(world)).get("reason") == reason:
            return found
    raise AssertionError(await step(world))


async def taints(world: NodesWorld) -> list[str]:
    live = await world.live()
    assert (OUT_OF_SERVICE in [t["key"] for t in live["spec"].get("taints", [])]) == (
        MARK in live["metadata"].get("annotations", {})
    )
    return [t["key"] for t in live["spec"].get("taints", [])]


async def test_its_pods_are_let_go_and_the_taint_goes_before_the_power(world: NodesWorld) -> None:
    await put(world, pod("web", "m1"), pod("db", "m1"), pod("agent", "m1", owner=DAEMONS))
    tainted: list[bool] = []

    async def looked() -> None:
        tainted.append(OUT_OF_SERVICE in await taints(world))

    world.loop.bmcs.watched = looked
    await without_power(world)
    found = await until(world, "PowerCycled")
    assert found["message"].endswith("2 pods of its node were let go meanwhile."), found
    assert world.loop.bmcs.asked == [("m1", "on")]
    assert tainted == [False]
    assert "web" not in await names(world) and "db" not in await names(world)
    assert OUT_OF_SERVICE not in await taints(world)


async def test_while_a_kubelet_may_still_speak_nothing_is_deleted_and_the_power_comes_in_bounded_time(
    world: NodesWorld,
) -> None:
    await put(world, pod("web", "m1"))
    await without_power(world, Ready="True")  # the node controller has not noticed yet
    await until(world, "OutOfService")
    assert OUT_OF_SERVICE in await taints(world)
    for _ in range(60):
        await world.turn()
        if world.loop.bmcs.asked:
            break
    assert world.loop.bmcs.asked == [("m1", "on")]
    assert OUT_OF_SERVICE not in await taints(world)
    assert await names(world) == ["web"]
    found = await until(world, "PowerCycled")
    assert "1 pod still stood on its node when it was switched on." in found["message"]


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (pod("bare", "m1", owner=None), "default/bare: it has no controller that would make it anew"),
        (pod("data", "m1", scratch=True), "default/data: its data in emptyDir would be lost"),
        (pod("stays", "m1", labels={"fleet.dev/drain": "skip"}), "default/stays: it is to stay where it is"),
        (pod("job", "m1", owner=None, labels={"fleet.dev/drain": "wait"}), "default/job: it has no controller that would make it anew"),
    ],
)  # fmt: skip
async def test_what_would_be_lost_keeps_the_node_in_service(world: NodesWorld, kept: Json, why: str) -> None:
    await put(world, pod("web", "m1"), kept)
    await without_power(world)
    found = await until(world, "PowerCycled")
    assert why in found["message"]
    assert len(await names(world)) == 2


async def test_a_node_without_pods_to_move_is_left_alone(world: NodesWorld) -> None:
    await put(world, pod("agent", "m1", owner=DAEMONS))
    before = (await world.live())["metadata"]["resourceVersion"]
    await without_power(world)
    after = (await world.live())["metadata"]["resourceVersion"]
    assert after != before
    while not world.loop.bmcs.asked:
        await world.turn()
    assert (await world.live())["metadata"]["resourceVersion"] == after
    assert await names(world) == ["agent"]


async def test_somebody_elses_word_on_the_node_is_left_there(world: NodesWorld) -> None:
    await put(world, pod("web", "m1"))
    theirs = [{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]
    await world.kube.patch("/api/v1/nodes/m1", {"spec": {"taints": theirs}})
    await without_power(world)
    found = await until(world, "PowerCycled")
    assert "Somebody else called its node out of service." in found["message"]
    assert [t["key"] for t in (await world.live())["spec"]["taints"]] == [OUT_OF_SERVICE]


async def test_who_takes_the_taint_away_ends_it(world: NodesWorld) -> None:
    await put(world, pod("web", "m1"))
    await without_power(world, Ready="True")
    await until(world, "OutOfService")
    await world.kube.patch("/api/v1/nodes/m1", {"spec": {"taints": None}, "metadata": {"annotations": {MARK: None}}})
    await until(world, "PowerCycled")
    assert OUT_OF_SERVICE not in await taints(world)


async def test_who_cancels_gets_the_machine_back_at_once(world: NodesWorld) -> None:
    await put(world, pod("web", "m1"))
    await without_power(world, Ready="True")
    await until(world, "OutOfService")
    await world.loop.conn.execute(
        """UPDATE machines_operation SET spec = spec || '{"cancelledBy": "anna"}' WHERE ended_at IS NULL"""
    )
    await world.turn(3)
    assert world.loop.bmcs.asked == [("m1", "on")]
    assert OUT_OF_SERVICE not in await taints(world)


@pytest.mark.parametrize("stands", [False, True])
async def test_a_worker_that_dies_there_leaves_the_next_one_looking(world: NodesWorld, stands: bool) -> None:
    """Before the taint was asked for, or after it and before anybody wrote that down."""
    await put(world, pod("web", "m1"))
    died = False

    async def dies(point: int) -> None:
        nonlocal died
        at = 6 if stands else 5
        if point == at and not died and (await step(world)).get("progress", {}).get("release"):
            died = True
            raise RuntimeError("killed")

    world.loop.point = dies
    await without_power(world)
    with pytest.raises(RuntimeError):
        await until(world, "PowerCycled")
    assert world.loop.bmcs.asked == []
    assert (OUT_OF_SERVICE in await taints(world)) is stands
    await world.loop.conn.execute("UPDATE work_item SET holder = NULL WHERE kind = 1")
    await until(world, "PowerCycled")
    assert world.loop.bmcs.asked == [("m1", "on")]
    assert await names(world) == []
    assert OUT_OF_SERVICE not in await taints(world)


async def test_without_its_api_server_a_machine_still_gets_its_power(world: NodesWorld) -> None:
    await put(world, pod("web", "m1"))
    await without_power(world)
    await world.loop.conn.execute("DELETE FROM cluster_access")
    for _ in range(40):
        await world.loop.step()
        if world.loop.bmcs.asked:
            break
    assert world.loop.bmcs.asked == [("m1", "on")]
