"""What acts from the console have in common: a write in the session's name, the way back with a toast, a refusal as a page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme

from fleet.api.actions import Write
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.rights import Actor
from fleet.console import words
from fleet.console.page import Page, respond
from fleet.control.kinds import Json

MANAGER: Final = "fleet-console"
MANY: Final = 20  # acts on more than these ask for their exact count
_BEFORE: Final = re.compile(r"^Operation cannot be fulfilled on [^:]+: (?=\S)")


def write_of(actor: Actor, *, dry_run: bool = False) -> Write:
    """A write by who is logged in."""
    return Write(by=actor, manager=MANAGER, dry_run=dry_run)


def reason_of(form: QueryDict) -> str:
    """The reason that was typed; ApiError without one."""
    text = form.get("reason", "").strip()
    if not text:
        raise bad_request("a reason is needed: it is what the next person reads")
    return text[:300]


def back(path: str, said: str, undo: str = "") -> HttpResponse:
    """To the page, which says in a toast what was done."""
    query = {"did": said} | ({"undo": undo} if undo else {})
    joint = "&" if "?" in path else "?"
    return HttpResponseRedirect(f"{path}{joint}{urlencode(query)}", status=303)


def sentence_of(error: ApiError) -> str:
    """What was wrong, field by field where that is known, without its full stop and without the words of Kubernetes before it."""
    causes = (error.details or {}).get("causes", [])
    said = "; ".join(f"{c['field']}: {c['message']}" for c in causes) or _BEFORE.sub("", error.message)
    return (said if said == error.message else words.closed(said)).rstrip(".")


_KIND: Final = re.compile(r"^(?:[A-Z][a-z]+ value|Forbidden|Too long|Too many): ")
_VALUE: Final = re.compile(r'^".*?": ')


def plain(message: str) -> str:
    """What is wrong with a field, said beside it: the kind of mistake and the value need no words there."""
    return words.closed(_VALUE.sub("", _KIND.sub("", message)))


def refused(request: HttpRequest, actor: Actor, error: ApiError, way_back: str) -> HttpResponse:
    """The page that says why nothing was changed."""
    context = {"sentence": f"{sentence_of(error)}. Nothing was changed.", "back": way_back}
    return respond(request, actor, Page("console/refused.html", "Not done", context, status=error.code))


def machines_page(form: QueryDict) -> str:
    """The list of machines that an act came from, as its form says it; never another site's page."""
    wanted = form.get("back", "")
    return wanted if wanted.startswith("/machines") and url_has_allowed_host_and_scheme(wanted, None) else "/machines"


def acted(request: HttpRequest, acts: Mapping[str, Callable[..., str]], path: str, *subject: str) -> HttpResponse:
    """POST of the verb that the form names: the act is given the subject, who asks and the form, and says what it did."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    act = acts.get(request.POST.get("verb", ""))
    try:
        if act is None:
            raise bad_request(f"there is no act of that name here; there are {', '.join(acts)}")
        return back(path, act(*subject, actor, request.POST))
    except ApiError as error:
        return refused(request, actor, error, path)


def create_line(obj: Json) -> str:
    """The line that makes the same by hand."""
    return f"kubectl create -f - <<< {shlex.quote(orjson.dumps(obj).decode())}"


def told_before(
    template: str, context: Mapping[str, Any], error: ApiError | None, fields: Collection[str], *,
    named: Callable[[str], str] = str, may: bool = True, **more: Any,
) -> JsonResponse:  # fmt: skip
    """What a dialog tells before it is confirmed; `may`: whether the act would be accepted.

    Problems stand at their fields (`named`: the field of the form that a field of the object is asked by), those of no field in the text.
    """
    causes = (error.details or {}).get("causes", []) if error else []
    found: dict[str, list[str]] = {}
    for cause in causes:
        found.setdefault(named(cause["field"]), []).append(plain(cause["message"]))
    told = {field: " ".join(messages) for field, messages in found.items() if field in fields}
    elsewhere = "" if error is None or (causes and len(told) == len(found)) else f"{sentence_of(error)}."
    html = render_to_string(f"console/{template}.html", {**context, "refused": elsewhere})
    status = error.code if error is not None and error.code in (403, 404) else 200
    return JsonResponse({"html": html, "may": error is None and may, "fields": told, **more}, status=status)
