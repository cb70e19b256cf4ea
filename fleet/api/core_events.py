"""core/v1 Events, so that `kubectl describe`, `kubectl events` and `get events -w` show what happened to an object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from fleet.api import errors, listing, negotiation
from fleet.api.answers import respond
from fleet.api.authentication import request_actor
from fleet.api.event_sight import sight_of
from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.api.table import age, parse_time
from fleet.control.kinds import API_VERSION, Json, kinds
from fleet.control.times import format_time
from fleet.events.incoming import OWN_PREFIX
from fleet.events.log import EventRow, Sight, row_of

# Fields that clients select by, and where they stand in the Event.
_FIELDS = {
    "involvedObject.uid", "involvedObject.name", "involvedObject.namespace", "involvedObject.kind", "involvedObject.apiVersion",
    "involvedObject.fieldPath", "involvedObject.resourceVersion", "metadata.name", "metadata.namespace", "reason", "type", "source", "reportingComponent",
}  # fmt: skip
_PINNED = ("involvedObject.kind", "involvedObject.name", "involvedObject.uid", "metadata.name", "type")  # also in SQL
MOST = 500


@dataclass(frozen=True, slots=True)
class EventQuery:
    """What a client asks for: terms (path, wanted equal, value), and what it may see."""

    terms: tuple[tuple[str, bool, str], ...] = ()
    sight: Sight | None = None
    # The object of involvedObject.{kind, name}, as it is now: its number of kind and row ids; None = not pinned.
    target: tuple[int, tuple[int, ...]] | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)

    def allows(self, row: EventRow) -> bool:
        """For rows that are in memory; the same as the SQL."""
        if self.sight is not None and not self.sight.allows(row):
            return False
        if self.target is not None and (row.kind != self.target[0] or row.object_id not in self.target[1]):
            return False
        event = event_of(row)
        return all((_text(event, path) == value) == equal for path, equal, value in self.terms if not self._told(path))

    def _told(self, path: str) -> bool:
        """uid, kind and name of a pinned object are in its row ids already."""
        return path == "involvedObject.uid" or (self.target is not None and path.startswith("involvedObject."))


def read_event_query(request: HttpRequest, actor: Actor) -> EventQuery:
    """400 for fields that Events do not have, 403 for who has no role."""
    if not actor.bindings and not actor.is_system:
        text = f'events is forbidden: User "{actor.name}" cannot list resource "events" in API group "" at the cluster scope'
        raise errors.ApiError(403, "Forbidden", text, {"kind": "events"})
    terms: list[tuple[str, bool, str]] = []
    text = request.GET.get("fieldSelector", "")
    if "\x00" in text or len(text) > 4_096:
        raise errors.bad_request("invalid field selector")
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"([A-Za-z.]+)(==|=|!=)(.*)", part, re.DOTALL)
        if match is None or match[1] not in _FIELDS:
            raise errors.bad_request(f"field label not supported: {part[:100]}")
        # describe asks for the empty namespace and the empty uid of what it knows by name: that pins nothing.
        if match[3] or match[2] == "!=":
            terms.append((match[1], match[2] != "!=", match[3]))
    pinned = {path: value for path, equal, value in terms if equal and path in _PINNED}
    return EventQuery(tuple(terms), sight_of(actor), _target(pinned), pinned)


def _target(pinned: Mapping[str, str]) -> tuple[int, tuple[int, ...]] | None:
    name, uid = pinned.get("involvedObject.name"), pinned.get("involvedObject.uid")
    kind = next((k for k in kinds().values() if k.kind == pinned.get("involvedObject.kind")), None)
    if kind is None or name is None:
        if uid:
            raise errors.bad_request("involvedObject.uid needs involvedObject.kind and involvedObject.name beside it")
        return None
    storage = storage_for(kind.plural)
    if not uid:
        return kind.number, tuple(storage.ids_of([name]))
    stored = storage.read(name)
    return kind.number, (stored.id,) if stored is not None and stored.obj["metadata"]["uid"] == uid else ()


def events_view(request: HttpRequest) -> HttpResponse:
    """GET /api/v1/events and /api/v1/namespaces/{ns}/events: the newest, of one object or of all that the actor sees."""
    actor = request_actor(request)
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed(request.method or "")
    accepted = negotiation.accept(request.headers.get("Accept", ""))
    limit = min(listing.number(request, "limit", MOST) or MOST, MOST)
    rows, rv = newest_events(read_event_query(request, actor), limit)
    return respond(shown_list([event_of(r) for r in rows], rv, accepted.form), accepted)


def newest_events(query: EventQuery, limit: int) -> tuple[list[EventRow], int]:
    """The newest events, newest first, and the position of the list."""
    where, params = _where(query)
    found: list[EventRow] = []
    before = 1 << 62
    with connection.cursor() as cursor:
        cursor.execute("SELECT fleet_horizon() - 1")
        rv = int(cursor.fetchone()[0])
        while len(found) < limit:
            cursor.execute(
                "SELECT pos, n, at, object_id, cluster_id, kind, severity, type, source, data FROM event "
                f"WHERE {where} AND pos < %s AND pos <= %s ORDER BY pos DESC, n DESC LIMIT %s",
                [*params, before, rv, limit],
            )
            rows = [row_of(r) for r in cursor.fetchall()]
            found += [r for r in rows if query.allows(r)]
            if len(rows) < limit or all(p in _PINNED for p, _, _ in query.terms):
                break
            before = rows[-1].pos
    return found[:limit], rv


def _where(query: EventQuery) -> tuple[str, list[Any]]:
    where, params = ["true"], list[Any]()
    if query.sight is not None:
        where.append("(cluster_id = ANY (%s) OR (cluster_id = 0 AND kind = ANY (%s)))")
        params += [list(query.sight.clusters), list(query.sight.fleet_wide_kinds)]
    if query.target is not None:
        where.append("kind = %s AND object_id = ANY (%s)")
        params += [query.target[0], list(query.target[1])]
    elif "involvedObject.kind" in query.pinned:
        where.append("kind = %s")
        params.append(next((k.number for k in kinds().values() if k.kind == query.pinned["involvedObject.kind"]), -1))
    elif "involvedObject.name" in query.pinned:
        where.append("data ->> 'name' = %s")
        params.append(query.pinned["involvedObject.name"])
    if query.pinned.get("type") in ("Normal", "Warning"):
        where.append("severity = 0" if query.pinned["type"] == "Normal" else "severity > 0")
    if match := re.fullmatch(r".*\.([0-9a-f]{1,15})\.\d+", query.pinned.get("metadata.name", "")):
        where.append("pos = %s")
        params.append(int(match[1], 16))
    return " AND ".join(where), params


def event_of(row: EventRow) -> Json:
    """The row as a core/v1 Event."""
    data = row.data
    kind = next((k for k in kinds().values() if k.number == row.kind), None)
    when = format_time(row.at)
    name = row.name or str(row.object_id)
    return {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": f"{name}.{row.pos:x}.{row.n}",
            "namespace": "default",
            "resourceVersion": str(row.pos),
            "creationTimestamp": when,
        },
        "involvedObject": {"kind": kind.kind if kind else "", "name": name, "apiVersion": API_VERSION},
        "reason": data.get("reason") or row.type.rsplit(".", 1)[-1].capitalize(),
        "message": data.get("message") or _sentence(row.type, data),
        "source": {"component": f"fleet{row.source}" if row.type.startswith(OWN_PREFIX) else row.source},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
        "type": "Normal" if row.severity == 0 else "Warning",
        "reportingComponent": "fleet.dev",
        "reportingInstance": "",
    }


def _sentence(type_: str, data: Json) -> str:
    if "from" in data and "to" in data:
        return f"{type_.rsplit('.', 1)[-1].capitalize()} went from {data['from']} to {data['to']}."
    return type_


def _text(event: Json, path: str) -> str:
    if path == "source":
        return str(event["source"]["component"])
    value: Any = event
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def shown_list(items: list[Json], rv: int, form: str) -> Json:
    """Events as EventList or Table."""
    if form == "table":
        return event_table(items, rv, timezone.now())
    return {"kind": "EventList", "apiVersion": "v1", "metadata": {"resourceVersion": str(rv)}, "items": items}


def event_table(items: list[Json], rv: int, now: datetime, *, columns: bool = True) -> Json:
    """What `kubectl get events` prints."""
    names = ("Last Seen", "Type", "Reason", "Object", "Message")
    rows = [
        {
            "cells": [
                age(parse_time(e["lastTimestamp"]), now),
                e["type"],
                e["reason"],
                f"{e['involvedObject']['kind'].lower()}/{e['involvedObject']['name']}",
                e["message"],
            ],
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": e["metadata"]},
        }
        for e in items
    ]
    definitions = [{"name": n, "type": "string", "format": "", "description": n, "priority": 0} for n in names]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": str(rv)},
        "columnDefinitions": definitions if columns else None,
        "rows": rows,
    }


def event_line(type_: str, row: EventRow, form: str, *, columns: bool) -> bytes:
    """One line of a watch."""
    event = event_of(row)
    shown = event_table([event], row.pos, timezone.now(), columns=columns) if form == "table" else event
    return orjson.dumps({"type": type_, "object": shown}) + b"\n"
