"""Write-only values never leave: not in objects, annotations, audit rows, events or tombstones."""

from __future__ import annotations

import copy

import orjson

from fleet.api.table import LAST_APPLIED
from fleet.control.kinds import Json, Kind


def _blank(obj: Json, path: str) -> None:
    """Empty the text, or the values of the map, at `path`; what should be either and is neither (in an annotation) goes as a whole."""
    *above, last = path.split(".")
    parent: object = obj
    for part in above:
        parent = parent.get(part) if isinstance(parent, dict) else None
    if isinstance(parent, dict) and last in parent:
        values = parent[last]
        parent[last] = (
            dict.fromkeys(values, "") if isinstance(values, dict) else "" if isinstance(values, str) else None
        )


def redact(kind: Kind, obj: Json) -> Json:
    """A copy in which each write-only text, and each value of a write-only map, is the empty string, also inside last-applied."""
    if not kind.write_only:
        return obj
    out = copy.deepcopy(obj)
    for path in kind.write_only:
        _blank(out, path)
    meta = out.get("metadata")
    annotations = meta.get("annotations") if isinstance(meta, dict) else None
    if isinstance(annotations, dict) and LAST_APPLIED in annotations:
        try:
            inner = orjson.loads(annotations[LAST_APPLIED])
        except (orjson.JSONDecodeError, TypeError):
            del annotations[LAST_APPLIED]
        else:
            # kubectl compares this text with what it sends next; a secret that changed shows as "configured", which is true.
            annotations[LAST_APPLIED] = (
                orjson.dumps(redact(kind, inner)).decode() + "\n" if isinstance(inner, dict) else ""
            )
    return out
