"""`/ws/live?path=…&position=…`: the fragments of a page, rendered again when something that it shows has changed.

The page's own builder renders them, so an old page plus its frames is a reloaded page. A topic is one address seen with one set of
rights: it is rendered once for all who have it open, at most four times a second and less often when rendering is dear. A
connection sends what differs from what it sent before, and every two seconds says that it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import orjson
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth import get_user_model
from django.db import close_old_connections
from django.http import QueryDict

from fleet.api.authentication import actor_of
from fleet.api.rights import Actor
from fleet.api.running import running_hub
from fleet.console import pages
from fleet.console.page import Missing, NotAllowed, Page, shared_context
from fleet.console.urls import LIVE, LIVE_ONE
from fleet.events.hub import Hub

EVERY_SECONDS: Final = 0.25  # between two renderings of a topic
SHARE: Final = 5  # a topic renders for at most a fifth of the time
HEARTBEAT_SECONDS: Final = 2.0
RIGHTS_SECONDS: Final = 5.0  # a role that was taken away stops frames after at most this long
REFRESH_SECONDS: Final = 10.0  # what moves without an event (counters, refusals) is this fresh
NO_RIGHTS, BAD_PATH = 4403, 4404


def build(actor: Actor, path: str) -> Page:
    """The page of an address, as its reader sees it."""
    parts = urlsplit(path)
    query = QueryDict(parts.query)
    steps = parts.path.strip("/").split("/")
    if steps[0] == "machines" and len(steps) in (2, 3):
        return pages.machine(actor, query, *steps[1:])
    if len(steps) == 2 and steps[0] in LIVE_ONE:
        return LIVE_ONE[steps[0]](actor, query, steps[1])
    if steps[0] == "clusters" and steps[2:] == ["nodes"]:
        return pages.nodes(actor, query, steps[1])
    if steps[:2] == ["safety", "policies"] and len(steps) == 3:
        return pages.policy(actor, query, steps[2])
    builder = LIVE.get(parts.path.strip("/"))
    if builder is None:
        raise Missing(f"{parts.path} is no live page")
    return builder(actor, query)


def reader(user_id: int) -> Actor:
    """Who looks, by the rights of this moment."""
    close_old_connections()
    user = get_user_model().objects.filter(pk=user_id, is_active=True).first()
    actor = actor_of(user, "") if user is not None else None
    if actor is None or not actor.bindings:
        raise NotAllowed("the session has no rights any more")
    return actor


def render(actor: Actor, path: str) -> tuple[Page, dict[str, str]]:
    """Page and fragments."""
    close_old_connections()
    page = build(actor, path)
    return page, page.render_fragments(shared_context(actor))


class Topic:
    """One address seen with one set of rights, rendered while somebody has it open."""

    def __init__(self, hub: Hub, path: str, actor: Actor) -> None:
        self.hub, self.path, self.actor = hub, path, actor
        self.position = 0  # what the fragments are at least as new as
        self.readers = 0
        self.fragments: dict[str, str] = {}
        self.digests: dict[str, bytes] = {}
        self.kinds: frozenset[int] = frozenset()
        self.failure: Exception | None = None
        self.ready = asyncio.Event()
        self.moved = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                cost = await self._render()
                self.ready.set()
                await asyncio.sleep(max(EVERY_SECONDS, cost * SHARE))
                await self._wait_for_change()
        except (NotAllowed, Missing) as refusal:
            self.failure = refusal
        finally:
            self.ready.set()
            self._tell()

    async def _render(self) -> float:
        begun, position = time.monotonic(), self.hub.position
        page, fragments = await sync_to_async(render, thread_sensitive=False)(self.actor, self.path)
        self.digests = {i: hashlib.blake2b(h.encode(), digest_size=12).digest() for i, h in fragments.items()}
        self.kinds, self.fragments, self.position = page.kinds, fragments, position
        self._tell()
        return time.monotonic() - begun

    async def _wait_for_change(self) -> None:
        end = time.monotonic() + REFRESH_SECONDS
        while not self.behind and (left := end - time.monotonic()) > 0:
            await self.hub.wait_for_news(left)

    @property
    def behind(self) -> bool:
        """Whether something of it has changed since it was rendered."""
        return self.hub.changed_since(self.kinds, self.position)

    @property
    def reached(self) -> int:
        """The position up to which its fragments show everything."""
        return self.position if self.behind else self.hub.position

    def _tell(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()


class Topics:
    """The topics that somebody has open in this process."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, tuple[tuple[str, str], ...]], Topic] = {}

    @contextlib.asynccontextmanager
    async def reading(self, path: str, actor: Actor) -> Any:
        """The topic of that address and those rights, shared."""
        key = (path, actor.bindings)
        hub = await running_hub()
        topic = self._open.get(key)
        if topic is None or topic.task.done() or topic.hub is not hub:
            topic = self._open[key] = Topic(hub, path, actor)
        topic.readers += 1
        try:
            yield topic
        finally:
            topic.readers -= 1
            if not topic.readers:
                if self._open.get(key) is topic:
                    del self._open[key]
                topic.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await topic.task


