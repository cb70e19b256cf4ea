"""Write-only values never leave: not in objects, annotations, audit rows, events or tombstones."""

from __future__ import annotations

import copy

import orjson

from fleet.api.table import LAST_APPLIED
from fleet.control.kinds import Json, Kind


def _map_at(obj: Json, path: str) -> Json | None:
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None


def redact(kind: Kind, obj: Json) -> Json:
    """A copy in which each value of a write-only map is the empty string, also inside last-applied."""
    if not kind.write_only:
        return obj
    out = copy.deepcopy(obj)
    for path in kind.write_only:
        values = _map_at(out, path)
        if values is not None:
            for key in values:
                values[key] = ""
    annotations = out.get("metadata", {}).get("annotations", {})
    if LAST_APPLIED in annotations:
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
