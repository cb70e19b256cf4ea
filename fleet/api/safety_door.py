"""`/api/safety`: how safety stands, for programs and for `fleetctl safety`; and people's word to a breaker."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse

from fleet.api import audit, errors, negotiation
from fleet.api.answers import respond
from fleet.api.authentication import request_actor
from fleet.api.errors import ApiError
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.control.kinds import Json
from fleet.control.times import format_time
from fleet.safety import switch
from fleet.safety.breakers import Breaker, find_place, read_breakers, reset
from fleet.safety.notices import Notice, acknowledge, read_notices

_HOLDS: Final = 100
# Clusters by a machine each, found by the index; policies of other scopes by their own.
_BUDGETS: Final = """
WITH sample AS MATERIALIZED (
  SELECT m.machine_id FROM (SELECT key FROM safety_place WHERE dim = 'cluster' UNION SELECT 0) c
  CROSS JOIN LATERAL (SELECT k.machine_id FROM capacity k WHERE k.in_service AND k.cluster_id = c.key LIMIT 1) m)
SELECT l.dim, l.name, l.cap, l.planned_cap, l.total, l.gone, l.policy FROM safety_limits(ARRAY(SELECT machine_id FROM sample)) l WHERE l.dim IN ('fleet', 'cluster')
UNION ALL
SELECT b.dim, coalesce(pl.name, ''), x.cap, CASE WHEN x.cap = 0 THEN 0 ELSE greatest(1, x.cap - x.cap / 4) END, u.total, u.gone, b.policy
FROM safety_budgets() b JOIN safety_place pl ON pl.dim = b.dim AND pl.key = b.key CROSS JOIN LATERAL safety_usage(b.dim, ARRAY[b.key]) u
CROSS JOIN LATERAL (SELECT CASE WHEN b.max_count = 0 OR b.max_percent = 0 THEN 0 ELSE greatest(1, least(b.max_count::numeric, floor(u.total * b.max_percent / 100)))::int END AS cap) x
WHERE b.dim NOT IN ('fleet', 'cluster') ORDER BY 1, 2, 7"""
_REFUSALS: Final = """
SELECT r.reason, count(*), min(r.message), min(r.since) FROM refusal r WHERE %s::text[] IS NULL OR r.cluster_id IN (SELECT key FROM safety_place WHERE dim = 'cluster' AND name = ANY (%s))
GROUP BY 1 ORDER BY 2 DESC, 1"""


def safety_view(request: HttpRequest) -> HttpResponse:
    """GET /api/safety."""
    actor = request_actor(request)
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed(request.method or "")
    if not actor.bindings:
        raise ApiError(403, "Forbidden", f'User "{actor.name}" has no role.')
    return respond(safety_now(actor), negotiation.Accepted("json"))


def safety_now(actor: Actor) -> Json:
    """Switch, breakers, budgets in use, refusals by reason and holds; of the clusters that the actor sees, and of the fleet."""
    seen = actor.clusters
    names = None if seen is None else sorted(seen)
    now = switch.state()
    with connection.cursor() as cursor:
        cursor.execute(_BUDGETS)
        budgets = cursor.fetchall()
        cursor.execute(_REFUSALS, [names, names])
        refusals = cursor.fetchall()
    holds = storage_for("holds").page(ListQuery(clusters=seen, limit=_HOLDS)).objects
    return {
        "switch": {"stopped": now.stopped, "by": now.by, "why": now.why, "since": _time(now.since)},
        "breakers": [breaker_json(b) for b in read_breakers() if _sees(seen, b.dim, b.name)],
        "budgets": [
            {"dim": dim, "name": name, "limit": cap, "plannedLimit": planned, "total": total, "unavailable": gone, "policy": policy}
            for dim, name, cap, planned, total, gone, policy in budgets
            if _sees(seen, dim, name)
        ],
        "refusals": [{"reason": r, "machines": n, "example": text, "since": _time(since)} for r, n, text, since in refusals],
        "notices": [n.json() for n in read_notices() if seen is None or n.cluster in seen],
        "holds": [
            {"name": o["metadata"]["name"], **o["spec"], "phase": o.get("status", {}).get("phase", ""), "machines": o.get("status", {}).get("machines", 0)}
            for o in holds
        ],
    }  # fmt: skip


def _sees(clusters: frozenset[str] | None, dim: str, name: str) -> bool:
    return clusters is None or dim == "fleet" or (dim == "cluster" and name in clusters)


def _time(moment: object) -> str | None:
    return format_time(moment) if moment is not None else None  # type: ignore[arg-type]


def breaker_json(breaker: Breaker) -> Json:
    """A breaker as programs read it."""
    return {
        "place": breaker.place, "dim": breaker.dim, "name": breaker.name, "state": breaker.state, "threshold": breaker.threshold,
        "count": breaker.count, "windowSeconds": breaker.window_seconds, "allow": breaker.allow, "underWay": breaker.under_way,
        "since": _time(breaker.since), "triesAt": _time(breaker.tries_at), "message": breaker.why, "policy": breaker.policy,
        "resetAskedBy": breaker.asked_by, "resetLapsesAt": _time(breaker.lapses_at), "machinesPerMinute": list(breaker.series),
    }  # fmt: skip


def reset_view(request: HttpRequest, place: str) -> HttpResponse:
    """POST /api/safety/breakers/<place>/reset: 200 with the new state, 202 when a second person must say the same."""
    actor = request_actor(request)
    if request.method != "POST":
        raise errors.method_not_allowed(request.method or "")
    answer = reset_breaker(place, actor)
    return respond(answer, negotiation.Accepted("json"), 202 if answer["state"] == "asked" else 200)


def acknowledge_view(request: HttpRequest, number: str) -> HttpResponse:
    """POST /api/safety/notices/<number>/acknowledge: somebody takes it."""
    actor = request_actor(request)
    if request.method != "POST":
        raise errors.method_not_allowed(request.method or "")
    if not number.isdecimal() or len(number) > 18:
        raise ApiError(404, "NotFound", f"There is no notice {number[:40]}: a notice is named by its number.")
    return respond(acknowledge_notice(int(number), actor), negotiation.Accepted("json"))


def acknowledge_notice(number: int, by: Actor) -> Json:
    """The notice; audited. Raises ApiError: 403 for who only looks, 404 when it is over or never was, 409 when another was first."""
    found = next((n for n in read_notices() if n.id == number), None)
    if found is None:
        raise ApiError(404, "NotFound", f"There is no notice {number}, or it is over.")
    if not may_acknowledge(found, by):
        raise ApiError(
            403, "Forbidden", f'User "{by.name}" cannot acknowledge notice {number}: that takes more than looking.'
        )
    with transaction.atomic(), connection.cursor() as cursor:
        if not acknowledge(number, by.name):
            raise ApiError(
                409, "Conflict", f"Notice {number} was acknowledged by {found.acked_by or 'somebody'} already."
            )
        audit.note(cursor, by, "acknowledge", "Notice", str(number), {"subject": found.subject}, found.cluster)
    return replace(found, acked_by=by.name, acked_at=datetime.now(UTC)).json()


def may_acknowledge(notice: Notice, by: Actor) -> bool:
    """Whoever may do something about it: more than looking, in its cluster or in the fleet."""
    return by.is_system or bool(by.roles_in(notice.cluster or None) & {"operator", "approver", "admin"})


def reset_breaker(place: str, by: Actor) -> Json:
    """{"state", "message"}; audited. Raises ApiError: 403 who may not or asked alone, 404 no such place, 409 nothing to reset."""
    dim, _, name = place.partition("/")
    if not by.may_approve(name if dim == "cluster" else None):
        raise ApiError(
            403, "Forbidden", f'User "{by.name}" cannot reset the breaker {place}: that takes the role approver there.'
        )
    found = None if "\x00" in place else find_place(place)
    if found is None:
        raise ApiError(
            404, "NotFound", f"There is no breaker {place}: write fleet, cluster/NAME, idc/NAME or rack/IDC/NAME."
        )
    with transaction.atomic():
        state = reset(*found, by.name, two_people=settings.FLEET_REQUIRE_APPROVAL)
        if state in ("asked", "half-open", "closed"):
            with connection.cursor() as cursor:
                audit.note(cursor, by, "reset", "Breaker", place, {"state": state}, name if dim == "cluster" else "")
    if state == "closed already":
        raise ApiError(409, "Conflict", f"The breaker {place} is closed: there is nothing to reset.")
    if state == "same":
        raise ApiError(
            403, "Forbidden", f"You asked for the reset of {place} yourself; another approver must say the same."
        )
    said = {
        "asked": "A second approver must say the same within an hour.",
        "half-open": "It lets one through at a time, then twice as many as they end well. A second reset closes it.",
        "closed": "It is closed, and counts anew.",
    }
    return {"place": place, "state": state, "message": said[state]}
