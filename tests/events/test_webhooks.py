"""What may be posted where, what a receiver's answer means, and how it knows that it was Fleet."""

from __future__ import annotations

import base64
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet.control.addresses import refusal
from fleet.events.schema import secret_bytes
from fleet.events.webhooks import Poster, judge, signature, url_problem

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
INSIDE = [ipaddress.ip_network("10.0.0.0/8")]


def _found(address: str, port: int) -> Any:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name leads there."""

    def answer(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [_found(a, port or 0) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


REFUSED = [
    "file:///etc/passwd", "gopher://10.0.0.1/", "ftp://example.com/", "https://", "//example.com", "https:///x", "https://[::1", "https://x:99999/",
    "https://127.0.0.1/", "https://127.0.0.1:8000/x", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[::]/",
    "https://0.0.0.0/", "https://169.254.169.254/latest/meta-data", "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fd00:ec2::254]/",
    "https://192.168.1.1/", "https://172.16.0.1/", "https://100.100.100.200/", "https://[64:ff9b::169.254.169.254]/", "https://[2002:7f00:0001::]/",
    "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://127.1/", "https://0177.0.0.1/", "https://017700000001/",
    "http://example.com/", "http://8.8.8.8/", "https://user:secret@example.com/", "https://user@example.com/", "https://example.com/#x",
    "https://exa mple.com/", "https://example.com\\@127.0.0.1/", "https://example.com/\n", "https://224.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_fleet_does_not_connect_to_are_refused_with_a_sentence(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "93.184.216.34")
    assert url_problem(url, INSIDE)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/hook?x=1", "https://93.184.216.34/", "http://10.1.2.3:8080/", "https://[2606:4700::1]/"],
)
def test_the_others_are_fine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "93.184.216.34", "2606:4700::1")
    assert url_problem(url, INSIDE) is None


def test_a_name_is_refused_if_any_of_its_addresses_is(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "93.184.216.34", "127.0.0.1")
    assert "example.com leads to 127.0.0.1" in (url_problem("https://example.com/", []) or "")


def test_a_name_that_does_not_resolve_here_is_looked_at_when_fleet_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    assert url_problem("https://hooks.internal/", []) is None


@pytest.mark.parametrize("address", ["64:ff9b::7f00:1", "2002:a9fe:a9fe::1", "::ffff:10.0.0.1", "100.64.0.1"])
def test_an_address_in_other_clothes_is_known(address: str) -> None:
    assert refusal(address, []) is not None


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of the specification's own libraries.
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert key is not None
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "secret", "whsec_" + base64.b64encode(b"x" * 23).decode()])
def test_a_secret_that_is_short_or_in_another_form_is_none(secret: str) -> None:
    assert secret_bytes(secret) is None


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "Delivered"), (204, "Delivered"), (301, "Away"), (307, "Away"), (400, "Refused"), (422, "Refused"), (401, "Away"), (404, "Away"),
     (408, "Away"), (410, "Gone"), (429, "Away"), (500, "Failed"), (502, "Failed"), (503, "Away")],
)  # fmt: skip
def test_a_status_is_about_the_event_or_about_the_receiver(status: int, verdict: str) -> None:
    assert judge(status).verdict == verdict


@dataclass
class Receiver:
    """Answers with the status that the path names."""

    port: int
    seen: list[str]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        headers = {"Location": "/200"} if request.path == "/302" else {"Retry-After": "7"}
        return web.Response(status=int(request.path[1:]), headers=headers)

    app = web.Application()
    app.router.add_post("/{status}", answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    yield Receiver(server.port or 0, seen)
    await server.close()


async def posted(poster: Poster, url: str) -> Any:
    return await poster.post(url, b"k" * 32, "evt_1-0", b"{}")


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    poster = Poster(LOOPBACK, lambda: 0.0)
    assert (await posted(poster, receiver.url("/302"))).verdict == "Away"
    assert receiver.seen == ["/302"]
    await poster.close()


async def test_a_receiver_says_how_long_to_wait(receiver: Receiver) -> None:
    poster = Poster(LOOPBACK, lambda: 0.0)
    assert (await posted(poster, receiver.url("/429"))).retry_seconds == 7
    await poster.close()


async def test_an_address_is_looked_at_again_at_connect(receiver: Receiver) -> None:
    poster = Poster([], lambda: 0.0)
    answer = await posted(poster, receiver.url("/200"))
    assert (answer.verdict, receiver.seen) == ("NotAllowed", [])
    await poster.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "10.0.0.1", "::ffff:127.0.0.1"])
async def test_a_name_that_changed_its_mind_since_it_was_saved_is_not_connected_to(
    address: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "93.184.216.34")
    assert url_problem("https://example.com/200", []) is None
    resolves_to(monkeypatch, address)
    poster = Poster([], lambda: 0.0)
    answer = await posted(poster, f"http://example.com:{receiver.port}/200")
    assert (answer.verdict, receiver.seen) == ("NotAllowed", [])
    assert address.rpartition(":")[2] in answer.message
    await poster.close()


async def test_a_receiver_that_is_not_there_is_away(unused_tcp_port: int) -> None:
    poster = Poster(LOOPBACK, lambda: 0.0)
    assert (await posted(poster, f"http://127.0.0.1:{unused_tcp_port}/")).verdict == "Away"
    await poster.close()


def test_the_example_of_the_guide_verifies_what_fleet_signs() -> None:
    guide = (Path(__file__).resolve().parent.parent.parent / "docs" / "events.md").read_text()
    names: dict[str, Any] = {}
    exec(guide.partition("```python\n")[2].partition("```")[0], names)
    key, now, body = b"k" * 32, int(time.time()), b'{"a": 1}'
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = {
        "webhook-id": "evt_1-0",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(key, "evt_1-0", now, body),
    }
    assert names["verified"](secret, headers, body)
    assert not names["verified"](secret, headers, body + b" ")
    assert not names["verified"](secret, {**headers, "webhook-timestamp": str(now - 600)}, body)
