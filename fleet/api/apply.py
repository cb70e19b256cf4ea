"""Server-side apply and the tracking of who owns which field, as Kubernetes does them.

A port of structured-merge-diff (merge/update.go) and of the managers that apimachinery wraps around it (managedfields/internal):
`before-first-apply`, the cap of updaters, and the step from `kubectl apply` to `kubectl apply --server-side`.
"""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

import orjson

from fleet.api.errors import apply_conflict, bad_request, conflict, invalid
from fleet.api.fieldsets import OWNED_METADATA, Path, in_order, ownable, show, tree
from fleet.api.owners import (
    BEFORE_FIRST_APPLY,
    Entry,
    Identity,
    cap_updaters,
    entry_of,
    is_reset,
    read_entries,
    write_entries,
)
from fleet.api.schema import shape_problems
from fleet.api.structure import ABSENT, compare, field_set, merge, remove, same, with_parents
from fleet.api.table import LAST_APPLIED
from fleet.control.kinds import Json, Kind, Problem
from fleet.control.times import format_time

MAX_ANNOTATIONS = 256 * 1024
_METADATA_PATH: Path = ("f:metadata",)  # never owned as such


def track_update(
    kind: Kind, old: Json | None, new: Json, manager: str, now: datetime, subresource: str | None = None
) -> list[Json]:
    """managedFields after a create, replace or patch: what was added or changed goes to `manager`, what is gone leaves everybody.

    An object whose owners were forgotten stays without until somebody applies.
    """
    entries = _entries_of_update(old, new, subresource)
    if old is not None and not entries:
        return []
    schema = tree(kind, subresource)
    difference = compare(schema, ownable(old or {}, subresource), ownable(new, subresource))
    return write_entries(
        cap_updaters(_updated(entries, difference, (manager, "Update", subresource or ""), format_time(now)))
    )


def _entries_of_update(old: Json | None, new: Json, subresource: str | None) -> list[Entry]:
    """The owners as the write sees them: clients may rewrite them (kubectl's migration does) or forget them all."""
    given = (new.get("metadata") or {}).get("managedFields")
    stored = ((old or {}).get("metadata") or {}).get("managedFields")
    if old is None:
        return []
    if not subresource and given is not None:
        if is_reset(given):
            return []
        try:
            entries = read_entries(given)
        except ValueError:
            entries = []
        if entries:
            return entries
    return _stored(stored)


def _stored(value: Any) -> list[Entry]:
    try:
        return read_entries(value)
    except ValueError:
        return []


def _updated(entries: list[Entry], difference: Any, mine: Identity, time: str) -> list[Entry]:
    taken = difference.taken - {_METADATA_PATH}
    for entry in entries:
        entry.paths -= difference.taken | difference.removed
    if taken:
        own = entry_of(entries, mine)
        own.paths |= taken
        own.time = time
    return entries


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
    if (config.get("metadata") or {}).get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    _check_uid(kind, live, config)
    wrong = shape_problems(kind, config)
    if wrong:  # merged by the shape that the schema says, such a value would vanish without a word
        raise invalid(kind, str((config.get("metadata") or {}).get("name") or ""), wrong)
    schema = tree(kind, subresource)
    entries = _entries_before_apply(kind, live, now)
    before, wanted = ownable(live or {}, subresource), ownable(config, subresource)
    own = entry_of(entries, (manager, "Apply", subresource or ""))
    last = set(own.paths)
    own.paths = field_set(schema, wanted) - {_METADATA_PATH}
    merged = merge(schema, before, wanted)
    after = _pruned(schema, {} if merged is ABSENT else merged, entries, last)
    difference = compare(schema, before, after)
    contested = [(e, difference.taken & e.paths) for e in entries if e is not own]
    conflicts = [(e, in_order(paths)) for e, paths in contested if paths]
    if conflicts and not force:
        _refuse(kind, live, manager, [(e, p) for e, paths in conflicts for p in paths])
    for entry, paths in contested:
        entry.paths -= paths | difference.removed
    if live is None or not same(before, after):
        own.time = format_time(now)
    out = _result(live, config, after, subresource)
    out["metadata"]["managedFields"] = write_entries(entries)
    if manager == "kubectl" and not subresource:
        _renew_last_applied(out, config)
    return out


