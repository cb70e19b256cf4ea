"""Webhooks: told in order, signed, again until they are taken; who is away or refuses delays nobody else and loses nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from asgiref.sync import sync_to_async

from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control import worker
from fleet.control.db import Connection
from fleet.control.kinds import SUBSCRIPTION
from fleet.control.operators import Seat
from fleet.events.webhooks import signature
from tests.events.conftest import tell

KEY = secrets.token_bytes(32)
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
TYPES = ["dev.fleet.machine."]


@dataclass
class Receiver:
    """Somebody's server. `answers`: by name of the event's object, what it says; 200 to all others."""

    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    hangs: bool = False
    came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def names(self) -> list[str]:
        return [json.loads(body)["subject"] for _, body in self.requests]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        made.requests.append((dict(request.headers), body))
        made.came.set()
        if made.hangs:
            await asyncio.sleep(60)
        return web.Response(status=made.answers.get(json.loads(body)["subject"], 200))

    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    app.router.add_post("/never", never)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(shutdown_timeout=0.1)
    made.url = str(server.make_url("/hook"))
    yield made
    await server.close()


def manifest(url: str, name: str = "sub", **spec: Any) -> dict[str, Any]:
    base = {"url": url, "secret": SECRET, "filter": {"types": TYPES}}
    return {"apiVersion": "fleet.dev/v1", "kind": "Subscription", "metadata": {"name": name}, "spec": {**base, **spec}}


def made(url: str, name: str = "sub", **spec: Any) -> Any:
    return create_object("subscriptions", manifest(url, name, **spec), write=Write(by=SYSTEM))


def edited(name: str = "sub", **spec: Any) -> Any:
    def change(obj: Any) -> Any:
        return {**obj, "spec": {**obj["spec"], **spec}}

    return patch_object("subscriptions", name, change, write=Write(by=SYSTEM))


def aside(act: Callable[..., Any]) -> Callable[..., Any]:
    return sync_to_async(act)


async def status(name: str = "sub") -> dict[str, Any]:
    stored = await aside(storage_for("subscriptions").read)(name)
    return dict(stored.obj.get("status", {}))


async def why(type_: str, name: str = "sub") -> str:
    return next(str(c["reason"]) for c in (await status(name))["conditions"] if c["type"] == type_)


@pytest.fixture
async def seat(conn: Connection) -> AsyncIterator[Seat]:
    """Where passes run; what it keeps is closed."""
    made = Seat(conn, await worker.enlist(conn, "test"))
    yield made
    for thing in made.kept.values():
        await thing.close()


async def again(seat: Seat) -> None:
    """As if the wait were over: one more pass."""
    await seat.conn.execute("UPDATE work_item SET due_at = now() WHERE kind = %s AND holder IS NULL", [SUBSCRIPTION])
    await once(seat)


async def once(seat: Seat) -> int:
    return await worker.run_once(seat=seat, kinds=[SUBSCRIPTION])


@pytest.fixture
async def told(seat: Seat, receiver: Receiver) -> Receiver:
    """A subscription to what happens to machines."""
    await aside(made)(receiver.url)
    await once(seat)
    return receiver


async def test_events_are_posted_in_order_and_once(conn: Connection, seat: Seat, told: Receiver) -> None:
    for name in "abc":
        await tell(conn, name)
    await tell(conn, "x", "com.example.other")
    await once(seat)
    await once(seat)
    assert told.names == ["a", "b", "c"]
    seen = await status()
    assert (seen["delivered"], seen["failures"], seen["deadLetters"]) == (3, 0, 0)
    assert await why("Ready") == "Delivering"


async def test_a_receiver_can_tell_that_it_was_fleet(conn: Connection, seat: Seat, told: Receiver) -> None:
    await tell(conn, "a")
    await once(seat)
    [(headers, body)] = told.requests
    made_ = signature(KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == made_
    event = json.loads(body)
    assert (event["specversion"], event["type"], event["subject"]) == ("1.0", "dev.fleet.machine.phase", "a")
    assert headers["Content-Type"] == "application/cloudevents+json"


async def test_the_secret_is_never_shown_and_stays_when_it_is_left_out(
    conn: Connection, seat: Seat, told: Receiver
) -> None:
    obj = await aside(edited)(paused=False, secret="")
    assert (obj["spec"]["secret"], SECRET in json.dumps(obj)) == ("", False)
    await tell(conn, "a")
    await once(seat)
    assert told.names == ["a"]
    for table in ("events_subscription", "change", "event", "audit", "tombstone"):
        rows = await (await conn.execute(f"SELECT t::text FROM {table} t".encode())).fetchall()
        assert not any(SECRET in row[0] or SECRET[6:] in row[0] for row in rows)


async def test_another_secret_signs_from_then_on(conn: Connection, seat: Seat, told: Receiver) -> None:
    other = secrets.token_bytes(32)
    before = (await status())["secretFingerprint"]
    await aside(edited)(secret=f"whsec_{base64.b64encode(other).decode()}")
    assert (await status())["secretFingerprint"] != before
    await tell(conn, "a")
    await once(seat)
    [(headers, body)] = told.requests
    assert headers["webhook-signature"] == signature(
        other, headers["webhook-id"], int(headers["webhook-timestamp"]), body
    )


async def test_a_receiver_that_is_away_is_told_later_with_the_same_id(
    conn: Connection, seat: Seat, told: Receiver
) -> None:
    told.answers = {"a": 503}
    await tell(conn, "a")
    await tell(conn, "b")
    await once(seat)
    assert await once(seat) == 0  # it is not its turn yet
    for _ in range(12):
        await again(seat)
    assert (await why("Ready"), (await status())["failures"]) == ("Away", 13)
    told.answers = {}
    await again(seat)
    assert told.names[-2:] == ["a", "b"] and "b" not in told.names[:-1]
    assert len({headers["webhook-id"] for headers, _ in told.requests}) == 2
    assert ((await status())["failures"], (await status())["deadLetters"]) == (0, 0)


async def test_an_event_that_is_refused_is_set_aside_and_the_others_go_on(
    conn: Connection, seat: Seat, told: Receiver
) -> None:
    told.answers = {"b": 422}
    for name in "abc":
        await tell(conn, name)
    for _ in range(3):
        await again(seat)
    assert told.names == ["a", "b", "b", "b", "c"]
    assert (await status())["deadLetters"] == 1
    letters = await (await conn.execute("SELECT consumer, reason, subject FROM dead_letter")).fetchall()
    assert letters == [("subscription/sub", "Refused", "b")]
    told.answers = {}
    await conn.execute("UPDATE dead_letter SET state = 1")
    await once(seat)  # the sweep finds what somebody wants to be tried again
    assert told.names[5:] == ["b"]
    assert await (await conn.execute("SELECT count(*) FROM dead_letter")).fetchone() == (0,)


async def test_a_server_that_stumbles_over_one_event_gets_more_patience(
    conn: Connection, seat: Seat, told: Receiver
) -> None:
    told.answers = {"a": 500}
    await tell(conn, "a")
    await tell(conn, "b")
    for _ in range(8):
        await again(seat)
    assert told.names == ["a"] * 8 + ["b"]


async def test_one_that_hangs_delays_no_other(
    conn: Connection, seat: Seat, told: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.events.webhooks.ANSWER_SECONDS", 0.3)
    await aside(made)(told.url.replace("/hook", "/never"), "other")
    await tell(conn, "a")
    await once(seat)
    assert told.names == ["a"]
    assert (await why("Ready", "other"), await why("Ready")) == ("Failed", "Delivering")


async def test_who_wants_nothing_any_more_is_left_alone_until_an_edit(
    conn: Connection, seat: Seat, told: Receiver
) -> None:
    told.answers = {"a": 410}
    await tell(conn, "a")
    await once(seat)
    assert (await why("Ready"), await why("Stalled")) == ("Gone", "Gone")
    await again(seat)
    assert told.names == ["a"]
    told.answers = {}
    await aside(edited)(url=told.url + "?x=1")
    await once(seat)
    assert told.names == ["a", "a"]
    assert await why("Stalled") == "Going"


async def test_a_pause_keeps_the_position(conn: Connection, seat: Seat, told: Receiver) -> None:
    await aside(edited)(paused=True)
    await tell(conn, "a")
    await again(seat)
    assert (told.names, await why("Ready")) == ([], "Paused")
    await aside(edited)(paused=False)
    await once(seat)
    assert told.names == ["a"]


async def test_a_dead_worker_costs_a_repetition_and_no_loss(conn: Connection, seat: Seat, told: Receiver) -> None:
    await tell(conn, "a")
    await conn.execute("UPDATE work_item SET due_at = now() WHERE kind = %s", [SUBSCRIPTION])
    told.hangs = True
    task = asyncio.create_task(once(seat))
    await asyncio.wait_for(told.came.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    told.hangs = False
    await conn.execute("UPDATE work_item SET holder = NULL, due_at = now() WHERE kind = %s", [SUBSCRIPTION])
    await once(seat)
    assert told.names == ["a", "a"]
    assert len({headers["webhook-id"] for headers, _ in told.requests}) == 1


async def test_a_subscription_that_lagged_beyond_the_retention_says_so(
    conn: Connection, seat: Seat, told: Receiver
) -> None:
    await conn.execute("UPDATE event_consumer SET pos = 1, at_risk = 7")
    await conn.execute("UPDATE installation SET events_from = fleet_horizon() - 1000")
    await again(seat)
    assert await why("Gap") == "LaggedBeyondRetention"
    assert (await status())["lostEvents"] == 7


async def test_filters_choose_by_severity_machine_and_cluster(conn: Connection, seat: Seat, receiver: Receiver) -> None:
    await aside(made)(receiver.url, "one", filter={"machine": "m-1"})
    await aside(made)(receiver.url, "two", filter={"severity": "warning", "types": TYPES})
    await aside(made)(receiver.url, "three", filter={"clusters": ["nowhere"]})
    await aside(made)(receiver.url, "four", filter={"matchAll": True}, clusterName="nowhere")
    await once(seat)
    await tell(conn, "m-1")
    await tell(conn, "m-2")
    await once(seat)
    assert receiver.names == ["m-1"]


async def test_a_deleted_subscription_leaves_nothing_behind(conn: Connection, seat: Seat, told: Receiver) -> None:
    told.answers = {"a": 422}
    await tell(conn, "a")
    for _ in range(3):
        await again(seat)
    await aside(delete_object)("subscriptions", "sub", write=Write(by=SYSTEM))
    left = "SELECT (SELECT count(*) FROM event_consumer), (SELECT count(*) FROM dead_letter), (SELECT count(*) FROM work_item)"
    assert await (await conn.execute(left)).fetchone() == (0, 0, 0)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"url": "https://169.254.169.254/"}, "spec.url"), ({"url": "file:///etc/passwd"}, "spec.url"), ({"secret": "x"}, "spec.secret"), ({"secret": ""}, "spec.secret"),
        ({"filter": {}}, "spec.filter"), ({"filter": {"types": []}}, "spec.filter"), ({"filter": {"matchAll": False}}, "spec.filter"),
        ({"filter": {"matchAll": True, "machine": "a"}}, "spec.filter.matchAll"), ({"clusterName": "a", "filter": {"clusters": ["b"]}}, "spec.filter.clusters"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("fleet_db")
def test_what_cannot_be_is_refused_by_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as refused:
        made(**{"url": "https://10.1.1.1/", **spec})
    assert refused.value.details is not None
    assert refused.value.details["causes"][0]["field"] == field
