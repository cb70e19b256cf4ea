"""Tables: what `kubectl get` prints. Cells are final text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from fleet.api.errors import bad_request
from fleet.control.kinds import Json, Kind

INCLUDES = ("", "Metadata", "Object", "None")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def parse_time(text: str) -> datetime:
    """RFC 3339 in UTC, as metadata writes it."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def age(then: datetime, now: datetime) -> str:
    """A span as kubectl writes it: 5m, 3d4h, 2y17d."""
    seconds = int((now - then).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(0, seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days < 365 * 8 and days % 365 else f"{days // 365}y"


def partial(obj: Json, *, for_row: bool = False) -> Json:
    """PartialObjectMetadata; rows leave out what only bloats them."""
    meta = dict(obj["metadata"])
    if for_row:
        meta.pop("managedFields", None)
        if LAST_APPLIED in meta.get("annotations", {}):
            meta["annotations"] = {k: v for k, v in meta["annotations"].items() if k != LAST_APPLIED}
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}


def columns_of(kind: Kind) -> list[Json]:
    """Column definitions: Name, the kind's own, Age last."""
    name = {"name": "Name", "type": "string", "format": "name", "description": "Name of the object.", "priority": 0}
    own = [
        {"name": c.name, "type": c.type, "format": "", "description": c.description, "priority": c.priority}
        for c in kind.columns
    ]
    return [
        name,
        *own,
        {"name": "Age", "type": "date", "format": "", "description": "Time since creation.", "priority": 0},
    ]


def row(kind: Kind, obj: Json, include: str, now: datetime) -> Json:
    """One row; `include` is Metadata, Object or None."""
    meta = obj["metadata"]
    cells = [meta["name"], *(c.value(obj, now) for c in kind.columns), age(parse_time(meta["creationTimestamp"]), now)]
    shown = None if include == "None" else obj if include == "Object" else partial(obj, for_row=True)
    return {"cells": cells, "object": shown}


def table(
    kind: Kind,
    objects: Iterable[Json],
    *,
    include: str = "Metadata",
    resource_version: str = "",
    continue_: str = "",
    remaining: int | None = None,
    now: datetime,
    columns: bool = True,
) -> Json:
    """A Table of these objects. 400 when `include` is not Metadata, Object or None."""
    if include not in INCLUDES:
        raise bad_request(f"includeObject: Invalid value: {include[:50]!r}: must be Metadata, Object or None")
    meta: Json = {"resourceVersion": resource_version}
    if continue_:
        meta["continue"] = continue_
    if remaining is not None:
        meta["remainingItemCount"] = remaining
    rows = [row(kind, o, include, now) for o in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": columns_of(kind) if columns else None,
        "rows": rows,
    }


def partial_list(objects: Sequence[Json], meta: Json) -> Json:
    """PartialObjectMetadataList."""
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "items": [partial(o) for o in objects],
    }
