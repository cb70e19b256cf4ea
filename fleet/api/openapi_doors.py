"""OpenAPI of what is no kind: the doors of the Event Center and of safety, reviews, and how the server is.

A document of its own: kubectl reads that of the API group for kinds, and would take these for some.
"""

from __future__ import annotations

from typing import Any, Final

import fleet
from fleet.api.jsonbody import MAX_BYTES
from fleet.api.openapi import status_schema
from fleet.control.kinds import Json
from fleet.events import letters, search
from fleet.events.incoming import MOST_BYTES, MOST_EVENTS, SCHEMAS
from fleet.events.log import SEVERITIES

_REF: Final = "#/components/schemas/"
_JSON: Final = "application/json"
_STRING: Final[Json] = {"type": "string"}
_TEXTS: Final[Json] = {"type": "object", "additionalProperties": _STRING}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_FREE: Final[Json] = {"type": "object", "additionalProperties": True}

# What every address may answer, and what publishing may besides.
_REFUSALS: Final = {
    400: "The request cannot be read; nothing of it was done.",
    401: "No credentials, or ones that are not valid.",
    403: "The role does not reach this; the message says which does.",
}
_OF_BODIES: Final = {
    413: f"The body is larger than {MAX_BYTES // (1 << 20)} MiB.",
    415: "The body is of a type that is not read here; the message names those that are.",
}
_OF_DOORS: Final = {
    **_OF_BODIES,
    422: "An event is not valid: `details.causes` names each field of each event. Nothing of the request was stored.",
    429: "More than can be taken now: nothing of the request was stored. Come again after Retry-After.",
    503: "The database does not answer. Send the same events again: those that were stored count as duplicates.",
}
_RETRY_AFTER: Final[Json] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def document() -> Json:
    """The whole document for `/openapi/v3/doors`."""
    paths: Json = {**_events(), **_letters(), **_safety(), **_kubernetes(), **_server()}
    about = "Doors beside the kinds: events come in and are looked for, safety is asked and answered. Send `Authorization: Bearer <token>`."
    return {
        "openapi": "3.0.0",
        "info": {"title": "Fleet: events and safety", "version": fleet.__version__, "description": about},
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"BearerToken": {"type": "http", "scheme": "bearer"}}},
        "security": [{"BearerToken": []}],
    }


def _ref(name: str) -> Json:
    return {"$ref": _REF + name}


def _content(schema: Json, *types: str) -> Json:
    return {media: {"schema": schema} for media in types or (_JSON,)}


def _operation(tag: str, name: str, summary: str, answers: dict[int, tuple[str, Json]], refusals: dict[int, str], **more: Any) -> Json:  # fmt: skip
    """`answers`: (sentence, schema) by status code; `refusals` are Status objects."""
    responses: Json = {str(code): {"description": text, "content": _content(schema)} for code, (text, schema) in answers.items()}  # fmt: skip
    for code, text in sorted({**_REFUSALS, **refusals}.items()):
        responses[str(code)] = {"description": text, "content": _content(_ref("Status"))}
        if code in (429, 503):
            responses[str(code)]["headers"] = _RETRY_AFTER
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": responses, **more}


def _query(names: dict[str, tuple[str, Json]]) -> Json:
    return {"parameters": [{"name": n, "in": "query", "description": text, "schema": schema} for n, (text, schema) in names.items()]}  # fmt: skip


def _in_path(*names: tuple[str, str, Json]) -> list[Json]:
    return [{"name": n, "in": "path", "required": True, "description": text, "schema": schema} for n, text, schema in names]  # fmt: skip


def _body(content: Json) -> Json:
    return {"requestBody": {"required": True, "content": content}}


# -- events --------------------------------------------------------------------------------------------------------------

