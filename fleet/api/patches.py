"""JSON merge patch (RFC 7396) and JSON patch (RFC 6902), bounded."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch

from fleet.api.errors import ApiError, bad_request

MAX_OPERATIONS = 1_000


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7396: null deletes, objects merge, everything else replaces."""
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
        raise ApiError(
            413,
            "RequestEntityTooLarge",
            f"a JSON patch may hold at most {MAX_OPERATIONS} operations, not {len(operations)}",
        )
    result = copy.deepcopy(document)
    for number, operation in enumerate(operations):
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise bad_request(f"operation {number} of the JSON patch is no object with a path")
        try:
            result = jsonpatch.JsonPatch([operation]).apply(result)
        except (
            jsonpatch.JsonPatchException,
            jsonpatch.JsonPointerException,
            KeyError,
            TypeError,
            ValueError,
            IndexError,
        ) as error:
            what = f"operation {number} ({operation.get('op')} {operation['path']}) does not apply: {error}"
            raise ApiError(
                422, "Invalid", f"the server rejected our request due to an error in our request: {what}"
            ) from None
    return result
