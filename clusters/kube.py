"""A small asynchronous client of the Kubernetes API: raw bodies, one connection pool, a cap on requests, addresses under Fleet's rules.

Bodies are bytes or plain dictionaries; typed decoding belongs to those who read. No request is repeated here: who asks
knows whether it may be.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import orjson

from fleet.control.addresses import Network, literal_refusal
from fleet.control.endpoint import Endpoint
from fleet.control.guarded import GuardedResolver
from fleet.control.kinds import Json

MANAGER: Final = "fleet"  # field manager of server-side apply
PAGE: Final = 500
ANSWER_SECONDS: Final = 30.0
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
JSON_PATCH: Final = "application/json-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
_CONTINUE: Final = re.compile(rb'"continue":"([^"]*)"')
_LINE_BYTES: Final = 8 << 20  # the longest watch line that is taken: an object of etcd's limit, encoded


class KubeError(Exception):
    """The API server refused: its Status. `retry_seconds` from Retry-After, 0 = none was given."""

    def __init__(
        self, code: int, reason: str, message: str, retry_seconds: float = 0.0, details: Json | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_seconds = retry_seconds
        self.details: Json = details or {}


class KubeUnreachable(Exception):
    """No whole answer: refused address, no connection, time-out, a stream cut off. Nothing is known of the effect of a write."""


def tls(endpoint: Endpoint) -> ssl.SSLContext:
    """The context of an endpoint. Without a CA the system's are trusted; verification is never off."""
    context = ssl.create_default_context(cadata=endpoint.ca or None)
    if endpoint.certificate:
        # OpenSSL reads a chain from files only: one that only we can read, for the moment of reading.
        handle, path = tempfile.mkstemp(prefix="fleet-tls-")
        try:
            os.write(handle, f"{endpoint.certificate}\n{endpoint.key}\n".encode())
            os.close(handle)
            context.load_cert_chain(path)
        finally:
            Path(path).unlink()
    return context


