"""A node whose host is installed anew: its old node goes, the machine joins again by a token of its own and opens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fleet.control.db import Connection
from fleet.control.kinds import Json
from machines import join
from tests.machines.nodes_world import NodesWorld, with_a_kubelet
from tests.simulator.api_servers import ApiServer

pytestmark = pytest.mark.django_db(transaction=True)
RUNG: list[Json] = [{"action": "Isolate"}, {"action": "Drain"}, {"action": "Reinstall"}]


@pytest.fixture
async def world(conn: Connection, api_server: ApiServer) -> AsyncIterator[NodesWorld]:
    async with with_a_kubelet(conn, api_server.endpoint) as made:
        yield made


async def joined(world: NodesWorld) -> None:
    """The machine is a node, open."""
    await until_it_waits(world, "Reconcile")
    await world.node()
    await world.turn(12)
    assert (await world.scheduling())["state"] == "Open"


async def ordered(world: NodesWorld) -> None:
    await world.repair(*RUNG)


async def steps(world: NodesWorld, verb: str) -> list[Json]:
    """Steps of the newest Operation of that verb."""
    found = await world.loop.conn.execute(
        "SELECT status FROM machines_operation WHERE spec ->> 'verb' = %s ORDER BY id DESC LIMIT 1", [verb]
    )
    row = await found.fetchone()
    return list(row[0]["steps"]) if row else []


async def until_it_waits(world: NodesWorld, verb: str) -> None:
    """The kubelet was started and its node is waited for."""
    for _ in range(60):
        await world.turn()
        if any(s["verb"] == "wait-for-node" and s.get("startTime") for s in await steps(world, verb)):
            return
    raise AssertionError(await steps(world, verb))


async def test_a_node_is_deleted_after_the_wipe_and_joins_again(world: NodesWorld) -> None:
    await joined(world)
    before = (await world.live())["metadata"]["uid"]
    await ordered(world)
    while not world.loop.provisioners.asked:
        await world.turn()
    assert (await world.live())["metadata"]["uid"] == before  # while the old system may still run its node stays
    await until_it_waits(world, "Repair")
    assert await world.kube.find("/api/v1/nodes/m1") is None
    await world.node()
    assert (await world.live())["metadata"]["uid"] != before
    await world.turn(15)
    found = await steps(world, "Repair")
    verbs = [s["verb"] for s in found]
    assert verbs[:8] == ["permit", "isolate", "drain", "collect-evidence", "reinstall", "delete-node", "provision", "stage-package"]  # fmt: skip
    assert verbs.index("join-node") < verbs.index("install-package")
    assert {s["status"] for s in found} == {"True"}, found
    assert (await world.scheduling())["state"] == "Open", await world.scheduling()
    assert await world.loop.phase() == "Running"
    machine = await world.loop.get()
    assert machine is not None
    box = world.loop.hosts.boxes[machine["metadata"]["uid"]]
    assert join.BOOTSTRAP in box.files
    assert box.installs == 1


async def test_where_nothing_can_install_its_system_nobody_is_moved(world: NodesWorld) -> None:
    await joined(world)
    world.loop.with_provisioner = False
    await ordered(world)
    await world.turn(8)
    found = {s["verb"]: s["reason"] for s in await steps(world, "Repair")}
    assert (found["reinstall"], found["isolate"], found["drain"]) == ("NoProvisioner", "Waiting", "Waiting"), found
    assert not (await world.live())["spec"].get("unschedulable")


async def test_a_node_of_a_cluster_that_others_made_is_not_wiped(world: NodesWorld) -> None:
    await joined(world)
    await world.loop.conn.execute(
        """UPDATE clusters_cluster SET spec = spec || '{"provider": "Imported"}', rv = greatest(fleet_pos(4), rv + 1)"""
    )
    await ordered(world)
    await world.turn(8)
    found = {s["verb"]: s["reason"] for s in await steps(world, "Repair")}
    assert found["reinstall"] == "CannotRejoin", found
    assert found["isolate"] == "Waiting"  # nobody was moved for nothing
    assert world.loop.provisioners.asked == []
    assert await world.kube.find("/api/v1/nodes/m1") is not None
