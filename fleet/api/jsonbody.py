"""Reading a request body: JSON (or YAML) with duplicate keys found, bounded in size and depth."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable
from typing import Any

import orjson
import yaml

from fleet.api.errors import ApiError, bad_request

MAX_BYTES = 3 * 1024 * 1024
MAX_YAML_BYTES = 512 * 1024  # YAML is read a hundred times slower than JSON; clients that send much send JSON
MAX_DEPTH = 64


class _Map(dict[str, Any]):
    """An object that remembers which of its keys stood there twice."""

    twice: tuple[str, ...] = ()


_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without timestamps and without aliases: bodies are JSON written nicely."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        if tag not in (None, "!", *_TAGS):
            raise yaml.YAMLError(f"the tag {tag} is not accepted")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [_key(self.construct_object(k, deep=True)) for k, _ in node.value]
        values = [self.construct_object(v, deep=True) for _, v in node.value]
        return _marked(list(zip(keys, values, strict=True)))  # type: ignore[return-value]


def _key(value: Any) -> str:
    """A key as JSON writes it; YAML 1.1 makes `on` and `1` into something else than text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise yaml.YAMLError("a key must be text")
    return str(value)


def _construct_map(loader: _Loader, node: Any) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError("a mapping was expected")
    return loader.construct_mapping(node, deep=True)


def _construct_float(loader: _Loader, node: Any) -> float:
    value = float(yaml.constructor.SafeConstructor.construct_yaml_float(loader, node))
    if value != value or value in (float("inf"), float("-inf")):
        raise yaml.YAMLError(f"{node.value} is no number in JSON")
    return value


_LEFT_OUT = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in _LEFT_OUT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def loads(data: bytes, content_type: str = "application/json") -> tuple[Any, list[str]]:
    """The parsed body and the dotted paths of keys that stand twice (the last counts). Raises ApiError 400 or 413."""
    if len(data) > MAX_BYTES:
        raise ApiError(413, "RequestEntityTooLarge", f"the body is larger than {MAX_BYTES} bytes")
    if "yaml" in content_type and not data.lstrip().startswith((b"{", b"[")):
        value, duplicates = _load_yaml(data)
    else:
        value, duplicates = _load_json(data)
    if b"\x00" in data or b"\\u0000" in data or b"\\0" in data or b"\\x00" in data:
        _refuse_nul(value)
    return value, duplicates


def _load_json(data: bytes) -> tuple[Any, list[str]]:
    try:
        value = orjson.loads(data)  # strict: UTF-8, no NaN, no lone surrogates
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    check_depth(value)
    if not _may_hold_duplicates(data, value):
        return value, []
    return value, _duplicates(json.loads(data, object_pairs_hook=_marked))


def _load_yaml(data: bytes) -> tuple[Any, list[str]]:
    if len(data) > MAX_YAML_BYTES:
        raise ApiError(413, "RequestEntityTooLarge", f"YAML may have at most {MAX_YAML_BYTES} bytes; send JSON")
    try:
        marked = yaml.load(data.decode(), Loader=_Loader)
        value = orjson.loads(orjson.dumps(marked))  # what is no JSON (dates, binary, huge numbers) stops here
    except (yaml.YAMLError, orjson.JSONEncodeError, RecursionError, ValueError, TypeError, KeyError) as error:
        raise bad_request(f"the body is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    check_depth(value)
    return value, _duplicates(marked)


def check_depth(value: Any) -> None:
    """Refuse what is nested deeper than any schema could be."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [c for v in level for c in _children(v) if isinstance(c, dict | list)]
        if not level:
            return
    raise bad_request(f"the body is nested deeper than {MAX_DEPTH} levels")


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse_nul(value: Any) -> None:
    """PostgreSQL's jsonb cannot hold the character NUL. (`check_depth` has bounded the recursion.)"""
    if isinstance(value, str) and "\x00" in value:
        raise bad_request("the body holds a NUL character")
    if isinstance(value, dict) and any("\x00" in key for key in value):
        raise bad_request("the body holds a NUL character")
    for child in _children(value):
        _refuse_nul(child)


_COLON = re.compile(rb'"\s*:')


def _may_hold_duplicates(data: bytes, value: Any) -> bool:
    """Cheap test first: each key in the text has its quote and colon, so no surplus of these means no key twice.

    Quotes inside of texts are counted on both sides, unless they or their colon are written as numbers.
    """
    return b"\\u00" in data or len(_COLON.findall(data)) > orjson.dumps(value).count(b'":')


def _marked(items: list[tuple[str, Any]]) -> _Map:
    out = _Map(items)
    if len(out) != len(items):
        times = Counter(key for key, _ in items)
        out.twice = tuple(key for key, count in times.items() if count > 1)
    return out


def _duplicates(value: Any) -> list[str]:
    found: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, _Map):
            found.extend(f"{path}{k}" for k in value.twice)
            for key, child in value.items():
                walk(child, f"{path}{key}.")
        elif isinstance(value, list):
            for index, child in enumerate(value):
                walk(child, f"{path.rstrip('.')}[{index}].")

    walk(value, "")
    return found
