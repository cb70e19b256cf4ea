"""A probe: requests in a row about one object of its own, and how answers are masked so that two servers compare.

In paths and bodies `$n` stands for the probe's object name, `$rv` and `$uid` for what the last answer with an object said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fleet.control.kinds import API_VERSION, GROUP, VERSION, Json

BASE = f"/apis/{GROUP}/{VERSION}"
JSON, MERGE, PATCH, APPLY, YAML = (
    "application/json",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
    "application/yaml",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One request. `body` is text, exactly as sent."""

    method: str
    path: str
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """Steps in a row."""

    name: str
    steps: tuple[Step, ...]

    @property
    def object_name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:60].strip("-")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `warnings` are the Warning headers, `body` parsed JSON or the text."""

    code: int
    body: Any
    warnings: tuple[str, ...] = ()
    content_type: str = ""


Send = Callable[[str, str, Mapping[str, str], bytes], Reply]  # method, path with query, headers, body


def text_of(body: Any) -> str:
    """A body as it is sent: text as it is, everything else as JSON."""
    return body if isinstance(body, str) else json.dumps(body)


def address(plural: str, name: str = "", sub: str = "", **query: str) -> str:
    """Path and query of a request."""
    path = "/".join(p for p in (BASE, plural, name, sub) if p)
    if query:
        path += "?" + "&".join(f"{k}={quote(v, safe='$')}" for k, v in query.items())
    return path


def run(probe: Probe, send: Send) -> list[Reply]:
    """Send all steps; the masked answers."""
    names = {"$n": probe.object_name, "$rv": "1", "$uid": "none"}
    out = []
    for step in probe.steps:
        path, body = step.path, step.body
        for mark, value in names.items():
            path, body = path.replace(mark, value), body.replace(mark, value)
        reply = send(step.method, path, step.headers, body.encode("utf-8", "surrogatepass"))
        meta = reply.body.get("metadata", {}) if isinstance(reply.body, dict) else {}
        if reply.code < 300 and meta.get("uid"):
            names |= {"$rv": str(meta.get("resourceVersion", names["$rv"])), "$uid": meta["uid"]}
        out.append(Reply(reply.code, mask(reply.body), reply.warnings, reply.content_type))
    return out


_MASKED = {
    "uid": "<uid>",
    "resourceVersion": "<rv>",
    "creationTimestamp": "<time>",
    "deletionTimestamp": "<time>",
    "time": "<time>",
}
_AGE = re.compile(r"^\d+s$")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def mask(value: Any, key: str = "") -> Any:
    """The answer without what differs from run to run: uid, times, positions, generated names."""
    if isinstance(value, dict):
        out = {k: mask(v, k) for k, v in value.items()}
        prefix = value.get("generateName")
        if isinstance(prefix, str) and str(value.get("name")).startswith(prefix):
            out["name"] = prefix + "<generated>"
        return out
    if key == "cells":
        return [_AGE.sub("<age>", cell) if isinstance(cell, str) else cell for cell in value]
    if isinstance(value, list):
        items = [mask(v) for v in value]
        # Owners are sorted by time, so their order is an accident of seconds.
        return sorted(items, key=_owner) if key == "managedFields" else items
    if isinstance(value, str):
        if key in _MASKED and value and value != "none":
            return _MASKED[key]
        return _TIME.sub("<time>", _UUID.sub("<uid>", value))
    return value


def _owner(entry: Any) -> tuple[str, ...]:
    return tuple(str(entry.get(k, "")) for k in ("operation", "manager", "subresource"))


# -- the words that probes are written in -----------------------------------------------------------------------


def obj(kind: str, spec: Any = None, status: Any = None, **meta: Any) -> Json:
    """A manifest under the probe's own name; spec False = none at all."""
    out: Json = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "$n", **meta}}
    if spec is not None and spec is not False:
        out["spec"] = spec
    if status is not None:
        out["status"] = status
    return out


def rack(spec: Any = None, status: Any = None, **meta: Any) -> Json:
    return obj("Rack", spec if spec is not None else {"ip": "10.0.0.1"}, status, **meta)


def bundle(spec: Any = None, **meta: Any) -> Json:
    return obj("Bundle", spec if spec is not None else {"packageName": "pouch"}, **meta)


def _plural(body: Any) -> str:
    return "bundles" if isinstance(body, dict) and body.get("kind") == "Bundle" else "racks"


def create(body: Any, plural: str = "", media: str = JSON, **query: str) -> Step:
    query = {"fieldManager": "creator", **query}
    return Step("POST", address(plural or _plural(body), **query), text_of(body), {"Content-Type": media})


def put(body: Any, plural: str = "", sub: str = "", media: str = JSON, **query: str) -> Step:
    query = {"fieldManager": "putter", **query}
    return Step("PUT", address(plural or _plural(body), "$n", sub, **query), text_of(body), {"Content-Type": media})


def patch(body: Any, plural: str = "racks", sub: str = "", media: str = "", **query: str) -> Step:
    """JSON patch for a list, merge patch otherwise."""
    query = {"fieldManager": "patcher", **query}
    media = media or (PATCH if isinstance(body, list) else MERGE)
    return Step("PATCH", address(plural, "$n", sub, **query), text_of(body), {"Content-Type": media})


def apply(manager: str, body: Any, sub: str = "", **query: str) -> Step:
    query = {"fieldManager": manager, **query} if manager else query
    return Step("PATCH", address(_plural(body), "$n", sub, **query), text_of(body), {"Content-Type": APPLY})


def delete(body: Any = "", plural: str = "racks", **query: str) -> Step:
    headers = {"Content-Type": JSON} if body != "" else {}
    return Step("DELETE", address(plural, "$n", **query), text_of(body), headers)


def get(plural: str = "racks", name: str = "$n", sub: str = "", accept: str = JSON, **query: str) -> Step:
    return Step("GET", address(plural, name, sub, **query), "", {"Accept": accept})
