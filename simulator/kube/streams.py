"""Watches: what happened after a version, then what happens, one line each; bookmarks; the end in good order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from simulator.kube.packing import head_of
from simulator.kube.refusals import Refusal, bad_request, expired
from simulator.kube.resources import Json
from simulator.kube.selection import Selection
from simulator.kube.store import Change, Collection, Forgotten, Store

BOOKMARK_SECONDS: Final = 60.0
LONGEST_SECONDS: Final = 1800.0
_BATCH: Final = 128
_END: Final = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a watch asks for. `since` None: begin with what is there."""

    since: int | None
    bookmarks: bool
    seconds: float
    initial: bool  # say when the beginning is told (sendInitialEvents)


def wish_of(query: Mapping[str, str]) -> Wish:
    """From the query of a request."""
    version = query.get("resourceVersion", "")
    if version and not version.isdecimal():
        text = f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
        raise Refusal(500, "", text)
    try:
        seconds = float(query.get("timeoutSeconds") or LONGEST_SECONDS)
    except ValueError:
        raise bad_request("timeoutSeconds is no number") from None
    bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
    initial = query.get("sendInitialEvents") == "true"
    since = None if initial or version in ("", "0") else int(version)
    return Wish(since, bookmarks, min(seconds, LONGEST_SECONDS), initial and bookmarks)


class Stream:
    """One watch of one collection, bookmarks `every` so many seconds. `lines` yields bytes to send, several lines at a time."""

    def __init__(
        self, store: Store, collection: Collection, selection: Selection, wish: Wish, every: float = BOOKMARK_SECONDS
    ) -> None:
        self._store = store
        self._collection = collection
        self._selection = selection
        self._wish = wish
        self._every = every
        self._head = head_of(collection.resource)

    async def lines(self) -> AsyncIterator[bytes]:
        """Until its time is over, or the past it needs is gone."""
        end = time.monotonic() + self._wish.seconds
        mark = time.monotonic() + self._every
        at, following = self._wish.since, False
        if at is None:
            at, following = self._store.revision, True
            for told in self._present():
                yield told
            if self._wish.initial:
                yield self._bookmark(at, {_END: "true"})
        while time.monotonic() < end:
            try:
                changes = self._collection.since(at, _BATCH, following=following)
            except Forgotten:
                yield error_line(expired("watch").status())
                return
            following = True
            at = changes[-1].revision if changes else max(at, self._store.revision)
            told = b"".join(filter(None, (self._line(change) for change in changes)))
            if told:
                yield told
            if self._wish.bookmarks and time.monotonic() >= mark:
                mark = time.monotonic() + self._every
                yield self._bookmark(at)
            elif not changes:
                await self._collection.changed(max(0.0, min(mark, end) - time.monotonic()))

    def _present(self) -> Iterator[bytes]:
        """What is there at the first call, some at a time: it is kept packed until it is told."""
        collection = self._collection
        low, high = collection.range(self._selection.prefix)
        entries = [collection.entries[key] for key in collection.keys[low:high]]
        for begin in range(0, len(entries), _BATCH):
            some = entries[begin : begin + _BATCH]
            if not self._selection.everything:
                some = [e for e in some if self._selection.matches(collection.decode(e))]
            if some:
                yield b"".join(_line("ADDED", collection.json(e)) for e in some)

    def _line(self, change: Change) -> bytes:
        """An event as this selection sees it: who leaves the selection is DELETED, who comes into it ADDED."""
        if not change.key.startswith(self._selection.prefix):
            return b""
        collection, kind = self._collection, change.kind
        if self._selection.everything:
            return _line(kind, collection.json(change.after))
        now = kind != "DELETED" and self._selection.matches(collection.decode(change.after))
        before = change.before is not None and self._selection.matches(collection.decode(change.before))
        if not now and not before:
            return b""
        kind = "MODIFIED" if now and before else "ADDED" if now else "DELETED"
        if kind == "DELETED" and change.kind != "DELETED" and change.before is not None:
            return _line(kind, collection.json(change.before._replace(revision=change.revision)))
        return _line(kind, collection.json(change.after))

    def _bookmark(self, revision: int, annotations: Mapping[str, str] | None = None) -> bytes:
        meta: Json = {"resourceVersion": str(revision)} | ({"annotations": dict(annotations)} if annotations else {})
        return _line("BOOKMARK", self._head + b'"metadata":' + orjson.dumps(meta) + b"}")


def _line(kind: str, obj: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), obj)


def error_line(status: Json) -> bytes:
    """The ERROR line that ends a watch."""
    return _line("ERROR", orjson.dumps(status))