topics = Topics()


class LiveConsumer(AsyncWebsocketConsumer):
    """One open page."""

    async def connect(self) -> None:
        user = self.scope.get("user")
        query = parse_qs(self.scope.get("query_string", b"").decode())
        self.path = query.get("path", ["/"])[0][:2_000]
        position = query.get("position", ["0"])[0]
        self.position = int(position) if position.isdigit() and len(position) < 20 else 0
        self.sent: dict[str, bytes] = {}
        self.task: asyncio.Task[None] | None = None
        if user is None or not user.is_authenticated:
            await self.close(code=NO_RIGHTS)
            return
        self.user_id = user.pk
        await self.accept()
        self.task = asyncio.create_task(self._follow())

    async def disconnect(self, code: int) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def _follow(self) -> None:
        """Follow the topic of this moment's rights; when they change, the topic of the new ones."""
        try:
            while True:
                actor = await sync_to_async(reader, thread_sensitive=False)(self.user_id)
                async with topics.reading(self.path, actor) as topic:
                    await self._read(topic, actor)
        except NotAllowed:
            await self.close(code=NO_RIGHTS)
        except Missing:
            await self.close(code=BAD_PATH)

    async def _read(self, topic: Topic, actor: Actor) -> None:
        """Send what changes until the rights do."""
        await topic.ready.wait()
        await self._catch_up(topic)
        checked = beat = time.monotonic()
        while topic.failure is None:
            moved = topic.moved
            beat = await self._send(topic, beat)
            if time.monotonic() - checked > RIGHTS_SECONDS:
                checked = time.monotonic()
                now = await sync_to_async(reader, thread_sensitive=False)(self.user_id)
                if now.bindings != actor.bindings:
                    return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), HEARTBEAT_SECONDS)
        raise topic.failure

    async def _catch_up(self, topic: Topic) -> None:
        """The page may be newer than this process's view of the log: wait a moment, so that no frame takes it back."""
        end = time.monotonic() + HEARTBEAT_SECONDS
        while topic.hub.position < self.position and time.monotonic() < end:
            await topic.hub.wait_for_news(EVERY_SECONDS)
        while topic.behind and topic.failure is None and time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(topic.moved.wait(), EVERY_SECONDS)

    async def _send(self, topic: Topic, beat: float) -> float:
        """What differs from what was sent and what is gone; with nothing new a heartbeat, unless the log cannot be read. When it was sent."""
        first = not self.sent
        fresh = [i for i, digest in topic.digests.items() if self.sent.get(i) != digest]
        gone = [i for i in self.sent if i not in topic.digests]
        self.sent = dict(topic.digests)
        frame: dict[str, Any] = {"position": topic.reached}
        now = time.monotonic()
        if fresh or gone:
            frame["fragments"] = [{"id": i, "html": topic.fragments[i]} for i in fresh]
            frame["fragments"] += [{"id": i, "html": ""} for i in gone]
        elif not first and (now - beat < HEARTBEAT_SECONDS or topic.hub.age > HEARTBEAT_SECONDS * 2):
            return beat
        await self.send(text_data=orjson.dumps(frame).decode())
        return now
