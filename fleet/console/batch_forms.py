"""Batches from the console: asked for over a selection of machines, approved by another person, steered while they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.views.decorators.http import require_POST

from fleet.api.actions import create_object, patch_object
from fleet.api.approval import APPROVE
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.rights import Actor
from fleet.console import filters, matching, queries, words
from fleet.console.acting import (
    MANY,
    acted,
    back,
    create_line,
    machines_page,
    refused,
    told_before,
    write_of,
)
from fleet.console.cluster_care import patched
from fleet.control.kinds import API_VERSION, Json
from machines.batches.schema import VERBS as BATCH_VERBS
from machines.batches.targets import MOST

NAMED: Final = 1_000  # machines that a batch names one by one; more are meant by the filter and held to its hash
FIELDS: Final = frozenset({"spec.reason"})
Act = Callable[[str, Actor, QueryDict], str]


def object_of(actor: Actor, form: QueryDict) -> Json:
    """The batch that the form means; ApiError where the machines that match are no longer those that were counted."""
    verb = form.get("verb", "")
    if verb not in BATCH_VERBS:
        raise bad_request(f"a batch is one of {', '.join(BATCH_VERBS)}")
    target, expect, clusters = _target(actor, form)
    spec: Json = {"verb": verb, "target": target, "reason": form.get("spec.reason", "").strip()}
    if len(clusters) == 1 and (cluster := next(iter(clusters))):
        spec["clusterName"] = cluster
    elif not actor.roles_in(None) & {"operator", "admin"}:
        where = f"{len(clusters)} clusters" if len(clusters) > 1 else "no cluster"
        text = (
            f"these machines are in {where}, and that takes the role operator in the whole fleet: filter by one cluster"
        )
        raise ApiError(403, "Forbidden", text)
    if expect:
        spec["expect"] = expect
    return {"apiVersion": API_VERSION, "kind": "OperationBatch", "metadata": {"generateName": f"{verb.lower()}-"}, "spec": spec}  # fmt: skip


def _target(actor: Actor, form: QueryDict) -> tuple[Json, Json, frozenset[str]]:
    """(spec.target, spec.expect, clusters) of the rows that were ticked, or of all that match."""
    names = sorted(set(form.getlist("name")))
    if "hash" not in form:
        if not names or len(names) > queries.MACHINE_PAGE:
            raise bad_request(f"select 1 to {queries.MACHINE_PAGE} machines, or all that match")
        sql = "SELECT DISTINCT coalesce(c.name, '') AS name FROM machine m LEFT JOIN clusters_cluster c ON c.id = m.cluster_id WHERE m.name = ANY (%s)"
        return {"machines": names}, {}, frozenset(str(r["name"]) for r in queries.rows(sql, [names]))
    if names:
        raise bad_request("select rows or all that match, not both")
    found = matching.frozen(actor, form, MOST)
    expect = {"count": len(found.names), "hash": found.hash}
    named = len(found.names) <= NAMED
    return ({"machines": list(found.names)} if named else _selectors(form.get("q", ""))), expect, found.clusters


def _selectors(text: str) -> Json:
    """What a filter of the list means, as `spec.target` says it."""
    parsed = filters.parse(text)
    labels = ",".join(filters.label_text(k, v) for k, v in parsed.tokens if k.removeprefix("-") == "label")
    fields = ",".join(f"{path}{operator}{_escaped(value)}" for path, operator, value in parsed.fields.terms)
    target = {"labelSelector": labels, "fieldSelector": fields, "namePrefix": parsed.prefix}
    return {k: v for k, v in target.items() if v} or {"matchAll": True}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


def _must(verb: str, count: int) -> str:
    """What has to be typed; "" = nothing."""
    return str(count) if count > MANY or verb == "Decommission" else ""


def button(verb: str, count: int, approval: str) -> str:
    """What it would do, on the button."""
    return f"Ask to {verb.lower()} {words.count(count, 'machine')}" if approval == "Needed" else f"{verb} {words.count(count, 'machine')}"  # fmt: skip


@login_required
@require_POST
def batches_foresee(request: HttpRequest) -> JsonResponse:
    """What a selection and a verb would lead to, by a dry run of the same write."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    write, error = write_of(actor, dry_run=True), None
    more: Json = {}
    line = ""
    try:
        wished = object_of(actor, request.POST)
        shown = wished if wished["spec"]["reason"] else {**wished, "spec": {**wished["spec"], "reason": "…"}}
        made = create_object("operationbatches", shown, write=write)
        status, verb = made["status"], made["spec"]["verb"]
        more = {"go": button(verb, status["count"], status["approval"]), "must": _must(verb, status["count"])}
        if len(wished["spec"]["target"].get("machines", ())) <= MANY:
            line = create_line(wished)
        if not wished["spec"]["reason"]:
            error = _reason_needed()
    except ApiError as refusal:
        error = refusal
    return told_before("_foresee_batch", {"told": told(write.warnings), "line": line}, error, FIELDS, **more)


