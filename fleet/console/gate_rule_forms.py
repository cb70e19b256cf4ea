"""Acts on ReadinessRules: make, change, take away. Each tells first how many machines it would hold; a rule that would hold some takes their count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import orjson
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.views.decorators.http import require_POST

from fleet.api import errors
from fleet.api.actions import create_object, delete_object, patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.console import queries, words
from fleet.console.acting import back, create_line, refused, told_before, write_of
from fleet.console.gate_rules import RuleRow, foreseen, wanted_of
from fleet.console.safety_forms import labels_of
from fleet.control.kinds import API_VERSION, Json

PLURAL: Final = "readinessrules"
CLUSTERS: Final = "spec.target.clusters"
LABELS: Final = "spec.target.selector.matchLabels"
FIELDS: Final = ("metadata.name", "spec.conditionType", "spec.ttlSeconds", CLUSTERS, LABELS)
_ALIASES: Final = {"spec.target": CLUSTERS, "spec.target.selector": LABELS}


def object_of(form: QueryDict) -> Json:
    """The rule that a form describes; ApiError where a label cannot be read."""
    spec: Json = {"conditionType": form.get("spec.conditionType", "").strip(), "target": _target(form)}
    spec |= {k: v for k, v in _shape(form).items() if v is not None}
    return {
        "apiVersion": API_VERSION,
        "kind": "ReadinessRule",
        "metadata": {"name": form.get("metadata.name", "").strip()},
        "spec": spec,
    }


def _target(form: QueryDict) -> Json:
    which = form.get("target", "")
    if which == "matchAll":
        return {"matchAll": True}
    if which == "selector":
        return {"selector": {"matchLabels": labels_of(form.get(LABELS, ""))}}
    names = form.get(CLUSTERS, "").replace(",", " ").split()
    return {"clusters": list(dict.fromkeys(names))}


def _shape(form: QueryDict) -> Json:
    """What of a rule may change; None = as by default."""
    ttl = form.get("spec.ttlSeconds", "").strip()
    return {
        "polarity": form.get("spec.polarity") or None,
        "mode": form.get("spec.mode") or None,
        "ttlSeconds": int(ttl) if ttl.isdecimal() and len(ttl) < 10 else (ttl or None),
        "dryRun": True if form.get("spec.dryRun") else None,
    }


def change_of(form: QueryDict) -> Callable[[Json], Json]:
    """The change of the fields that may change; refused when the rule is another one than the person saw."""

    def patch(live: Json) -> Json:
        changed: Json = merge_patch(
            live, {"spec": _shape(form), "metadata": {"resourceVersion": form.get("resourceVersion", "")}}
        )
        return changed

    return patch


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a rule would do. `newly`: machines that it would hold and does not hold now: their count is typed."""

    machines: int
    held: int
    released: int
    newly: int
    slow: bool = False

    @property
    def unknown(self) -> int:
        return self.machines - self.held - self.released


def foresee(name: str, spec: Json, old: RuleRow | None) -> Foreseen:
    """Counted as the rule itself would count."""
    try:
        machines, held, released = foreseen(name, spec)
    except queries.TooSlow:
        return Foreseen(0, 0, 0, 0, slow=True)
    before = 0 if old is None or old.spec.get("dryRun") else old.held
    return Foreseen(machines, held, released, 0 if spec.get("dryRun") else max(0, held - before))


def _confirmed(form: QueryDict, would: Foreseen, name: str) -> None:
    """The count of machines that would be held was typed, and it is still that count."""
    if not would.newly:
        return
    typed = form.get("count", "").strip()
    if typed == str(would.held):
        return
    kind = storage_for(PLURAL).kind
    if typed and typed == form.get("told"):
        raise errors.conflict(kind, name, f"it would hold {words.count(would.held, 'machine')} now, {typed} when you looked. Look at it and ask again")  # fmt: skip
    raise bad_request(f"type {would.held}, the number of machines that it would hold")


