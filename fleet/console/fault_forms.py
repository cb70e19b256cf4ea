"""Acts on faults, remediations and rules: report one, say that it is over, try again, cancel a repair, put a rule in force or on trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.views.decorators.http import require_POST

from fleet.api import errors
from fleet.api.actions import create_object, patch_object
from fleet.api.errors import bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.api.storage import storage_for
from fleet.console.acting import acted, reason_of, write_of
from fleet.console.cluster_care import patched
from fleet.console.queries import rows
from fleet.control.kinds import API_VERSION, Json
from recovery.people import CLEAR, RETRY

MODES: Final = ("Active", "Shadow", "Disabled")


def clear(name: str, actor: Actor, form: QueryDict) -> str:
    """A person's word that it is over."""
    _word(name, actor, CLEAR)
    return f"{name} is over."


def retry(name: str, actor: Actor, form: QueryDict) -> str:
    """Recovery shall try again."""
    _word(name, actor, RETRY)
    return f"{name} is given to recovery once more."


def _word(name: str, actor: Actor, annotation: str) -> None:
    patch_object("faults", name, lambda live: patched(live, {"metadata": {"annotations": {annotation: actor.name}}}), write=write_of(actor))  # fmt: skip


def report(machine: str, actor: Actor, form: QueryDict) -> str:
    """A fault that a person saw."""
    spec = {"machine": machine, "type": form.get("type", "").strip(), "message": reason_of(form)}
    obj: Json = {"apiVersion": API_VERSION, "kind": "Fault", "metadata": {"generateName": f"{machine[:180]}-"}, "spec": spec}  # fmt: skip
    made = create_object("faults", obj, write=write_of(actor))
    return f"Fault {made['metadata']['name']} is declared; its repair begins as the ledger allows."


def cancel(name: str, actor: Actor, form: QueryDict) -> str:
    """End a repair before its next step; the machine is left to people."""
    patch_object("remediations", name, lambda live: patched(live, {"spec": {"cancelled": True}}), write=write_of(actor))
    return f"{name} ends before its next step; the machine is left to people."


def mode(name: str, actor: Actor, form: QueryDict) -> str:
    """Put a rule in force, on trial or out; in force takes the count of faults that would be acted on."""
    wanted = form.get("mode", "")
    if wanted not in MODES:
        raise bad_request("a rule is Active, Shadow or Disabled")
    count = trial_faults(name)
    if wanted == "Active" and form.get("count", "").strip() != str(count):
        if form.get("count", "").strip() == form.get("told", "-"):
            text = f"it has {count} faults on trial now, {form.get('told')} when you looked. Look at it and ask again"
            raise errors.conflict(storage_for("faultrules").kind, name, text)
        raise bad_request(f"type {count}, the number of faults that would be acted on")

    def patch(live: Json) -> Json:
        changed: Json = merge_patch(live, {"spec": {"mode": wanted}, "metadata": {"resourceVersion": form.get("seen", "")}})  # fmt: skip
        return changed

    patch_object("faultrules", name, patch, write=write_of(actor))
    return {"Active": f"Rule {name} is in force.", "Shadow": f"Rule {name} is on trial: it finds and does nothing.", "Disabled": f"Rule {name} is switched off."}[wanted]  # fmt: skip


def trial_faults(name: str) -> int:
    """Live faults of a rule that nothing is done about now."""
    found = rows("SELECT count(*) AS n FROM recovery_fault WHERE rule = %s AND shadow AND phase IN ('Open', 'Suspected', 'Confirmed')", [name])  # fmt: skip
    return int(found[0]["n"])


Act = Callable[[str, Actor, QueryDict], str]
FAULT: Final[dict[str, Act]] = {"clear": clear, "retry": retry}
REMEDIATION: Final[dict[str, Act]] = {"cancel": cancel}
RULE: Final[dict[str, Act]] = {"mode": mode}
REPORT: Final[dict[str, Act]] = {"report": report}


def _do(request: HttpRequest, name: str, verbs: dict[str, Act], path: str) -> HttpResponse:
    """Back to the page of the machine that the form came from, where it says so."""
    wanted = request.POST.get("back", "")
    return acted(request, verbs, f"/machines/{quote(wanted, safe='')}/why" if wanted else path, name)


@login_required
@require_POST
def fault_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one fault."""
    return _do(request, name, FAULT, f"/faults/{quote(name, safe='')}")


@login_required
@require_POST
def faults_do(request: HttpRequest) -> HttpResponse:
    """POST of a word about a fault that is named in the form, from the page of its machine."""
    name = request.POST.get("fault", "")[:253]
    return _do(request, name, FAULT, f"/faults/{quote(name, safe='')}")


@login_required
@require_POST
def report_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of a fault that a person reports of a machine."""
    return _do(request, name, REPORT, f"/machines/{quote(name, safe='')}/why")


@login_required
@require_POST
def remediation_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one remediation."""
    return _do(request, name, REMEDIATION, f"/remediations/{quote(name, safe='')}")


@login_required
@require_POST
def rule_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one rule."""
    return _do(request, name, RULE, f"/rules/{quote(name, safe='')}")
