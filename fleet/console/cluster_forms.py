"""Acts on clusters from the console: create, change of the package version, delete. Each tells what it would do before it is done.

What was told is frozen by a hash of what it depends on: of another cluster than the one that was shown nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.views.decorators.http import require_POST

from clusters.cases import Case, load
from clusters.kubelets import counted
from clusters.lifecycle import Progress
from clusters.planes import COMPONENTS, Foresees
from clusters.providers import provider
from clusters.schema_cluster import MADE, provider_of
from clusters.storage import CONFIRM
from clusters.wanted import plane_of
from fleet.api.actions import Preconditions, create_object, delete_object, patch_object
from fleet.api.authentication import actor_of
from fleet.api.errors import ApiError, bad_request
from fleet.api.patches import merge_patch
from fleet.api.rights import Actor
from fleet.api.storage import Stored, storage_for
from fleet.console import cluster_care, foresight, queries
from fleet.console.acting import back, create_line, plain, refused, sentence_of, told_before, write_of
from fleet.console.cluster_seen import check_seen, seen_of
from fleet.control.errors import PermanentError
from fleet.control.kinds import API_VERSION, Json, by_kind

FIELDS: Final = (
    "metadata.name",
    "spec.idc",
    "spec.provider",
    "spec.packageVersion",
    "spec.kubeconfigCredential",
    "spec.restoreFrom",
    "spec.controlPlane.metaCluster",
    "spec.controlPlane.exposure.type",
    "spec.controlPlane.exposure.host",
    "spec.controlPlane.exposure.port",
    "spec.network.podCIDR",
    "spec.network.serviceCIDR",
)
_NUMBERS: Final = ("spec.controlPlane.exposure.port",)


def object_of(form: QueryDict) -> Json:
    """The Cluster that a form describes; what was left empty is left out."""
    obj: Json = {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {}, "spec": {}}
    for path in FIELDS:
        text = form.get(path, "").strip()
        if not text:
            continue
        *way, last = path.split(".")
        at = obj
        for part in way:
            at = at.setdefault(part, {})
        at[last] = int(text) if path in _NUMBERS and text.isdecimal() and len(text) < 10 else text
    return obj


def upgrade(name: str, actor: Actor, form: QueryDict) -> str:
    """Point the cluster at another package version: on to a newer one or back to an older one."""
    target = _target(form)

    def patch(live: Json) -> Json:
        check_seen(live, form)
        return _pointed(live, target)

    patch_object("clusters", name, patch, write=write_of(actor))
    return f"{name} is asked to go to {target}."


def _target(form: QueryDict) -> str:
    target = form.get("packageVersion", "").strip()
    if not target:
        raise bad_request("a ClusterPackageVersion has to be chosen")
    return target


def _pointed(live: Json, target: str) -> Json:
    changed: Json = merge_patch(live, {"spec": {"packageVersion": target}})
    return changed


def delete(name: str, actor: Actor, form: QueryDict) -> str:
    """Both steps at once: the word that confirms it, and the deletion."""
    if form.get("confirm", "").strip() != name:
        raise bad_request(f"type {name}, the name of the cluster that would be deleted")
    _deleted(name, actor, lambda live: check_seen(live, form))
    return f"{name} is being deleted."


def _deleted(name: str, actor: Actor, check: Callable[[Json], None], *, dry_run: bool = False) -> None:
    """Either both steps are done or none; a dry run does both and takes them back."""

    def word(live: Json) -> Json:
        check(live)
        changed: Json = merge_patch(live, {"metadata": {"annotations": {CONFIRM: name}}})
        return changed

    with transaction.atomic():
        meta = patch_object("clusters", name, word, write=write_of(actor))["metadata"]
        wish = Preconditions(uid=meta["uid"], resource_version=meta["resourceVersion"])
        delete_object("clusters", name, write=write_of(actor), preconditions=wish)
        if dry_run:
            transaction.set_rollback(True)


VERBS: Final[dict[str, Callable[[str, Actor, QueryDict], str]]] = {
    "upgrade": upgrade,
    "delete": delete,
    "pause": cluster_care.pause,
    "resume": cluster_care.resume,
    "restore": cluster_care.restore,
}


@login_required
@require_POST
def clusters_do(request: HttpRequest) -> HttpResponse:
    """POST of a new cluster."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    try:
        made = create_object("clusters", object_of(request.POST), write=write_of(actor))
    except ApiError as error:
        return refused(request, actor, error, "/clusters")
    name = made["metadata"]["name"]
    return back(f"/clusters/{quote(name)}", f"Cluster {name} is created.")


@login_required
@require_POST
def cluster_do(request: HttpRequest, name: str) -> HttpResponse:
    """POST of one verb on one cluster."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    verb, path = request.POST.get("verb", ""), f"/clusters/{quote(name)}"
    act = VERBS.get(verb)
    try:
        if act is None:
            raise bad_request(f"there is no act “{verb[:40]}”")
        said = act(name, actor, request.POST)
    except ApiError as error:
        return refused(request, actor, error, path)
    return back(path if storage_for("clusters").read(name) is not None else "/clusters", said)


# -- told before it is done ---------------------------------------------------------------------------------------------


def _answer(template: str, context: dict[str, Any], error: ApiError | None, **more: Any) -> JsonResponse:
    return told_before(template, {**context, "guard": queries.guard()}, error, FIELDS, **more)


@login_required
@require_POST
def clusters_foresee(request: HttpRequest) -> JsonResponse:
    """What a form would make, by a dry run of the same write."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    write = write_of(actor, dry_run=True)
    made: list[str] = []
    line, error = "", None
    wished = object_of(request.POST)
    try:
        obj = create_object("clusters", wished, write=write)
        line = create_line(wished)
        made = foresight.making(obj, _version_spec(obj["spec"].get("packageVersion", "")))
    except ApiError as refusal:
        error = refusal
    return _answer("_foresee_create", {"made": made, "warnings": write.warnings, "line": line}, error)


