"""Events that were set aside, with the reason and the way back; and how far each of Fleet's own readers is behind."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

import orjson
from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpRequest, HttpResponse, QueryDict
from django.views.decorators.http import require_POST

from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.event_center import act_on_letters, reach_of
from fleet.api.rights import Actor
from fleet.console import words
from fleet.console.acting import back, refused
from fleet.console.page import Page
from fleet.console.words import Word
from fleet.events import letters
from fleet.events.consumers import LAG, Lag, lag_of

PAGE: Final = 100
AT_ONCE: Final = letters.MOST  # letters of one reason that one press reaches
INGEST: Final = "ingest"  # as the name of the consumer "" is shown
LATE_SECONDS: Final = 60.0  # a reader so far behind is worth a look
TABS: Final = (("events", "Events"), ("events/dead-letters", "Dead letters"), ("events/readers", "Readers"))


def dead_letters(actor: Actor, query: QueryDict) -> Page:
    """What no handler could take and what came in and fits nowhere; the newest first."""
    consumer, reason, last = query.get("consumer"), query.get("reason", ""), query.get("before", "")
    before = int(last) if last.isdecimal() and len(last) < 19 else 1 << 62
    reach = reach_of(actor, actor.clusters)
    with connection.cursor() as cursor:
        found = letters.listed(cursor, reach, consumer="" if consumer == INGEST else consumer, reason=reason[:253].replace("\x00", ""), before=before, limit=PAGE + 1)  # fmt: skip
        counts = letters.counted(cursor, reach)
    shown = found[:PAGE]
    groups = [{"consumer": c or INGEST, "reason": r, "n": n, "href": urlencode({"consumer": c or INGEST, "reason": r})} for c, r, n in counts]  # fmt: skip
    kept = {k: v for k, v in (("consumer", consumer), ("reason", reason)) if v}
    context: dict[str, Any] = {
        "letters": [{**each.json(), "first_at": each.first_at, "last_at": each.last_at, "text": orjson.dumps(each.data, option=orjson.OPT_INDENT_2).decode(), "again": each.state == "Retrying"} for each in shown],
        "groups": groups, "kept": kept, "older": urlencode({**kept, "before": shown[-1].id}) if len(found) > PAGE else "", "later": bool(last),
        "sentence": _sentence(sum(n for _, _, n in counts), len(counts)), "may_act": actor.publishes_for is None or bool(actor.publishes_for), "at_once": AT_ONCE,
        "tab": "events/dead-letters", "tabs": TABS,
    }  # fmt: skip
    return Page("console/dead_letters.html", "Dead letters", context, (), frozenset(), "events", (("Events", "/events"),))  # fmt: skip


def _sentence(total: int, groups: int) -> list[Word]:
    if not total:
        return [Word("Nothing is set aside.")]
    causes = f", {words.count(groups, 'cause')}" if 1 < groups < total else ""
    verb = "is" if total == 1 else "are"
    return [Word(words.count(total, "event"), "", "warn"), Word(f" {verb} set aside{causes}. Nothing else waits for them.")]  # fmt: skip


def readers(actor: Actor, query: QueryDict) -> Page:
    """Fleet's own readers of the log and the subscriptions: how far behind, what retention took from them."""
    with connection.cursor() as cursor:
        cursor.execute(LAG)
        found = [lag_of(row) for row in cursor.fetchall()]
    late = [each for each in found if each.seconds > LATE_SECONDS]
    behind = "is" if len(late) == 1 else "are"
    said = f"{words.count(len(late), 'reader')} {behind} more than a minute behind." if late else _well(len(found))
    context = {
        "readers": [_reader(each) for each in found], "sentence": [Word(said)],
        "tab": "events/readers", "tabs": TABS,
    }  # fmt: skip
    return Page("console/readers.html", "Readers", context, (), frozenset(), "events", (("Events", "/events"),))


def _well(n: int) -> str:
    return f"All {n} readers keep up." if n > 1 else "The one reader keeps up." if n else "Nothing reads the log yet."


def _reader(lag: Lag) -> dict[str, Any]:
    kind, _, name = lag.name.rpartition("/")
    return {"name": lag.name, "subscription": name if kind == "subscription" else "", "seconds": lag.seconds, "late": lag.seconds > LATE_SECONDS, "letters": lag.dead_letters, "failures": lag.failures, "gaps": lag.gaps, "lost": lag.lost, "moved_at": lag.moved_at}  # fmt: skip


@login_required
@require_POST
def letters_do(request: HttpRequest) -> HttpResponse:
    """POST of retry or discard: of one letter (`id`), or of all of one consumer and reason."""
    actor, form = actor_of(request.user, request.META.get("REMOTE_ADDR") or ""), request.POST
    path, verb = "/events/dead-letters", form.get("verb", "")
    try:
        if verb not in ("retry", "discard"):
            raise bad_request("there is no act of that name here; there are retry and discard")
        done = len(act_on_letters(actor, verb, _ids(actor, form)))
    except ApiError as error:
        return refused(request, actor, error, path)
    past = "is tried again" if verb == "retry" else "is given up"
    many = "are tried again" if verb == "retry" else "are given up"
    return back(path, f"{words.count(done, 'event')} {past if done == 1 else many}.")


def _ids(actor: Actor, form: QueryDict) -> list[int]:
    named = form.get("id", "")
    if named:
        if not named.isdecimal() or len(named) > 18:
            raise bad_request("a dead letter is named by the number that the list shows")
        return [int(named)]
    consumer, reason = form.get("consumer", ""), form.get("reason", "")
    if not consumer or not reason or "\x00" in consumer + reason:
        raise bad_request("say which dead letter, or a consumer and a reason")
    with connection.cursor() as cursor:
        found = letters.listed(cursor, reach_of(actor, actor.publishes_for), consumer="" if consumer == INGEST else consumer, reason=reason, limit=AT_ONCE)  # fmt: skip
    return [each.id for each in found]
