"""Posting an event to somebody else's server: signed as Standard Webhooks says, to addresses under Fleet's rules, never redirected."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp

from fleet.control.addresses import Network, literal_refusal, refusal
from fleet.control.guarded import AddressRefused, GuardedResolver

ANSWER_SECONDS: Final = 5.0
_RESOLVE_SECONDS: Final = 0.5
_LONGEST_WAIT: Final = 3_600.0
# What is listed is Fleet's own ground; elsewhere others could read along.
_PLAIN: Final = "must begin with https: plain http goes to addresses (not names) inside FLEET_ALLOWED_NETWORKS only"
CONTENT_TYPE: Final = "application/cloudevents+json"

# What a receiver's answer means for the event and for the subscription.
Verdict = Literal["Delivered", "Refused", "Failed", "Away", "Gone", "NotAllowed", "NoSecret"]


@dataclass(frozen=True, slots=True)
class Answer:
    """`Refused`: this event, the next may be taken. `Failed`: the server stumbled, perhaps over this event. `Away`: it takes nothing now.
    `Gone`: it wants nothing any more. `NotAllowed`: its address is one that Fleet does not connect to. `NoSecret`: there is no key here to sign with."""

    verdict: Verdict
    message: str = ""
    retry_seconds: float = 0.0


def url_problem(url: str, networks: Sequence[Network]) -> str | None:
    """Why events may not be posted there, as far as the text tells and a name leads somewhere; None when they may."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - it is read when it is asked for, and may be none
    except ValueError:
        return "is no address of a web server, such as https://hooks.example.com/fleet"
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url or "\\" in url:
        return "is no address of a web server, such as https://hooks.example.com/fleet"
    if parts.username is not None or parts.password is not None:
        return "may hold no user and no password: everybody who reads the subscription sees it"
    if parts.fragment:
        return "may have no fragment (#…)"
    if "%" in host:
        return f"{host} has a zone; only plain addresses are connected to"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _name_problem(host, parts.scheme, networks)
    if parts.scheme == "http" and not any(address in n for n in networks if n.version == address.version):
        return _PLAIN
    return refusal(host, networks)


def _name_problem(host: str, scheme: str, networks: Sequence[Network]) -> str | None:
    # Some resolvers read 0x7f.1, 2130706433 and 0177.0.0.1 as addresses: what looks like one must be one.
    if re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rstrip(".").rsplit(".", 1)[-1], re.IGNORECASE):
        return f"{host} is no name and no address in its usual form"
    return _PLAIN if scheme == "http" else name_refusal(host, networks)


def name_refusal(host: str, networks: Sequence[Network]) -> str | None:
    """Why a name leads where Fleet does not connect to. What cannot be resolved here and now is looked at when Fleet connects."""
    for address in addresses_of(host):
        why = refusal(address, networks)
        if why:
            return f"{host} leads to {why}"
    return None


def addresses_of(host: str) -> list[str]:
    """Addresses of a name; none when it does not resolve within half a second. In a thread: a resolver knows no time limit."""
    found: list[str] = []

    def ask() -> None:
        try:
            found.extend(str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            return

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_RESOLVE_SECONDS)
    return list(found)


def signature(key: bytes, id_: str, timestamp: int, body: bytes) -> str:
    """`webhook-signature` of Standard Webhooks: v1 and the HMAC-SHA256 over id, time and body."""
    signed = f"{id_}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Poster:
    """Posts events; keeps connections. One of a process."""

    def __init__(self, networks: Sequence[Network], clock: Callable[[], float]) -> None:
        self._networks = networks
        self._clock = clock  # unix time
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=GuardedResolver(self._networks), ttl_dns_cache=10)
            # A jar without cookies: one receiver never gets what another set.
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._session

    async def post(self, url: str, key: bytes, id_: str, body: bytes, content_type: str = CONTENT_TYPE) -> Answer:
        """One try; what came of it. The same id marks every try of the same event."""
        why = literal_refusal(
            urlsplit(url).hostname or "", self._networks
        )  # aiohttp asks no resolver for a plain address
        if why:
            return Answer("NotAllowed", why)
        now = int(self._clock())
        headers = {
            "Content-Type": content_type, "User-Agent": "fleet", "webhook-id": id_, "webhook-timestamp": str(now),
            "webhook-signature": signature(key, id_, now, body),
        }  # fmt: skip
        try:
            async with self._open().post(
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            ) as answer:
                # Its body is not read: what a server inside says is nobody's business who may write a subscription.
                return judge(answer.status, self._wait(answer.headers.get("Retry-After", "")))
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            return _without_answer(error)

    def _wait(self, text: str) -> float:
        """Seconds of a Retry-After, as a number or a date; 0 when there is none."""
        if text.isascii() and text.isdigit():
            return min(float(text[:9]), _LONGEST_WAIT)
        try:
            return min(max(0.0, parsedate_to_datetime(text).timestamp() - self._clock()), _LONGEST_WAIT)
        except (ValueError, TypeError, OverflowError):
            return 0.0


def judge(status: int, retry_seconds: float = 0.0) -> Answer:
    """What a status says. 401, 403, 404 and 405 are about the address or the secret, not about one event."""
    if 200 <= status < 300:
        return Answer("Delivered")
    if status == 410:
        return Answer("Gone", "the receiver answered 410 Gone: it wants no more events")
    if 300 <= status < 400:
        return Answer("Away", f"the receiver answered {status}; redirects are not followed, write the final address")
    if status in (408, 425, 429, 503) or status in (401, 403, 404, 405):
        return Answer("Away", f"the receiver answered {status}", retry_seconds)
    if status < 500:
        return Answer("Refused", f"the receiver answered {status}", retry_seconds)
    return Answer("Failed", f"the receiver answered {status}", retry_seconds)


def _without_answer(error: BaseException) -> Answer:
    refused: BaseException | None = error
    while refused is not None and not isinstance(refused, AddressRefused):
        refused = refused.__cause__ or getattr(refused, "os_error", None)
    if refused is not None:
        return Answer("NotAllowed", str(refused.strerror or refused))
    if isinstance(error, TimeoutError):
        return Answer("Failed", f"the receiver gave no answer within {ANSWER_SECONDS:g} s")
    return Answer("Away", f"the receiver cannot be reached: {type(error).__name__}")
