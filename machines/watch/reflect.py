"""List, watch, begin anew: what all streams of the watcher have in common."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from clusters.kube import Kube, KubeError, KubeUnreachable
from fleet.control.work import backoff
from machines.watch.pace import Pace, spread
from machines.watch.seen import decode_error, is_error

log = logging.getLogger("fleet.watch")
T = TypeVar("T")

PAGE: Final = 500
GONE: Final = 410
_YIELD_EVERY: Final = 256  # lines after which other streams of the process get their turn


class Expired(Exception):
    """The server has forgotten this resourceVersion: list again."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `silence`: a stream without a byte for this long is stuck (bookmarks come once a minute); `recheck` between lists
    that doubt each other; `relist` while a doubt stays; `jitter` before a list that follows a 410; `first` and `most` of a back-off."""

    silence: float = 90.0
    recheck: float = 2.0
    relist: float = 60.0
    jitter: float = 2.0
    first: float = 0.5
    most: float = 60.0


ORDINARY: Final = Times()


class Reflector:
    """One collection of one API server, followed until cancelled. Subclasses say what a list and a line mean."""

    def __init__(
        self,
        kube: Kube,
        path: str,
        *,
        times: Times = ORDINARY,
        pace: Pace | None = None,
        selection: Mapping[str, str] | None = None,
    ) -> None:
        self.kube = kube
        self.path = path
        self.times = times
        self.pace = pace or Pace()
        self.selection = dict(selection or {})
        self.version = ""
        self.again = asyncio.Event()  # set: end the watch and list anew
        self._failures = 0

    async def read_all(self) -> str:
        """Read the whole collection; the version to watch from."""
        raise NotImplementedError

    def line(self, line: bytes) -> str:
        """Take one line of the watch; its version, "" where it has none."""
        raise NotImplementedError

    def failed(self, reason: str) -> None:
        """The server did not answer, or refused."""

    def heard(self) -> None:
        """Something came from the server."""

    async def room(self) -> None:
        """Wait until more can be taken."""

    def doubt(self) -> float | None:
        """List anew after this many seconds, whatever the watch says; None = no need."""
        return None

    async def run(self) -> None:
        """List and watch, for ever."""
        while True:
            try:
                await self.pace.wait()
                if not self.version:
                    self.version = await self.read_all()
                    self._failures = 0
                await self._watch()
            except Expired:
                await self._anew()
            except KubeError as error:
                if error.code == GONE:
                    await self._anew()
                else:
                    await self._later(f"{error.reason}: {error.message}", min(error.retry_seconds, self.times.most))
            except KubeUnreachable as error:
                await self._later(str(error))

    async def _anew(self) -> None:
        """Not at once, and not all together: a server that forgets too fast is a busy one."""
        self.version = ""
        self._failures += 1
        await asyncio.sleep(spread(self.times.jitter) * min(self._failures, 10))

    async def _later(self, reason: str, at_least: float = 0.0) -> None:
        self.failed(reason)
        self._failures += 1
        wait = max(at_least, backoff(self._failures, first=self.times.first, most=self.times.most))
        log.info("%s%s: %s; again in %.1f s", self.kube.endpoint.server, self.path, reason, wait)
        await asyncio.sleep(wait)

    async def pages(self, decode: Callable[[bytes], T], go_on_of: Callable[[T], str]) -> AsyncIterator[T]:
        """The pages of the list; later ones are of the version of the first, or a 410 ends it."""
        go_on = ""
        while True:
            params = {**self.selection, "limit": str(PAGE)} | ({"continue": go_on} if go_on else {})
            page = decode(await self.kube.send("GET", self.path, params=params, seconds=60.0))
            yield page
            go_on = go_on_of(page)
            if not go_on:
                return
            await self.pace.wait()

    async def _watch(self) -> None:
        """Follow the stream until it ends, a new list is asked for, or a doubt is old enough."""
        self.again.clear()
        stream = asyncio.ensure_future(self._stream())
        asked = asyncio.ensure_future(self.again.wait())
        try:
            await asyncio.wait((stream, asked), return_when=asyncio.FIRST_COMPLETED, timeout=self.doubt())
            if not stream.done():
                self.version = ""
        finally:
            asked.cancel()
            stream.cancel()
            await asyncio.wait((stream, asked))
        with contextlib.suppress(asyncio.CancelledError):
            stream.result()

    async def _stream(self) -> None:
        take, count = self.line, 0
        async for line in self.kube.watch(
            self.path, self.version, silence_seconds=self.times.silence, **self.selection
        ):
            if is_error(line):
                _raise(line)
            self.version = take(line) or self.version
            count += 1
            if count % _YIELD_EVERY == 1:
                self._failures = 0
                await asyncio.sleep(0)
                await self.room()
        self.heard()  # ended by the server in good order
        self._failures = 0


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """The typed object; an answer in another form is no answer."""
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise KubeUnreachable(f"the API server's answer cannot be read: {error}") from error


def _raise(line: bytes) -> None:
    """What an ERROR line of a watch means."""
    status = decode_error(line)
    if status.code == GONE:
        raise Expired
    raise KubeUnreachable(f"the watch ended: {status.reason or status.code}: {status.message}")