def create(name: str, actor: Actor, form: QueryDict) -> str:
    """A new rule."""
    obj = object_of(form)
    create_object(PLURAL, obj, write=write_of(actor, dry_run=True))  # refused before anybody is asked for a count
    _confirmed(form, foresee(obj["metadata"]["name"], obj["spec"], None), obj["metadata"]["name"])
    create_object(PLURAL, obj, write=write_of(actor))
    return f"Rule {obj['metadata']['name']} is made."


def change(name: str, actor: Actor, form: QueryDict) -> str:
    """Polarity, mode, age of reports, and whether it only counts."""
    wished = patch_object(PLURAL, name, change_of(form), write=write_of(actor, dry_run=True))
    stored = storage_for(PLURAL).read(name)
    _confirmed(form, foresee(name, wished["spec"], RuleRow(stored.obj) if stored else None), name)
    patch_object(PLURAL, name, change_of(form), write=write_of(actor))
    return f"Rule {name} is changed."


def delete(name: str, actor: Actor, form: QueryDict) -> str:
    """Nobody is asked any more."""
    delete_object(PLURAL, name, write=write_of(actor))
    return f"Rule {name} is gone; what only it held may open."


VERBS: Final[dict[str, Callable[[str, Actor, QueryDict], str]]] = {"create": create, "change": change, "delete": delete}


@login_required
@require_POST
def gate_rule_do(request: HttpRequest, name: str = "") -> HttpResponse:
    """POST of one verb on one rule; without a name a new one is made."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    verb = request.POST.get("verb", "")
    path = f"/gates/{quote(name)}" if name else "/gates"
    act = VERBS.get(verb)
    try:
        if act is None or (verb == "create") == bool(name):
            raise bad_request(f"there is no act “{verb[:40]}” here")
        said = act(name, actor, request.POST)
    except ApiError as error:
        return refused(request, actor, error, path)
    if verb == "create":
        path = f"/gates/{quote(request.POST.get('metadata.name', '').strip())}"
    return back("/gates" if verb == "delete" else path, said)


@login_required
@require_POST
def gate_rule_foresee(request: HttpRequest, name: str = "") -> JsonResponse:
    """What the form would hold, by a dry run and the rule's own count; `must`: what has to be typed."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    form, would, line = request.POST, None, ""
    stored = storage_for(PLURAL).read(name) if name else None
    old, error, spec = (RuleRow(stored.obj) if stored else None), None, None
    try:
        if form.get("verb") == "delete":
            return _foresee_delete(actor, old, name)
        if name:
            spec = patch_object(PLURAL, name, change_of(form), write=write_of(actor, dry_run=True))["spec"]
            shape = {k: v for k, v in _shape(form).items() if v != (old.spec.get(k) if old else None)}
            line = f"kubectl patch readinessrule {name} --type merge -p '{orjson.dumps({'spec': shape}).decode()}'"
        else:
            wished = object_of(form)
            spec = create_object(PLURAL, wished, write=write_of(actor, dry_run=True))["spec"]
            line = create_line(wished)
        would = foresee(name, spec, old)
    except ApiError as refusal:
        error = refusal
    return _answer(error, {"would": would, "line": line, "spec": spec, "wanted": wanted_of(spec) if spec else ""}, would)  # fmt: skip


def _foresee_delete(actor: Actor, old: RuleRow | None, name: str) -> JsonResponse:
    error = None
    try:
        delete_object(PLURAL, name, write=write_of(actor, dry_run=True))
    except ApiError as refusal:
        error = refusal
    return _answer(error, {"gone": old, "line": f"kubectl delete readinessrule {name}"}, None)


def _answer(error: ApiError | None, context: dict[str, object], would: Foreseen | None) -> JsonResponse:
    must = str(would.held) if would and would.newly else ""
    may = not (would and would.slow)
    return told_before("_foresee_gate", context, error, FIELDS, named=lambda f: _ALIASES.get(f, f), may=may, must=must)