def _reason_needed() -> ApiError:
    text = "say why: it stands with each Operation"
    return ApiError(422, "Invalid", text, {"causes": [{"field": "spec.reason", "message": f"Required value: {text}"}]})


def told(warnings: list[str]) -> list[tuple[str, str]]:
    """(tone, sentence) of each line of a dry run."""
    out = []
    for line in warnings:
        word, _, rest = line.partition(": ")
        tone = {"list": "machine", "approval": "person" if rest.startswith("over") else "ok"}.get(word, "ok" if "would get" in rest or "none is" in rest else "held")  # fmt: skip
        out.append((tone, words.closed(f"{word.capitalize()}: {rest}" if word == "approval" else f"{rest[:1].upper()}{rest[1:]}")))  # fmt: skip
    return out


@login_required
@require_POST
def batches_do(request: HttpRequest) -> HttpResponse:
    """POST of a batch over the machines that were selected."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    way_back = machines_page(request.POST)
    try:
        wished = object_of(actor, request.POST)
        count = wished["spec"].get("expect", {}).get("count") or len(wished["spec"]["target"]["machines"])
        must = _must(wished["spec"]["verb"], count)
        if must and request.POST.get("count", "").strip() != must:
            raise bad_request(f"type {must}, the number of machines that were selected")
        made = create_object("operationbatches", wished, write=write_of(actor))
    except ApiError as error:
        return refused(request, actor, error, way_back)
    name, status = made["metadata"]["name"], made["status"]
    asked = f"{name} waits for another person's approval." if status["approval"] == "Needed" else f"{name} begins."
    return back(f"/batches/{quote(name, safe='')}", asked)


def approve(name: str, actor: Actor, form: QueryDict) -> str:
    """The second person's word about exactly the list that the page showed."""
    word, count = form.get("hash", ""), form.get("count", "").strip()
    if count != form.get("told", ""):
        raise bad_request(f"type {form.get('told', '')[:9]}, the number of machines that are approved")
    patch_object("operationbatches", name, lambda live: patched(live, {"metadata": {"annotations": {APPROVE: word}}}), write=write_of(actor))  # fmt: skip
    return f"{name} is approved and begins."


def _set(name: str, actor: Actor, **spec: Any) -> None:
    patch_object("operationbatches", name, lambda live: patched(live, {"spec": spec}), write=write_of(actor))


def cancel(name: str, actor: Actor, form: QueryDict) -> str:
    """Nothing more begins."""
    _set(name, actor, cancelled=True)
    return f"{name} is cancelled: nothing more begins, what runs ends before its next step."


def pause(name: str, actor: Actor, form: QueryDict) -> str:
    """What runs goes on."""
    _set(name, actor, paused=True)
    return f"{name} is paused: what runs goes on, nothing more begins."


def resume(name: str, actor: Actor, form: QueryDict) -> str:
    """More may begin."""
    _set(name, actor, paused=None)
    return f"{name} goes on."


def allow(name: str, actor: Actor, form: QueryDict) -> str:
    """More may fail."""
    most = form.get("maxFailed", "").strip()
    if not most.isdecimal() or len(most) > 6:
        raise bad_request("how many may fail is a number")
    _set(name, actor, maxFailed=int(most))
    return f"{name} goes on until more than {most} failed."


VERBS: Final[dict[str, Act]] = {f.__name__: f for f in (approve, cancel, pause, resume, allow)}


@login_required
@require_POST
def batch_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one batch."""
    return acted(request, VERBS, f"/batches/{quote(name, safe='')}", name)
