"""Acts from the console: each goes through the same actions as the API, with the session's own rights."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.utils import timezone
from django.views.decorators.http import require_POST

from fleet.api import audit
from fleet.api.actions import create_object, delete_object, patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.console import matching, queries, words
from fleet.console.acting import MANY, back, machines_page, reason_of, refused, sentence_of, write_of
from fleet.console.cluster_care import patched, paused_patch
from fleet.control import work
from fleet.control.kinds import API_VERSION, MACHINE, Json
from fleet.control.times import format_time
from machines.decommission import ABANDON

HOURS: Final = ("1", "4", "24", "168")
_CONFIRMED: Final = ("fleet.dev/confirm-removal", "fleet.dev/accept-diff")


def _operation(name: str, actor: Actor, verb: str, **more: object) -> str:
    obj: Json = {
        "apiVersion": API_VERSION,
        "kind": "Operation",
        "metadata": {"generateName": f"{verb.lower()}-"},
        "spec": {"machine": name, "verb": verb, **more},
    }
    made = create_object("operations", obj, write=write_of(actor))
    return f"{verb} is asked for: Operation {made['metadata']['name']}."


def hold(name: str, actor: Actor, form: QueryDict) -> str:
    """Hold a machine until then."""
    hours = form.get("hours", "4")
    if hours not in HOURS:
        raise bad_request("the end of a hold is 1, 4, 24 or 168 hours away")
    until = timezone.now() + timedelta(hours=int(hours))
    spec = {"target": {"machine": name}, "reason": reason_of(form), "until": format_time(until), "owner": actor.name}
    create_object(
        "holds",
        {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"generateName": f"{name[:40]}-"}, "spec": spec},
        write=write_of(actor),
    )
    return f"{name} is held until {until:%-d %b %H:%M} UTC."


def release(name: str, actor: Actor, form: QueryDict) -> str:
    """Release every hold that names this machine."""
    own = queries.holds_of(name)
    if not own:
        raise bad_request(f"no hold names {name}; one that covers more is released under Safety")
    for each in own:
        delete_object("holds", each, write=write_of(actor))
    return f"{name} is released."


def reconcile(name: str, actor: Actor, form: QueryDict) -> str:
    """Look at it now. Changes nothing by itself, so it is no Operation."""
    storage = storage_for("machines")
    stored = storage.read(name)
    if stored is None or not actor.may("update", storage.kind, storage.cluster_name(stored.obj)):
        raise ApiError(
            403,
            "Forbidden",
            f"{actor.name} may not ask for {name} to be reconciled: it takes the role operator in its cluster",
        )
    work.wake(MACHINE, [stored.id])
    with connection.cursor() as cursor:
        audit.note(cursor, actor, "reconcile", "Machine", name, {})
    return f"{name} is looked at now."


def _repin(form: QueryDict) -> Callable[[Json], Json]:
    """The change that makes the form's lines the machine's own pins."""
    wanted: dict[str, str | None] = {}
    for line in filter(None, (part.strip() for part in form.get("versions", "").splitlines())):
        match = re.fullmatch(r"(\S+)\s*[=:]\s*(\S+)", line)
        if match is None:
            raise bad_request(f"“{line[:80]}” is no line of the form package = version")
        wanted[match[1]] = match[2].strip("\"'")

    def patch(live: Json) -> Json:
        old = live["spec"].get("versions", {})
        gone = {k: None for k in old if k not in wanted}
        changed: Json = merge_patch(
            live,
            {"spec": {"versions": gone | wanted}, "metadata": {"resourceVersion": form.get("resourceVersion", "")}},
        )
        return changed

    return patch


def versions(name: str, actor: Actor, form: QueryDict) -> str:
    """Replace the machine's own pins; refused when it changed since the page was loaded."""
    patch_object("machines", name, _repin(form), write=write_of(actor))
    return f"Versions of {name} are changed."


def confirm(name: str, actor: Actor, form: QueryDict) -> str:
    """A person's word for a hash that the page showed: accept a difference, confirm a removal."""
    annotation, value = form.get("annotation", ""), form.get("value", "")
    if annotation not in _CONFIRMED or not re.fullmatch(r"[0-9a-f]{8,64}", value):
        raise bad_request("what is confirmed is a hash that Fleet shows")

    def patch(live: Json) -> Json:
        changed: Json = merge_patch(live, {"metadata": {"annotations": {annotation: value}}})
        return changed

    patch_object("machines", name, patch, write=write_of(actor))
    return f"Confirmed for {name}: {value}."


def abandon(name: str, actor: Actor, form: QueryDict) -> str:
    """A person's word that a machine which leaves is given up: its host stays as it is; the count was typed."""
    if form.get("count", "").strip() != "1":
        raise bad_request("type 1, the number of machines that would be given up")

    def patch(live: Json) -> Json:
        if "deletionTimestamp" not in live["metadata"]:
            raise bad_request(f"{name} was not deleted; only a machine that is to leave can be given up")
        changed: Json = merge_patch(live, {"metadata": {"annotations": {ABANDON: name}}})
        return changed

    patch_object("machines", name, patch, write=write_of(actor))
    return f"{name} is given up: it leaves, and its host stays as it is."


