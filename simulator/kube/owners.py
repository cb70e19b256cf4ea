"""managedFields: who wrote which fields, and server-side apply over them.

The walks over objects are those of Fleet's own API, a port of structured-merge-diff. Left out against kube-apiserver: the cap of
updaters, the step from `kubectl apply` to server-side apply, several versions of one group.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fleet.api.fieldsets import Path, decode, encode, in_order, show
from fleet.api.structure import ABSENT, compare, field_set, merge, remove, same, with_parents
from simulator.kube.refusals import apply_conflict
from simulator.kube.resources import Json, Resource

_BEFORE: Final = "before-first-apply"
_NEVER: Final = ("kind", "apiVersion")
_META: Final = ("labels", "annotations", "finalizers", "ownerReferences", "generateName")
_ROOTS: Final[frozenset[Path]] = frozenset({("f:metadata",), ("f:spec",), ("f:status",)})


@dataclass(slots=True)
class Entry:
    """One manager's fields."""

    manager: str
    operation: str
    subresource: str = ""
    time: str = ""  # empty until a write of it has changed something
    paths: set[Path] = field(default_factory=set)

    def json(self, api_version: str) -> Json:
        """As it stands in the object."""
        out: Json = {"manager": self.manager, "operation": self.operation, "apiVersion": api_version}
        out |= ({"time": self.time} if self.time else {}) | {"fieldsType": "FieldsV1", "fieldsV1": encode(self.paths)}
        return out | ({"subresource": self.subresource} if self.subresource else {})


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, by which part of the API, and when (RFC 3339)."""

    manager: str
    time: str
    subresource: str = ""


def _read(obj: Json | None) -> list[Entry]:
    out = []
    for each in ((obj or {}).get("metadata") or {}).get("managedFields") or ():
        paths = decode(each.get("fieldsV1") or {})
        out.append(Entry(each["manager"], each["operation"], each.get("subresource", ""), each.get("time", ""), paths))
    return out


def _entry(entries: list[Entry], who: Writer, operation: str) -> Entry:
    for each in entries:
        if (each.manager, each.operation, each.subresource) == (who.manager, operation, who.subresource):
            return each
    entries.append(Entry(who.manager, operation, who.subresource))
    return entries[-1]


def _write(obj: Json, entries: Iterable[Entry], api_version: str) -> None:
    kept = sorted((e for e in entries if e.paths), key=lambda e: (e.operation, e.time, e.manager, e.subresource))
    obj["metadata"].pop("managedFields", None)
    if kept:
        obj["metadata"]["managedFields"] = [e.json(api_version) for e in kept]


def _ownable(resource: Resource, obj: Json | None, subresource: str) -> Json:
    """What a write through this part of the API can own: not status through the object, not spec through its status."""
    never = (*_NEVER, "metadata", "spec" if subresource else "status" if resource.status else "")
    out = {k: v for k, v in (obj or {}).items() if k not in never}
    meta = {k: v for k, v in ((obj or {}).get("metadata") or {}).items() if k in _META}
    return ({"metadata": meta} if meta else {}) | out


def track(resource: Resource, old: Json | None, new: Json, who: Writer) -> None:
    """Give what was added or changed to its writer; what is gone leaves everybody."""
    entries = _read(old)
    difference = compare(
        resource.tree(),
        _ownable(resource, resource.zero if old is None else old, who.subresource),
        _ownable(resource, new, who.subresource),
    )
    taken = difference.taken - _ROOTS
    for each in entries:
        each.paths -= difference.taken | difference.removed
    if taken:
        own = _entry(entries, who, "Update")
        own.paths |= taken
        own.time = who.time
    _write(new, entries, resource.api_version)


def apply(resource: Resource, live: Json | None, config: Json, who: Writer, *, force: bool) -> Json:
    """The object after a server-side apply; 409 with the owners of contested fields unless `force`."""
    schema = resource.tree()
    entries = _read(live)
    if live is not None and not entries:  # nobody is on record: what is there was there before
        there = compare(schema, _ownable(resource, resource.zero, ""), _ownable(resource, live, ""))
        entries = [Entry(_BEFORE, "Update", "", who.time, there.taken - _ROOTS)]
    before, wanted = (_ownable(resource, o, who.subresource) for o in (live, config))
    own = _entry(entries, who, "Apply")
    last = set(own.paths)
    own.paths = field_set(schema, wanted) - _ROOTS
    merged = merge(schema, before, wanted)
    after = _pruned(schema, {} if merged is ABSENT else merged, entries, last)
    difference = compare(schema, before, after)
    contested = [(e, (difference.taken & e.paths) - _ROOTS) for e in entries if e is not own]
    conflicts = [(e, show(p)) for e, paths in contested for p in in_order(paths)]
    if conflicts and not force:
        raise apply_conflict([(_who(e, resource.api_version), p) for e, p in conflicts])
    for each, paths in contested:
        each.paths -= paths | difference.removed
    if live is None or not same(before, after):
        own.time = who.time
    out = _rebuilt(live or {}, config, before, after)
    _write(out, entries, resource.api_version)
    return out


def _who(entry: Entry, api_version: str) -> str:
    text = f'"{entry.manager}"' + (f' with subresource "{entry.subresource}"' if entry.subresource else "")
    return text + (f" using {api_version}" if entry.operation == "Update" else "")


def _pruned(schema: Json, merged: Json, entries: list[Entry], last: set[Path]) -> Json:
    """Without what this manager applied last time, not this time, and nobody else owns."""
    owned = with_parents(schema, set().union(*(e.paths for e in entries)))
    gone = {path for path in last if path not in owned}
    found: Json = remove(schema, merged, gone)
    return found


def _rebuilt(live: Json, config: Json, before: Json, after: Json) -> Json:
    """The live object with its owned part exchanged."""
    kept = {k: copy.deepcopy(v) for k, v in live.items() if k not in before}
    meta = {k: v for k, v in ((live or config).get("metadata") or {}).items() if k not in _META}
    named = {k: config.get(k) for k in _NEVER}
    return {**kept, **after, **named, "metadata": copy.deepcopy(meta) | (after.get("metadata") or {})}
