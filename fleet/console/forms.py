"""Acts from the console: each goes through the same actions as the API, with the session's own rights."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import quote

from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.utils import timezone
from django.views.decorators.http import require_POST

from fleet.api import audit
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.api.storage import format_time, storage_for
from fleet.console.page import Page, respond
from fleet.control import work
from fleet.control.kinds import API_VERSION, MACHINE, Json
from fleet.safety import switch

MANAGER = "fleet-console"


def _write(actor: Actor) -> Write:
    return Write(by=actor, manager=MANAGER)


def _operation(name: str, actor: Actor, verb: str, **more: object) -> str:
    obj: Json = {
        "apiVersion": API_VERSION,
        "kind": "Operation",
        "metadata": {"generateName": f"{verb.lower()}-"},
        "spec": {"machine": name, "verb": verb, **more},
    }
    made = create_object("operations", obj, write=_write(actor))
    return f"{verb} is asked for: Operation {made['metadata']['name']}."


def _reason(form: QueryDict) -> str:
    text = form.get("reason", "").strip()
    if not text:
        raise bad_request("a reason is needed: it is what the next person reads")
    return text[:300]


def hold(name: str, actor: Actor, form: QueryDict) -> str:
    """Hold a machine until then."""
    hours = form.get("hours", "4")
    if hours not in ("1", "4", "24", "168"):
        raise bad_request("the end of a hold is 1, 4, 24 or 168 hours away")
    until = timezone.now() + timedelta(hours=int(hours))
    spec = {"target": {"machine": name}, "reason": _reason(form), "until": format_time(until), "owner": actor.name}
    create_object(
        "holds",
        {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"generateName": f"{name[:40]}-"}, "spec": spec},
        write=_write(actor),
    )
    return f"{name} is held until {until:%H:%M} UTC."


def release(name: str, actor: Actor, form: QueryDict) -> str:
    """Release every hold that names this machine."""
    from fleet.console.pages import machine_holds

    for each in machine_holds(name):
        delete_object("holds", each["metadata"]["name"], write=_write(actor))
    return f"{name} is released."


def reconcile(name: str, actor: Actor, form: QueryDict) -> str:
    """Look at it now. Changes nothing by itself, so it is no Operation."""
    storage = storage_for("machines")
    stored = storage.read(name)
    if stored is None or not actor.may("update", storage.kind, storage.cluster_name(stored.obj)):
        raise bad_request(
            f"{actor.name} may not ask for {name} to be reconciled: it takes the role operator in its cluster"
        )
    work.wake(MACHINE, [stored.id])
    with connection.cursor() as cursor:
        audit.note(cursor, actor, "reconcile", "Machine", name, {})
    return f"{name} is looked at now."


def versions(name: str, actor: Actor, form: QueryDict) -> str:
    """Replace the machine's own pins; refused when it changed since the page was loaded."""
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

    patch_object("machines", name, patch, write=_write(actor))
    return f"Versions of {name} are changed."


def restart(name: str, actor: Actor, form: QueryDict) -> str:
    """Restart one unit."""
    return _operation(name, actor, "Restart", units=[form.get("unit", "").strip()], reason=_reason(form))


def reboot(name: str, actor: Actor, form: QueryDict) -> str:
    """Reboot; the count was typed."""
    if form.get("count", "").strip() != "1":
        raise bad_request("type 1, the number of machines that would be rebooted")
    return _operation(name, actor, "Reboot", reason=_reason(form))


def again(name: str, actor: Actor, form: QueryDict) -> str:
    """Run a finished Operation again."""
    return _operation(name, actor, "RunAgain", operation=form.get("operation", ""), reason="run again from the console")


def cancel(name: str, actor: Actor, form: QueryDict) -> str:
    """Cancel the open Operation before its next step."""
    return _operation(name, actor, "Cancel", operation=form.get("operation", ""), reason="cancelled from the console")


VERBS = {f.__name__: f for f in (hold, release, reconcile, versions, restart, reboot, again, cancel)}


def _back(path: str, said: str) -> HttpResponse:
    return HttpResponseRedirect(f"{path}?did={quote(said)}", status=303)


def _refused(request: HttpRequest, actor: Actor, error: ApiError, back: str) -> HttpResponse:
    causes = (error.details or {}).get("causes", [])
    sentence = "; ".join(f"{c['field']}: {c['message']}" for c in causes) or error.message
    return respond(
        request,
        actor,
        Page(
            "console/refused.html",
            "Not done",
            {"sentence": f"{sentence}. Nothing was changed.", "back": back},
            status=error.code,
        ),
    )


@login_required
@require_POST
def machine_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one machine."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    act = VERBS.get(request.POST.get("verb", ""))
    path = f"/machines/{name}/why"
    try:
        if act is None:
            raise bad_request(f"there is no act “{request.POST.get('verb', '')[:40]}”")
        return _back(path, act(name, actor, request.POST))
    except ApiError as error:
        return _refused(request, actor, error, path)


@login_required
@require_POST
def safety_do(request: HttpRequest) -> HttpResponse:
    """The kill switch, from the page."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    verb = request.POST.get("verb", "")
    try:
        if ("admin", "") not in actor.bindings:
            raise ApiError(
                403,
                "Forbidden",
                f"{actor.name} may not move the kill switch: it takes the role admin of the whole fleet",
            )
        if verb == "stop":
            switch.stop(actor.name, _reason(request.POST))
        elif verb == "resume":
            switch.resume(actor.name)
        else:
            raise bad_request("the kill switch knows stop and resume")
    except ApiError as error:
        return _refused(request, actor, error, "/safety")
    with connection.cursor() as cursor:
        audit.note(cursor, actor, verb, "KillSwitch", "fleet", {"why": request.POST.get("reason", "")[:300]})
    return _back("/safety", "All changes are stopped." if verb == "stop" else "Changes are allowed again.")
