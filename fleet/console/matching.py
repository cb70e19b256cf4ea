"""All machines that a filter means, as a list that is frozen by its hash: what is acted on is what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, JsonResponse, QueryDict
from django.views.decorators.http import require_GET

from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery
from fleet.console import filters, queries, words
from fleet.console.machine_list import machine_storage
from machines.batches.targets import MOST as MOST_OF_BATCH
from machines.batches.targets import digest
from machines.orders import matching

MOST: Final = 500  # machines that one act reaches; a batch reaches more
SECONDS: Final = 2  # that looking for them may take
_FORBIDDEN: Final = "it takes the role operator in their cluster"


@dataclass(frozen=True, slots=True)
class Targets:
    """Machines by name. The hash is of their names and ids: a machine that was made anew is another one."""

    names: tuple[str, ...]
    hash: str
    clusters: frozenset[str]


def targets(actor: Actor, form: QueryDict, most: int) -> Targets:
    """What `q` means at this moment, to the last machine; ApiError where that cannot be acted on as a whole.

    Without a filter it takes `all=1`: the whole fleet is never meant by something that was left empty.
    """
    text = form.get("q")
    if text is None:
        raise bad_request("q is needed: the filter whose machines are meant")
    try:
        parsed = filters.parse(text)
    except filters.FilterError as error:
        raise bad_request(str(error)) from None
    # by what the filter says, not by its text: `label:` and quotes around nothing say nothing
    says = parsed.fields.terms or parsed.labels.requirements or parsed.prefix
    if not says and form.get("all") != "1":
        raise bad_request("an empty filter means every machine: that has to be said, by all=1")
    found = _found(actor, parsed, most)
    if found is None:
        raise ApiError(422, "Invalid", f"More than {most:,} machines match: narrow the filter to act on all of them")
    if not found:
        raise ApiError(422, "Invalid", "No machine matches")
    _check_rights(actor, found)
    names, clusters = tuple(sorted(name for _, name, _ in found)), frozenset(cluster for _, _, cluster in found)
    return Targets(names, digest((name, id_) for id_, name, _ in found), clusters)


def frozen(actor: Actor, form: QueryDict, most: int) -> Targets:
    """The same, if it is still what the form's hash stands for; 409 when it is not."""
    changed = "The machines that match are no longer those that you selected"
    try:
        now = targets(actor, form, most)
    except ApiError as error:
        if error.code != 422:
            raise
        raise ApiError(409, "Conflict", f"{changed}. {error.message}") from None
    if now.hash != form.get("hash", ""):
        then = form.get("n", "")
        told = then.isdecimal() and len(then) < 7 and then != str(len(now.names))
        count = f"{words.count(len(now.names), 'machine')} now" + (f", {then} when you selected them" if told else "")
        raise ApiError(409, "Conflict", f"{changed}: {count}. Look at the list and select them again")
    return now


def _found(actor: Actor, parsed: filters.Filter, most: int) -> list[tuple[int, str, str]] | None:
    """(id, name, cluster) of each; None = more than may be acted on. A filter that no index answers is looked for no longer than `SECONDS`."""
    among = queries.meant(parsed.prefix) if parsed.prefix else None
    if parsed.prefix and among is None:
        raise ApiError(
            422,
            "Invalid",
            f"More than {queries.BY_NAME:,} names begin with “{parsed.prefix}”: a longer word is needed to act on all that match",
        )
    query = ListQuery(parsed.labels, parsed.fields, limit=most, clusters=actor.clusters)
    try:
        with queries.bounded(SECONDS):
            found = matching(machine_storage(), query, among)
    except queries.TooSlow:
        why = f"Looking for what matches took more than {SECONDS} s: narrow the filter, by a cluster first"
        raise ApiError(503, "Timeout", why) from None
    return found if len(found) <= most else None


def _check_rights(actor: Actor, found: list[tuple[int, str, str]]) -> None:
    """403 before anything is done, when one of them may only be looked at."""
    kind = machine_storage().kind
    out = {c for c in {cluster for _, _, cluster in found} if not actor.may("update", kind, c)}
    if out:
        n = sum(cluster in out for _, _, cluster in found)
        where = ", ".join(sorted(c or "no cluster" for c in out)[:3])
        raise ApiError(
            403,
            "Forbidden",
            f"{actor.name} may look at {n:,} of the {len(found):,} that match and not act on them ({where}): {_FORBIDDEN}",
        )


@login_required
@require_GET
def matching_view(request: HttpRequest) -> JsonResponse:
    """`{n, hash, most}` of what a filter means now, `most` being what acts besides batches reach; where it cannot be acted on as a whole, n is null and `why` says it."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    if not {"operator", "admin"} & {role for role, _ in actor.bindings}:
        return JsonResponse(
            {"n": None, "hash": "", "why": f"{actor.name} acts on no machine: {_FORBIDDEN}."}, status=403
        )
    try:
        found = targets(actor, request.GET, MOST_OF_BATCH)
    except ApiError as error:
        # What the page asks in good faith is answered, not refused: 400 is for what no page sends.
        status = 400 if error.code == 400 else 200
        return JsonResponse({"n": None, "hash": "", "why": f"{error.message.rstrip('.')}."}, status=status)
    return JsonResponse({"n": len(found.names), "hash": found.hash, "most": MOST})
