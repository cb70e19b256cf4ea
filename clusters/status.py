"""Status of clusters and other shared objects, written by several owners: each brings its own fields and its own conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from django.db import connection, transaction
from django.utils import timezone

from fleet.api.storage import Storage, difference, format_time
from fleet.control.conditions import Condition
from fleet.control.kinds import Json
from fleet.events.publish import MODIFIED, hint, note_change


@dataclass(frozen=True, slots=True)
class Part:
    """What one owner says of one object: whole fields, and conditions by type."""

    fields: Json = field(default_factory=dict)
    conditions: Sequence[Condition] = ()


def merged(status: Json, part: Part, now: str) -> Json:
    """The status with that part in place; a condition keeps its time where its status did not change."""
    before = {c["type"]: c for c in status.get("conditions", [])}
    for condition in part.conditions:
        old = before.get(condition.type, {})
        since = old.get("lastTransitionTime", now) if old.get("status") == condition.status else now
        before[condition.type] = {**condition.json(), "lastTransitionTime": since}
    return {**status, **part.fields, "conditions": [before[t] for t in sorted(before)]}


def write_parts(storage: Storage, parts: Mapping[int, Part]) -> list[int]:
    """Merge parts into statuses by row id, only where they differ, with the rows locked; ids that changed."""
    changed: list[int] = []
    now = format_time(timezone.now())
    with transaction.atomic(), connection.cursor() as cursor:
        rows = storage.model._default_manager.filter(pk__in=parts).order_by("pk").select_for_update(no_key=True)
        for row in rows:
            status = merged(row.status, parts[row.pk], now)
            if status == row.status:
                continue
            before = storage.to_json(row)
            row.status, row.rv = status, storage.next_position(row.rv)
            storage.model._default_manager.filter(pk=row.pk).update(status=row.status, rv=row.rv)
            after = storage.to_json(row)
            old = difference(storage.kind, before, after)
            note_change(cursor, row.rv, row.pk, storage.cluster_id(after), storage.kind.number, MODIFIED, old)
            changed.append(row.pk)
    if changed:
        with connection.cursor() as cursor:
            hint(cursor)
    return changed
