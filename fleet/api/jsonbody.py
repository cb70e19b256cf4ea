"""Reading a request body: JSON (or YAML) with duplicate keys found, bounded in size and depth."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from fleet.api.errors import ApiError, bad_request

MAX_BYTES = 3 * 1024 * 1024
MAX_DEPTH = 64


class _Loader(yaml.SafeLoader):
    """YAML without timestamps and without aliases: bodies are JSON written nicely."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def loads(data: bytes, content_type: str = "application/json") -> tuple[Any, list[str]]:
    """The parsed body and the dotted paths of keys that stand twice. Raises ApiError 400 or 413."""
    if len(data) > MAX_BYTES:
        raise ApiError(413, "RequestEntityTooLarge", f"the body is larger than {MAX_BYTES} bytes")
    if b"\x00" in data or b"\\u0000" in data:
        raise bad_request("the body holds a NUL character")
    if "yaml" in content_type and not data.lstrip().startswith((b"{", b"[")):
        return _load_yaml(data)
    return _load_json(data)


def _load_json(data: bytes) -> tuple[Any, list[str]]:
    try:
        value = orjson.loads(data)  # strict: UTF-8, no NaN, no lone surrogates
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    check_depth(value)
    return value, _duplicates(data) if _may_hold_duplicates(data, value) else []


def _load_yaml(data: bytes) -> tuple[Any, list[str]]:
    try:
        value = yaml.load(data.decode(), Loader=_Loader)
        value = orjson.loads(orjson.dumps(value))
    except (
        yaml.YAMLError,
        UnicodeDecodeError,
        TypeError,
        orjson.JSONEncodeError,
        orjson.JSONDecodeError,
        RecursionError,
        ValueError,
    ) as error:
        raise bad_request(f"the body is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    check_depth(value)
    return value, []


def check_depth(value: Any) -> None:
    """Refuse what is nested deeper than any schema could be."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            c
            for v in level
            for c in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else ())
            if isinstance(c, dict | list)
        ]
        if not level:
            return
    raise bad_request(f"the body is nested deeper than {MAX_DEPTH} levels")


def _may_hold_duplicates(data: bytes, value: Any) -> bool:
    """Cheap test first: a body with as many colons-after-quotes as keys has no key twice."""
    return data.count(b'":') + data.count(b'" :') > _count_keys(value)


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(v) for v in value.values())
    if isinstance(value, list):
        return sum(_count_keys(v) for v in value)
    return 0


class _Marked(dict[str, Any]):
    twice: tuple[str, ...] = ()


def _duplicates(data: bytes) -> list[str]:
    import json

    def pairs(items: list[tuple[str, Any]]) -> _Marked:
        out = _Marked(items)
        keys = [k for k, _ in items]
        out.twice = tuple(sorted({k for k in keys if keys.count(k) > 1})) if len(keys) != len(out) else ()
        return out

    found: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, _Marked):
            found.extend(f"{path}{k}" for k in value.twice)
            for key, child in value.items():
                walk(child, f"{path}{key}.")
        elif isinstance(value, list):
            for index, child in enumerate(value):
                walk(child, f"{path.rstrip('.')}[{index}].")

    walk(json.loads(data, object_pairs_hook=pairs), "")
    return found
