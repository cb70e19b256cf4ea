"""Acts of the safety page: kill switch, holds, resets of breakers. What is far-reaching takes a count or a name that is typed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import orjson
from django.contrib.auth.decorators import login_required
from django.db import OperationalError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.utils import timezone
from django.views.decorators.http import require_POST

from fleet.api import audit
from fleet.api.actions import create_object, delete_object, patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.api.safety_door import acknowledge_notice, reset_breaker
from fleet.api.storage import cluster_ids
from fleet.console import queries, words
from fleet.console.acting import acted, create_line, reason_of, told_before, write_of
from fleet.control.kinds import API_VERSION, Json
from fleet.control.times import format_time
from fleet.safety import switch
from fleet.safety.schema import describe_target

HOURS: Final = ("1", "4", "24", "168", "720")
TARGETS: Final = ("cluster", "machine", "selector", "matchAll")
LABELS: Final = "spec.target.selector.matchLabels"
FIELDS: Final = ("spec.target.cluster", "spec.target.machine", LABELS, "spec.reason")
_ALIASES: Final = {"spec.target.selector": LABELS}
_SECONDS: Final = 3


def hold_of(form: QueryDict, by: str) -> Json:
    """The Hold that a form describes; ApiError where it cannot be read."""
    which = form.get("target", "")
    if which not in TARGETS:
        raise bad_request(f"a hold covers one of {', '.join(TARGETS)}")
    target: Json = {which: form.get(f"spec.target.{which}", "").strip()}
    if which == "matchAll":
        target = {"matchAll": True}
    if which == "selector":
        target = {"selector": {"matchLabels": labels_of(form.get(LABELS, ""))}}
    spec = {"target": target, "reason": form.get("spec.reason", "").strip()[:1024], "until": format_time(_until(form)), "owner": by}  # fmt: skip
    name = describe_target(target).replace("/", "-").replace("=", "-").replace(",", "-").lower()
    stem = "".join(c for c in name if c.isascii() and (c.isalnum() or c in "-."))[:40].strip("-.") or "hold"
    return {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"generateName": f"{stem}-"}, "spec": spec}


def labels_of(text: str) -> Json:
    """`a=b, c=d` as a map."""
    out = {}
    for part in text.replace(",", " ").split():
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise bad_request(f"“{part[:80]}” is no label of the form key=value")
        out[key] = value
    return out


def _until(form: QueryDict) -> Any:
    hours = form.get("hours", "4")
    if hours not in HOURS:
        raise bad_request(f"the end of a hold is {', '.join(HOURS[:-1])} or {HOURS[-1]} hours away")
    return timezone.now() + timedelta(hours=int(hours))


def hold(actor: Actor, form: QueryDict) -> str:
    """Make a hold."""
    made = create_object("holds", hold_of(form, actor.name), write=write_of(actor))
    return f"Hold {made['metadata']['name']} is made: {describe_target(made['spec']['target'])}."


def extend(actor: Actor, form: QueryDict) -> str:
    """Move the end of a hold; one that is over holds again."""
    name, until = form.get("hold", "")[:253], _until(form)

    def patch(live: Json) -> Json:
        changed: Json = merge_patch(live, {"spec": {"until": format_time(until)}})
        return changed

    patch_object("holds", name, patch, write=write_of(actor))
    return f"Hold {name} ends {until:%-d %b %H:%M} UTC."


def release(actor: Actor, form: QueryDict) -> str:
    """Take a hold away."""
    name = form.get("hold", "")[:253]
    delete_object("holds", name, write=write_of(actor))
    return f"Hold {name} is released."


def stop(actor: Actor, form: QueryDict) -> str:
    """The kill switch. What was typed is compared with what was shown: in an emergency a machine more or less is no reason to refuse."""
    _typed(form)
    _move(actor, "stop", form, lambda: switch.stop(actor.name, reason_of(form)))
    return "All changes are stopped."


def resume(actor: Actor, form: QueryDict) -> str:
    """Changes are allowed again."""
    _typed(form)
    _move(actor, "resume", form, lambda: switch.resume(actor.name))
    return "Changes are allowed again."


def _typed(form: QueryDict) -> None:
    told = form.get("told", "")
    if not told.isdecimal() or form.get("count", "").strip() != told:
        raise bad_request(f"type {told[:12] or 'the count'}, the number of machines that it covers")


def _move(actor: Actor, verb: str, form: QueryDict, act: Callable[[], object]) -> None:
    if ("admin", "") not in actor.bindings:
        raise ApiError(403, "Forbidden", f"{actor.name} may not move the kill switch: it takes the role admin of the whole fleet")  # fmt: skip
    try:
        act()
    except switch.SwitchError as error:
        raise ApiError(503, "ServiceUnavailable", str(error)) from error
    with connection.cursor() as cursor:
        audit.note(cursor, actor, verb, "KillSwitch", "fleet", {"why": form.get("reason", "")[:300]})


def reset(actor: Actor, form: QueryDict) -> str:
    """A breaker one step on: from open to half-open, from half-open to closed."""
    place = form.get("breaker", "")[:600]
    if form.get("confirm", "").strip() != place:
        raise bad_request(f"type {place}, the breaker that would be reset")
    try:
        answer = reset_breaker(place, actor)
    except OperationalError as error:
        raise ApiError(503, "ServiceUnavailable", f"the ledger is busy: {error}".strip()) from error
    return f"{place}: {answer['message']}"


def acknowledge(actor: Actor, form: QueryDict) -> str:
    """Somebody takes a notice: it is not told again."""
    number = form.get("notice", "")
    if not number.isdecimal() or len(number) > 18:
        raise bad_request("a notice is named by its number")
    taken = acknowledge_notice(int(number), actor)
    return f"{taken['subject']}: you took it, and it is not told again."


VERBS: Final[dict[str, Callable[[Actor, QueryDict], str]]] = {f.__name__: f for f in (hold, extend, release, stop, resume, reset, acknowledge)}  # fmt: skip


@login_required
@require_POST
def safety_do(request: HttpRequest) -> HttpResponse:
    """POST of one verb."""
    return acted(request, VERBS, "/safety/holds" if request.POST.get("back") == "holds" else "/safety")


@login_required
@require_POST
def safety_foresee(request: HttpRequest) -> JsonResponse:
    """What a new hold would cover, by a dry run."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    error, covers, line = None, 0, ""
    try:
        obj = hold_of(request.POST, actor.name)
        create_object("holds", obj, write=write_of(actor, dry_run=True))
        covers = covered(obj["spec"]["target"])
        line = create_line(obj)
    except ApiError as refusal:
        error = refusal
    go = f"Hold {words.count(covers, 'machine')}" if covers else "Hold"
    context = {"covers": covers, "told": error is None, "line": line}
    return told_before("_foresee_hold", context, error, FIELDS, named=lambda f: _ALIASES.get(f, f), go=go)


def covered(target: Json) -> int:
    """How many machines a target means; -1 = not counted in time."""
    if "machine" in target:
        return len(queries.rows("SELECT 1 FROM machine WHERE name = %s", [target["machine"]]))
    if "cluster" in target:
        id_ = cluster_ids([target["cluster"]]).get(target["cluster"])
        return queries.machines_in(id_) if id_ is not None else 0
    if target.get("matchAll"):
        return int(queries.rows("SELECT coalesce(sum(n), 0)::bigint AS n FROM (SELECT n FROM count_total UNION ALL SELECT n FROM count_delta) t")[0]["n"])  # fmt: skip
    labels = orjson.dumps(target["selector"]["matchLabels"]).decode()
    try:
        with queries.bounded(_SECONDS):
            return int(queries.rows("SELECT count(*) AS n FROM machine WHERE labels @> %s::jsonb", [labels])[0]["n"])
    except queries.TooSlow:
        return -1
