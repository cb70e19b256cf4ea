"""What acts from the console have in common: a write in the session's name, the way back with a toast, a refusal as a page."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict

from fleet.api.actions import Write
from fleet.api.errors import ApiError, bad_request
from fleet.api.rights import Actor
from fleet.console import words
from fleet.console.page import Page, respond

MANAGER: Final = "fleet-console"
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