def _paused(name: str, actor: Actor, *, on: bool) -> None:
    patch_object("machines", name, lambda live: patched(live, paused_patch(on)), write=write_of(actor))


def pause(name: str, actor: Actor, form: QueryDict) -> str:
    """Hands off one machine until somebody resumes it."""
    _paused(name, actor, on=True)
    return f"{name} is paused: Fleet looks and changes nothing."


def resume(name: str, actor: Actor, form: QueryDict) -> str:
    """Hands on again."""
    _paused(name, actor, on=False)
    return f"{name} goes on."


def restart(name: str, actor: Actor, form: QueryDict) -> str:
    """Restart one unit."""
    return _operation(name, actor, "Restart", units=[form.get("unit", "").strip()], reason=reason_of(form))


def reboot(name: str, actor: Actor, form: QueryDict) -> str:
    """Reboot; the count was typed."""
    if form.get("count", "").strip() != "1":
        raise bad_request("type 1, the number of machines that would be rebooted")
    return _operation(name, actor, "Reboot", reason=reason_of(form))


def again(name: str, actor: Actor, form: QueryDict) -> str:
    """Run a finished Operation again."""
    return _operation(name, actor, "RunAgain", operation=form.get("operation", ""), reason="run again from the console")


def cancel(name: str, actor: Actor, form: QueryDict) -> str:
    """Cancel the open Operation before its next step."""
    return _operation(name, actor, "Cancel", operation=form.get("operation", ""), reason="cancelled from the console")


Act = Callable[[str, Actor, QueryDict], str]
VERBS: Final[dict[str, Act]] = {
    f.__name__: f
    for f in (hold, release, pause, resume, reconcile, versions, confirm, abandon, restart, reboot, again, cancel)
}
BULK: Final[dict[str, Act]] = {f.__name__: f for f in (hold, release, reconcile)}
_UNDO: Final = {"hold": "release", "pause": "resume"}  # acts whose toast offers the way back


@login_required
@require_POST
def machine_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one machine."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    verb = request.POST.get("verb", "")
    act = VERBS.get(verb)
    path = f"/machines/{quote(name)}/why"
    try:
        if act is None:
            raise bad_request(f"there is no act “{verb[:40]}”")
        return back(path, act(name, actor, request.POST), _UNDO.get(verb, ""))
    except ApiError as error:
        return refused(request, actor, error, path)


def _selected(actor: Actor, form: QueryDict) -> list[str]:
    """Names of the rows that were ticked, or of all that match; none when that is too many rows."""
    names = sorted(set(form.getlist("name")))
    if "hash" not in form:
        return names if len(names) <= queries.MACHINE_PAGE else []
    if names:
        raise bad_request("select rows or all that match, not both")
    return list(matching.frozen(actor, form, matching.MOST).names)


@login_required
@require_POST
def machines_do(request: HttpRequest) -> HttpResponse:
    """POST of one verb on the machines that were selected; the first refusal ends it and says how far it came.

    Rows come as names. All that match come as the filter and the hash of what was counted, and are looked for again.
    """
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    way_back = machines_page(request.POST)
    verb, done, names = request.POST.get("verb", ""), 0, list[str]()
    try:
        act, names = BULK.get(verb), _selected(actor, request.POST)
        if act is None or not names:
            raise bad_request(f"select 1 to {queries.MACHINE_PAGE} machines, and one of {', '.join(BULK)}")
        if len(names) > MANY and request.POST.get("count", "").strip() != str(len(names)):
            raise bad_request(f"type {len(names)}, the number of machines that were selected")
        for name in names:
            act(name, actor, request.POST)
            done += 1
    except ApiError as error:
        if not done:
            return refused(request, actor, error, way_back)
        said = f"{words.count(done, 'machine')} of {len(names)} done, then refused: {error.message}"
        return back(way_back, said[:200])
    past = {"hold": "held", "release": "released", "reconcile": "looked at now"}[verb]
    return back(way_back, f"{words.count(done, 'machine')} {'is' if done == 1 else 'are'} {past}.")


def _told(warning: str) -> str:
    """A line of a dry run as the dialog says it, where everything is about the plan."""
    line = warning.removeprefix("plan: ")
    line = f"No plan: {line.removeprefix('none: ')}" if line.startswith("none: ") else line
    return line[:1].upper() + line[1:]


@login_required
@require_POST
def machine_plan(request: HttpRequest, name: str) -> JsonResponse:
    """What the versions of the form would lead to, by a dry run: `{plan: sentences}`, or `why` there is none."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    write = write_of(actor, dry_run=True)
    try:
        patch_object("machines", name, _repin(request.POST), write=write)
    except ApiError as error:
        # Half a line is how every line begins: that is an answer, and only a right that is missing is a refusal.
        status = error.code if error.code in (403, 404) else 200
        return JsonResponse({"plan": [], "why": f"{sentence_of(error)}."}, status=status)
    return JsonResponse({"plan": [_told(line) for line in write.warnings], "why": ""})
