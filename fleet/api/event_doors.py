"""Doors for events from outside: CloudEvents, Alertmanager, Redfish. A request is stored as a whole or not at all.

What comes is read in a thread and written by a few connections; who comes while all places are taken is told to come again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import orjson
import psycopg
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from psycopg_pool import PoolTimeout

from fleet.api import errors, full
from fleet.api.answers import failure, guarded
from fleet.api.authentication import request_actor
from fleet.api.errors import ApiError
from fleet.api.jsonbody import loads
from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids
from fleet.control.db import pool
from fleet.control.kinds import Json
from fleet.events import alertmanager, redfish
from fleet.events.incoming import Incoming, Unreadable, cloud_events
from fleet.events.ingest import Forbidden, Full, Outcome, Publisher, store
from fleet.events.publish import CHANNEL

log = logging.getLogger("fleet.events")
Reader = Callable[[HttpRequest], list[Incoming]]

PLACES: Final = 16  # requests in work in this process, bodies in memory
WRITERS: Final = 2  # connections that write them; the others of the pool are for readers
_BORROW_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 1
STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_TYPES: Final = ("application/json", STRUCTURED, BATCH)
_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "subject", "time", "severity")


class Gate:
    """Places for requests in one process; nobody waits for one."""

    def __init__(self, places: int = PLACES, writers: int = WRITERS) -> None:
        self._free = places
        self._writers: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._most = writers

    def __enter__(self) -> Gate:
        if self._free <= 0:
            raise errors.too_many_requests(
                "too many events at once: nothing of this request was stored", _RETRY_SECONDS
            )
        self._free -= 1
        return self

    def __exit__(self, *error: object) -> None:
        self._free += 1

    @property
    def writer(self) -> asyncio.Semaphore:
        """Turn to write, in order of coming."""
        return self._writers.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._most))


gate = Gate()


@dataclass(slots=True)
class _Read:
    """A request that was understood."""

    events: list[Incoming]
    by: Publisher


def door(reader: Reader) -> Callable[..., Any]:
    """The view of one form of events."""

    @csrf_exempt
    async def view(request: HttpRequest) -> HttpResponseBase:
        return await publish(request, reader)

    return view


async def publish(request: HttpRequest, reader: Reader) -> HttpResponseBase:
    """Read, check, store; 202 with what became of it once it is durable."""
    found: list[_Read] = []

    def read(request: HttpRequest) -> HttpResponseBase:
        actor = request_actor(request)
        if request.method != "POST":
            raise errors.method_not_allowed(request.method or "")
        by = publisher_of(actor)
        try:
            found.append(_Read(reader(request), by))
        except Unreadable as error:
            raise unreadable(error) from None
        return HttpResponse()

    try:
        with gate:
            refused = await sync_to_async(guarded(read), thread_sensitive=False)(request)
            if not found:
                return refused
            return _told(await _store(found[0]))
    except ApiError as error:
        return failure(error)
    except Exception:
        log.exception("unhandled error at %s", request.path)
        return failure(errors.internal())


def publisher_of(actor: Actor) -> Publisher:
    """Whom an actor may speak for; 403 for who may speak for nothing."""
    names = actor.publishes_for
    if names is None:
        return Publisher(actor.name)
    if not names:
        raise _forbidden(f'User "{actor.name}" cannot publish events: it takes the role operator')
    return Publisher(actor.name, cluster_ids(names))


def _forbidden(why: str) -> ApiError:
    return ApiError(403, "Forbidden", f"events is forbidden: {why}", {"kind": "events"})


def unreadable(error: Unreadable) -> ApiError:
    """422 with a cause for each field."""
    causes = [{"field": p.field, "reason": p.reason, "message": _message(p.reason, p.message)} for p in error.problems]
    texts = [f"{c['field']}: {c['message']}" for c in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    return ApiError(422, "Invalid", f"events are invalid: {text}", {"kind": "events", "causes": causes})


def _message(reason: str, message: str) -> str:
    return message or ("is required" if reason == "FieldValueRequired" else "is not valid")


async def _store(read: _Read) -> Outcome:
    """In its turn, on a connection of the pool. Whatever stops it says whether to come again."""
    try:
        async with gate.writer, (await pool()).connection(timeout=_BORROW_SECONDS) as conn:
            outcome = await store(conn, read.events, read.by)
            if outcome.accepted:
                await conn.execute(f"NOTIFY {CHANNEL}")
            return outcome
    except Forbidden as error:
        raise _forbidden(str(error)) from None
    except (Full, PoolTimeout) as error:
        text = f"{error}: nothing of this request was stored" if isinstance(error, Full) else _BUSY
        raise errors.too_many_requests(text, 30 if isinstance(error, Full) else _RETRY_SECONDS) from None
    except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
        if full.is_full(error):
            raise full.refusal(error) from None
        log.warning("events were not taken: %s", type(error).__name__)
        raise errors.unavailable(_AWAY) from None


_BUSY = "the database is busy: nothing of this request was stored"
_AWAY = "Fleet's database does not answer. Send the same events again: those that were stored count as duplicates."


def _told(outcome: Outcome) -> HttpResponse:
    body = {"accepted": outcome.accepted, "duplicates": outcome.duplicates, "quarantined": outcome.quarantined}
    response = HttpResponse(orjson.dumps(body) + b"\n", status=202, content_type="application/json")
    response["Cache-Control"] = "no-cache, private"
    return response


# -- forms -----------------------------------------------------------------------------------------------------------


def read_cloud_events(request: HttpRequest) -> list[Incoming]:
    """Binary where ce-* headers are there, else structured or a batch, by the content type or the body's own form."""
    content_type = _content_type(request)
    if "ce-specversion" in request.headers or "ce-id" in request.headers or "ce-type" in request.headers:
        return cloud_events(_binary(request, content_type))
    body = _json(request, _TYPES)
    if content_type == BATCH and not isinstance(body, list):
        raise errors.bad_request("a batch is a JSON array of events")
    if content_type == STRUCTURED and isinstance(body, list):
        raise errors.bad_request(f"an array of events has the content type {BATCH}")
    return cloud_events(body)


