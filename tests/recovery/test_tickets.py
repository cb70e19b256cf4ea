"""A part that a person has to replace: one ticket, signed, posted until it is taken; the person's word ends the fault."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from pytest_django.fixtures import Settings

from fleet.api.actions import Write, change_object
from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.networks import allowed_networks
from fleet.control.threads import in_thread
from fleet.events.webhooks import Poster, signature
from recovery.probing import Said, write
from recovery.tickets import claim, post
from tests.machines.world_of_one import running
from tests.recovery.world import World

KEY = b"k" * 32
NOW = 1_800_000_000


@dataclass
class Desk:
    """The system that tickets are posted to. `answers`: statuses to come; 200 when there is none."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[Json, Json]] = field(default_factory=list)  # (headers, body)

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.got.append(({**request.headers, "raw": raw.decode()}, json.loads(raw)))
        return web.Response(
            status=self.answers.pop(0) if self.answers else 200, headers={"Location": "http://127.0.0.1:1/"}
        )


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    made, app = Desk(), web.Application()
    app.router.add_post("/tickets", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.url = settings.FLEET_TICKET_URL = f"http://127.0.0.1:{port}/tickets"
    settings.FLEET_TICKET_SECRET = "whsec_" + base64.b64encode(KEY).decode()
    yield made
    await runner.cleanup()


@pytest.fixture
async def world(conn: Connection) -> World:
    """A machine whose fault is at the end of its ladder."""
    made = World(conn)
    replace: Json = {"name": "replace", "steps": [{"action": "Replace", "task": "Replace the disk."}]}
    await made.playbook(replace)
    await made.rule(fault="DiskFailure", when=[{"condition": "Redfish/Drives", "status": "False"}])
    await running(made)
    await disk(made, "False")
    await made.turn(2)
    assert (await made.fault())["status"]["phase"] == "NeedsPerson"
    return made


async def disk(world: World, status: str) -> None:
    """What the machine's controller says of its disks."""
    await write(world.conn, [Said(id_, "Redfish/Drives", "bmc", status, "Critical") for id_ in await world.ids()])


async def turn(world: World) -> int:
    """Tickets that are due now; how many were tried."""
    await world.conn.execute("UPDATE recovery_ticket SET due_at = now()")
    poster = Poster(allowed_networks(), lambda: float(NOW))
    try:
        tickets = await claim(world.conn)
        await post(world.conn, poster, tickets)
        return len(tickets)
    finally:
        await poster.close()


async def ticket(world: World) -> Any:
    return (await world.fault())["status"].get("ticket", {})


async def test_a_ticket_says_what_is_to_be_replaced_and_is_signed(world: World, desk: Desk) -> None:
    assert await turn(world) == 1
    ((headers, body),) = desk.got
    fault = await world.fault()
    assert body["machine"] == {"name": "m1", "uid": (await world.get() or {})["metadata"]["uid"], "idc": "a"}
    assert (body["fault"]["name"], body["fault"]["type"]) == (fault["metadata"]["name"], "DiskFailure")
    assert body["task"] == "Replace the disk."
    assert body["evidence"][0]["type"] == "Redfish/Drives"
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == f"ticket_{body['id']}"
    assert headers["webhook-signature"] == signature(KEY, headers["webhook-id"], NOW, headers["raw"].encode())
    assert await ticket(world) == {"id": body["id"], "state": "Posted", "message": ""}


async def test_it_is_posted_once_although_the_fault_waits_for_long(world: World, desk: Desk) -> None:
    assert [await turn(world) for _ in range(3)] == [1, 0, 0]
    assert len(desk.got) == 1


@pytest.mark.parametrize("status", [302, 404, 429, 500])
async def test_what_was_not_taken_is_posted_again_under_the_same_number(world: World, desk: Desk, status: int) -> None:
    desk.answers = [status]
    await turn(world)
    assert (await ticket(world))["state"] in ("Away", "Failed")
    assert await turn(world) == 1
    assert len({body["id"] for _, body in desk.got}) == 1
    assert (await ticket(world))["state"] == "Posted"


async def test_two_processes_post_one_ticket(world: World, desk: Desk, other: Connection) -> None:
    both = await asyncio.gather(claim(world.conn), claim(other))
    assert sorted(map(len, both)) == [0, 1]


@pytest.mark.parametrize(
    ("url", "why"),
    [("http://169.254.169.254/latest", "plain http"), ("http://10.1.1.1.example.com/", "plain http"), ("https://192.168.7.7/", "FLEET_ALLOWED_NETWORKS")],
)  # fmt: skip
async def test_tickets_go_nowhere_where_fleet_does_not_connect_to(
    world: World, desk: Desk, settings: Settings, url: str, why: str
) -> None:
    settings.FLEET_TICKET_URL = url
    await turn(world)
    assert ((await ticket(world))["state"], why in (await ticket(world))["message"]) == ("NotAllowed", True)


async def test_without_a_secret_none_is_posted(world: World, desk: Desk, settings: Settings) -> None:
    settings.FLEET_TICKET_SECRET = ""
    await turn(world)
    assert (await ticket(world))["state"] == "NoSecret"
    assert desk.got == []


async def test_a_persons_word_ends_the_fault(world: World, desk: Desk) -> None:
    await turn(world)
    await disk(world, "True")
    name = (await world.fault())["metadata"]["name"]

    def clear(live: Json) -> Json:
        live["metadata"]["annotations"] = {"fleet.dev/clear": "true"}
        return live

    await in_thread(lambda: change_object("faults", name, clear, write=Write(by=SYSTEM), verb="update"))
    await world.turn(2)
    assert (await world.fault())["status"]["phase"] == "Resolved"
    assert await turn(world) == 0
