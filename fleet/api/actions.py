"""Every write of an object by people and clients: checked, owned, audited, told and woken, in one transaction.

The HTTP views, the console's forms and fleetctl all come through here.
"""

from __future__ import annotations

import copy
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from fleet.api import audit, errors
from fleet.api.apply import server_side_apply, track_update
from fleet.api.checks import (
    check_applied_name,
    check_applied_type,
    check_fields,
    check_finalizers,
    check_lock,
    check_name,
    check_patched_type,
    check_right,
    check_type,
    check_uid,
    check_values,
    check_version,
)
from fleet.api.redact import redact
from fleet.api.rights import Actor
from fleet.api.storage import Storage, Stored, difference, storage_for
from fleet.api.structure import same
from fleet.control.kinds import Json, Kind
from fleet.events.publish import ADDED, MODIFIED, hint, note_change, publish

_SUFFIX = string.ascii_lowercase.replace("l", "") + "2456789"


@dataclass(slots=True)
class Write:
    """How a write was asked for, and the warnings it earned."""

    by: Actor
    manager: str = "fleet"
    dry_run: bool = False
    validation: str = "Strict"  # Strict | Warn | Ignore
    warnings: list[str] = field(default_factory=list)


def _known(kind: Kind, obj: Json, write: Write, duplicates: list[str] | None) -> Json:
    obj, warnings = check_fields(kind, obj, write.validation, duplicates or [])
    write.warnings += warnings
    return obj


def create_object(plural: str, obj: Json, *, write: Write, duplicates: list[str] | None = None) -> Json:
    """Create; the stored object. Raises ApiError."""
    storage = storage_for(plural)
    kind = storage.kind
    check_type(kind, obj)
    obj = _known(kind, copy.deepcopy(obj), write, duplicates)
    meta = obj["metadata"]
    if meta.get("resourceVersion"):
        raise errors.bad_request("resourceVersion should not be set on objects to be created")
    kept = ("name", "generateName", "labels", "annotations", "finalizers", "managedFields")
    obj["metadata"] = {k: v for k, v in meta.items() if k in kept}
    obj.pop("status", None)
    if not obj["metadata"].get("name") and obj["metadata"].get("generateName"):
        suffix = "".join(secrets.choice(_SUFFIX) for _ in range(5))
        obj["metadata"]["name"] = str(obj["metadata"]["generateName"])[:248] + suffix
    write.warnings += check_values(storage, obj, None)
    storage.default(obj, write.by)
    check_right(storage, "create", obj, write.by)
    obj["metadata"]["managedFields"] = track_update(
        kind,
        None,
        {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}},
        write.manager,
        timezone.now(),
    )
    return _insert(storage, obj, write)


def _insert(storage: Storage, obj: Json, write: Write) -> Json:
    with transaction.atomic():
        storage.admit(obj, None, write.by)
        stored = storage.insert(obj)
        with connection.cursor() as cursor:
            storage.after_write(cursor, stored, None)
            note_change(cursor, stored.rv, stored.id, stored.cluster_id, storage.kind.number, ADDED)
            _tell(cursor, storage, "created", stored, write.by)
            audit.append(
                cursor, stored.rv, write.by, "create", storage.kind, None, stored.obj, storage.cluster_name(stored.obj)
            )
        if write.dry_run:
            write.warnings += storage.foresee(stored.obj, None)
            transaction.set_rollback(True)
            shown = copy.deepcopy(stored.obj)
            shown["metadata"].pop("resourceVersion", None)
            return redact(storage.kind, shown)
        transaction.on_commit(lambda: _after_commit(storage, stored))
    return redact(storage.kind, stored.obj)


def _after_commit(storage: Storage, stored: Stored) -> None:
    storage.after_commit(stored)
    with connection.cursor() as cursor:
        hint(cursor)


def _tell(cursor: Any, storage: Storage, what: str, stored: Stored, by: Actor) -> None:
    kind = storage.kind
    data = {
        "reason": what.capitalize(),
        "message": f"{kind.kind} was {what} by {by.name}.",
        "name": stored.obj["metadata"]["name"],
        "by": by.name,
    }
    publish(
        cursor, pos=stored.rv, kind=kind.number, object_id=stored.id, cluster_id=stored.cluster_id,
        type=f"dev.fleet.{kind.singular}.{what}", source=f"/{kind.plural}", data=data,
    )  # fmt: skip


Change = Callable[[Json], Json]  # from the live object to the wished one; raises ApiError


