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
    WORD_PREFIX + w for w in ("confirm-removal", "accept-diff", "approve", "abandon", "take-over", "resume-rollout", "restore")
)


def check_shape(kind: Kind, obj: Json, validation: str, duplicates: list[str]) -> tuple[Json, list[str]]:
    """(the object without fields that its schema does not know, warnings about them); ApiError 400 for them if `Strict`."""
    if not isinstance(obj, dict):
        raise errors.bad_request(f"the body must be a {kind.kind} object")
    if not schema.api_version_is_right(obj):
        given = obj.get("apiVersion")
        raise errors.bad_request(
            f"the API version in the data ({given}) does not match the expected API version ({API_VERSION})"
        )
    name = obj.get("metadata", {}).get("name", "") if isinstance(obj.get("metadata", {}), dict) else ""
    wrong = schema.identity(kind, obj)
    if wrong:
        raise errors.invalid(kind, str(name), wrong)
    obj, unknown = schema.prune(kind, obj)
    if validation == "Strict" and (unknown or duplicates):
        raise errors.strict(kind, unknown, duplicates)
    obj["apiVersion"], obj["kind"] = API_VERSION, kind.kind
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


def _why(kind: Kind, cluster: str) -> str:
    if kind.read_only:
        return f"a {kind.kind} is written by Fleet alone"
    if kind.cluster_field is None:
        return "kinds that belong to no cluster are written by a fleet-wide admin"
    where = f"in cluster {cluster}" if cluster else "outside every cluster"
    return f"it takes the role {kind.writers} {where}"


def check_finalizers(kind: Kind, old: Json, new: Json) -> None:
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


def check_name(name: str, obj: Json) -> None:
    """The name in the body is that of the address, or absent."""
    meta = obj.get("metadata")
    given = meta.get("name") if isinstance(meta, dict) else None
    if given not in (None, "", name):
        raise errors.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
