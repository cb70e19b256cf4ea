"""Looking for events, dead letters and consumers over HTTP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse

from fleet.api import audit, errors, listing
from fleet.api.authentication import request_actor
from fleet.api.event_sight import sight_of
from fleet.api.jsonbody import loads
from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids
from fleet.control.kinds import MACHINE, Json, by_kind
from fleet.control.times import NEEDS_ZONE, parse_time
from fleet.events import letters
from fleet.events.consumers import LAG, Lag, lag_of
from fleet.events.letters import Reach
from fleet.events.log import SEVERITIES, cloud_event
from fleet.events.search import MOST, NEWEST, Search, search

_ASKED: Final = ("machine", "kind", "name", "cluster", "type", "severity", "text", "since", "until", "before", "limit")


def search_view(request: HttpRequest) -> HttpResponse:
    """GET /api/events: the newest that match, as CloudEvents, and where to go on."""
    actor = _reader(request)
    found = _search(read_search(request, actor))
    body = [cloud_event(row) for row in found.rows]
    more = {
        "next": f"{found.next[0]}-{found.next[1]}" if found.next else "",
        "searchedBackTo": found.back_to.isoformat() if found.back_to else "",
    }
    return _answer(b'{"events":[' + b",".join(body) + b"]," + orjson.dumps(more)[1:])


def _search(wanted: Search) -> Any:
    with connection.cursor() as cursor:
        return search(cursor, wanted)


def _reader(request: HttpRequest) -> Actor:
    actor = request_actor(request)
    if not actor.bindings and not actor.is_system:
        raise errors.ApiError(
            403, "Forbidden", f'events is forbidden: User "{actor.name}" has no role', {"kind": "events"}
        )
    return actor


def read_search(request: HttpRequest, actor: Actor) -> Search:
    """400 with a sentence for what cannot be read."""
    asked: dict[str, str] = {k: str(v) for k, v in request.GET.items() if v}
    for name, value in asked.items():
        if name not in _ASKED:
            raise errors.bad_request(f"{name[:50]}: no such filter; there are {', '.join(_ASKED)}")
        if "\x00" in value or len(value) > 512:
            raise errors.bad_request(f"{name}: may have at most 512 characters and no NUL")
    kind = by_kind(asked["kind"]) if "kind" in asked else None
    if "kind" in asked and kind is None:
        raise errors.bad_request(f"kind: there is no kind {asked['kind'][:50]}")
    if asked.get("severity", "normal") not in SEVERITIES:
        raise errors.bad_request(f"severity: is one of {', '.join(SEVERITIES)}")
    cluster = None
    if "cluster" in asked:  # -1 = a cluster that is not there: it has no events
        cluster = cluster_ids([asked["cluster"]]).get(asked["cluster"], -1)
    number = MACHINE if "machine" in asked else kind.number if kind else None
    return Search(
        kind=number, name=asked.get("machine") or asked.get("name", ""), cluster=cluster, type=asked.get("type", ""),
        severity=SEVERITIES.index(asked.get("severity", "normal")), text=asked.get("text", ""), since=_time(asked, "since"), until=_time(asked, "until"),
        sight=sight_of(actor), before=_position(asked.get("before", "")), limit=min(listing.number(request, "limit", 100) or 100, MOST),
    )  # fmt: skip


def _time(asked: dict[str, str], name: str) -> datetime | None:
    if name not in asked:
        return None
    moment = parse_time(asked[name].replace(" ", "+"))  # a plus that was not percent-encoded arrives as a blank
    if moment is None:
        raise errors.bad_request(f"{name}: {NEEDS_ZONE}")
    return moment


def _position(text: str) -> tuple[int, int]:
    if not text:
        return NEWEST
    match = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,5})", text, re.ASCII)
    if match is None:
        raise errors.bad_request("before: must be what an answer gave as next")
    return int(match[1]), int(match[2])


# -- dead letters ----------------------------------------------------------------------------------------------------


def reach_of(actor: Actor, names: frozenset[str] | None) -> Reach:
    """Letters of these clusters (None = all), and those that the actor itself sent."""
    return Reach(None if names is None else cluster_ids(names), actor.name)


def letters_view(request: HttpRequest) -> HttpResponse:
    """GET /api/events/dead-letters: what was set aside, newest first, and how many by consumer and reason."""
    actor = _reader(request)
    before, limit = listing.number(request, "before", 1 << 62), listing.number(request, "limit", 100)
    consumer, reason = request.GET.get("consumer"), request.GET.get("reason", "")
    if "\x00" in (consumer or "") + reason:
        raise errors.bad_request("a filter holds a NUL character")
    reach = reach_of(actor, actor.clusters)
    with connection.cursor() as cursor:
        found = letters.listed(
            cursor, reach, consumer="" if consumer == "ingest" else consumer, reason=reason,
            before=min(before or 1 << 62, 1 << 62), limit=min(limit or 100, letters.MOST),
        )  # fmt: skip
        counts = letters.counted(cursor, reach)
    shown: Json = {"items": [letter.json() for letter in found]}
    shown["counts"] = [{"consumer": c or "ingest", "reason": r, "count": n} for c, r, n in counts]
    return _answer(orjson.dumps(shown))


def retry_view(request: HttpRequest) -> HttpResponse:
    """POST /api/events/dead-letters/retry {"ids": […]}."""
    return _act(request, "retry")


def discard_view(request: HttpRequest) -> HttpResponse:
    """POST /api/events/dead-letters/discard {"ids": […]}."""
    return _act(request, "discard")


def _act(request: HttpRequest, verb: str) -> HttpResponse:
    actor = request_actor(request)
    if request.method != "POST":
        raise errors.method_not_allowed(request.method or "")
    _check_operator(actor, verb)
    body, _ = loads(request.body)
    done = act_on_letters(actor, verb, _ids(body))
    return _answer(orjson.dumps({"done": [str(i) for i in done]}))


def _check_operator(actor: Actor, verb: str) -> None:
    names = actor.publishes_for
    if names is not None and not names:
        why = f'User "{actor.name}" cannot {verb} dead letters: it takes the role operator'
        raise errors.ApiError(403, "Forbidden", f"events is forbidden: {why}", {"kind": "events"})


def act_on_letters(actor: Actor, verb: str, ids: Sequence[int]) -> list[int]:
    """Try these again or discard them (`verb` retry or discard); ids that were found. Audited. ApiError 403 for who only looks."""
    _check_operator(actor, verb)
    act = letters.retry if verb == "retry" else letters.discard
    with transaction.atomic(), connection.cursor() as cursor:
        done = act(cursor, reach_of(actor, actor.publishes_for), ids)
        if done:
            audit.note(cursor, actor, verb, "DeadLetter", "", {"ids": [str(i) for i in done]})
    return done


def _ids(body: Any) -> list[int]:
    ids = body.get("ids") if isinstance(body, dict) else None
    if not isinstance(ids, list) or not ids or len(ids) > 1_000:
        raise errors.bad_request("ids: must be a list of one to 1000 ids of dead letters")
    texts = [str(i) if isinstance(i, str) or (isinstance(i, int) and not isinstance(i, bool)) else "" for i in ids]
    if not all(re.fullmatch(r"[0-9]{1,18}", t, re.ASCII) for t in texts):
        raise errors.bad_request("ids: an id is the number that the list of dead letters shows")
    return [int(t) for t in texts]


def consumers_view(request: HttpRequest) -> HttpResponse:
    """GET /api/events/consumers: how far Fleet's own readers and the subscriptions are behind."""
    _reader(request)
    with connection.cursor() as cursor:
        cursor.execute(LAG)
        found = [lag_of(row) for row in cursor.fetchall()]
    return _answer(orjson.dumps({"items": [_consumer(each) for each in found]}))


def _consumer(lag: Lag) -> Json:
    return {
        "name": lag.name, "position": str(lag.position), "lagSeconds": round(lag.seconds, 3), "failures": lag.failures,
        "deadLetters": lag.dead_letters, "gaps": lag.gaps, "lostEvents": lag.lost,
    }  # fmt: skip


def _answer(body: bytes) -> HttpResponse:
    response = HttpResponse(body + b"\n", content_type="application/json")
    response["Cache-Control"] = "no-cache, private"
    return response