_CE_HEADERS: Final = {
    "ce-specversion": "1.0, in binary mode: the body is the data then.",
    "ce-id": "With ce-source it says which event it is.",
    "ce-source": "Who tells.",
    "ce-type": "As com.example.disk.failing.",
    "ce-subject": "machine/NAME, cluster/NAME, or a machine's bare name.",
    "ce-time": "When it was observed: RFC 3339, with its zone.",
    "ce-severity": "normal, warning or error.",
}
_EXAMPLE: Final[Json] = {
    "specversion": "1.0", "id": "sda-2026-01-31", "source": "/probes/smart", "type": "com.example.disk.failing", "subject": "machine/iad1-r01-u01", "severity": "warning",
    "data": {"reason": "SectorsReallocated", "message": "sda has reallocated 80 sectors since yesterday."},
}  # fmt: skip
_SEARCH: Final[dict[str, tuple[str, Json]]] = {
    "machine": ("About this machine.", _STRING),
    "kind": ("About objects of this kind, as Cluster.", _STRING),
    "name": ("About the object of this name, with kind.", _STRING),
    "cluster": ("In this cluster.", _STRING),
    "type": ("Types that begin so.", _STRING),
    "severity": ("At least so grave.", {"type": "string", "enum": list(SEVERITIES)}),
    "text": ("In type, reason, message or name; no pattern.", _STRING),
    "since": ("From then on: RFC 3339, with its zone.", _TIME),
    "until": ("Until then: RFC 3339, with its zone.", _TIME),
    "before": ("Where to go on: `next` of the answer before.", {"type": "string", "pattern": "^[0-9]{1,18}-[0-9]{1,5}$"}),
    "limit": ("At most so many.", {"type": "integer", "minimum": 1, "maximum": search.MOST}),
}  # fmt: skip


def _published(name: str, summary: str, **more: Any) -> Json:
    answer = {202: ("Durable; what became of the events.", _ref("Published"))}
    return _operation("Events", name, summary, answer, dict(_OF_DOORS), **more)


def _events() -> Json:
    cloud: Json = {
        "application/cloudevents+json": {"schema": _ref("CloudEvent"), "example": _EXAMPLE},
        "application/cloudevents-batch+json": {"schema": _ref("CloudEvents"), "example": [_EXAMPLE]},
        _JSON: {"schema": {"oneOf": [_ref("CloudEvent"), _ref("CloudEvents"), _FREE]}, "example": _EXAMPLE},
        "text/plain": {"schema": _STRING, "example": "sda has reallocated 80 sectors since yesterday."},
    }
    headers = [{"name": n, "in": "header", "description": text, "schema": _STRING} for n, text in _CE_HEADERS.items()]
    redfish = _query({"machine": ("Whose controller it is; else the Context of the subscription says so.", _STRING)})
    found = {200: ("The newest that match.", _ref("FoundEvents"))}
    behind = {200: ("How far each is behind.", _ref("Consumers"))}
    said = "Publish CloudEvents: structured, a batch, or binary (ce-* headers, and the data as JSON or text)"
    return {
        "/api/events": {
            "get": _operation("Events", "searchEvents", "Look for events, the newest first", found, {}, **_query(_SEARCH)),
            "post": _published("publishEvents", said, parameters=headers, **_body(cloud)),
        },
        "/api/events/alertmanager": {"post": _published("publishAlerts", "The webhook of Prometheus Alertmanager, version 4", **_body(_content(_ref("Alerts"))))},
        "/api/events/redfish": {"post": _published("publishRedfish", "A Redfish Event, as a controller posts it", **redfish, **_body(_content(_ref("RedfishEvent"))))},
        "/api/events/consumers": {"get": _operation("Events", "listConsumers", "Fleet's own readers of the log, and the subscriptions", behind, {})},
    }  # fmt: skip


def _letters() -> Json:
    asked = _query({
        "consumer": ("Who set it aside: ingest, or the name of a reader.", _STRING), "reason": ("Why, as UnknownSubject.", _STRING),
        "before": ("Older than the one of this id.", {"type": "integer", "minimum": 1}), "limit": ("At most so many.", {"type": "integer", "minimum": 1, "maximum": letters.MOST}),
    })  # fmt: skip
    out: Json = {
        "/api/events/dead-letters": {
            "get": _operation("Events", "listDeadLetters", "What was set aside, the newest first", {200: ("A page, and counts of all.", _ref("DeadLetters"))}, {}, **asked)
        }
    }  # fmt: skip
    for verb, text in (("retry", "Let them in or post them again"), ("discard", "Give them up")):
        answer = {200: ("Those that it was done to; others are over already, or not yours.", _ref("Done"))}
        body = _body(_content(_ref("Ids")))
        out[f"/api/events/dead-letters/{verb}"] = {"post": _operation("Events", f"{verb}DeadLetters", text, answer, {413: _OF_BODIES[413]}, **body)}  # fmt: skip
    return out


