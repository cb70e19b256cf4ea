"""JSON merge patch (RFC 7396) and JSON patch (RFC 6902), bounded."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import jsonpointer
import orjson

from fleet.api.errors import ApiError, bad_request

MAX_OPERATIONS = 1_000
MAX_COPIED_BYTES = 3 * 1024 * 1024  # what all `copy` operations may add: 30 of them in a row double a document 30 times
_BROKEN = (
    jsonpatch.JsonPatchException,
    jsonpointer.JsonPointerException,
    orjson.JSONEncodeError,
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    RecursionError,
)


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7396: null deletes, objects merge, everything else replaces. The document is left as it is."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    out = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902 on a copy. An operation that does not apply is a 422 that names its number and path."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        text = f"a JSON patch may hold at most {MAX_OPERATIONS} operations, not {len(operations)}"
        raise ApiError(413, "RequestEntityTooLarge", text)
    result, copied = copy.deepcopy(document), 0
    for number, operation in enumerate(operations):
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            text = f"operation {number} of the JSON patch is no object with a path"
            raise ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {text}")
        what = f"operation {number} ({str(operation.get('op'))[:20]} {operation['path'][:200]})"
        try:
            copied += _copied_bytes(result, operation)
            if copied > MAX_COPIED_BYTES:
                raise ApiError(413, "RequestEntityTooLarge", f"{what} copies too much")
            result = jsonpatch.JsonPatch([operation]).apply(result)
        except _BROKEN as error:
            why = " ".join(str(error).split())[:200]
            text = f"the server rejected our request due to an error in our request: {what} does not apply: {why}"
            raise ApiError(422, "Invalid", text) from None
    return result


def _copied_bytes(document: Any, operation: dict[str, Any]) -> int:
    if operation.get("op") != "copy":
        return 0
    return len(orjson.dumps(jsonpointer.resolve_pointer(document, operation["from"])))
