"""Walks over objects by their schema: which fields a value has, how two differ, how one is laid over another.

A port of what Kubernetes does (structured-merge-diff: typed/tofieldset.go, compare.go, merge.go, remove.go), so that owners
come out the same. A schema says of each value whether it is a map, a list or a scalar, and whether it is one leaf (atomic).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from fleet.api.fieldsets import Path, Trie, encode, key_of, value_of
from fleet.control.kinds import Json

Shape = Literal["map", "list", "scalar"]
_SCALARS = ("string", "integer", "number", "boolean")


class _Absent:
    """No value at all, which is not null."""

    def __deepcopy__(self, memo: Any) -> _Absent:
        return self


ABSENT: Any = _Absent()


def shape_of(schema: Json, value: Any) -> tuple[Shape, bool]:
    """(shape, whether it is one leaf). Where the schema does not say (free objects), the value does."""
    declared = schema.get("type")
    if declared == "object":
        return "map", schema.get("x-kubernetes-map-type") == "atomic"
    if declared == "array":
        return "list", schema.get("x-kubernetes-list-type", "atomic") not in ("map", "set")
    if declared in _SCALARS:
        return "scalar", True
    if isinstance(value, dict):
        return "map", False
    return ("list", True) if isinstance(value, list) else ("scalar", True)


def child_schema(schema: Json, element: str) -> tuple[Json, bool]:
    """(schema of a field, whether it is declared by name rather than an entry of a map)."""
    found = schema.get("properties", {}).get(element)
    if found is not None:
        return found, True
    extra = schema.get("additionalProperties")
    return (extra if isinstance(extra, dict) else {}), False


def item_element(schema: Json, item: Any) -> str:
    """The path element of an item of a set or keyed list."""
    if schema.get("x-kubernetes-list-type") == "map":
        return key_of(item, schema.get("x-kubernetes-list-map-keys", ()))
    return value_of(item)


def _map(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def field_set(schema: Json, value: Any, path: Path = ()) -> set[Path]:
    """What an applied configuration owns: leaves, entries of maps, items of lists, empty containers."""
    shape, leaf = shape_of(schema, value)
    if leaf:
        return {path}
    out: set[Path] = set()
    if shape == "map":
        for key, child in _map(value).items():
            inner, declared = child_schema(schema, key)
            here = (*path, f"f:{key}")
            out |= field_set(inner, child, here)
            if child is None or child == {} or not declared:
                out.add(here)
        return out
    for child in _list(value):
        here = (*path, item_element(schema, child))
        out |= field_set(schema.get("items", {}), child, here) | {here}
    return out


@dataclass(slots=True)
class Difference:
    """Paths that a second object has and the first had not, the other way round, and leaves that changed."""

    added: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)

    @property
    def taken(self) -> set[Path]:
        return self.added | self.modified


def compare(schema: Json, old: Any, new: Any) -> Difference:
    """How `new` differs from `old`."""
    out = Difference()
    _compare(schema, old, new, (), out)
    return out


def _compare(schema: Json, old: Any, new: Any, path: Path, out: Difference) -> None:
    shape = shape_of(schema, old if new is ABSENT else new)
    other = shape_of(schema, new if old is ABSENT else old)
    if shape != other:
        _compare_as(other, schema, old, new, path, out)
    if not _compare_as(shape, schema, old, new, path, out):
        if old is ABSENT:
            out.added.add(path)
        elif new is ABSENT:
            out.removed.add(path)


def _compare_as(as_: tuple[Shape, bool], schema: Json, old: Any, new: Any, path: Path, out: Difference) -> bool:
    """Compare as that shape; whether it was one leaf."""
    shape, leaf = as_
    if shape == "map":
        leaf = leaf or not (_map(old) or _map(new))
    elif shape == "list":
        leaf = leaf or not (_list(old) or _list(new))
    if leaf:
        if old is ABSENT:
            out.added.add(path)
        elif new is ABSENT:
            out.removed.add(path)
        elif not same(old, new):
            out.modified.add(path)
        return True
    if shape == "map":
        before, after = _map(old), _map(new)
        for key in before.keys() | after.keys():
            inner, _ = child_schema(schema, key)
            _compare(inner, before.get(key, ABSENT), after.get(key, ABSENT), (*path, f"f:{key}"), out)
        return False
    left, right = _by_element(schema, _list(old)), _by_element(schema, _list(new))
    for element in left.keys() | right.keys():
        _compare_item(schema, left.get(element, []), right.get(element, []), (*path, element), out)
    return False


def _compare_item(schema: Json, left: list[Any], right: list[Any], here: Path, out: Difference) -> None:
    """Items under one element; what stands twice (older servers let it in) counts as one leaf."""
    items = schema.get("items", {})
    if len(left) <= 1 and len(right) <= 1:
        _compare(items, left[0] if left else ABSENT, right[0] if right else ABSENT, here, out)
    elif len(left) > 1 and len(right) > 1:
        if not same(left, right):
            out.modified.add(here)
    elif len(left) > 1:
        if right:
            _compare(items, ABSENT, right[0], here, out)
        out.removed.add(here)
    else:
        if left:
            _compare(items, left[0], ABSENT, here, out)
        out.added.add(here)


def _by_element(schema: Json, items: Iterable[Any]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {}
    for item in items:
        out.setdefault(item_element(schema, item), []).append(item)
    return out


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: Python takes True for 1, JSON does not. 1 and 1.0 are the same number."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def merge(schema: Json, live: Any, config: Any) -> Any:
    """`live` with `config` laid over it, a new value; ABSENT when nothing is left."""
    shape, leaf = shape_of(schema, live if config is ABSENT else config)
    if shape == "map":
        leaf = leaf or not (_map(live) or _map(config))
    elif shape == "list":
        leaf = leaf or not (_list(live) or _list(config))
    if leaf:
        return copy.deepcopy(live if config is ABSENT else config)
    if shape == "list":
        return _merge_lists(schema, _list(live), _list(config)) or ABSENT
    before, after = _map(live), _map(config)
    out = {}
    for key in [*before, *(k for k in after if k not in before)]:
        merged = merge(child_schema(schema, key)[0], before.get(key, ABSENT), after.get(key, ABSENT))
        if merged is not ABSENT:
            out[key] = merged
    return out or ABSENT


def _merge_lists(schema: Json, live: list[Any], config: list[Any]) -> list[Any]:
    """Applied items in applied order; live items that are not applied keep their place before the next one that is."""
    left = [item_element(schema, item) for item in live]
    right = [item_element(schema, item) for item in config]
    applied = dict(zip(right, config, strict=True))
    lives = {e: ABSENT if len(group) > 1 else group[0] for e, group in _by_element(schema, live).items()}
    shared = [e for e in right if e in lives]
    order: list[tuple[str, Any]] = []  # element, and the live item that is kept as it is (ABSENT: merge)
    done: set[str] = set()
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right):
            if left[i] == right[j]:
                order.append((right[j], ABSENT))
                done.add(right[j])
                shared = shared[1:]
                i, j = i + 1, j + 1
                continue
            if left[i] in applied and shared and shared[0] != left[i]:
                i += 1
                continue
        if i < len(left):
            if left[i] not in applied:
                order.append((left[i], live[i]))
                i += 1
                continue
            if left[i] in done:
                i += 1
        if j < len(right):
            order.append((right[j], ABSENT))
            done.add(right[j])
            if shared and shared[0] == right[j]:
                shared = shared[1:]
            j += 1
    items = schema.get("items", {})
    merged = [
        merge(items, lives.get(e, ABSENT), applied[e]) if kept is ABSENT else copy.deepcopy(kept) for e, kept in order
    ]
    return [m for m in merged if m is not ABSENT]


def remove(schema: Json, value: Any, gone: set[Path]) -> Any:
    """The value without those paths. (Kubernetes leaves null where a container lost all that it had, and then refuses it.)"""
    return _remove(schema, value, encode(gone))


def _remove(schema: Json, value: Any, trie: Trie) -> Any:
    shape, leaf = shape_of(schema, value)
    if leaf or not value:
        return value
    if shape == "map":
        out: Json = {}
        for key, child in _map(value).items():
            node = trie.get(f"f:{key}")
            if node is None:
                out[key] = child
            elif not _is_member(node):
                out[key] = _remove(child_schema(schema, key)[0], child, node)
        return out
    kept = []
    for item in _list(value):
        node = trie.get(item_element(schema, item))
        if node is None:
            kept.append(item)
        elif not _is_member(node):
            kept.append(_remove(schema.get("items", {}), item, node))
    return kept


def _is_member(node: Trie) -> bool:
    """Whether the path itself is in the set, not only paths below it."""
    return not node or "." in node


def with_parents(schema: Json, paths: set[Path]) -> set[Path]:
    """The set and the declared fields above its paths: a field goes or stays with what it holds."""
    out = set(paths)
    for path in paths:
        inner = schema
        for depth, element in enumerate(path[:-1]):
            if element.startswith("f:"):
                inner, declared = child_schema(inner, element[2:])
                if declared:
                    out.add(path[: depth + 1])
            else:
                inner = inner.get("items", {})
    return out
