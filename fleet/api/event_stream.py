"""The websocket behind `/ws/events`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from urllib.parse import parse_qs

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth import get_user_model
from django.db import close_old_connections

from fleet.api.authentication import actor_of, bearer_actor
from fleet.api.errors import ApiError
from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids
from fleet.api.watch import running_hub
from fleet.control.db import Connection, connect
from fleet.control.kinds import by_kind
from fleet.events.ws import EventFilter, read_events

RIGHTS_SECONDS, HEARTBEAT_SECONDS = 5.0, 10.0
NO_RIGHTS, BAD_REQUEST, TOO_OLD = 4403, 4400, 4410


class EventsConsumer(AsyncWebsocketConsumer):
    """One reader of the event stream."""

    task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self.query = {
            k: v[0] for k, v in parse_qs(self.scope.get("query_string", b"").decode(errors="replace")).items()
        }
        actor = await sync_to_async(self._actor, thread_sensitive=False)()
        if actor is None or not actor.bindings:
            await self.close(code=NO_RIGHTS)
            return
        await self.accept()
        self.task = asyncio.create_task(self._follow(actor))

    async def disconnect(self, code: int) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    def _actor(self) -> Actor | None:
        close_old_connections()
        headers = dict(self.scope.get("headers", []))
        try:
            if b"authorization" in headers:
                return bearer_actor(headers[b"authorization"].decode(errors="replace"), "")
        except ApiError:
            return None
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            return None
        fresh = get_user_model().objects.filter(pk=user.pk, is_active=True).first()
        return actor_of(fresh, "") if fresh is not None else None

    def _filter(self, actor: Actor) -> EventFilter:
        """400 as a close code and a sentence for what cannot be read."""
        kind = by_kind(self.query["kind"]) if self.query.get("kind") else None
        if self.query.get("kind") and kind is None:
            raise ValueError(f"there is no kind {self.query['kind'][:50]}")
        severity = {"": 0, "normal": 0, "warning": 1, "error": 2}.get(self.query.get("severity", ""))
        if severity is None:
            raise ValueError("severity is normal, warning or error")
        clusters: tuple[int, ...] | None = None
        names = {self.query["cluster"]} if self.query.get("cluster") else None
        if actor.clusters is not None:
            names = set(actor.clusters) if names is None else names & actor.clusters
        if names is not None:
            clusters = tuple(cluster_ids(names).values())
        return EventFilter(
            kind.number if kind else None,
            self.query.get("name", "")[:253],
            self.query.get("type", "")[:100].replace("%", ""),
            severity,
            clusters,
        )

    async def _follow(self, actor: Actor) -> None:
        after = self.query.get("after", "")
        if after and not (after.isascii() and after.isdigit() and len(after) < 19):
            return await self._refuse(BAD_REQUEST, "after must be a position that this server gave out")
        try:
            wanted = await sync_to_async(self._filter, thread_sensitive=False)(actor)
        except ValueError as error:
            return await self._refuse(BAD_REQUEST, str(error))
        hub = await running_hub()
        position = int(after) if after else hub.position
        if after and position < hub.oldest:
            return await self._refuse(
                TOO_OLD, f"position {position} is older than what is kept ({hub.oldest}); start without after"
            )
        connection = await connect()
        try:
            await self._pump(connection, position, wanted, actor)
        finally:
            await connection.close()

    async def _pump(self, connection: Connection, position: int, wanted: EventFilter, actor: Actor) -> None:
        hub = await running_hub()
        rights = beat = time.monotonic()
        while True:
            events, position = await read_events(connection, position, wanted)
            for event in events:
                await self.send(text_data=event.decode())
            now = time.monotonic()
            if now - rights > RIGHTS_SECONDS:
                rights = now
                again = await sync_to_async(self._actor, thread_sensitive=False)()
                if again is None or again.bindings != actor.bindings:
                    return await self._refuse(NO_RIGHTS, "the rights of this connection have changed")
            if now - beat > HEARTBEAT_SECONDS:
                beat = now
                await self.send(text_data=f'{{"position":"{position}"}}')
            if not events:
                await hub.wait_for_news(0.25)

    async def _refuse(self, code: int, sentence: str) -> None:
        await self.close(code=code, reason=sentence)
