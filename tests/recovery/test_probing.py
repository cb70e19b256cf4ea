"""Fleet's own looks: ports that answer, ports that only pretend to, and evidence that keeps its age."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from fleet.control.db import Connection
from machines.controllers import read_bmc_logins
from recovery import probing
from recovery.probing import Said, bmcs_due, ports_due, probe_bmcs, probe_ports, write
from tests.machines.world_of_one import running
from tests.recovery.world import World, stopped

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-x\r\n")
    await reader.read()
    writer.close()


async def pretends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a kernel whose programs hang: the connection is there, and nothing comes."""
    await reader.read()
    writer.close()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Talk], Awaitable[int]]]:
    servers: list[asyncio.Server] = []

    async def begin(talk: Talk) -> int:
        servers.append(await asyncio.start_server(talk, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield begin
    for server in servers:
        server.close()
        await server.wait_closed()


async def test_only_a_greeting_is_an_answer(
    serve: Callable[[Talk], Awaitable[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "PORT_SECONDS", 0.3)
    good, bad = await serve(greets), await serve(pretends)
    said = await probe_ports([(1, "127.0.0.1", good, False), (2, "127.0.0.1", bad, False), (3, "127.0.0.1", 1, False)])
    assert [(s.machine, s.type, s.status, s.reason) for s in said] == [
        (1, "Probe/ssh", "True", "Answers"), (2, "Probe/ssh", "False", "Timeout"), (3, "Probe/ssh", "False", "ConnectionRefused"),
    ]  # fmt: skip


async def test_a_node_is_asked_for_its_kubelet_too_and_strangers_for_nothing() -> None:
    said = await probe_ports([(1, "127.0.0.1", 1, True), (2, "169.254.169.254", 22, True)])
    assert {(s.machine, s.type) for s in said} == {(1, "Probe/ssh"), (1, "Probe/kubelet")}


@pytest.fixture
def world(conn: Connection) -> World:
    return World(conn)


async def rows(conn: Connection) -> list[tuple[Any, ...]]:
    found = await conn.execute("SELECT type, status, reason, count, since FROM recovery_evidence ORDER BY type")
    return list(await found.fetchall())


async def test_what_is_said_again_keeps_its_age_and_what_changes_gets_a_new_one(world: World) -> None:
    await running(world)
    (id_,) = await world.ids()
    for status in ("False", "False", "True"):
        await world.conn.execute("UPDATE recovery_evidence SET since = now() - interval '1 hour'")
        await write(world.conn, [Said(id_, "Probe/ssh", "prober", status, "x")])
    ((_, status, _, count, since),) = await rows(world.conn)
    assert (status, count) == ("True", 2)
    fresh = await (await world.conn.execute("SELECT now() - %s < interval '1 minute'", [since])).fetchone()
    assert fresh == (True,)


async def test_machines_are_probed_as_long_as_their_fault_lives_and_simulated_ones_never(world: World) -> None:
    await world.playbook()
    await world.rule()
    await running(world)
    stopped(await world.box())
    await world.step()
    await world.detect()
    assert await ports_due(world.conn) == []
    await world.conn.execute("UPDATE machine_state SET simulated = false")
    (id_,) = await world.ids()
    ip = (await world.get() or {})["spec"]["ip"]
    assert await ports_due(world.conn) == [(id_, ip, 22, False)]
    await world.conn.execute("UPDATE recovery_fault SET phase = 'Resolved'")
    assert await ports_due(world.conn) == []


async def test_calm_controllers_have_their_turn_now_and_then(world: World) -> None:
    await running(world)
    await world.conn.execute("""UPDATE machine SET spec = spec || '{"bmc": {"address": "10.2.0.1"}}'""")
    assert await bmcs_due(world.conn, live=True) == []
    due = await bmcs_due(world.conn, live=False)
    assert len(due) == 1
    logins = await read_bmc_logins(world.conn, ())
    await write(world.conn, await probe_bmcs(due, logins, {"simulated": world.bmcs}))
    assert await bmcs_due(world.conn, live=False) == []
    assert [r[:2] for r in await rows(world.conn)] == [
        (f"Redfish/{p}", "True") for p in ("Board", "Drives", "Memory", "Network", "Power", "Supply")
    ]


async def test_a_controller_that_does_not_answer_makes_nothing_of_it(world: World) -> None:
    box = await running(world)
    await world.conn.execute("""UPDATE machine SET spec = spec || '{"bmc": {"address": "10.2.0.1"}}'""")
    box.faults["bmc-silent"] = {"at": world.hosts.now}
    said = await probe_bmcs(await bmcs_due(world.conn, live=False), await read_bmc_logins(world.conn, ()), {"simulated": world.bmcs})  # fmt: skip
    assert {s.status for s in said} == {"Unknown"}