# -- safety --------------------------------------------------------------------------------------------------------------

# A place is one or more parts of an address: (its parts, operationId).
_PLACES: Final = (
    ("fleet", "Fleet", ()),
    ("cluster/{name}", "Cluster", (("name", "Name of the cluster.", _STRING),)),
    ("idc/{name}", "Idc", (("name", "Name of the idc.", _STRING),)),
    ("rack/{idc}/{name}", "Rack", (("idc", "Name of the idc.", _STRING), ("name", "Name of the rack.", _STRING))),
)


def _safety() -> Json:
    now = {200: ("As it is now.", _ref("Safety"))}
    number: Json = {"type": "integer", "minimum": 0}
    gone = {404: "There is no such notice, or it is over.", 409: "Somebody took it already."}
    taken = {200: ("The notice, taken.", _ref("Notice"))}
    out: Json = {
        "/api/safety": {"get": _operation("Safety", "readSafety", "Why things may not start: kill switch, breakers, budgets, refusals, notices, holds", now, {})},
        "/api/safety/notices/{number}/acknowledge": {
            "parameters": _in_path(("number", "Its id.", number)),
            "post": _operation("Safety", "acknowledgeNotice", "Take a notice: it is not told again", taken, gone),
        },
    }  # fmt: skip
    for place, name, parts in _PLACES:
        answers = {
            200: ("Done: it is half-open or closed now.", _ref("Reset")),
            202: ("Asked for: a second approver must say the same within an hour.", _ref("Reset")),
        }
        refusals = {
            403: "It takes the role approver there, and another person than the one who asked.",
            404: "There is no such place.",
            409: "It is closed: there is nothing to reset.",
        }
        operation = _operation("Safety", f"resetBreakerOf{name}", f"Reset a breaker one step ({name.lower()}): open, half-open, closed", answers, refusals)  # fmt: skip
        out[f"/api/safety/breakers/{place}/reset"] = ({"parameters": _in_path(*parts)} if parts else {}) | {"post": operation}  # fmt: skip
    return out


# -- what Kubernetes clients and monitors ask ----------------------------------------------------------------------------


def _kubernetes() -> Json:
    asked = _query({
        "fieldSelector": ("As `involvedObject.kind=Machine,involvedObject.name=iad1-r01-u01`.", _STRING), "limit": ("At most so many.", {"type": "integer"}),
        "watch": ("true: stream changes.", _STRING), "resourceVersion": ("Where a watch begins.", _STRING), "timeoutSeconds": ("Length of a watch.", {"type": "integer"}),
    })  # fmt: skip
    gone = {410: "That position is not kept any more; list anew."}
    events = _operation("Kubernetes", "listCoreEvents", "The same log as core/v1 Events, for kubectl", {200: ("A list, or a stream.", _FREE)}, gone, **asked)  # fmt: skip
    out: Json = {"/api/v1/events": {"get": events}}
    for group, plural, kind, text in (
        ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", "Who am I?"),
        ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", "May I do this?"),
        ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", "What may I do?"),
    ):
        answer = {201: ("The same, with its status.", _FREE)}
        body = {"requestBody": {"content": _content(_FREE)}}
        out[f"/apis/{group}/v1/{plural}"] = {"post": _operation("Kubernetes", f"create{kind}", text, answer, {413: _OF_BODIES[413]}, **body)}  # fmt: skip
    return out


def _server() -> Json:
    def plain(name: str, summary: str, **more: Any) -> Json:
        content = {"text/plain": {"schema": _STRING}}
        return {"operationId": name, "tags": ["Server"], "summary": summary, "responses": {"200": {"description": "OK", "content": content}}, **more}  # fmt: skip

    open_: Json = {"security": []}
    version: Json = {"200": {"description": "OK", "content": _content(_FREE)}}
    return {
        "/livez": {"get": plain("readLive", "Whether the process answers", **open_)},
        "/readyz": {"get": plain("readReady", "Whether the database answers and is migrated", **open_)},
        "/version": {"get": {"operationId": "readVersion", "tags": ["Server"], "summary": "The level of the Kubernetes API, and Fleet's own version", "responses": version, **open_}},
        "/metrics": {"get": plain("readMetrics", "Figures for Prometheus; for roles of the whole fleet")},
    }  # fmt: skip


