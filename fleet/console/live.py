"""`/ws/live?path=…`: the fragments of a page, rendered again when something that it shows has changed.

The page's own builder renders them, so an old page plus its frames is a reloaded page. A connection sends only what differs
from what it sent before, at most four times a second, and once every two seconds says that it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth import get_user_model
from django.db import close_old_connections
from django.http import QueryDict

from fleet.api.authentication import actor_of
from fleet.api.rights import Actor
from fleet.api.watch import running_hub
from fleet.console import pages
from fleet.console.page import Missing, NotAllowed, Page, shared_context
from fleet.console.urls import LIVE
from fleet.events.hub import Hub

EVERY_SECONDS = 0.25  # between frames of one connection
HEARTBEAT_SECONDS = 2.0
RIGHTS_SECONDS = 5.0
NO_RIGHTS, BAD_PATH = 4403, 4404


def build(actor: Actor, path: str) -> Page:
    """The page of an address, as its reader sees it."""
    parts = urlsplit(path)
    query = QueryDict(parts.query)
    steps = parts.path.strip("/").split("/")
    if steps[0] == "machines" and len(steps) in (2, 3):
        return pages.machine(actor, query, *steps[1:])
    if steps[0] == "clusters" and len(steps) == 2:
        return pages.cluster(actor, query, steps[1])
    builder = LIVE.get(parts.path.strip("/"))
    if builder is None:
        raise Missing(f"{parts.path} is no live page")
    return builder(actor, query)


class LiveConsumer(AsyncWebsocketConsumer):
    """One open page."""

    async def connect(self) -> None:
        user = self.scope.get("user")
        self.path = parse_qs(self.scope.get("query_string", b"").decode()).get("path", ["/"])[0][:2_000]
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

    def _render(self) -> tuple[Page, dict[str, str]]:
        """Page and fragments by the rights of this moment."""
        close_old_connections()
        user = get_user_model().objects.filter(pk=self.user_id, is_active=True).first()
        actor = actor_of(user, "") if user is not None else None
        if actor is None or not actor.bindings:
            raise NotAllowed("the session has no rights any more")
        page = build(actor, self.path)
        return page, page.render_fragments(shared_context(actor))

    async def _follow(self) -> None:
        try:
            hub = await running_hub()
            page, fragments = await sync_to_async(self._render, thread_sensitive=False)()
            await self._send(hub, fragments, first=True)
            await self._loop(hub, page)
        except NotAllowed:
            await self.close(code=NO_RIGHTS)
        except Missing:
            await self.close(code=BAD_PATH)

    async def _loop(self, hub: Hub, page: Page) -> None:
        position, beat, rights = hub.position, time.monotonic(), time.monotonic()
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            now = time.monotonic()
            changed = hub.changed_since(page.kinds, position)
            if changed or now - rights > RIGHTS_SECONDS:
                position, rights = hub.position, now
                _, fragments = await sync_to_async(self._render, thread_sensitive=False)()
                if await self._send(hub, fragments):
                    beat = now
            if now - beat > HEARTBEAT_SECONDS and hub.age < 5:
                beat = now
                await self.send(text_data=orjson.dumps({"position": hub.position}).decode())

    async def _send(self, hub: Hub, fragments: dict[str, str], *, first: bool = False) -> bool:
        """Send what differs. The first time a page that was just loaded gets everything: it may be older than this connection."""
        fresh = {i: h for i, h in fragments.items() if self.sent.get(i) != _digest(h)}
        self.sent |= {i: _digest(h) for i, h in fresh.items()}
        if not fresh:
            return False
        frame: dict[str, Any] = {
            "position": hub.position,
            "fragments": [{"id": i, "html": h} for i, h in fresh.items()],
        }
        await self.send(text_data=orjson.dumps(frame).decode())
        return True


def _digest(html: str) -> bytes:
    return hashlib.blake2b(html.encode(), digest_size=12).digest()
