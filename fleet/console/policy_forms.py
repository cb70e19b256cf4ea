"""Acts on SafetyPolicies: make one, change one, delete one. Each tells first what it would mean now; what takes a guard away takes the count of its machines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import orjson
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.views.decorators.http import require_POST

from fleet.api import errors
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.patches import merge_patch
from fleet.api.policy_now import policy_now
from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.console.acting import back, create_line, refused, told_before, write_of
from fleet.console.policies import DIMS, PLURAL
from fleet.console.policy_fields import field_of, fields_of, spec_of, without_none
from fleet.control.kinds import API_VERSION, Json

# What a line of the dry run is about, in words.
_ABOUT: Final = {"maxUnavailable": "Budget", "breaker": "Breaker", "podSuccess": "Pods", "minSchedulable": "Reserve", "windows": "Windows", "rates": "Rate"}  # fmt: skip

# Where the policy would say no more of it.
_SAYS_NO_MORE: Final = "This policy says nothing of it any more: other policies and the defaults hold."
_GONE: Final = {
    "minSchedulable": "None any more, as far as this policy says.",
    "windows": "None any more: as far as this policy says, planned changes may begin at any time.",
}

_NONE: Final = "0 means none: no change that takes a machine away is ever allowed here."
_WARNED: Final = {
    "spec.breaker.podSuccess.disabled": "Nothing is noticed here of nodes or a control plane that start no pods: the breaker opens at machines only.",
    "spec.breaker.disabled": "Without a breaker nothing stops a storm of repairs here but the budgets.",
    "spec.maxUnavailable.percent": _NONE,
    "spec.maxUnavailable.count": _NONE,
}


def object_of(form: QueryDict) -> Json:
    """The new policy that a form describes; ApiError where it cannot be read."""
    which = form.get("scope", "")
    if which not in DIMS:
        raise bad_request(f"a policy is of one of {', '.join(DIMS)}")
    scope: Json = {"matchAll": True} if which == "matchAll" else {which: form.get(f"spec.scope.{which}", "").strip()}
    spec = {"scope": scope, **without_none(spec_of(form, {}))}
    name = form.get("metadata.name", "").strip()
    return {"apiVersion": API_VERSION, "kind": "SafetyPolicy", "metadata": {"name": name}, "spec": spec}


def change_of(form: QueryDict) -> Callable[[Json], Json]:
    """The change that a form describes; refused when somebody changed the policy since it was shown. Its status moves all the time, and is no reason."""

    def patch(live: Json) -> Json:
        if str(live["metadata"].get("generation", "")) != form.get("generation", ""):
            text = "somebody changed it since you opened it. Look at it and ask again"
            raise errors.conflict(storage_for(PLURAL).kind, live["metadata"]["name"], text)
        changed: Json = merge_patch(live, {"spec": spec_of(form, live["spec"])})
        return changed

    return patch


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence of the dry run. `before`: what it says now, where that differs."""

    about: str
    text: str
    before: str = ""


def compared(warnings: Sequence[str], before: Sequence[str]) -> list[Line]:
    """What it would mean, each beside what it means now; last, what it would say no more."""
    old = dict(_split(line) for line in before)
    new = dict(_split(line) for line in warnings)
    out = []
    for about, text in map(_split, warnings):
        was = old.get(about, "") if about else ""
        out.append(Line(_ABOUT.get(about, about), text, was if was != text else ""))
    gone = [about for about in old if about and about not in new]
    return out + [Line(_ABOUT.get(about, about), _GONE.get(about, _SAYS_NO_MORE), old[about]) for about in gone]


def _split(line: str) -> tuple[str, str]:
    """(what it is about, a sentence)."""
    about, sign, text = line.partition(": ")
    if not sign or about not in _ABOUT:
        return "", line
    if about == "rates":
        verb, _, rest = text.partition(": ")
        return f"{_ABOUT[about]} of {verb}", f"{rest[:1].upper()}{rest[1:]}"
    return about, f"{text[:1].upper()}{text[1:]}"


def _switches_off(spec: Json, old: Json | None) -> bool:
    """Nothing stops a storm of repairs there any more: that takes the count of its machines."""
    return bool(spec.get("breaker", {}).get("disabled")) and not (old or {}).get("breaker", {}).get("disabled")


def _wished(name: str, form: QueryDict, write: Write) -> Json:
    """The policy as it would be, or is now; `write` says which."""
    return patch_object(PLURAL, name, change_of(form), write=write) if name else create_object(PLURAL, object_of(form), write=write)  # fmt: skip