def change_object(
    plural: str,
    name: str,
    change: Change,
    *,
    write: Write,
    verb: str,
    subresource: str | None = None,
    create: Callable[[], Json] | None = None,
) -> tuple[Json, bool]:
    """Read, change, write with the row locked; (object, whether it was created). `create`: what apply makes of a missing object."""
    storage = storage_for(plural)
    with transaction.atomic():
        stored = storage.read(name, lock=True)
        if stored is not None:
            return _replace(storage, stored, change(copy.deepcopy(stored.obj)), write, verb, subresource), False
    if create is None or subresource:
        raise errors.not_found(storage.kind, name)
    return _insert(storage, create(), write), True


def _replace(storage: Storage, stored: Stored, wished: Json, write: Write, verb: str, subresource: str | None) -> Json:
    kind, old = storage.kind, stored.obj
    new = _laid_over(old, wished, subresource)
    write.warnings += check_values(storage, new, old)
    check_right(storage, verb, new, write.by, old, subresource or "")
    check_finalizers(kind, old, new)
    new = storage.settle(new, old)
    if _same(old, new):
        return redact(kind, old)
    if new.get("spec") != old.get("spec"):
        new["metadata"]["generation"] = old["metadata"]["generation"] + 1
    storage.admit(new, old, write.by)
    finished = "deletionTimestamp" in old["metadata"] and not new["metadata"].get("finalizers")
    with connection.cursor() as cursor:
        after = storage.replace(stored, new)
        storage.after_write(cursor, after, stored)
        note_change(
            cursor, after.rv, after.id, after.cluster_id, kind.number, MODIFIED, difference(kind, old, after.obj)
        )
        _tell(cursor, storage, "changed", after, write.by)
        audit.append(cursor, after.rv, write.by, verb, kind, old, after.obj, storage.cluster_name(after.obj))
        if finished:
            storage.remove(after)
            storage.after_remove(cursor, after)
    if write.dry_run:
        write.warnings += storage.foresee(after.obj, old)
        transaction.set_rollback(True)
        # Nothing was written, so the version is the old one: `kubectl diff` shows it otherwise.
        version = {"resourceVersion": old["metadata"]["resourceVersion"]}
        return redact(kind, {**after.obj, "metadata": {**after.obj["metadata"], **version}})
    transaction.on_commit(lambda: _after_commit(storage, after))
    return redact(kind, after.obj)


def _laid_over(old: Json, wished: Json, subresource: str | None) -> Json:
    """What of the wish counts: the main path never writes status, /status nothing else; the server's own metadata stays."""
    new = copy.deepcopy(old)
    given = wished.get("metadata", {})
    if subresource == "status":
        new["status"] = wished.get("status", {})
        new["metadata"]["managedFields"] = given.get("managedFields", old["metadata"].get("managedFields", []))
        return new
    if "spec" in wished or "spec" in old:
        new["spec"] = wished.get("spec", {})
    for key in ("labels", "annotations", "finalizers", "managedFields"):
        if given.get(key):
            new["metadata"][key] = given[key]
        else:
            new["metadata"].pop(key, None)
    return new


def _same(old: Json, new: Json) -> bool:
    """Equal content: no write, no event, the same resourceVersion. Only a changed set of owners counts, not their times."""

    def bare(obj: Json) -> Json:
        meta = {k: v for k, v in obj["metadata"].items() if k != "managedFields" and v not in ({}, [])}
        owners = [{k: v for k, v in e.items() if k != "time"} for e in obj["metadata"].get("managedFields", [])]
        return {"metadata": meta, "spec": obj.get("spec", {}), "status": obj.get("status", {}), "owners": owners}

    return same(bare(old), bare(new))


def put_object(
    plural: str,
    name: str,
    obj: Json,
    *,
    write: Write,
    subresource: str | None = None,
    duplicates: list[str] | None = None,
) -> Json:
    """Replace; resourceVersion is required."""
    storage = storage_for(plural)
    kind = storage.kind
    check_type(kind, obj)
    obj = _known(kind, obj, write, duplicates)
    check_name(name, obj)
    meta = obj["metadata"]

    def change(live: Json) -> Json:
        check_version(kind, name, obj)
        if meta.get("uid") not in (None, "", live["metadata"]["uid"]):
            raise errors.conflict(
                kind,
                name,
                f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {live['metadata']['uid']}",
            )
        check_lock(kind, live, meta["resourceVersion"])
        obj["metadata"]["managedFields"] = track_update(kind, live, obj, write.manager, timezone.now(), subresource)
        return obj

    return change_object(plural, name, change, write=write, verb="update", subresource=subresource)[0]


