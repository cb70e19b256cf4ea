"""`/api/v1/events?watch=true`: new events as they happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import orjson
import psycopg
from asgiref.sync import sync_to_async
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from psycopg_pool import PoolTimeout

from fleet.api import errors, negotiation
from fleet.api.answers import failure, guarded, stream_of
from fleet.api.authentication import request_actor, still_the_same
from fleet.api.core_events import MOST, EventQuery, event_line, newest_events, read_event_query
from fleet.api.event_sight import sight_of
from fleet.api.rights import Actor
from fleet.api.running import running_hub, running_tail
from fleet.api.watch import BOOKMARK_SECONDS, RIGHTS_SECONDS, START_SECONDS, Wish, read_wish
from fleet.events.log import EventFilter


@dataclass(slots=True)
class _Plan:
    """A checked request."""

    actor: Actor
    query: EventQuery
    wish: Wish
    form: str


async def event_watch_view(request: HttpRequest) -> HttpResponseBase:
    """Check like a list, then stream."""
    plans: list[_Plan] = []

    def prepare(request: HttpRequest) -> HttpResponseBase:
        actor = request_actor(request)
        accepted = negotiation.accept(request.headers.get("Accept", ""))
        plans.append(_Plan(actor, read_event_query(request, actor), read_wish(request), accepted.form))
        return StreamingHttpResponse()

    checked = await sync_to_async(guarded(prepare), thread_sensitive=False)(request)
    if not plans:
        return checked
    try:
        await asyncio.wait_for(running_hub(), START_SECONDS)
    except (TimeoutError, OSError, psycopg.Error):
        return failure(errors.unavailable("Fleet's database does not answer"))
    return stream_of(_stream(request, plans[0]))


async def _stream(request: HttpRequest, plan: _Plan) -> AsyncIterator[bytes]:
    hub, tail = await running_hub(), await running_tail()
    wish, query, position, columns = plan.wish, plan.query, plan.wish.version or 0, True
    end = time.monotonic() + wish.seconds
    if position and position < hub.oldest_event:
        text = f"too old resource version: {position} ({hub.oldest_event})"
        yield orjson.dumps({"type": "ERROR", "object": errors.expired(text).status()}) + b"\n"
        return
    with tail.following():
        if wish.initial or not position:
            rows, position = await sync_to_async(newest_events, thread_sensitive=False)(query, MOST)
            for row in reversed(rows):
                yield event_line("ADDED", row, plan.form, columns=columns)
                columns = False
        if wish.initial:
            yield _bookmark(position, initial_end=True)
        marked = looked = time.monotonic()
        while (now := time.monotonic()) < end and not hub.ending:
            if now - looked > RIGHTS_SECONDS:
                looked = now
                if not await sync_to_async(still_the_same, thread_sensitive=False)(request, plan.actor):
                    return
                query = replace(query, sight=await sync_to_async(sight_of, thread_sensitive=False)(plan.actor))
            if wish.bookmarks and now - marked > BOOKMARK_SECONDS:
                marked = now
                yield _bookmark(position)
            try:
                found, position = await tail.next(position, EventFilter(sight=query.sight), min(1.0, end - now))
            except (psycopg.Error, PoolTimeout, OSError):
                return  # the database went away: the client comes again with its last position
            for row in found:
                if query.allows(row):
                    yield event_line("ADDED", row, plan.form, columns=columns)
                    columns = False
        if wish.bookmarks:
            yield _bookmark(position)


def _bookmark(position: int, *, initial_end: bool = False) -> bytes:
    meta: dict[str, object] = {"resourceVersion": str(position), "creationTimestamp": None}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj = {"kind": "Event", "apiVersion": "v1", "metadata": meta, "involvedObject": {}}
    return orjson.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"
