"""What another mode of a rule would do to the faults that it has now, told before it is confirmed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, JsonResponse
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST

from fleet.api import errors
from fleet.api.actions import patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError
from fleet.api.patches import merge_patch
from fleet.api.storage import storage_for
from fleet.console import words
from fleet.console.acting import sentence_of, write_of
from fleet.console.fault_forms import MODES
from fleet.console.fault_queries import IS_LIVE
from fleet.console.queries import rows
from fleet.control.kinds import Json
from recovery.types import CONFIRMED, NEEDS_PERSON, RECOVERING, TYPES

_PLACES: Final = 5  # clusters that are named


@dataclass(frozen=True, slots=True)
class Live:
    """Live faults of a rule. `trial`: by phase, of those on trial; `real`: of the others; `where`: clusters of those on trial, the fullest first."""

    trial: Counter[str]
    real: Counter[str]
    where: tuple[tuple[str, int], ...]

    @property
    def confirmed(self) -> int:
        """On trial, and repaired as soon as they are not."""
        return self.trial[CONFIRMED]

    @property
    def waiting(self) -> int:
        """On trial, and not confirmed yet."""
        return sum(n for phase, n in self.trial.items() if phase not in (CONFIRMED, RECOVERING, NEEDS_PERSON))

    @property
    def acted_on(self) -> int:
        """Those that putting it in force would act on: what has to be typed."""
        return self.confirmed + self.waiting

    @property
    def let_go(self) -> int:
        """Not on trial and not worked on yet: taken back by another mode."""
        return sum(n for phase, n in self.real.items() if phase not in (RECOVERING, NEEDS_PERSON))

    @property
    def worked_on(self) -> int:
        """Under repair, or with a person: they go on as they are."""
        return self.real[RECOVERING] + self.real[NEEDS_PERSON]

    @property
    def places(self) -> str:
        """ "412 in iad1-ads, 3 in fra1-pay and 2 more clusters"."""
        said = ", ".join(f"{n:,} in {cluster or 'no cluster'}" for cluster, n in self.where[:_PLACES])
        rest = len(self.where) - _PLACES
        return f"{said} and {words.count(rest, 'more cluster')}" if rest > 0 else said


def live(name: str) -> Live:
    """Counted now."""
    found = rows(
        f"SELECT f.shadow, f.phase, coalesce(c.name, '') AS cluster, count(*) AS n FROM recovery_fault f LEFT JOIN clusters_cluster c ON c.id = f.cluster_id WHERE f.rule = %s AND {IS_LIVE} GROUP BY 1, 2, 3",
        [name],
    )
    trial, real, where = Counter[str](), Counter[str](), Counter[str]()
    for row in found:
        (trial if row["shadow"] else real)[row["phase"]] += row["n"]
        where[row["cluster"]] += row["n"] if row["shadow"] else 0
    return Live(trial, real, tuple((c, n) for c, n in where.most_common() if n))


def playbook_of(spec: Json) -> str:
    """That which repairs what a rule finds, "" = a person does."""
    known = TYPES.get(spec["faultType"])
    return str(spec.get("playbook") or (known.playbook if known else ""))


@login_required
@require_POST
def rule_foresee(request: HttpRequest, name: str) -> JsonResponse:
    """What the mode of the form would do, `must`: what has to be typed for it."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    wanted = request.POST.get("mode", "")
    storage = storage_for("faultrules")
    refused, seen, spec = "", "", dict[str, str]()
    try:
        if wanted not in MODES:
            raise errors.bad_request(f"a rule is {', '.join(MODES)}")
        patch_object("faultrules", name, lambda old: merge_patch(old, {"spec": {"mode": wanted}}), write=write_of(actor, dry_run=True))  # fmt: skip
    except ApiError as error:
        if error.code in (403, 404):
            return JsonResponse({"html": "", "may": False, "fields": {}}, status=error.code)
        refused = f"{sentence_of(error)}."
    stored = storage.read(name)
    if stored is not None:
        spec, seen = stored.obj["spec"], stored.obj["metadata"]["resourceVersion"]
    would = live(name)
    same = wanted == spec.get("mode", "Shadow")
    context = {"refused": refused, "wanted": wanted, "same": same, "would": would, "playbook": playbook_of(spec), "was": spec.get("mode", "Shadow"), "name": name}  # fmt: skip
    must = str(would.acted_on) if wanted == "Active" and not same else ""
    html = render_to_string("console/_foresee_rule.html", context)
    return JsonResponse({"html": html, "may": not refused and not same, "fields": {}, "must": must, "seen": seen})
