"""What a write must pass before it is made: shape and schema, the same object still, and the right to write it."""

from __future__ import annotations

from typing import Any

from fleet.api import errors, schema
from fleet.api.rights import Actor
from fleet.api.storage import Storage
from fleet.control.kinds import API_VERSION, Json, Kind, Problem

WORD_PREFIX = "fleet.dev/"
# Annotations that are a person's word (semantics: accept, confirm, approve ...): only approvers and admins may set them.
WORDS = frozenset(
    WORD_PREFIX + w
    for w in ("confirm-removal", "accept-diff", "approve", "abandon", "take-over", "resume-rollout", "restore")
)


def check_type(kind: Kind, obj: Json) -> None:
    """Create and replace: the body says what it is. kube-apiserver repeats the body in its answer; it may hold secrets, so this does not."""
    given, version = obj.get("kind"), obj.get("apiVersion")
    if given in (None, ""):
        raise errors.bad_request(f"Object 'Kind' is missing in the body: it must say kind: {kind.kind}")
    if not isinstance(given, str):
        raise errors.bad_request(f"kind in the body is no text: it must be {kind.kind}")
    if version != API_VERSION:
        raise errors.bad_request(
            f"the API version in the data ({_short(version)}) does not match the expected API version ({API_VERSION})"
        )
    if given != kind.kind:
        raise errors.invalid(kind, _name(obj), [Problem("kind", f'"{_short(given)}": must be {kind.kind}')])


def check_applied_type(kind: Kind, obj: Json) -> None:
    """Server-side apply: the configuration is read by the type that it names, so it must name this one."""
    given, version = obj.get("kind"), obj.get("apiVersion")
    if (version, given) != (API_VERSION, kind.kind):
        raise errors.bad_request(
            f"invalid object type: {_short(version)}, Kind={_short(given)}: must be {API_VERSION}, Kind={kind.kind}"
        )


def check_patched_type(kind: Kind, name: str, obj: Json) -> None:
    """A patch leaves the object what it is."""
    given, version = obj.get("kind"), obj.get("apiVersion")
    if given in (None, "") or not isinstance(given, str):
        why = f"Object 'Kind' is missing in the result: a patch must leave kind: {kind.kind}"
        raise errors.invalid(kind, name, [Problem("patch", why)])
    wrong = [Problem("apiVersion", f'"{_short(version)}": must be {API_VERSION}')] if version != API_VERSION else []
    if given != kind.kind:
        wrong.append(Problem("kind", f'"{_short(given)}": must be {kind.kind}'))
    if wrong:
        raise errors.invalid(kind, name, wrong)


def _short(value: Any) -> str:
    return "" if value is None else str(value)[:100]


def _name(obj: Json) -> str:
    meta = obj.get("metadata")
    return str(meta.get("name") or "") if isinstance(meta, dict) else ""


def check_fields(kind: Kind, obj: Json, validation: str, duplicates: list[str]) -> tuple[Json, list[str]]:
    """(the object without fields that its schema does not know, warnings about them); ApiError 400 for them if `Strict`."""
    obj, unknown = schema.prune(kind, obj)
    if validation == "Strict" and (unknown or duplicates):
        raise errors.strict(kind, unknown, duplicates)
    obj.setdefault("metadata", {})
    if validation != "Warn":
        return obj, []
    return obj, [f'unknown field "{p}"' for p in unknown] + [f'duplicate field "{p}"' for p in duplicates]


def check_values(storage: Storage, obj: Json, old: Json | None) -> list[str]:
    """Warnings about values that pass; ApiError 422 for those that do not."""
    kind = storage.kind
    problems = [*schema.validate(kind, obj, old)] or [*storage.problems(obj, old)]
    if problems:
        raise errors.invalid(kind, str(obj["metadata"].get("name", "")), problems)
    return list(kind.warn(obj))


