"""`/ws/events` and the watch of core/v1 Events: from any position, filtered, within the reader's rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
import websockets
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import Client

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.event_stream import SLOW_SECONDS
from fleet.api.rights import SYSTEM
from tests.api.http import Http
from tests.servers import People, Server

Headers = dict[str, str]


def label(plural: str, name: str, value: str) -> None:
    """A change that leaves one event."""

    def change(obj: Any) -> Any:
        return {**obj, "metadata": {**obj["metadata"], "labels": {"n": value}}}

    patch_object(plural, name, change, write=Write(by=SYSTEM))


def aside(act: Callable[..., Any]) -> Callable[..., Any]:
    """The act in a thread that leaves no connection behind."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return act(*args, **kwargs)
        finally:
            connection.close()

    return sync_to_async(run)


changed = aside(label)


def connect(server: Server, headers: Headers, **query: str) -> Any:
    address = server.http.replace("http", "ws") + "/ws/events" + (f"?{urlencode(query)}" if query else "")
    return websockets.connect(address, additional_headers=headers)


async def told(socket: Any, count: int) -> list[Any]:
    """That many events; heartbeats are left out."""
    out: list[Any] = []
    async with asyncio.timeout(20):
        while len(out) < count:
            message = json.loads(await socket.recv())
            out += [message] if "id" in message else []
    return out


async def closed_with(socket: Any, seconds: float = 20) -> tuple[int, str]:
    """Code and sentence of the end."""
    with pytest.raises(websockets.ConnectionClosed) as ended:
        async with asyncio.timeout(seconds):
            while True:
                await socket.recv()
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code, ended.value.rcvd.reason


async def test_events_come_as_they_happen_and_from_any_position_again(
    server: Server, people: People, small_fleet: list[str]
) -> None:
    async with connect(server, people.headers("admin"), kind="Machine", name="a1") as socket:
        for number in "123":
            await changed("machines", "a1", number)
        first, *more = await told(socket, 3)
    assert first["type"] == "dev.fleet.machine.changed"
    assert (first["specversion"], first["subject"], first["severity"]) == ("1.0", "a1", "normal")
    async with connect(server, people.headers("admin"), kind="Machine", name="a1", after=first["position"]) as socket:
        assert await told(socket, 2) == more
    positions = [int(e["position"]) for e in [first, *more]]
    assert positions == sorted(set(positions))


def oldest() -> int:
    """The lowest position that the event log is kept from."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT events_from FROM installation")
        return int(cursor.fetchone()[0])


async def from_the_beginning(server: Server, headers: Headers, count: int, **query: str) -> list[str]:
    """Types and subjects of the first events."""
    async with connect(server, headers, after=str(await aside(oldest)()), **query) as socket:
        return [f"{e['type'].removeprefix('dev.fleet.')} {e['subject']}" for e in await told(socket, count)]


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ({"kind": "Cluster"}, ["cluster.created a", "cluster.created b"]),
        ({"name": "b1"}, ["machine.created b1"]),
        ({"cluster": "a", "kind": "Machine"}, ["machine.created a1", "machine.created a2"]),
        ({"type": "dev.fleet.machine"}, ["machine.created a1", "machine.created a2", "machine.created b1"]),
    ],
)
async def test_filters_choose(query: dict[str, str], seen: list[str], server: Server, people: People, small_fleet: list[str]) -> None:  # fmt: skip
    assert await from_the_beginning(server, people.headers("admin"), len(seen), **query) == seen


async def test_a_reader_of_one_cluster_sees_nothing_of_another_nor_of_none(
    server: Server, people: People, small_fleet: list[str]
) -> None:
    loose = {
        "apiVersion": "fleet.dev/v1",
        "kind": "Machine",
        "metadata": {"name": "loose"},
        "spec": {"idc": "iad1", "ip": "10.9.1.1"},
    }
    await aside(create_object)("machines", loose, write=Write(by=SYSTEM))
    await changed("machines", "b1", "last")
    assert await from_the_beginning(server, people.headers("oper-b"), 3) == [
        "cluster.created b",
        "machine.created b1",
        "machine.changed b1",
    ]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"after": "x"}, "after must be a position"),
        ({"kind": "Pod"}, "there is no kind Pod"),
        ({"severity": "loud"}, "severity is one of normal, warning, error"),
        ({"name": "a\0b"}, "NUL"),
    ],
)
async def test_a_bad_question_is_closed_with_a_sentence(query: dict[str, str], sentence: str, server: Server, people: People) -> None:  # fmt: skip
    async with connect(server, people.headers("admin"), **query) as socket:
        code, reason = await closed_with(socket)
    assert code == 4400
    assert sentence in reason


@pytest.mark.parametrize("after", ["1", str(1 << 58)])
async def test_a_position_that_is_gone_or_never_was_is_closed_with_4410(after: str, server: Server, people: People) -> None:  # fmt: skip
    async with connect(server, people.headers("admin"), after=after) as socket:
        assert (await closed_with(socket))[0] == 4410


@pytest.mark.parametrize("who", ["stranger", "nobody"])
async def test_who_has_no_role_is_refused_before_the_handshake(who: str, server: Server, people: People) -> None:
    headers = people.headers(who) if who in people.tokens else {}
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(server, headers):
            pass
    assert refused.value.response.status_code == 403


async def test_a_foreign_origin_is_refused(server: Server, people: People) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(server, people.headers("admin") | {"Origin": "https://evil.example"}):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("by", ["role", "token", "user"])
async def test_an_open_socket_ends_within_ten_seconds_of_losing_its_right(
    by: str, server: Server, people: People
) -> None:
    async with connect(server, people.headers("viewer")) as socket:
        await aside(take_away)(by)
        assert (await closed_with(socket, 12))[0] == 4403


def take_away(by: str) -> None:
    from django.contrib.auth import get_user_model
    from django.utils import timezone

    from fleet.api.models import RoleBinding, Token

    if by == "role":
        RoleBinding.objects.filter(user__username="viewer").delete()
    elif by == "token":
        Token.objects.filter(user__username="viewer").update(revoked_at=timezone.now())
    else:
        get_user_model().objects.filter(username="viewer").update(is_active=False)


async def test_logging_out_ends_the_browsers_socket(server: Server, people: People) -> None:
    browser = Client()
    await aside(log_in)(browser, "viewer")
    origin = {"Origin": server.http, "Cookie": f"sessionid={browser.cookies['sessionid'].value}"}
    async with connect(server, origin) as socket:
        await aside(browser.logout)()
        assert (await closed_with(socket, 12))[0] == 4403


def log_in(browser: Client, who: str) -> None:
    from django.contrib.auth import get_user_model

    browser.force_login(get_user_model().objects.get(username=who))


def burst(count: int, size: int) -> None:
    """Events of that many bytes each, as Fleet's parts write them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO event (pos, object_id, cluster_id, kind, type, source, data) SELECT fleet_pos(), 0, 0, 1, 'dev.fleet.test', '/test', "
            "jsonb_build_object('name', i::text, 'message', (SELECT string_agg(md5(i || '-' || j), '') FROM generate_series(1, %s) j)) FROM generate_series(1, %s) i",
            [size // 32, count],  # digests: sockets compress what repeats itself
        )


