"""The websocket behind `/ws/events`: CloudEvents as JSON, resumable by position, filtered, bounded by the reader's rights."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from urllib.parse import parse_qs

import psycopg
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import Error as DatabaseError
from django.db import close_old_connections
from psycopg_pool import PoolTimeout

from fleet.api.authentication import bearer_actor, session_actor
from fleet.api.errors import ApiError
from fleet.api.event_sight import sight_of
from fleet.api.rights import Actor
from fleet.api.running import running_hub, running_tail
from fleet.api.storage import cluster_ids
from fleet.control.db import pool
from fleet.control.kinds import by_kind
from fleet.events.log import SEVERITIES, EventFilter, EventRow, cloud_event
from fleet.events.tail import EventTail

log = logging.getLogger("fleet.events")
RIGHTS_SECONDS, HEARTBEAT_SECONDS, START_SECONDS = 5.0, 10.0, 5.0
SLOW_SECONDS = 10.0  # in which a client must take a batch of events that were sent to it
TRY_AGAIN, BAD_REQUEST, NO_RIGHTS, TOO_SLOW, TOO_OLD = 1013, 4400, 4403, 4408, 4410


class TooSlow(Exception):
    """The client does not read what it is sent."""


class EventsConsumer(AsyncWebsocketConsumer):
    """One reader of the event stream."""

    task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self.query = {
            k: v[0] for k, v in parse_qs(self.scope.get("query_string", b"").decode(errors="replace")).items()
        }
        try:
            actor = await sync_to_async(self._actor, thread_sensitive=False)()
        except DatabaseError:
            await self.close(code=TRY_AGAIN)
            return
        if actor is None or not actor.bindings:
            await self.close(code=NO_RIGHTS)
            return
        # Known before the handshake ends: whoever is connected is told of everything from then on.
        self.now = None if self.query.get("after") else await self._present()
        await self.accept()
        self.task = asyncio.create_task(self._run(actor))

    async def disconnect(self, code: int) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def _present(self) -> int | None:
        """Where the log stands; None when the database does not answer, which `_run` then says with a sentence."""
        try:
            return await self._horizon() - 1
        except (psycopg.Error, PoolTimeout, OSError):
            return None

    def _actor(self) -> Actor | None:
        close_old_connections()
        headers = dict(self.scope.get("headers", []))
        address = (self.scope.get("client") or ("",))[0]
        if b"authorization" not in headers:
            return session_actor(self.scope["session"].session_key, address)
        try:
            return bearer_actor(headers[b"authorization"].decode(errors="replace"), address)
        except ApiError:
            return None

    def _filter(self, actor: Actor) -> EventFilter:
        """ValueError with a sentence for what cannot be read."""
        asked = self.query
        kind = by_kind(asked["kind"]) if asked.get("kind") else None
        if asked.get("kind") and kind is None:
            raise ValueError(f"there is no kind {asked['kind'][:50]}")
        if asked.get("severity", "normal") not in SEVERITIES:
            raise ValueError(f"severity is one of {', '.join(SEVERITIES)}")
        if any("\x00" in value for value in asked.values()):
            raise ValueError("a filter holds a NUL character")
        cluster = None
        if asked.get("cluster"):
            # -1 = a cluster that is not there (yet): nothing until it is; looked up again with the rights.
            cluster = cluster_ids([asked["cluster"]]).get(asked["cluster"], -1)
        return EventFilter(
            kind=kind.number if kind else None,
            name=asked.get("name", "")[:253],
            type=asked.get("type", "")[:100],
            severity=SEVERITIES.index(asked.get("severity", "normal")),
            cluster=cluster,
            sight=sight_of(actor),
        )

    async def _run(self, actor: Actor) -> None:
        """Follow; whatever ends it closes the connection with a code that says whether to come again."""
        try:
            await self._follow(actor)
        except TooSlow:
            text = f"what was sent was not read within {SLOW_SECONDS:g} s; come again with the last position"
            await self._refuse(TOO_SLOW, text)
        except (DatabaseError, psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            log.info("an event stream ends: %s", type(error).__name__)
            await self._refuse(TRY_AGAIN, "Fleet's database does not answer; come again with the last position")
        except Exception:
            log.exception("an event stream stumbled")
            await self._refuse(1011, "an error on the server; its log says more")

    async def _follow(self, actor: Actor) -> None:
        after = self.query.get("after", "")
        if after and not (after.isascii() and after.isdigit() and len(after) < 19):
            return await self._refuse(BAD_REQUEST, "after must be a position that this server gave out")
        try:
            wanted = await sync_to_async(self._filter, thread_sensitive=False)(actor)
        except ValueError as error:
            return await self._refuse(BAD_REQUEST, str(error))
        hub = await asyncio.wait_for(running_hub(), START_SECONDS)
        tail = await running_tail()
        position = int(after) if after else self.now if self.now is not None else hub.position
        if position > hub.position and position >= await self._horizon():
            return await self._refuse(TOO_OLD, f"position {position} was never reached here; start without after")
        if position < hub.oldest_event:
            text = f"position {position} is older than what is kept ({hub.oldest_event}); start without after"
            return await self._refuse(TOO_OLD, text)
        with tail.following():
            return await self._pump(tail, position, wanted, actor)

    async def _horizon(self) -> int:
        async with (await pool()).connection(timeout=START_SECONDS) as connection:
            row = await (await connection.execute("SELECT fleet_horizon()")).fetchone()
        return int(row[0]) if row else 0

    async def _pump(self, tail: EventTail, position: int, wanted: EventFilter, actor: Actor) -> None:
        rights = beat = time.monotonic()
        while not tail.hub.ending:  # the server closes the socket then, as one that comes back (1012)
            events, position = await tail.next(position, wanted, 1.0)
            await self._send_all(events)
            now = time.monotonic()
            if now - rights > RIGHTS_SECONDS:
                rights = now
                again = await sync_to_async(self._actor, thread_sensitive=False)()
                if again is None or again.bindings != actor.bindings:
                    await self._refuse(NO_RIGHTS, "the rights of this connection have changed")
                    return
                wanted = await sync_to_async(self._filter, thread_sensitive=False)(actor)
            if now - beat > HEARTBEAT_SECONDS:
                beat = now
                await self.send(text_data=f'{{"position":"{position}"}}')

    async def _send_all(self, events: Sequence[EventRow]) -> None:
        """Whoever does not read fills the socket's buffers, and then this process's memory is not filled too."""
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                for event in events:
                    await self.send(text_data=cloud_event(event).decode())
        except TimeoutError:
            raise TooSlow from None

    async def _refuse(self, code: int, sentence: str) -> None:
        await self.close(code=code, reason=sentence)