def check_right(
    storage: Storage, verb: str, obj: Json, by: Actor, old: Json | None = None, subresource: str = ""
) -> None:
    """The verb must be allowed in the object's cluster, and in the one that it leaves."""
    kind = storage.kind
    if (
        old is not None
        and verb in ("update", "patch")
        and not subresource
        and only_words(obj, old)
        and by.may_approve(_scope(storage, obj))
    ):
        return  # an approver's word, and nothing else: whoever may say it need not be allowed to write
    for each in (obj, old):
        if each is not None and not by.may(
            verb, kind, storage.cluster_name(each) if kind.cluster_field else None, subresource
        ):
            raise errors.forbidden(
                by.name, verb, kind, obj["metadata"].get("name"), _why(kind, storage.cluster_name(each))
            )
    before = (old or {}).get("metadata", {}).get("annotations", {})
    for key, value in obj["metadata"].get("annotations", {}).items():
        if key in WORDS and before.get(key) != value and not by.may_approve(storage.cluster_name(obj) or None):
            raise errors.forbidden(
                by.name, verb, kind, obj["metadata"].get("name"), f"the annotation {key} is an approver's word"
            )


def only_words(new: Json, old: Json) -> bool:
    """Whether a write says one of the words that are approvers', and changes nothing besides."""
    said = {k: v for k, v in new["metadata"].get("annotations", {}).items() if k in WORDS}
    known = {k: v for k, v in old["metadata"].get("annotations", {}).items() if k in WORDS}
    return said != known and _without_words(new) == _without_words(old)


def _without_words(obj: Json) -> Json:
    meta = {k: v for k, v in obj["metadata"].items() if k not in ("managedFields", "resourceVersion", "annotations")}
    kept = {k: v for k, v in obj["metadata"].get("annotations", {}).items() if k not in WORDS}
    return {**obj, "metadata": meta | {"annotations": kept}}


def _scope(storage: Storage, obj: Json) -> str | None:
    return storage.cluster_name(obj) if storage.kind.cluster_field else None


def _why(kind: Kind, cluster: str) -> str:
    if kind.read_only:
        return f"a {kind.kind} is written by Fleet alone"
    if kind.cluster_field is None:
        return "kinds that belong to no cluster are written by a fleet-wide admin"
    where = f"in cluster {cluster}" if cluster else "outside every cluster"
    return f"it takes the role {kind.writers} {where}"


def check_finalizers(kind: Kind, old: Json, new: Json) -> None:
    """What is being deleted gets no new finalizer."""
    if "deletionTimestamp" not in old["metadata"]:
        return
    added = set(new["metadata"].get("finalizers", [])) - set(old["metadata"].get("finalizers", []))
    if added:
        text = f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}"
        raise errors.invalid(
            kind, old["metadata"]["name"], [Problem("metadata.finalizers", text, "FieldValueForbidden")]
        )


def check_lock(kind: Kind, live: Json, given: Any) -> None:
    """Optimistic lock: a resourceVersion that is given must be the live one."""
    if given not in (None, "") and given != live["metadata"]["resourceVersion"]:
        raise errors.conflict(kind, live["metadata"]["name"])


def check_uid(kind: Kind, live: Json, given: Any) -> None:
    """A patch never makes another object of it; a uid that it leaves out stays."""
    if given not in (None, "", live["metadata"]["uid"]):
        problem = Problem("metadata.uid", f'"{_short(given)}": field is immutable')
        raise errors.invalid(kind, live["metadata"]["name"], [problem])


def check_name(name: str, obj: Json) -> None:
    """The body names the object that the address names."""
    given = _name(obj)
    if not given:
        raise errors.bad_request(
            f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )
    if given != name:
        raise errors.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")


def check_applied_name(name: str, obj: Json) -> None:
    """Server-side apply: what a configuration does not mention stays as it is, the name too; `null` would take it away."""
    meta = obj.get("metadata", {})
    if not isinstance(meta, dict) or "name" in meta:
        check_name(name, obj)


def check_version(kind: Kind, name: str, obj: Json) -> None:
    """Replace: the body says which version it replaces."""
    if not obj["metadata"].get("resourceVersion"):
        raise errors.invalid(kind, name, [Problem("metadata.resourceVersion", "0x0: must be specified for an update")])
