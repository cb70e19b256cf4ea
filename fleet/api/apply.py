"""Server-side apply and the tracking of who owns which field (structured merge, as Kubernetes does it)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fleet.api.errors import apply_conflict, bad_request
from fleet.api.fieldsets import (
    Path,
    all_paths,
    applied_paths,
    children,
    decode,
    encode,
    is_granular,
    key_of,
    list_type,
    ownable,
    show,
    tree,
)
from fleet.control.kinds import API_VERSION, Json, Kind

Identity = tuple[str, str, str]  # manager, operation, subresource


@dataclass(slots=True)
class Entry:
    """One manager's fields."""

    manager: str
    operation: str
    subresource: str
    time: str
    paths: set[Path] = field(default_factory=set)

    @property
    def identity(self) -> Identity:
        return (self.manager, self.operation, self.subresource)

    def json(self) -> Json:
        out: Json = {"manager": self.manager, "operation": self.operation, "apiVersion": API_VERSION, "time": self.time}
        out |= {"fieldsType": "FieldsV1", "fieldsV1": encode(self.paths)}
        if self.subresource:
            out["subresource"] = self.subresource
        return out

    def who(self) -> str:
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return text + (f" using {API_VERSION}" if self.operation == "Update" else "")


def read_entries(value: Any) -> list[Entry]:
    """Entries of `metadata.managedFields`; 400 when malformed. `[{}]` means: forget all."""
    if value is None or value == [] or value == [{}]:
        return []
    if not isinstance(value, list):
        raise bad_request("metadata.managedFields must be a list")
    out = []
    for item in value:
        if not isinstance(item, dict) or item.get("operation") not in ("Apply", "Update"):
            raise bad_request("metadata.managedFields[].operation must be Apply or Update")
        if item.get("fieldsType", "FieldsV1") != "FieldsV1":
            raise bad_request("metadata.managedFields[].fieldsType must be FieldsV1")
        manager, sub, time = (item.get(k, "") for k in ("manager", "subresource", "time"))
        if not all(isinstance(x, str) for x in (manager, sub, time)):
            raise bad_request("metadata.managedFields[]: manager, subresource and time must be strings")
        out.append(Entry(manager, item["operation"], sub, time, decode(item.get("fieldsV1", {}))))
    return out


def _write(entries: list[Entry]) -> list[Json]:
    kept = [e for e in entries if e.paths]
    kept.sort(key=lambda e: (e.subresource, 0 if e.operation == "Apply" else 1, e.time, e.manager))
    return [e.json() for e in kept]


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def track_update(
    kind: Kind, old: Json | None, new: Json, manager: str, now: datetime, subresource: str | None = None
) -> list[Json]:
    """managedFields after a create, replace or patch: what was added or changed goes to `manager`, what is gone leaves everybody."""
    given = new.get("metadata", {}).get("managedFields")
    stored = (old or {}).get("metadata", {}).get("managedFields")
    entries = read_entries(given if old is not None and given is not None and given != stored else stored)
    schema = tree(kind, subresource)
    before = all_paths(schema, ownable(old or {}, subresource))
    after = all_paths(schema, ownable(new, subresource))
    removed = before.keys() - after.keys()
    taken = {p for p, v in after.items() if p not in before or before[p] != v}
    mine: Identity = (manager, "Update", subresource or "")
    for entry in entries:
        entry.paths -= removed
        if entry.identity != mine:
            entry.paths -= {p for p in taken if p in before}
    if taken:
        own = next((e for e in entries if e.identity == mine), None)
        if own is None:
            own = Entry(*mine, time="")
            entries.append(own)
        if not taken <= own.paths or any(p in before for p in taken):
            own.time = _stamp(now)
        own.paths |= taken
    return _write(entries)