# -- schemas -------------------------------------------------------------------------------------------------------------


def _object(about: str, properties: Json, *required: str, open_: bool = False) -> Json:
    """`open_`: other fields are let in too, as others' formats have more of them."""
    out: Json = {"type": "object", "description": about, "properties": properties}
    return out | ({"required": list(required)} if required else {}) | ({"additionalProperties": True} if open_ else {})


def _list(of: Json, **more: Any) -> Json:
    return {"type": "array", "items": of, **more}


def _schemas() -> Json:
    return {"Status": status_schema(), **_schemas_of_events(), **_schemas_of_letters(), **_schemas_of_safety()}


def _schemas_of_events() -> Json:
    texts = {"description": "What people read."}
    data = _object(f"At most {MOST_BYTES // 1024} KiB. `name`, `time` and `by` are set by Fleet.", {"reason": {"type": "string", "maxLength": 128, **texts}, "message": {"type": "string", "maxLength": 4096, **texts}}, open_=True)  # fmt: skip
    types = f"As com.example.disk.failing. Of those below dev.fleet. only {', '.join(SCHEMAS)} can be published."
    event = _object("A CloudEvent, version 1.0.", {
        "specversion": {"type": "string", "enum": ["1.0"]}, "id": {"type": "string", "minLength": 1, "maxLength": 256, "description": "With source it says which event it is: sent again, it is stored once."},
        "source": {"type": "string", "minLength": 1, "maxLength": 512, "description": "Who tells, as a URI reference."}, "type": {"type": "string", "minLength": 1, "maxLength": 128, "description": types},
        "subject": {"type": "string", "maxLength": 270, "description": "machine/NAME, cluster/NAME, or a machine's bare name."}, "time": {**_TIME, "description": "When it was observed, with its zone."},
        "severity": {"type": "string", "enum": list(SEVERITIES)}, "data": data,
    }, "specversion", "id", "source", "type", open_=True)  # fmt: skip
    alert = _object("One alert.", {
        "status": {"type": "string", "enum": ["firing", "resolved"]}, "labels": _TEXTS, "annotations": _TEXTS, "startsAt": _TIME, "endsAt": _TIME,
        "fingerprint": {"type": "string", "minLength": 1, "maxLength": 64},
    }, "status", "fingerprint", "startsAt", open_=True)  # fmt: skip
    record = _object("One record.", {
        "MessageId": _STRING, "Message": _STRING, "EventId": _STRING, "EventType": _STRING, "MemberId": _STRING, "EventTimestamp": _TIME, "MessageSeverity": _STRING, "Severity": _STRING,
    }, "MessageId", open_=True)  # fmt: skip
    logged = _object("An event of the log, as a CloudEvent.", {
        "specversion": _STRING, "id": _STRING, "type": _STRING, "source": _STRING, "time": {**_TIME, "description": "When Fleet received it."}, "subject": _STRING, "position": _STRING,
        "severity": _STRING, "fleetkind": {"type": "integer"}, "data": _FREE,
    })  # fmt: skip
    consumer = _object("How far one is.", {
        "name": _STRING, "position": _STRING, "lagSeconds": {"type": "number"}, "failures": _COUNT, "deadLetters": _COUNT, "gaps": _COUNT, "lostEvents": _COUNT,
    })  # fmt: skip
    many = {"maxItems": MOST_EVENTS}
    return {
        "CloudEvent": event,
        "CloudEvents": _list(_ref("CloudEvent"), **many),
        "Alerts": _object("A notification.", {"version": {"type": "string", "enum": ["4"]}, "externalURL": _STRING, "alerts": _list(alert, **many)}, "alerts", open_=True),
        "RedfishEvent": _object("A Redfish Event.", {"Context": {"type": "string", "description": "Name of the machine."}, "Events": _list(record, minItems=1, **many)}, "Events", open_=True),
        "Published": _object("What became of the events.", {"accepted": _COUNT, "duplicates": _COUNT, "quarantined": {**_COUNT, "description": "Set aside as dead letters."}}, "accepted", "duplicates", "quarantined"),
        "FoundEvents": _object("The newest that match.", {"events": _list(logged), "next": {"type": "string", "description": "Where to go on (before=), empty at the end."}, "searchedBackTo": {"type": "string", "description": "The time up to which the log was looked through."}}, "events", "next", "searchedBackTo"),
        "Consumers": _object("Readers of the log.", {"items": _list(consumer)}, "items"),
    }  # fmt: skip