def _content_type(request: HttpRequest) -> str:
    return request.headers.get("Content-Type", "").split(";")[0].strip().lower()


def _json(request: HttpRequest, accepted: tuple[str, ...] = ("application/json",)) -> Any:
    if _content_type(request) not in accepted:
        raise errors.unsupported_media_type(accepted)
    body, twice = loads(request.body)
    if twice:
        raise errors.bad_request(f"the key {twice[0][:200]} stands twice")
    return body


def _binary(request: HttpRequest, content_type: str) -> Json:
    event: Json = {}
    for name in _ATTRIBUTES:
        value = request.headers.get(f"ce-{name}")
        if value is not None:
            event[name] = unquote(value, errors="replace")
    if not request.body:
        return event
    if content_type == "application/json" or content_type.endswith("+json"):
        body, twice = loads(request.body)
        if twice:
            raise errors.bad_request(f"the key {twice[0][:200]} stands twice")
        event["data"] = body
    elif content_type == "text/plain":
        event["data"] = _text(request.body)
    else:
        raise errors.unsupported_media_type(("application/json", "text/plain"))
    return event


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise errors.bad_request("the body is not valid UTF-8") from None
    if "\x00" in text:
        raise errors.bad_request("the body holds a NUL character")
    return text


def read_alerts(request: HttpRequest) -> list[Incoming]:
    """Alertmanager's webhook."""
    return alertmanager.alerts(_json(request))


def read_redfish(request: HttpRequest) -> list[Incoming]:
    """An event of a BMC."""
    return redfish.records(_json(request), request.GET.get("machine", ""))