def server_side_apply(
    kind: Kind,
    live: Json | None,
    config: Json,
    manager: str,
    force: bool,
    now: datetime,
    subresource: str | None = None,
) -> Json:
    """The object after `manager` applied `config`. Raises ApiError 409 with the owners of contested fields unless `force`."""
    if config.get("metadata", {}).get("managedFields") not in (None, []):
        raise bad_request("metadata.managedFields must be nil")
    schema = tree(kind, subresource)
    wanted = ownable(config, subresource)
    wanted_paths = applied_paths(schema, wanted)
    base = ownable(live or {}, subresource)
    entries = _entries_of(kind, live, now)
    mine: Identity = (manager, "Apply", subresource or "")
    own = next((e for e in entries if e.identity == mine), None)
    others = [e for e in entries if e.identity != mine]

    merged = _merge(schema, copy.deepcopy(base), wanted)
    dropped = (own.paths if own else set()) - wanted_paths
    merged = _remove(schema, merged, dropped, others, wanted_paths)

    before, after = all_paths(schema, base), all_paths(schema, merged)
    changed = {p for p, v in after.items() if p not in before or before[p] != v}
    contested = [(e, p) for e in others for p in sorted(changed & e.paths) if p in wanted_paths]
    if contested and not force:
        raise apply_conflict([(e.who(), show(p)) for e, p in contested])
    for entry, path in contested:
        entry.paths.discard(path)
    removed = before.keys() - after.keys()
    for entry in others:
        entry.paths -= removed
    if own is None:
        own = Entry(*mine, time=_stamp(now))
    elif own.paths != wanted_paths or changed or removed:
        own.time = _stamp(now)
    own.paths = wanted_paths
    return _result(live, config, merged, _write([*others, own]), subresource)


def _entries_of(kind: Kind, live: Json | None, now: datetime) -> list[Entry]:
    entries = read_entries((live or {}).get("metadata", {}).get("managedFields"))
    if live is not None and not entries:
        # Nobody is on record: what is there was there before the first apply, and conflicts as such.
        paths = set(all_paths(tree(kind), ownable(live)))
        if paths:
            entries = [Entry("before-first-apply", "Update", "", _stamp(now), paths)]
    return entries


def _result(live: Json | None, config: Json, merged: Json, managed: list[Json], subresource: str | None) -> Json:
    out: Json = (
        copy.deepcopy(live)
        if live is not None
        else {"apiVersion": config.get("apiVersion"), "kind": config.get("kind")}
    )
    if subresource == "status":
        out["status"] = merged.get("status", {})
    else:
        kept = {
            k: v
            for k, v in out.get("metadata", {}).items()
            if k not in ("labels", "annotations", "finalizers", "ownerReferences")
        }
        if live is None:
            kept = {"name": config.get("metadata", {}).get("name", "")}
        out["metadata"] = kept | merged.get("metadata", {})
        if "spec" in merged or "spec" in out:
            out["spec"] = merged.get("spec", {})
    out["metadata"]["managedFields"] = managed
    return out


def _merge(schema: Json, live: Any, config: Any) -> Any:
    """`live` with `config` laid over it, by the granularity of the schema."""
    if not is_granular(schema, config) or type(live) is not type(config) or not is_granular(schema, live):
        return copy.deepcopy(config)
    if isinstance(config, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
        for key, child in config.items():
            inner = properties.get(key, extra if isinstance(extra, dict) else {})
            live[key] = _merge(inner, live[key], child) if key in live else copy.deepcopy(child)
        return live
    if list_type(schema) == "set":
        return live + [copy.deepcopy(v) for v in config if v not in live]
    keys = schema["x-kubernetes-list-map-keys"]
    place = {key_of(item, keys): i for i, item in enumerate(live)}
    for item in config:
        index = place.get(key_of(item, keys))
        if index is None:
            live.append(copy.deepcopy(item))
        else:
            live[index] = _merge(schema.get("items", {}), live[index], item)
    return live


def _remove(schema: Json, value: Any, dropped: set[Path], others: list[Entry], wanted: set[Path]) -> Any:
    """Take out what only this manager owned and no longer applies; containers that become empty go too."""
    owned_by_others = {p[:n] for e in others for p in e.paths for n in range(1, len(p) + 1)}
    kept = {p[:n] for p in wanted for n in range(1, len(p) + 1)}
    gone = {p for p in dropped if p not in owned_by_others and p not in kept}
    return _without(schema, value, gone, owned_by_others | kept) if gone else value


def _without(schema: Json, value: Any, gone: set[Path], keep: set[Path], path: Path = ()) -> Any:
    if not is_granular(schema, value):
        return value
    left: list[tuple[str, Any]] = []
    for element, inner, child in children(schema, value):
        here = (*path, element)
        if here in gone:
            continue
        below = _without(inner, child, gone, keep, here)
        emptied = below in ({}, []) and child not in ({}, []) and here not in keep
        if not emptied:
            left.append((element, below))
    if isinstance(value, dict):
        return {element[2:]: child for element, child in left}
    return [child for _, child in left]
