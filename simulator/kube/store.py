"""Versions: one revision for all writes, the present by key, and the past as far back as it is kept.

Everything happens on one event loop and without awaiting, so that each write is whole. Keys are `namespace/name` or `name`, in the
order of bytes, as etcd has them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import Final, NamedTuple

import orjson

from simulator.kube.packing import Packer, body_of, head_of, rendered
from simulator.kube.resources import PODS, RESOURCES, Json, Resource

HISTORY: Final = 50_000  # events a collection keeps at least, unless it is told to forget
_SHORTER: Final = {"leases": 10}  # 20,000 nodes renew 2,000 a second, which nobody reads twice
ITEM: Final = b"{"


class Entry(NamedTuple):
    """An object at a revision, packed."""

    revision: int
    data: bytes


class Change(NamedTuple):
    """One event. `after` is the last state of what was deleted, at the revision of its end."""

    revision: int
    kind: str  # ADDED, MODIFIED, DELETED
    key: str
    after: Entry
    before: Entry | None


class Forgotten(Exception):
    """The past asked for is no longer kept."""


class Collection:
    """All objects of one resource. `forgotten`: the newest revision whose successors may be missing below."""

    def __init__(self, resource: Resource, packer: Packer, history: int = HISTORY) -> None:
        self.resource = resource
        self.packer = packer
        self.keys: list[str] = []
        self.entries: dict[str, Entry] = {}
        self.log: list[Change] = []
        self.forgotten = 0
        self._dropped = 0  # the newest change that the log had and has no more
        self.by_node: dict[str, set[str]] = {}  # pods only
        self._history = history
        self._waiting: set[asyncio.Future[None]] = set()
        self._head = head_of(resource)

    def json(self, entry: Entry, head: bytes | None = None) -> bytes:
        """An entry as the API shows it: with kind and apiVersion unless another beginning is given."""
        return rendered(self.packer.unpack(entry.data), entry.revision, self._head if head is None else head)

    def decode(self, entry: Entry) -> Json:
        """An entry as a dictionary of its own."""
        found: Json = orjson.loads(self.json(entry))
        return found

    def get(self, key: str) -> Json | None:
        """The object, or None."""
        entry = self.entries.get(key)
        return None if entry is None else self.decode(entry)

    def put(self, key: str, entry: Entry) -> None:
        """Create or replace; tell those who watch."""
        before = self.entries.get(key)
        if before is None:
            insort(self.keys, key)
        self.entries[key] = entry
        self._tell(Change(entry.revision, "MODIFIED" if before else "ADDED", key, entry, before))

    def take_out(self, key: str, entry: Entry) -> None:
        """Delete; `entry` is the last state at the revision of the end."""
        before = self.entries.pop(key)
        del self.keys[bisect_left(self.keys, key)]
        self._tell(Change(entry.revision, "DELETED", key, entry, before))

    def _tell(self, change: Change) -> None:
        self.log.append(change)
        if len(self.log) > 2 * self._history:
            self.forget(self.log[-self._history].revision - 1)
        for each in self._waiting:
            if not each.done():
                each.set_result(None)
        self._waiting.clear()

    def forget(self, revision: int) -> None:
        """Drop the past up to a revision."""
        self.forgotten = max(self.forgotten, revision)
        gone = self._after(revision)
        if gone:
            self._dropped = self.log[gone - 1].revision
            del self.log[:gone]

    def _after(self, revision: int) -> int:
        return bisect_right(self.log, revision, key=lambda change: change.revision)

    def since(self, revision: int, limit: int = 256, *, following: bool = False) -> list[Change]:
        """Changes after a revision, the oldest first. Who is `following` has missed nothing by a compaction that dropped nothing new."""
        if revision < (self._dropped if following else self.forgotten):
            raise Forgotten
        at = self._after(revision)
        return self.log[at : at + limit]

    async def changed(self, seconds: float | None) -> None:
        """Until something changes, or the time is over."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait((waiting,), timeout=seconds)
        finally:
            self._waiting.discard(waiting)

    def before(self, revision: int) -> dict[str, Entry | None]:
        """What stood at a revision under the keys that changed since."""
        if revision < self.forgotten:
            raise Forgotten
        out: dict[str, Entry | None] = {}
        for change in self.log[self._after(revision) :]:
            out.setdefault(change.key, change.before)
        return out

    def range(self, prefix: str = "", start: str = "") -> tuple[int, int]:
        """Places of the keys under a prefix (a namespace with its slash), from `start` on."""
        low = bisect_left(self.keys, max(prefix, start))
        return low, bisect_left(self.keys, prefix[:-1] + "0") if prefix else len(self.keys)  # "0" follows "/"


class Store:
    """All collections of one server."""

    def __init__(self, packers: dict[str, Packer] | None = None, history: int = HISTORY) -> None:
        self.revision = 1
        self.collections = {
            r.plural: Collection(r, (packers or {}).get(r.plural, Packer()), history // _SHORTER.get(r.plural, 1))
            for r in RESOURCES
        }

    def of(self, resource: Resource) -> Collection:
        """The collection of a resource."""
        return self.collections[resource.plural]

    def put(self, resource: Resource, key: str, obj: Json) -> Entry:
        """Write an object at the next revision."""
        entry = self.put_body(resource, key, body_of(obj))
        if resource is PODS and (node := (obj.get("spec") or {}).get("nodeName")):
            self.of(PODS).by_node.setdefault(node, set()).add(key)
        return entry

    def put_body(self, resource: Resource, key: str, body: bytes) -> Entry:
        """Write an object of which only what no index knows has changed."""
        collection = self.of(resource)
        self.revision += 1
        entry = Entry(self.revision, collection.packer.pack(body))
        collection.put(key, entry)
        return entry

    def delete(self, resource: Resource, key: str, last: Json | None = None) -> Entry:
        """Delete an object; `last` is how it ends, if not as it stands."""
        collection = self.of(resource)
        self.revision += 1
        data = collection.packer.pack(body_of(last)) if last else collection.entries[key].data
        entry = Entry(self.revision, data)
        if resource is PODS:
            node = (collection.decode(entry).get("spec") or {}).get("nodeName", "")
            collection.by_node.get(node, set()).discard(key)
        collection.take_out(key, entry)
        return entry

    def compact(self) -> None:
        """Forget the past of everything, as etcd does every five minutes."""
        for collection in self.collections.values():
            collection.forget(self.revision)

    def sizes(self) -> Iterable[tuple[str, int, int]]:
        """(plural, objects, bytes packed) of what is there."""
        for plural, collection in self.collections.items():
            yield plural, len(collection.entries), sum(len(e.data) for e in collection.entries.values())