def _check_uid(kind: Kind, live: Json | None, config: Json) -> None:
    """A uid in the configuration means: this very object, no other of the same name."""
    meta = config.get("metadata") or {}
    uid, name = meta.get("uid"), str(meta.get("name") or (live or {}).get("metadata", {}).get("name", ""))
    if uid and live is None:
        why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise conflict(kind, name, why)
    if uid and uid != (live or {}).get("metadata", {}).get("uid", uid):
        raise invalid(kind, name, [Problem("metadata.uid", f'"{uid}": field is immutable')])


def _entries_before_apply(kind: Kind, live: Json | None, now: datetime) -> list[Entry]:
    entries = _stored((live or {}).get("metadata", {}).get("managedFields"))
    if live is not None and not entries:
        # Nobody is on record: what is there was there before the first apply, and conflicts as such.
        there = compare(tree(kind), {}, ownable(live))
        entries = _updated([], there, (BEFORE_FIRST_APPLY, "Update", ""), format_time(now))
    return entries


def _pruned(schema: Json, merged: Json, entries: list[Entry], last: set[Path]) -> Json:
    """Take out what this manager applied last time, not this time, and nobody else owns."""
    if not last:
        return merged
    owned = with_parents(schema, set().union(*(e.paths for e in entries)))
    dropped = with_parents(schema, last)
    whole = field_set(schema, merged)
    pruned = remove(schema, merged, dropped)
    # Back comes what anybody owns, or owned nobody at all: only what this manager dropped may go.
    unowned = with_parents(schema, whole) - with_parents(schema, field_set(schema, pruned)) - owned
    pruned = remove(schema, merged, unowned)
    left = with_parents(schema, field_set(schema, pruned))
    out: Json = remove(schema, merged, (with_parents(schema, whole) - left) & dropped)
    return out


def _refuse(kind: Kind, live: Json | None, manager: str, conflicts: list[tuple[Entry, Path]]) -> None:
    """409, but for fields that `kubectl apply` wrote and nobody changed since: kubectl may take those over."""
    if manager == "kubectl":
        allowed = _last_applied_fields(kind, live or {})
        conflicts = [(e, p) for e, p in conflicts if p not in allowed]
    if conflicts:
        conflicts.sort(key=lambda c: _identifier(c[0]))  # stable: paths stay in order
        raise apply_conflict([(e.who(), show(p)) for e, p in conflicts])


def _identifier(entry: Entry) -> str:
    """Kubernetes sorts managers by the JSON of their identity."""
    return f"{entry.manager}\0{entry.operation}\0{entry.subresource}"


def _last_applied_fields(kind: Kind, live: Json) -> set[Path]:
    """Fields of the annotation of client-side apply that still are as it says."""
    text = (live.get("metadata", {}).get("annotations") or {}).get(LAST_APPLIED) or ""
    try:
        applied = orjson.loads(text)
    except orjson.JSONDecodeError:
        return set()
    if not isinstance(applied, dict) or applied.get("apiVersion") != live.get("apiVersion"):
        return set()
    schema, wanted = tree(kind), ownable(applied)
    difference = compare(schema, wanted, ownable(live))
    return field_set(schema, wanted) - difference.taken - difference.removed


def _renew_last_applied(out: Json, config: Json) -> None:
    """Keep the annotation of client-side apply in step, so that people can go back and forth."""
    annotations = out["metadata"].get("annotations", {})
    if not annotations.get(LAST_APPLIED):
        return
    applied = copy.deepcopy(config)
    if "annotations" in applied.get("metadata", {}):
        applied["metadata"]["annotations"].pop(LAST_APPLIED, None)
    annotations[LAST_APPLIED] = orjson.dumps(applied, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    if sum(len(k) + len(v) for k, v in annotations.items()) > MAX_ANNOTATIONS:
        del annotations[LAST_APPLIED]


def _result(live: Json | None, config: Json, after: Json, subresource: str | None) -> Json:
    """The live object with its owned part exchanged."""
    out: Json = copy.deepcopy(live) if live is not None else {k: config.get(k) for k in ("apiVersion", "kind")}
    if subresource == "status":
        out["status"] = after.get("status") or {}
        return out
    meta = out.get("metadata") or {"name": (config.get("metadata") or {}).get("name", "")}
    kept = {k: v for k, v in meta.items() if k not in OWNED_METADATA}
    out["metadata"] = kept | (after.get("metadata") or {})
    if after.get("spec") is not None:
        out["spec"] = after["spec"]
    else:
        out.pop("spec", None)
    return out