def patch_object(
    plural: str,
    name: str,
    patch: Change,
    *,
    write: Write,
    subresource: str | None = None,
    duplicates: list[str] | None = None,
) -> Json:
    """Merge patch or JSON patch, given as a function of the live object."""
    storage = storage_for(plural)
    kind = storage.kind

    def change(live: Json) -> Json:
        wished = patch(copy.deepcopy(live))
        if not isinstance(wished, dict):
            raise errors.bad_request("the patched object is no object any more")
        meta = wished.get("metadata")
        if not isinstance(meta, dict):
            raise errors.bad_request("the patch removed metadata")
        check_patched_type(kind, name, wished)
        check_lock(kind, live, meta.get("resourceVersion"))
        check_uid(kind, live, meta.get("uid"))
        wished = _known(kind, wished, write, duplicates)
        check_name(name, wished)
        wished["metadata"]["managedFields"] = track_update(
            kind, live, wished, write.manager, timezone.now(), subresource
        )
        return wished

    return change_object(plural, name, change, write=write, verb="patch", subresource=subresource)[0]


def apply_object(
    plural: str,
    name: str,
    config: Json,
    *,
    write: Write,
    force: bool,
    subresource: str | None = None,
    duplicates: list[str] | None = None,
) -> tuple[Json, bool]:
    """Server-side apply; (object, created)."""
    storage = storage_for(plural)
    kind = storage.kind
    check_applied_type(kind, config)
    check_applied_name(name, config)
    config = _known(kind, config, write, duplicates)

    def change(live: Json) -> Json:
        check_lock(kind, live, config["metadata"].get("resourceVersion"))
        config["metadata"].setdefault("name", name)
        return server_side_apply(kind, live, config, write.manager, force, timezone.now(), subresource)

    def create() -> Json:
        check_name(name, config)
        if config["metadata"].get("resourceVersion"):
            raise errors.conflict(kind, name)
        made = server_side_apply(kind, None, config, write.manager, force, timezone.now())
        made.pop("status", None)
        write.warnings += check_values(storage, made, None)
        storage.default(made, write.by)
        check_right(storage, "create", made, write.by)
        return made

    return change_object(plural, name, change, write=write, verb="patch", subresource=subresource, create=create)


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What must hold for a delete."""

    uid: str | None = None
    resource_version: str | None = None


def delete_object(
    plural: str, name: str, *, write: Write, preconditions: Preconditions | None = None
) -> tuple[Json, bool]:
    """(object, gone). With finalizers left the object stays, marked; without, it is gone at once."""
    storage = storage_for(plural)
    kind, wish = storage.kind, preconditions or Preconditions()
    with transaction.atomic():
        stored = storage.read(name, lock=True)
        if stored is None:
            raise errors.not_found(kind, name)
        old = stored.obj
        if wish.uid and wish.uid != old["metadata"]["uid"]:
            raise errors.conflict(
                kind,
                name,
                f"Precondition failed: UID in precondition: {wish.uid}, UID in object meta: {old['metadata']['uid']}",
            )
        check_lock(kind, old, wish.resource_version)
        check_right(storage, "delete", old, write.by)
        storage.admit_delete(old, write.by)
        gone = not old["metadata"].get("finalizers")
        after = stored
        with connection.cursor() as cursor:
            if gone:
                storage.after_remove(cursor, stored)
                rv = storage.remove(stored)
                after = Stored(stored.id, rv, stored.cluster_id, old)
                _tell(cursor, storage, "deleted", after, write.by)
                audit.append(cursor, rv, write.by, "delete", kind, old, None, storage.cluster_name(old))
            elif "deletionTimestamp" not in old["metadata"]:
                marked = copy.deepcopy(old)
                marked["metadata"] |= {"deletionTimestamp": "now", "generation": old["metadata"]["generation"] + 1}
                after = storage.replace(stored, marked)
                storage.after_write(cursor, after, stored)
                note_change(cursor, after.rv, after.id, after.cluster_id, kind.number, MODIFIED, None)
                _tell(cursor, storage, "deleting", after, write.by)
                audit.append(cursor, after.rv, write.by, "delete", kind, old, after.obj, storage.cluster_name(old))
        if write.dry_run:
            transaction.set_rollback(True)
        else:
            transaction.on_commit(lambda: _after_commit(storage, after))
    return redact(kind, after.obj), gone
