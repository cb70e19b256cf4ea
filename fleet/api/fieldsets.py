"""Sets of field paths, as managedFields know them: `f:` fields, `k:` items of keyed lists, `v:` items of sets.

A path is a tuple of such elements as text. The empty element set of a node that also has children is written `.`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson

from fleet.control.kinds import Json, Kind

Path = tuple[str, ...]
MAX_DEPTH = 64

Trie = dict[str, Any]  # fieldsV1: element -> trie; {} = a member, "." = a member that has children

_STRING = {"type": "string"}
METADATA: Json = {
    "type": "object",
    "properties": {
        "labels": {"type": "object", "additionalProperties": _STRING},
        "annotations": {"type": "object", "additionalProperties": _STRING},
        "finalizers": {"type": "array", "items": _STRING, "x-kubernetes-list-type": "set"},
    },
}
OWNED_METADATA = tuple(METADATA["properties"])


def tree(kind: Kind, subresource: str | None = None) -> Json:
    """The schema whose fields can be owned: metadata and spec, or status alone."""
    if subresource == "status":
        return {"type": "object", "properties": {"status": kind.status}}
    return {"type": "object", "properties": {"metadata": METADATA, "spec": kind.spec}}


def ownable(obj: Json, subresource: str | None = None) -> Json:
    """The part of an object that `tree` describes; not copied."""
    if subresource == "status":
        return {"status": obj["status"]} if obj.get("status") is not None else {}
    meta = {k: v for k, v in (obj.get("metadata") or {}).items() if k in OWNED_METADATA and v not in (None, "")}
    out: Json = {"metadata": meta} if meta else {}
    if obj.get("spec") is not None:
        out["spec"] = obj["spec"]
    return out


def key_of(item: Any, keys: Iterable[str]) -> str:
    """Element of an item in a keyed list: keys sorted, compact JSON."""
    values = {k: item.get(k) for k in keys} if isinstance(item, dict) else {}
    return "k:" + json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def value_of(item: Any) -> str:
    """Element of an item in a set."""
    return "v:" + json.dumps(item, separators=(",", ":"), ensure_ascii=False)


def encode(paths: Iterable[Path]) -> Trie:
    """The trie of fieldsV1, keys in the order that Kubernetes writes."""
    root: Trie = {}
    for path in sorted(
        paths, key=len, reverse=True
    ):  # the longest first: a node that has children already needs its "."
        node = root
        for element in path:
            node = node.setdefault(element, {})
        if node:
            node["."] = {}
    return _sorted(root)


def _sorted(node: Trie) -> Trie:
    return {k: _sorted(node[k]) for k in sorted(node, key=_rank)}


def _rank(element: str) -> tuple[int, str]:
    """Fields before keys before values, each by its text."""
    return (".fkvi".find(element[0]), element)


def decode(trie: Any, path: Path = ()) -> set[Path]:
    """Paths of a fieldsV1 trie; ValueError for what is none."""
    if not isinstance(trie, dict) or len(path) > MAX_DEPTH:
        raise ValueError("fieldsV1 must be an object of objects")
    out: set[Path] = set()
    for element, inner in trie.items():
        if element == ".":
            out.add(path)
            continue
        here = (*path, _checked(element))
        out |= decode(inner, here) if inner else {here}
    return out


def _checked(element: str) -> str:
    """An element in the one way of writing it: a key is compact JSON with its names sorted."""
    mark, text = element[:2], element[2:]
    if mark == "f:":
        return element
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError(f"{element[:100]!r} is no path element") from None
    if mark == "k:" and isinstance(value, dict):
        return key_of(value, value)
    if mark == "v:":
        return value_of(value)
    if mark == "i:" and isinstance(value, int):
        return element
    raise ValueError(f"{element[:100]!r} is no path element")


def in_order(paths: Iterable[Path]) -> list[Path]:
    """As Kubernetes tells them: at each level first what is owned there, then what lies deeper."""
    out: list[Path] = []

    def walk(trie: Trie, path: Path) -> None:
        for element, inner in trie.items():
            if element != "." and (not inner or "." in inner):
                out.append((*path, element))
        for element, inner in trie.items():
            if element != "." and inner:
                walk(inner, (*path, element))

    walk(encode(paths), ())
    return out


def show(path: Path) -> str:
    """As kubectl prints it: `.spec.configMaps[name="a"].value`."""
    out = ""
    for element in path:
        mark, text = element[:2], element[2:]
        if mark == "f:":
            out += f".{text}"
        elif mark == "k:":
            keys = orjson.loads(text).items()
            out += "[" + ",".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in keys) + "]"
        elif mark == "v:":
            out += f"[={text}]"
        else:
            out += f"[{text}]"
    return out