async def test_a_burst_while_a_client_was_away_comes_without_gap_and_without_repeat(
    server: Server, people: People, small_fleet: list[str]
) -> None:
    after, names = str(await aside(oldest)()), list[str]()
    await aside(burst)(5_000, 32)
    wanted = [str(n) for n in range(1, 5_001)]
    while len(names) < len(wanted):  # it comes again in the middle, now and then
        async with connect(server, people.headers("admin"), after=after, type="dev.fleet.test") as socket:
            part = await told(socket, min(1_700, len(wanted) - len(names)))
        names += [e["subject"] for e in part]
        after = part[-1]["position"]
    assert names == wanted


async def test_who_does_not_read_is_dropped_with_a_code_and_others_go_on(server: Server, people: People) -> None:
    headers = people.headers("admin")
    address = server.http.replace("http", "ws") + "/ws/events?type=dev.fleet.test"
    async with (
        websockets.connect(address, additional_headers=headers, max_queue=1, close_timeout=1) as deaf,
        connect(server, headers, type="dev.fleet.test") as other,
    ):
        await aside(burst)(4_000, 4_000)
        assert len(await told(other, 4_000)) == 4_000
        await asyncio.sleep(SLOW_SECONDS + 1)
        code, sentence = await closed_with(deaf)
    assert code == 4408
    assert "come again with the last position" in sentence


def test_a_watch_ends_within_ten_seconds_of_losing_its_right(server: Server, people: People) -> None:
    with Http(server.http, people.headers("viewer"), timeout=12) as http:
        lines = http.lines(
            "/apis/fleet.dev/v1/idcs?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        )
        assert next(lines)["type"] == "BOOKMARK"
        take_away("role")
        assert list(lines) == []


def test_core_events_are_selected_as_describe_and_events_ask(
    server: Server, people: People, small_fleet: list[str]
) -> None:
    label("machines", "a1", "x")
    asked = {
        "involvedObject.kind=Machine,involvedObject.name=a1,involvedObject.namespace=,involvedObject.uid=": ["Changed", "Created"],
        "involvedObject.kind=Machine,involvedObject.apiVersion=fleet.dev/v1,involvedObject.name=a2": ["Created"],
        "involvedObject.name=b1,reason=Created": ["Created"],
        "involvedObject.name=a1,reason!=Created": ["Changed"],
        "involvedObject.name=a1,type=Warning": [],
        "involvedObject.kind=Pod": [],
    }  # fmt: skip
    with Http(server.http, people.headers("admin")) as http:
        for selector, reasons in asked.items():
            items = http("GET", "/api/v1/events?" + urlencode({"fieldSelector": selector})).json["items"]
            assert [e["reason"] for e in items] == reasons, selector
        uid = http("GET", "/apis/fleet.dev/v1/machines/a1").json["metadata"]["uid"]
        for given, count in ((uid, 2), ("0" * 32, 0)):
            selector = f"involvedObject.kind=Machine,involvedObject.name=a1,involvedObject.uid={given}"
            assert len(http("GET", "/api/v1/events?" + urlencode({"fieldSelector": selector})).json["items"]) == count


def test_core_events_are_watched_from_the_list_on(server: Server, people: People, small_fleet: list[str]) -> None:
    with Http(server.http, people.headers("admin")) as http:
        version = http("GET", "/api/v1/events").json["metadata"]["resourceVersion"]
        label("machines", "a1", "1")
        label("machines", "b1", "2")
        path = f"/api/v1/events?watch=1&timeoutSeconds=2&resourceVersion={version}"
        assert [(e["type"], e["object"]["involvedObject"]["name"]) for e in http.lines(path)] == [
            ("ADDED", "a1"),
            ("ADDED", "b1"),
        ]
    with Http(server.http, people.headers("oper-b")) as http:
        assert [e["object"]["involvedObject"]["name"] for e in http.lines(path)] == ["b1"]
    with Http(server.http, people.headers("admin")) as http:
        gone = list(http.lines("/api/v1/events?watch=1&timeoutSeconds=2&resourceVersion=1"))
    assert [(e["type"], e["object"]["code"]) for e in gone] == [("ERROR", 410)]
