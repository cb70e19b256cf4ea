"""Lists: selectors, pages, and the version that a list is of."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from fleet.api.selectors import LabelSelector
from simulator.kube.refusals import Mistake, bad_request, expired, expired_page, options_invalid, too_large
from simulator.kube.resources import PODS, Json, Resource
from simulator.kube.store import ITEM, Collection, Entry, Forgotten

_TERM: Final = re.compile(r"([^=!,]+?)(==|!=|=)([^,]*)")
_NAME: Final = "metadata.name"
_NODE: Final = "spec.nodeName"
_OWN: Final = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a collection are meant. `fields`: (path, wanted equal, value)."""

    namespace: str = ""
    labels: LabelSelector = LabelSelector()
    fields: tuple[tuple[str, bool, str], ...] = ()

    @property
    def everything(self) -> bool:
        """Whether no object has to be looked at."""
        return not self.labels.requirements and not self.fields

    @property
    def prefix(self) -> str:
        """How all keys meant begin."""
        return f"{self.namespace}/" if self.namespace else ""

    def pinned(self, path: str) -> str | None:
        """The value that a field must have, if the selector says."""
        return next((v for p, equal, v in self.fields if p == path and equal), None)

    def matches(self, obj: Json) -> bool:
        """Whether an object is meant; its namespace is seen to by its key."""
        if any((_text(obj, path) == value) != equal for path, equal, value in self.fields):
            return False
        return self.labels.matches(obj["metadata"].get("labels") or {})


def selection_of(resource: Resource, namespace: str, query: Mapping[str, str]) -> Selection:
    """The selection of a request; 400 for what cannot be read or is not supported."""
    fields = []
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        found = _TERM.fullmatch(part.strip())
        if found is None:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        path = found[1].strip()
        if path not in _OWN and path not in resource.selectable:
            if resource.selectable:
                raise bad_request(f"field label not supported: {path}")
            only = ", ".join(f'"{f}"' for f in _OWN)
            raise bad_request(f'"{path}" is not a known field selector: only {only}')
        fields.append((path, found[2] != "!=", found[3]))
    return Selection(namespace, LabelSelector.parse(query.get("labelSelector", "")), tuple(fields))


def _text(obj: Json, path: str) -> str:
    if path == "source":  # of events: who says so
        path = "source.component"
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if path == "spec.unschedulable" or path == "spec.hostNetwork":
        value = bool(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Lens:
    """How a list lies. `revision`: it is that of then; `hidden`: keys that it lacks."""

    revision: int | None = None
    hidden: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class _Page:
    """What a list request asks for. `revision` None: the present, but not told as such where `inconsistent`."""

    limit: int
    start: str
    revision: int | None
    go_on: bool
    inconsistent: bool = False


def page(
    collection: Collection, selection: Selection, query: Mapping[str, str], current: int, lens: Lens = Lens()
) -> bytes:
    """One page of a list, encoded. `current`: the revision of the store."""
    asked = _asked(query, current)
    revision = asked.revision if asked.revision is not None else lens.revision
    try:
        past = collection.before(revision) if revision is not None and revision < current else {}
    except Forgotten:
        if asked.go_on:
            raise expired_page(_token(-1, asked.start)) from None
        raise expired("list") from None
    names = _names(collection, selection, asked.start, past)
    if lens.hidden is not None:
        names = [n for n in names if not lens.hidden(n)]
    found = _matching(collection, selection, names, past)
    meta: Json = {"resourceVersion": str(current if revision is None else revision)}
    items: list[bytes] = []
    last = ""
    for key, entry in found:
        if asked.limit and len(items) == asked.limit:
            meta["continue"] = _token(-1 if asked.inconsistent else int(meta["resourceVersion"]), last + "\0")
            if selection.everything:
                meta["remainingItemCount"] = len(names) - len(items)
            break
        items.append(collection.json(entry, ITEM))
        last = key
    resource = collection.resource
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
    return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"


def _asked(query: Mapping[str, str], current: int) -> _Page:
    limit, version, match = (
        _number(query, "limit"),
        query.get("resourceVersion", ""),
        query.get("resourceVersionMatch", ""),
    )
    if match and not version:
        text = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        raise options_invalid("ListOptions", Mistake("resourceVersionMatch", text, "FieldValueForbidden"))
    if query.get("continue"):
        if version not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, start = _untoken(query["continue"])
        return _Page(limit, start, None if revision < 0 else revision, True, revision < 0)
    if version and not version.isdecimal():
        text = f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
        raise bad_request(f"invalid resource version: {text}")
    at = int(version or 0)
    if at > current:
        raise too_large(at, current)
    if version == "0":
        return _Page(0, "", None, False)  # from the cache, whole
    exact = match == "Exact" or (at > 0 and limit > 0 and not match)
    return _Page(limit, "", at if exact else None, False)


def _number(query: Mapping[str, str], name: str) -> int:
    value = query.get(name, "") or "0"
    try:
        return max(0, int(value))
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{value}": invalid syntax') from None


def _names(collection: Collection, selection: Selection, start: str, past: Mapping[str, Entry | None]) -> list[str]:
    """Keys from the start on, in order, as they were."""
    name, node = selection.pinned(_NAME), selection.pinned(_NODE)
    low, high = collection.range(selection.prefix, start)
    names = collection.keys[low:high]
    if name is not None and selection.namespace == "" and not collection.resource.namespaced:
        names = [name] if name in collection.entries and name >= start else []
    elif name is not None and selection.namespace:
        names = [k] if (k := selection.prefix + name) in collection.entries and k >= start else []
    elif node is not None and collection.resource is PODS:
        there = collection.by_node.get(node, ())
        names = sorted(k for k in there if k.startswith(selection.prefix) and k >= start)
    gone = [k for k, e in past.items() if e is not None and k not in collection.entries]
    gone = [k for k in gone if k.startswith(selection.prefix) and k >= start]
    if gone:
        names = sorted([*names, *gone])
    return [k for k in names if past.get(k, ITEM) is not None] if past else names


def _matching(
    collection: Collection, selection: Selection, names: list[str], past: Mapping[str, Entry | None]
) -> Iterator[tuple[str, Entry]]:
    for key in names:
        entry = past.get(key) or collection.entries[key]
        if selection.everything or selection.matches(collection.decode(entry)):
            yield key, entry


def _token(revision: int, start: str) -> str:
    text = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start})
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _untoken(token: str) -> tuple[int, str]:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(found["rv"]), str(found["start"])
    except (ValueError, KeyError, TypeError):
        raise bad_request("invalid continue token: continue key is not valid") from None