def _now(name: str) -> tuple[Json | None, list[str]]:
    """(its spec, what it means now); nothing for one that is to be made."""
    stored = storage_for(PLURAL).read(name) if name else None
    return (stored.obj["spec"], policy_now(name)) if stored else (None, [])


def _must(spec: Json, old: Json | None, lines: Sequence[str]) -> str:
    """The count that has to be typed, "" = none."""
    if not _switches_off(spec, old):
        return ""
    return _covered(lines) or "0"


def _covered(lines: Sequence[str]) -> str:
    """How many machines in service a policy covers, by its dry run; "" = none."""
    found = next((m for line in lines if (m := re.match(r"Now \d+ of (\d+) machines", line))), None)
    return found[1] if found else ""


def _confirmed(name: str, form: QueryDict, must: str, what: str) -> None:
    """Nothing, where that count was typed or none is needed."""
    typed = form.get("count", "").strip()
    if not must or typed == must:
        return
    if typed and typed == form.get("told"):
        raise errors.conflict(storage_for(PLURAL).kind, name, f"it covers {must} machines now, {typed} when you looked. Look at it and ask again")  # fmt: skip
    raise bad_request(f"type {must}, the number of machines {what}")


def save(name: str, actor: Actor, form: QueryDict) -> str:
    """Make it, or change it: it binds at once."""
    write = write_of(actor, dry_run=True)
    wished = _wished(name, form, write)
    must = _must(wished["spec"], _now(name)[0], write.warnings)
    _confirmed(wished["metadata"]["name"], form, must, "without a breaker")
    made = _wished(name, form, write_of(actor))["metadata"]["name"]
    return f"Policy {made} is {'changed' if name else 'made'}; it binds from now on."


def delete(name: str, actor: Actor, form: QueryDict) -> str:
    """What it says binds nobody any more."""
    delete_object(PLURAL, name, write=write_of(actor, dry_run=True))
    _confirmed(name, form, _covered(_now(name)[1]), "that it covers")
    delete_object(PLURAL, name, write=write_of(actor))
    return f"Policy {name} is gone; other policies and the defaults hold."


@login_required
@require_POST
def policy_do(request: HttpRequest, name: str = "") -> HttpResponse:
    """POST of a policy; without a name a new one is made."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    path = f"/safety/policies/{quote(name, safe='')}" if name else "/safety/policies"
    try:
        if name and request.POST.get("verb") == "delete":
            return back("/safety/policies", delete(name, actor, request.POST))
        return back(path, save(name, actor, request.POST))
    except ApiError as error:
        return refused(request, actor, error, path)


@login_required
@require_POST
def policy_foresee(request: HttpRequest, name: str = "") -> JsonResponse:
    """What the form would mean now, by a dry run; `must`: what has to be typed."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    form, error, must, line = request.POST, None, "", ""
    lines: list[Line] = []
    warned: list[str] = []
    write = write_of(actor, dry_run=True)
    old, before = _now(name)
    try:
        if name and form.get("verb") == "delete":
            delete_object(PLURAL, name, write=write)
            context = {"lines": compared(before[:1], before), "line": f"kubectl delete safetypolicy {name}"}
            return told_before("_foresee_policy", context, None, (), must=_covered(before))
        spec = _wished(name, form, write)["spec"]
        if spec == old:
            return told_before("_foresee_policy", {"same": True}, None, (), may=False, must="")
        warned = [_WARNED.get(w.partition(": ")[0], w) for w in write.warnings if w.startswith("spec.")]
        lines = compared([w for w in write.warnings if not w.startswith("spec.")], before)
        must = _must(spec, old, write.warnings)
        line = _line(name, form, spec, old)
    except ApiError as refusal:
        error = refusal
    return told_before("_foresee_policy", {"lines": lines, "warned": warned, "line": line}, error, fields_of(form), named=partial(field_of, form), must=must)  # fmt: skip


def _line(name: str, form: QueryDict, spec: Json, old: Json | None) -> str:
    """The same by hand."""
    if not name:
        return create_line(object_of(form))
    keys = sorted({*spec, *(old or {})})
    changed = {k: spec.get(k) for k in keys if spec.get(k) != (old or {}).get(k)}
    patch = {k: _patched(v, (old or {}).get(k)) for k, v in changed.items()}
    return f"kubectl patch safetypolicy {name} --type merge -p {shlex.quote(orjson.dumps({'spec': patch}).decode())}"


def _patched(new: Any, old: Any) -> Any:
    """A merge patch takes away what it says is null."""
    if isinstance(new, dict) and isinstance(old, dict):
        return {k: _patched(new.get(k), old.get(k)) for k in sorted({*new, *old}) if new.get(k) != old.get(k)}
    return new
