"""Sets of field paths, as managedFields know them: `f:` fields, `k:` items of keyed lists, `v:` items of sets.

A path is a tuple of such elements as text. The empty element set of a node that also has children is written `.`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson

from fleet.api.errors import bad_request
from fleet.control.kinds import Json, Kind

Path = tuple[str, ...]

_STRING = {"type": "string"}
METADATA: Json = {
    "type": "object",
    "properties": {
        "generateName": _STRING,
        "labels": {"type": "object", "additionalProperties": _STRING},
        "annotations": {"type": "object", "additionalProperties": _STRING},
        "finalizers": {"type": "array", "items": _STRING, "x-kubernetes-list-type": "set"},
        "ownerReferences": {
            "type": "array",
            "items": {"type": "object"},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
        },
    },
}
_OWNED_METADATA = tuple(METADATA["properties"])


def tree(kind: Kind, subresource: str | None = None) -> Json:
    """The schema whose fields can be owned: metadata and spec, or status alone."""
    if subresource == "status":
        return {"type": "object", "properties": {"status": kind.status}}
    return {"type": "object", "properties": {"metadata": METADATA, "spec": kind.spec}}


def ownable(obj: Json, subresource: str | None = None) -> Json:
    """The part of an object that `tree` describes."""
    if subresource == "status":
        return {"status": obj["status"]} if obj.get("status") else {}
    out: Json = {}
    meta = {k: v for k, v in obj.get("metadata", {}).items() if k in _OWNED_METADATA and v not in (None, "")}
    if meta:
        out["metadata"] = meta
    if "spec" in obj:
        out["spec"] = obj["spec"]
    return out


def key_of(item: Any, keys: Iterable[str]) -> str:
    """Element of an item in a keyed list: keys sorted, compact JSON."""
    values = {k: item.get(k) for k in keys} if isinstance(item, dict) else {}
    return "k:" + json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def value_of(item: Any) -> str:
    """Element of an item in a set."""
    return "v:" + json.dumps(item, separators=(",", ":"), ensure_ascii=False)


def list_type(schema: Json) -> str:
    kind = schema.get("x-kubernetes-list-type", "atomic")
    return str(kind)


def is_granular(schema: Json, value: Any) -> bool:
    """Whether children of this value are owned one by one."""
    if isinstance(value, dict):
        return schema.get("x-kubernetes-map-type") != "atomic" and (
            "properties" in schema or "additionalProperties" in schema
        )
    return isinstance(value, list) and list_type(schema) in ("map", "set")


def children(schema: Json, value: Any) -> Iterable[tuple[str, Json, Any]]:
    """(element, schema, value) of each child of a granular value."""
    if isinstance(value, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
        for key, child in value.items():
            inner = properties.get(key, extra if isinstance(extra, dict) else {})
            yield f"f:{key}", inner, child
    elif list_type(schema) == "map":
        for child in value:
            yield key_of(child, schema["x-kubernetes-list-map-keys"]), schema.get("items", {}), child
    else:
        for child in value:
            yield value_of(child), {}, child


def applied_paths(schema: Json, value: Any, path: Path = ()) -> set[Path]:
    """What an apply configuration owns: leaves, list items, empty containers."""
    if not is_granular(schema, value):
        return {path} if path else set()
    out: set[Path] = set()
    for element, inner, child in children(schema, value):
        here = (*path, element)
        out |= applied_paths(inner, child, here)
        if element[0] in "kv" or child in ({}, [], None):
            out.add(here)
    return out


def all_paths(schema: Json, value: Any, path: Path = ()) -> dict[Path, Any]:
    """Every path with its leaf value; containers stand with a marker. `metadata` itself is never owned."""
    out: dict[Path, Any] = {}
    if not is_granular(schema, value):
        if path:
            out[path] = ("leaf", value)
        return out
    if path and path != ("f:metadata",):
        out[path] = ("container",)
    for element, inner, child in children(schema, value):
        out.update(all_paths(inner, child, (*path, element)))
    return out


def encode(paths: Iterable[Path]) -> Json:
    """The trie of fieldsV1."""
    root: Json = {}
    ordered = sorted(paths)
    for path in ordered:
        node = root
        for element in path:
            node = node.setdefault(element, {})
    for path in ordered:
        node = root
        for element in path:
            node = node[element]
        if any(k != "." for k in node):
            node["."] = {}
    return _sorted(root)


def _sorted(node: Json) -> Json:
    return {k: _sorted(node[k]) for k in sorted(node)}


def decode(trie: Any, path: Path = ()) -> set[Path]:
    """Paths of a fieldsV1 trie; 400 for what is none."""
    if not isinstance(trie, dict):
        raise bad_request("metadata.managedFields[].fieldsV1 must be an object of objects")
    out: set[Path] = set()
    for element, inner in trie.items():
        if element == ".":
            out.add(path)
            continue
        if element[:2] not in ("f:", "k:", "v:", "i:") or len(path) > 64:
            raise bad_request(f"metadata.managedFields[].fieldsV1: {element!r} is no path element")
        here = (*path, element)
        if inner:
            out |= decode(inner, here)
        else:
            out.add(here)
    return out


def show(path: Path) -> str:
    """As kubectl prints it: `.spec.configMaps[name="a"].value`."""
    out = ""
    for element in path:
        mark, text = element[:2], element[2:]
        if mark == "f:":
            out += f".{text}"
        elif mark == "k:":
            out += (
                "[" + ",".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in orjson.loads(text).items()) + "]"
            )
        else:
            out += f"[={text}]"
    return out