def _schemas_of_letters() -> Json:
    event = _object("The event.", {"type": _STRING, "source": _STRING, "id": _STRING, "subject": _STRING, "data": _FREE})  # fmt: skip
    letter = _object("An event that could not be handled.", {
        "id": _STRING, "consumer": _STRING, "state": _STRING, "reason": _STRING, "message": _STRING, "attempts": _COUNT, "firstTime": _TIME, "lastTime": _TIME, "publisher": _STRING, "event": event,
    })  # fmt: skip
    counts = _object("How many of a reason.", {"consumer": _STRING, "reason": _STRING, "count": _COUNT})
    ids = _list({"type": "string", "pattern": "^[0-9]{1,18}$"}, minItems=1, maxItems=1000)
    return {
        "DeadLetter": letter,
        "DeadLetters": _object(
            "A page.", {"items": _list(_ref("DeadLetter")), "counts": _list(counts)}, "items", "counts"
        ),  # fmt: skip
        "Ids": _object("Ids of dead letters, as their list shows them.", {"ids": ids}, "ids"),
        "Done": _object("Ids of those that it was done to.", {"done": _list(_STRING)}, "done"),
    }


def _schemas_of_safety() -> Json:
    when: Json = {**_TIME, "nullable": True}
    breaker = _object("How a breaker stands.", {
        "place": {"type": "string", "description": "fleet, cluster/NAME, idc/NAME or rack/IDC/NAME."}, "dim": _STRING, "name": _STRING, "state": {"type": "string", "enum": ["closed", "open", "half-open", "off"]},
        "threshold": _COUNT, "count": _COUNT, "windowSeconds": _COUNT, "allow": _COUNT, "underWay": _COUNT, "since": when, "triesAt": when, "message": _STRING, "policy": _STRING,
        "resetAskedBy": {"type": "string", "description": "Who asked for a reset that a second person must confirm."}, "resetLapsesAt": {**when, "description": "When that word counts no more."},
        "machinesPerMinute": _list(_COUNT),
    })  # fmt: skip
    budget = _object("How much of a place is away.", {"dim": _STRING, "name": _STRING, "limit": _COUNT, "plannedLimit": _COUNT, "total": _COUNT, "unavailable": _COUNT, "policy": _STRING})  # fmt: skip
    refusal = _object("Changes that wait for one reason.", {"reason": _STRING, "machines": _COUNT, "example": _STRING, "since": when})  # fmt: skip
    notice = _object("What people must be told.", {
        "id": {"type": "integer"}, "reason": _STRING, "severity": {"type": "string", "enum": ["page", "warning"]}, "subject": _STRING, "message": _STRING, "clusterName": _STRING,
        "since": _TIME, "over": when, "acknowledgedBy": _STRING, "acknowledgedTime": when,
    })  # fmt: skip
    switch = _object("The kill switch.", {"stopped": {"type": "boolean"}, "by": _STRING, "why": _STRING, "since": when})
    return {
        "Breaker": breaker,
        "Notice": notice,
        "Reset": _object("How it stands.", {"place": _STRING, "state": {"type": "string", "enum": ["asked", "half-open", "closed"]}, "message": _STRING}, "place", "state", "message"),
        "Safety": _object("How safety stands, of the clusters that the reader sees and of the fleet.", {
            "switch": switch, "breakers": _list(_ref("Breaker")), "budgets": _list(budget), "refusals": _list(refusal), "notices": _list(_ref("Notice")), "holds": _list(_FREE),
        }, "switch", "breakers", "budgets", "refusals", "notices", "holds"),
    }  # fmt: skip
