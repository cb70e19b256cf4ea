"""Status of clusters and other shared objects, written by several owners: each brings its own fields and its own conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from fleet.api.storage import Storage, difference
from fleet.control import clock
from fleet.control.conditions import Condition
from fleet.control.kinds import Json
from fleet.control.times import format_time
from fleet.events.publish import MODIFIED, NORMAL, hint, note_change, publish


@dataclass(frozen=True, slots=True)
class Told:
    """An event that comes with a status: `type` is its last part, as in dev.fleet.cluster.<type>."""

    type: str
    reason: str
    message: str
    severity: int = NORMAL


@dataclass(frozen=True, slots=True)
class Part:
    """What one owner says of one object: whole fields (None takes one away), conditions by type, and events."""

    fields: Json = field(default_factory=dict)
    conditions: Sequence[Condition] = ()
    told: Sequence[Told] = ()


def merged(status: Json, part: Part, now: str) -> Json:
    """The status with that part in place; a condition keeps its time where its status did not change."""
    before = {c["type"]: c for c in status.get("conditions", [])}
    for condition in part.conditions:
        old = before.get(condition.type, {})
        since = old.get("lastTransitionTime", now) if old.get("status") == condition.status else now
        before[condition.type] = {**condition.json(), "lastTransitionTime": since}
    kept = {k: v for k, v in {**status, **part.fields}.items() if v is not None}
    return {**kept, "conditions": [before[t] for t in sorted(before)]}


def write_parts(
    storage: Storage,
    parts: Mapping[int, Part],
    *,
    fence: Callable[[Any], None] | None = None,
    columns: Callable[[Any], Mapping[str, Any]] = lambda row: {},
) -> list[int]:
    """Merge parts into statuses by row id, only where they differ, with the rows locked; ids that changed.

    `fence` looks, inside the transaction and before any row is locked, whether the writer may still write; it raises.
    `columns` gives more columns of a row that has its new status already.
    """
    changed: list[int] = []
    now = format_time(clock.now())
    with transaction.atomic(), connection.cursor() as cursor:
        if fence is not None:
            fence(cursor)
        rows = storage.model._default_manager.filter(pk__in=parts).order_by("pk").select_for_update(no_key=True)
        for row in rows:
            part = parts[row.pk]
            status = merged(row.status, part, now)
            if status == row.status and not part.told:
                continue
            before = storage.to_json(row)
            row.status, row.rv = status, storage.next_position(row.rv)
            storage.model._default_manager.filter(pk=row.pk).update(status=row.status, rv=row.rv, **columns(row))
            after = storage.to_json(row)
            old = difference(storage.kind, before, after)
            cluster = storage.cluster_id(after)
            note_change(cursor, row.rv, row.pk, cluster, storage.kind.number, MODIFIED, old)
            for n, told in enumerate(part.told):
                publish(
                    cursor, pos=row.rv, n=n, kind=storage.kind.number, object_id=row.pk, cluster_id=cluster,
                    type=f"dev.fleet.{storage.kind.singular}.{told.type}", severity=told.severity, source=f"/{storage.kind.plural}",
                    data={"reason": told.reason, "message": told.message, "name": row.name},
                )  # fmt: skip
            changed.append(row.pk)
    if changed:
        with connection.cursor() as cursor:
            hint(cursor)
    return changed
