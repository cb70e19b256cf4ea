"""core/v1 Events, so that `kubectl describe` and `kubectl events` show what happened to an object."""

from __future__ import annotations

import re
from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from fleet.api import errors, listing, negotiation
from fleet.api.authentication import request_actor
from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids, format_time, storage_for
from fleet.api.table import age
from fleet.control.kinds import API_VERSION, Json, Kind, kinds

_FIELDS = {
    "involvedObject.uid", "involvedObject.name", "involvedObject.namespace", "involvedObject.kind", "involvedObject.apiVersion",
    "involvedObject.fieldPath", "involvedObject.resourceVersion", "metadata.name", "metadata.namespace", "reason", "type", "source", "reportingComponent",
}  # fmt: skip
MOST = 500


def events_view(request: HttpRequest) -> HttpResponse:
    """GET /api/v1/events and /api/v1/namespaces/{ns}/events: the newest, of one object or of all that the actor sees."""
    from fleet.api.views import respond

    actor = request_actor(request)
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed(request.method or "")
    accepted = negotiation.accept(request.headers.get("Accept", ""))
    wanted = _parse(request.GET.get("fieldSelector", ""))
    limit = min(listing.number(request, "limit", MOST) or MOST, MOST)
    rows, rv = _rows(wanted, actor, limit)
    items = [_event(row) for row in rows]
    items = [
        e for e in items if all(_text(e, p) == v for p, v in wanted.items() if p in ("type", "reason", "metadata.name"))
    ]
    meta = {"resourceVersion": str(rv)}
    if accepted.form == "table":
        return respond(_table(items, meta), accepted)
    return respond({"kind": "EventList", "apiVersion": "v1", "metadata": meta, "items": items}, accepted)


def _parse(text: str) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([A-Za-z.]+)(==|=|!=)(.*)", part.strip())
        if match is None or match[1] not in _FIELDS:
            raise errors.bad_request(f"field label not supported: {part[:100]}")
        if match[2] != "!=" and match[3]:
            wanted[match[1]] = match[3]
    return wanted


def _rows(wanted: dict[str, str], actor: Actor, limit: int) -> tuple[list[Any], int]:
    where: list[str] = ["true"]
    params: list[Any] = []
    kind = next((k for k in kinds().values() if k.kind == wanted.get("involvedObject.kind")), None)
    if "involvedObject.kind" in wanted:
        if kind is None:
            return [], 0
        where.append("kind = %s")
        params.append(kind.number)
    if kind is not None and "involvedObject.name" in wanted:
        ids = storage_for(kind.plural).ids_of([wanted["involvedObject.name"]])
        where.append("object_id = ANY (%s)")
        params.append(ids)
    elif "involvedObject.name" in wanted:
        where.append("data ->> 'name' = %s")
        params.append(wanted["involvedObject.name"])
    if actor.clusters is not None:
        where.append("cluster_id = ANY (%s)")
        params.append([0, *cluster_ids(actor.clusters).values()])
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT pos, n, at, object_id, kind, severity, type, source, data, fleet_horizon() - 1 FROM event WHERE {' AND '.join(where)} ORDER BY pos DESC LIMIT %s",
            [*params, limit],
        )
        rows = cursor.fetchall()
    return rows, int(rows[0][9]) if rows else 0


def _event(row: Any) -> Json:
    import orjson

    pos, n, at, object_id, number, severity, type_, source, data, _ = row
    data = orjson.loads(data) if isinstance(data, str) else data or {}
    kind: Kind | None = next((k for k in kinds().values() if k.number == number), None)
    when = format_time(at)
    name = data.get("name", str(object_id))
    return {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": f"{name}.{pos:x}.{n}",
            "namespace": "default",
            "resourceVersion": str(pos),
            "creationTimestamp": when,
        },
        "involvedObject": {"kind": kind.kind if kind else "", "name": name, "apiVersion": API_VERSION},
        "reason": data.get("reason", type_.rsplit(".", 1)[-1].capitalize()),
        "message": data.get("message") or _sentence(type_, data),
        "source": {"component": f"fleet{source or ''}"},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
        "type": "Normal" if severity == 0 else "Warning",
        "reportingComponent": "fleet.dev",
        "reportingInstance": "",
    }


def _sentence(type_: str, data: Json) -> str:
    if "from" in data and "to" in data:
        return f"{type_.rsplit('.', 1)[-1].capitalize()} went from {data['from']} to {data['to']}."
    return type_


def _text(event: Json, path: str) -> str:
    return str(event["metadata"]["name"] if path == "metadata.name" else event.get(path, ""))


def _table(items: list[Json], meta: Json) -> Json:
    now = timezone.now()
    from fleet.api.table import parse_time

    names = [
        ("Last Seen", "string"),
        ("Type", "string"),
        ("Reason", "string"),
        ("Object", "string"),
        ("Message", "string"),
    ]
    columns = [{"name": n, "type": t, "format": "", "description": n, "priority": 0} for n, t in names]
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
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    }