class Kube:
    """One API server. `requests`: how many may run at a time (watches not counted). `compressed`: large lists come in gzip,
    which costs more CPU than it saves time on the networks of a data centre."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        networks: Sequence[Network] = (),
        requests: int = 20,
        agent: str = "fleet",
        compressed: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self._networks = networks
        self._gate = asyncio.Semaphore(requests)
        self._headers = {"User-Agent": agent, "Accept": "application/json"}
        if not compressed:
            self._headers["Accept-Encoding"] = "identity"
        if endpoint.token:
            self._headers["Authorization"] = f"Bearer {endpoint.token}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Kube:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            why = literal_refusal(self.endpoint.host, self._networks)  # aiohttp asks no resolver for a plain address
            if why:
                raise KubeUnreachable(f"the address of the API server is refused: {why}")
            context = tls(self.endpoint) if self.endpoint.server.startswith("https:") else None
            connector = aiohttp.TCPConnector(
                ssl=context if context is not None else True,
                limit=0,
                keepalive_timeout=60,
                resolver=GuardedResolver(self._networks),
            )
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, auto_decompress=True, trust_env=False, read_bufsize=1 << 18
            )
        return self._session

    def _options(self) -> dict[str, Any]:
        return {"server_hostname": self.endpoint.server_name} if self.endpoint.server_name else {}

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        seconds: float = ANSWER_SECONDS,
        accept: str = "",
    ) -> bytes:
        """One request, its whole body; KubeError for a refusal, KubeUnreachable without an answer."""  # fmt: skip
        url = self.endpoint.server.rstrip("/") + path + ("?" + urlencode(params) if params else "")
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        headers = {"Content-Type": content_type} if data is not None else {}
        if accept:
            headers["Accept"] = accept
        async with self._gate:
            try:
                async with self._open().request(
                    method, url, data=data, headers=headers, allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=seconds), **self._options(),
                ) as answer:  # fmt: skip
                    content = await answer.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise KubeUnreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if answer.status >= 300:
            raise refused(answer.status, answer.headers, content)
        return content

    async def get(self, path: str, **params: str) -> Json:
        """One object or list, decoded."""
        found: Json = orjson.loads(await self.send("GET", path, params=params))
        return found

    async def find(self, path: str) -> Json | None:
        """The object, or None where there is none."""
        try:
            return await self.get(path)
        except KubeError as error:
            if error.code == 404:
                return None
            raise

    async def create(self, path: str, obj: Json, *, dry_run: bool = False) -> Json:
        """POST to a collection; the stored object."""
        params = {"fieldManager": MANAGER} | ({"dryRun": "All"} if dry_run else {})
        made: Json = orjson.loads(await self.send("POST", path, body=obj, params=params))
        return made

    async def apply(self, path: str, obj: Json, *, dry_run: bool = False, force: bool = True) -> Json:
        """Server-side apply of one object under Fleet's field manager."""
        params = {"fieldManager": MANAGER, "force": "true" if force else "false"} | (
            {"dryRun": "All"} if dry_run else {}
        )
        stored: Json = orjson.loads(await self.send("PATCH", path, params=params, body=obj, content_type=APPLY))
        return stored

    async def patch(self, path: str, body: Any, *, content_type: str = MERGE) -> Json:
        """A patch of an object; a `metadata.resourceVersion` in it makes it conditional (409)."""
        stored: Json = orjson.loads(
            await self.send("PATCH", path, params={"fieldManager": MANAGER}, body=body, content_type=content_type)
        )
        return stored

    async def delete(
        self, path: str, *, uid: str = "", propagation: str = "Background", grace_seconds: int | None = None
    ) -> bool:
        """Delete an object, that of this uid only where one is given; False where there is none (any more)."""
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self.send("DELETE", path, body=options)
        except KubeError as error:
            if error.code == 404:
                return False
            raise
        return True

    async def pages(
        self, path: str, *, limit: int = PAGE, seconds: float = 60.0, **params: str
    ) -> AsyncIterator[bytes]:
        """A list page by page, undecoded. A 410 in the middle is the caller's: what was read so far is no whole list."""
        go_on = ""
        while True:
            wanted = {"limit": str(limit), **params} | ({"continue": go_on} if go_on else {})
            page = await self.send("GET", path, params=wanted, seconds=seconds)
            yield page
            go_on = continue_of(page)
            if not go_on:
                return

    async def watch(
        self, path: str, version: str, *, silence_seconds: float = 90.0, **params: str
    ) -> AsyncIterator[bytes]:
        """Lines of a watch from a resourceVersion on, undecoded, until the server ends it.

        KubeError for a refusal at the start (an ERROR line is the reader's); KubeUnreachable when the stream breaks or is
        silent for too long: bookmarks come about once a minute, so silence means a stuck stream.
        """
        wanted = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": "1800",
            **params,
        }
        url = self.endpoint.server.rstrip("/") + path + "?" + urlencode(wanted)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS, sock_read=silence_seconds)
        try:
            async with self._open().get(url, allow_redirects=False, timeout=timeout, **self._options()) as answer:
                if answer.status >= 300:
                    raise refused(answer.status, answer.headers, await answer.read())
                rest = b""
                async for chunk in answer.content.iter_any():
                    lines = chunk.split(b"\n")
                    lines[0] = rest + lines[0]  # a short copy instead of one of the whole chunk
                    rest = lines.pop()
                    if len(rest) > _LINE_BYTES:
                        raise KubeUnreachable(f"GET {path}: a watch line longer than {_LINE_BYTES >> 20} MiB")
                    for line in lines:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnreachable(f"GET {path} (watch): {str(error) or type(error).__name__}") from error

    @asynccontextmanager
    async def socket(
        self, path: str, params: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket of one of these subprotocols, closed at the end; KubeError for a refusal, KubeUnreachable when it breaks."""
        url = self.endpoint.server.rstrip("/") + path + "?" + urlencode(params)
        try:
            async with self._open().ws_connect(
                url,
                protocols=protocols,
                max_msg_size=_LINE_BYTES,
                headers={"Accept": "*/*"},  # a stream is no JSON
                **self._options(),
            ) as socket:
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            raise KubeError(error.status, f"Http{error.status}", f"GET {path}: {error.message}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise KubeUnreachable(f"GET {path} (websocket): {str(error) or type(error).__name__}") from error


def continue_of(page: bytes) -> str:
    """The continue token of a list page. kube-apiserver puts metadata before items, so the head is enough; the whole is read if not."""
    head, items, _ = page[:4096].partition(b'"items":[')
    if items and b'"metadata"' in head and b"\\" not in head:
        found = _CONTINUE.search(head)
        return found[1].decode() if found else ""
    meta: Json = orjson.loads(page).get("metadata", {})
    return str(meta.get("continue", ""))


def _words(text: str) -> str:
    """What a plain answer says, shortened; of the list of checks of /readyz and /healthz those that fail."""
    failing = [line.strip().removeprefix("[-]") for line in text.splitlines() if line.startswith("[-]")]
    return ", ".join(failing)[:300] if failing else text[:300]


def refused(code: int, headers: Mapping[str, str], content: bytes) -> KubeError:
    """The error of an answer that is no success; a body that is no Status is shown as it is, shortened."""
    try:
        status = orjson.loads(content)
        reason, message, details = status.get("reason", ""), status.get("message", ""), status.get("details") or {}
    except (orjson.JSONDecodeError, AttributeError):
        reason, message, details = "", _words(content.decode(errors="replace")), {}
    try:
        wait = float(headers.get("Retry-After", details.get("retryAfterSeconds", 0)) or 0)
    except (TypeError, ValueError):
        wait = 0.0
    return KubeError(code, reason or f"Http{code}", message or f"the API server answered {code}", wait, details)