def _version_spec(name: str) -> Json:
    stored = storage_for("clusterpackageversions").read(name) if name else None
    return stored.obj["spec"] if stored else {}


@login_required
@require_POST
def cluster_foresee(request: HttpRequest, name: str) -> JsonResponse:
    """What one verb would do to a cluster, with the hash that its POST brings along."""
    actor = actor_of(request.user, request.META.get("REMOTE_ADDR") or "")
    stored = storage_for("clusters").read(name)
    kind = by_kind("Cluster")
    assert kind is not None
    if stored is None or not actor.may("update", kind, name):
        who = f"{actor.name} may not change cluster {name}: it takes the role admin in it"
        return _answer("_foresee_change", {}, ApiError(403, "Forbidden", who), seen="")
    seen = seen_of(stored.obj)
    verb = request.POST.get("verb")
    if verb == "delete":
        return _foresee_delete(stored, actor, seen)
    if verb in ("pause", "resume", "restore"):
        return _foresee_care(stored, actor, request.POST, seen)
    return _foresee_change(stored, actor, request.POST.get("packageVersion", "").strip(), seen)


def _foresee_change(stored: Stored, actor: Actor, target: str, seen: str) -> JsonResponse:
    obj, name = stored.obj, stored.obj["metadata"]["name"]
    if not target or target == obj["spec"].get("packageVersion"):
        context = {"same": target, "stopped": obj.get("status", {}).get("stopped", {})}
        return _answer("_foresee_change", context, None, seen=seen, may=False)
    error = None
    try:
        patch_object("clusters", name, lambda live: _pointed(live, target), write=write_of(actor, dry_run=True))
    except ApiError as refusal:
        error = refusal
    version = _version_spec(target)
    outlook = None
    if version and (cases := load([stored.id])):
        machines = queries.machines_in(stored.id)
        kubelets, lacks = counted(cases[0].id), lacking(cases[0], target, version)
        outlook = foresight.change(cases[0], target, version, machines, datetime.now(UTC), kubelets, lacks)
    # Only one field of the dialog can be wrong, and it is the one that the whole text is about.
    causes = [plain(c["message"]) for c in (error.details or {}).get("causes", [])] if error else []
    why = causes or ([f"{sentence_of(error)}."] if error else [])
    context = {"outlook": outlook, "why": why}
    return _answer(
        "_foresee_change", context, None, seen=seen, may=error is None, go=outlook.verb if outlook else "Change"
    )


def lacking(case: Case, target: str, version: Json) -> Sequence[str]:
    """What the provider knows beforehand that it cannot run of a version: a binary or an image that is not there."""
    name = provider_of(case.spec)
    if name not in MADE:
        return ()
    adapter = provider(name)
    if not isinstance(adapter, Foresees):
        return ()
    wished = replace(case, spec={**case.spec, "packageVersion": target}, versions={**case.versions, target: version})
    try:
        plane = plane_of(wished, Progress(versions=dict.fromkeys(COMPONENTS, target)), {})
    except PermanentError as error:
        return (error.message,)
    return adapter.lacking(plane)


def _foresee_care(stored: Stored, actor: Actor, form: QueryDict, seen: str) -> JsonResponse:
    """Pause, resume or restore: told, and tried as a dry run of the same write."""
    obj, name, verb = stored.obj, stored.obj["metadata"]["name"], form["verb"]
    told, why = None, ""
    try:
        if verb == "restore":
            patch = cluster_care.restore_patch(obj, form)
            cases = load([stored.id])
            told = cluster_care.told_restore(obj, form, cases[0].held if cases else "")
        else:
            patch = cluster_care.paused_patch(verb == "pause")
            tell = cluster_care.told_pause if verb == "pause" else cluster_care.told_resume
            told = tell(obj, queries.machines_in(stored.id))
        patch_object("clusters", name, lambda live: cluster_care.patched(live, patch), write=write_of(actor, dry_run=True))  # fmt: skip
    except ApiError as refusal:
        why = f"{sentence_of(refusal)}."
    context = {"told": told, "why": why, "relieves": verb == "resume"}
    return _answer("_foresee_care", context, None, seen=seen, may=not why, go=told.go if told else "")


def _foresee_delete(stored: Stored, actor: Actor, seen: str) -> JsonResponse:
    obj, name = stored.obj, stored.obj["metadata"]["name"]
    error = None
    try:
        _deleted(name, actor, lambda live: None, dry_run=True)
    except ApiError as refusal:
        error = refusal
    made = provider_of(obj["spec"]) in MADE
    context = {
        "obj": obj,
        "name": name,
        "machines": queries.machines_in(stored.id),
        "nodes": obj.get("status", {}).get("nodes", {}).get("total", 0),
        "made": made,
        "hours": settings.FLEET_UNDO_HOURS,
        "uid": obj["spec"].get("restoreFrom") or obj["metadata"]["uid"],
        "why": sentence_of(error) if error else "",
    }
    return _answer("_foresee_delete", context, None, seen=seen, may=error is None)
