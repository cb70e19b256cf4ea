"""People are told once, in one message, what lasts; again when nobody takes it; and once more when it is over."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from django.core import mail
from django.db import connection

from fleet.safety.notices import acknowledge, turn
from tests.safety.conftest import Ledger


class Sink:
    """A server that keeps what is posted to it, and answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((request.path, dict(request.headers), await request.read()))
        return web.Response(status=self.status)

    def texts(self) -> list[str]:
        """Of messages to the webhook, and forgotten."""
        out = [json.loads(body)["text"] for path, _, body in self.got if path == "/hook"]
        self.got.clear()
        return out


@pytest_asyncio.fixture
async def sink(settings: Any) -> AsyncIterator[Sink]:
    made = Sink()
    app = web.Application()
    app.router.add_post("/{any:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings.FLEET_NOTIFY_WEBHOOK = f"{made.url}/hook"
    settings.FLEET_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    yield made
    await runner.cleanup()


async def failed(ledger: Ledger, *names: str) -> None:
    await ledger.sql("UPDATE machine_state SET phase = 'Failed' WHERE name = ANY (%s)", list(names))


def taken(number: int, by: str) -> bool:
    """Acknowledged, on a connection of this thread."""
    try:
        return acknowledge(number, by)
    finally:
        connection.close()


async def test_what_lasts_is_told_once_in_one_message_and_again_when_it_is_over(ledger: Ledger, sink: Sink) -> None:
    await ledger.cluster("a", 10)
    await ledger.sql("SELECT breaker_trip('cluster', 1, 'Pods cannot be created.')")
    await failed(ledger, "a-3", "a-4")
    assert await turn(ledger.conn) == 2
    (text,) = sink.texts()
    assert text.startswith(
        "Fleet: 2 things need somebody\nThe breaker of cluster a is open: Pods cannot be created. (since "
    )
    assert (
        "2 machines of cluster a need a person: a-3, a-4. fleetctl why machine/NAME says what stands in the way."
        in text
    )
    assert await turn(ledger.conn) == 0
    await ledger.sql("UPDATE machine_state SET phase = 'Running'")
    assert await turn(ledger.conn) == 1
    assert sink.texts() == [
        "Fleet: over: 2 machines of cluster a need a person\nover: 2 machines of cluster a need a person"
    ]


async def test_what_nobody_takes_is_told_again_after_four_hours_and_what_is_taken_is_not(
    ledger: Ledger, sink: Sink
) -> None:
    await ledger.cluster("a", 10)
    await failed(ledger, "a-1")
    await turn(ledger.conn)
    await ledger.sql("UPDATE notice_told SET at = at - interval '5 hours'")
    assert await turn(ledger.conn) == 1
    (number,) = (await ledger.sql("SELECT id FROM notice"))[0]
    assert await asyncio.to_thread(taken, number, "olga")
    assert not await asyncio.to_thread(taken, number, "pavel")
    await ledger.sql("UPDATE notice_told SET at = at - interval '5 hours'")
    assert await turn(ledger.conn) == 0


async def test_more_of_the_same_waits_a_quarter_of_an_hour(ledger: Ledger, sink: Sink) -> None:
    await ledger.cluster("a", 10)
    await failed(ledger, "a-1")
    await turn(ledger.conn)
    await failed(ledger, *(f"a-{n}" for n in range(1, 9)))
    assert await turn(ledger.conn) == 0
    await ledger.sql("UPDATE notice_told SET at = at - interval '16 minutes'")
    assert await turn(ledger.conn) == 1
    assert "a-1, a-2, a-3, a-4, a-5 and 3 more." in sink.texts()[-1]


async def test_what_comes_back_is_new_and_nobody_has_taken_it(ledger: Ledger, sink: Sink) -> None:
    await ledger.cluster("a", 10)
    for _ in range(2):
        await failed(ledger, "a-1")
        assert await turn(ledger.conn) == 1
        await ledger.sql("UPDATE notice SET acked_by = 'olga', acked_at = now()")
        await ledger.sql("UPDATE machine_state SET phase = 'Running'")
        assert await turn(ledger.conn) == 1
    assert len(sink.texts()) == 4


@pytest.mark.parametrize("status", [500, 404, 302])
async def test_what_is_not_taken_is_due_again_at_the_next_turn(ledger: Ledger, sink: Sink, status: int) -> None:
    await ledger.cluster("a", 10)
    await failed(ledger, "a-1")
    sink.status = status
    assert await turn(ledger.conn) == 0
    sink.status = 200
    assert await turn(ledger.conn) == 1


async def test_a_message_is_signed_and_goes_to_no_forbidden_address(ledger: Ledger, sink: Sink, settings: Any) -> None:
    settings.FLEET_NOTIFY_SECRET = "k"
    await ledger.cluster("a", 10)
    await failed(ledger, "a-1")
    await turn(ledger.conn)
    _, headers, body = sink.got[0]
    assert headers["X-Fleet-Signature"] == "sha256=" + hmac.new(b"k", body, hashlib.sha256).hexdigest()
    settings.FLEET_ALLOWED_NETWORKS = []
    await failed(ledger, "a-2")
    await ledger.sql("DELETE FROM notice_told")
    sink.got.clear()
    assert await turn(ledger.conn) == 0
    assert sink.got == []


async def test_mail_alertmanager_and_heartbeat(ledger: Ledger, sink: Sink, settings: Any) -> None:
    settings.FLEET_NOTIFY_WEBHOOK, settings.FLEET_NOTIFY_MAIL = "", ["olga@example.com"]
    settings.FLEET_NOTIFY_ALERTMANAGER, settings.FLEET_HEARTBEAT_URL = sink.url + "/am/", sink.url + "/alive"
    await ledger.cluster("a", 10)
    await failed(ledger, "a-1")
    for _ in range(2):
        await turn(ledger.conn)
    assert [(m.subject, m.to) for m in mail.outbox] == [
        ("Fleet: 1 machine of cluster a needs a person", ["olga@example.com"])
    ]
    assert [path for path, _, _ in sink.got] == ["/am/api/v2/alerts", "/alive"] * 2
    alerts = json.loads(sink.got[0][2])
    assert [a["labels"]["alertname"] for a in alerts] == ["FleetNoticesWatchdog", "FleetNeedsAPerson"]
    assert alerts[1]["labels"]["cluster"] == "a"


async def test_an_overdue_hold_and_the_kill_switch_are_told(ledger: Ledger, sink: Sink) -> None:
    await ledger.hold("disks", {"matchAll": True}, until="2020-01-01T00:00:00Z", reason="disks arrive")
    await ledger.sql("UPDATE safety_hold SET status = '{\"overdue\": true}'")
    await ledger.sql("UPDATE ledger SET stopped = true, stopped_by = 'olga', stopped_why = 'fire'")
    await turn(ledger.conn)
    (text,) = sink.texts()
    assert "The kill switch is on: olga: fire. Nothing starts anywhere." in text
    assert (
        "Hold disks is overdue: It ended at 2020-01-01T00:00:00Z and holds nothing any more: olga asked for it (disks arrive)."
        in text
    )
