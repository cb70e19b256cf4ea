"""Strategic merge patch, with the keys of lists that Kubernetes' types declare. Merge and JSON patches are Fleet's own. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

from fleet.api.errors import ApiError
from fleet.api.patches import json_patch as rfc_6902
from fleet.api.structure import child_schema
from simulator.kube.refusals import bad_request, rejected
from simulator.kube.resources import Json

# patchMergeKey where a list has none or more than one key for server-side apply: ports of containers merge by one of theirs.
_DIRECTIVE: Final = "$patch"
_ORDER: Final = "$setElementOrder/"
_TAKE: Final = "$deleteFromPrimitiveList/"
_RETAIN: Final = "$retainKeys"


def json_patch(document: Json, operations: Any) -> Json:
    """RFC 6902; all that is wrong with it is one answer, as kube-apiserver gives it."""
    if not isinstance(operations, list):
        raise bad_request("json patch: expected a list of operations")
    try:
        found: Json = rfc_6902(document, operations)
    except ApiError as error:
        if error.code == 422:
            raise rejected() from error
        raise
    return found


def strategic(schema: Json, live: Any, patch: Json) -> Json:
    """A map with a patch laid over it; neither is changed."""
    how = patch.get(_DIRECTIVE)
    if how == "delete":
        return {}
    body = {k: v for k, v in patch.items() if not k.startswith("$")}
    if how == "replace":
        return copy.deepcopy(body)
    if how not in (None, "merge"):
        raise bad_request(f"unknown patch type found: {how}")
    out: Json = dict(live) if isinstance(live, dict) else {}
    if _RETAIN in patch:
        out = {k: v for k, v in out.items() if k in patch[_RETAIN]}
    for key, values in patch.items():
        if key.startswith(_TAKE):
            name = key[len(_TAKE) :]
            out[name] = [v for v in out.get(name) or () if v not in values]
    for key, value in body.items():
        inner, _ = child_schema(schema, key)
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = strategic(inner, out.get(key), value)
        elif isinstance(value, list):
            out[key] = _list(inner, out.get(key) or [], value)
        else:
            out[key] = value
    for key, order in patch.items():
        name = key[len(_ORDER) :]
        if key.startswith(_ORDER) and isinstance(out.get(name), list):
            out[name] = _ordered(child_schema(schema, name)[0], out[name], order)
    return out


def _list(schema: Json, live: list[Any], patch: list[Any]) -> list[Any]:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        return [*live, *(v for v in patch if v not in live)]
    if kind != "map":
        return copy.deepcopy(patch)
    key = schema["x-kubernetes-list-map-keys"][0]
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [{k: v for k, v in item.items() if k != _DIRECTIVE} for item in patch if key in item]
    out = list(live)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((n for n, there in enumerate(out) if there.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            out = [there for there in out if there.get(key) != item[key]]
        elif at is None:
            out.append(strategic(schema["items"], {}, item))
        else:
            out[at] = strategic(schema["items"], out[at], item)
    return out


def _ordered(schema: Json, items: list[Any], order: Iterable[Any]) -> list[Any]:
    """Items in the order asked for; those it does not name keep their places after them."""
    keys = schema.get("x-kubernetes-list-map-keys")
    wanted = [o.get(keys[0]) if keys else o for o in order]
    places = {value: n for n, value in enumerate(wanted)}
    return sorted(items, key=lambda item: places.get(item.get(keys[0]) if keys else item, len(places)))
