"""`?watch=true`: a stream of changes, by transition for selectors, with bookmarks, 410 and the initial list when asked for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import psycopg
from asgiref.sync import sync_to_async
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone

from fleet.api import errors, listing, negotiation, table
from fleet.api.answers import failure, guarded, stream_of
from fleet.api.authentication import request_actor, still_the_same
from fleet.api.redact import redact
from fleet.api.rights import Actor
from fleet.api.running import running_hub
from fleet.api.selectors import field_text
from fleet.api.storage import ListQuery, Storage, storage_for
from fleet.control.kinds import API_VERSION, Json
from fleet.events.hub import Frame, Hub, TooOld
from fleet.events.publish import ADDED, DELETED

BOOKMARK_SECONDS = 60.0
RIGHTS_SECONDS = 5.0
START_SECONDS = 5.0


@dataclass(slots=True)
class Selection:
    """What a watcher sees. `told`: objects of the initial list that no frame has come for yet."""

    storage: Storage
    query: ListQuery
    told: dict[int, bool] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """No selector and no scope: then nothing needs to be remembered."""
        q = self.query
        return not q.labels.requirements and not q.fields.terms and q.clusters is None

    def held(self, obj: Json, past: list[Json]) -> bool:
        """Whether the object was in the selection. `past`: what its labels and fields had been, oldest first, over what they are in `obj`."""
        labels = next((p["labels"] for p in past if "labels" in p), obj["metadata"].get("labels", {}))
        fields: dict[str, str] = {}
        for each in reversed(past):
            fields |= each.get("fields", {})
        if not self.query.labels.matches(labels):
            return False
        for path, operator, value in self.query.fields.terms:
            if (fields.get(path, field_text(obj, path)) == value) != (operator == "="):
                return False
        path = self.storage.kind.cluster_field or ""
        return self.query.clusters is None or not path or fields.get(path, field_text(obj, path)) in self.query.clusters

    def events(self, frames: list[Frame]) -> list[tuple[str, Frame]]:
        """What to send for a batch, in its order: every step into, within and out of the selection, as the log has it.

        So a client who comes again from any position is told the same. Objects may be newer than their frames; of several
        frames of one object that only change it, the last is sent.
        """
        by_object: dict[int, list[Frame]] = {}
        for frame in frames:
            by_object.setdefault(frame.object_id, []).append(frame)
        out: list[tuple[str, Frame]] = []
        for own in by_object.values():
            out += self._steps(own)
        return sorted(out, key=lambda e: e[1].rv)

    def _steps(self, own: list[Frame]) -> Iterator[tuple[str, Frame]]:
        shown = self._in_scope(own[-1].obj)
        held = own[0].op != ADDED and self._held_at(own, 0)
        held = self.told.pop(own[0].object_id, held)
        for number, frame in enumerate(own, 1):
            before, held = held, frame.op != DELETED and shown and self._held_at(own, number)
            if before and held and number == len(own):
                yield "MODIFIED", frame
            elif held and not before:
                yield "ADDED", frame
            elif before and not held:
                yield "DELETED", frame if shown else _stripped(frame)

    def _held_at(self, own: list[Frame], number: int) -> bool:
        """Whether the object was in the selection after that many of its frames."""
        if self.everything:
            return True
        last = own[-1]
        return self.held(last.obj, [f.old for f in own[number:] if f.old] + ([last.later] if last.later else []))

    def _in_scope(self, obj: Json) -> bool:
        """Whether the reader may see the object as it is now."""
        return self.query.clusters is None or self.storage.cluster_name(obj) in self.query.clusters


def _stripped(frame: Frame) -> Frame:
    """A deletion for who may not see the object any more: what it became is none of their business."""
    kept = ("name", "uid", "resourceVersion", "creationTimestamp", "generation")
    meta = {k: v for k, v in frame.obj["metadata"].items() if k in kept}
    return replace(
        frame, obj={**{k: frame.obj[k] for k in ("apiVersion", "kind")}, "metadata": meta, "spec": {}}, lines={}
    )


@dataclass(slots=True)
class Form:
    """How objects are written on the stream."""

    storage: Storage
    accepted: negotiation.Accepted
    include: str
    first: bool = True

    def line(self, type_: str, obj: Json) -> bytes:
        """One line of the stream."""
        if self.accepted.form == "table":
            version = obj["metadata"].get("resourceVersion", "")
            shown = table.table(
                self.storage.kind,
                [obj],
                include=self.include,
                resource_version=version,
                now=timezone.now(),
                columns=self.first,
            )
            self.first = False
        else:
            shown = table.partial(obj) if self.accepted.form in ("partial", "partial-list") else obj
        return orjson.dumps({"type": type_, "object": shown}) + b"\n"

    def frame(self, type_: str, frame: Frame) -> bytes:
        """The line of a frame, encoded once for all watchers of the same form."""
        if self.accepted.form == "table":
            return self.line(type_, redact(self.storage.kind, frame.obj))
        key = (type_, self.accepted.form)
        if key not in frame.lines:
            frame.lines[key] = self.line(type_, redact(self.storage.kind, frame.obj))
        return frame.lines[key]

    def bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        """Progress without a change."""
        meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: Json = {"apiVersion": API_VERSION, "kind": self.storage.kind.kind, "metadata": meta}
        if self.accepted.form == "table":
            row = {
                "cells": [],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta},
            }
            obj = {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": str(version)},
                "columnDefinitions": None,
                "rows": [row],
            }
        return orjson.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"


async def watch_view(request: HttpRequest, rest: str) -> HttpResponseBase:
    """Check like a list, then stream."""
    from fleet.api.views import NoSuchPath, page_not_found, parse_path

    plan: dict[str, Any] = {}

    def prepare(request: HttpRequest) -> HttpResponseBase:
        actor = request_actor(request)
        try:
            kind, name, sub = parse_path(rest)
        except NoSuchPath:
            return page_not_found()
        if sub:
            raise errors.method_not_allowed("watch")
        storage = storage_for(kind.plural)
        if not actor.may("watch", kind, None):
            raise errors.forbidden(actor.name, "watch", kind)
        query = listing.read_query(request, storage, actor)
        if name is not None:
            from fleet.api.selectors import FieldSelector

            query = ListQuery(
                query.labels,
                FieldSelector((("metadata.name", "=", name), *query.fields.terms)),
                clusters=query.clusters,
            )
        plan.update(
            actor=actor,
            storage=storage,
            query=query,
            wish=read_wish(request),
            accepted=negotiation.accept(request.headers.get("Accept", "")),
        )
        return StreamingHttpResponse()

    checked = await sync_to_async(guarded(prepare), thread_sensitive=False)(request)
    if not isinstance(checked, StreamingHttpResponse):
        return checked
    try:
        hub = await asyncio.wait_for(running_hub(), START_SECONDS)
    except (TimeoutError, OSError, psycopg.Error):
        return failure(errors.unavailable("Fleet's database does not answer"))
    form = Form(plan["storage"], plan["accepted"], request.GET.get("includeObject", "Metadata"))
    stream = _stream(request, hub, form, Selection(plan["storage"], plan["query"]), plan["actor"], plan["wish"])
    return stream_of(stream)


@dataclass(frozen=True, slots=True)
class Wish:
    """Parameters of a watch."""

    version: int | None
    bookmarks: bool
    initial: bool
    seconds: float


def read_wish(request: HttpRequest) -> Wish:
    """Parameters of the query; ApiError for what contradicts itself."""
    initial = request.GET.get("sendInitialEvents")
    match = request.GET.get("resourceVersionMatch")
    if initial is not None and match != "NotOlderThan":
        raise errors.options_invalid(
            "ListOptions",
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            "FieldValueForbidden",
        )
    if initial is None and match is not None:
        raise errors.options_invalid(
            "ListOptions",
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            "FieldValueForbidden",
        )
    seconds = listing.number(request, "timeoutSeconds") or random.uniform(1800, 3600)
    bookmarks = request.GET.get("allowWatchBookmarks") in ("1", "true", "True")
    return Wish(listing.resource_version(request), bookmarks, initial in ("1", "true", "True"), float(seconds))


async def _stream(
    request: HttpRequest, hub: Hub, form: Form, selection: Selection, actor: Actor, wish: Wish
) -> AsyncIterator[bytes]:
    kind = form.storage.kind.number
    end = time.monotonic() + wish.seconds
    with hub.watching(kind):
        position = wish.version or 0
        if wish.initial or not wish.version:
            async for line, reached in _initial(form, selection):
                position = reached
                if line:
                    yield line
            if wish.initial:
                yield form.bookmark(position, initial_end=True)
        bookmark_at, rights_at = time.monotonic() + BOOKMARK_SECONDS, time.monotonic() + RIGHTS_SECONDS
        while (now := time.monotonic()) < end and not hub.ending:
            if now >= rights_at:
                rights_at = now + RIGHTS_SECONDS
                if not await sync_to_async(still_the_same, thread_sensitive=False)(request, actor):
                    return
            if wish.bookmarks and now >= bookmark_at:
                bookmark_at = now + BOOKMARK_SECONDS
                yield form.bookmark(position)
            try:
                frames, reached = await hub.next(kind, position, max(0.0, min(end, rights_at, bookmark_at) - now))
                position = max(position, reached)  # a list may be newer than what this process has read of the log
            except (psycopg.Error, OSError):
                return  # the database went away: the client comes again with its last position
            except TooOld as error:
                yield orjson.dumps({"type": "ERROR", "object": errors.expired(str(error)).status()}) + b"\n"
                return
            for type_, frame in selection.events(frames):
                yield form.frame(type_, frame)
        if wish.bookmarks:
            yield form.bookmark(position)


async def _initial(form: Form, selection: Selection) -> AsyncIterator[tuple[bytes, int]]:
    """ADDED for all that match, page by page; every item carries the position from which the watch goes on."""
    query, position = selection.query, 0
    ids = not selection.everything
    while True:
        page = await sync_to_async(form.storage.page, thread_sensitive=False)(
            ListQuery(query.labels, query.fields, query.after, 1_000, query.clusters)
        )
        position = position or page.rv
        for obj in page.objects:
            yield form.line("ADDED", redact(form.storage.kind, obj)), position
        if ids and page.objects:
            known = await sync_to_async(form.storage.ids_of, thread_sensitive=False)(
                [o["metadata"]["name"] for o in page.objects]
            )
            selection.told.update(dict.fromkeys(known, True))
        if not page.next_name:
            yield b"", position
            return
        query = ListQuery(query.labels, query.fields, page.next_name, 1_000, query.clusters)
