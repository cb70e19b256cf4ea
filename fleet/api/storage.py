"""Where objects of a kind lie. One storage serves every kind of the shared table; machines bring a subclass of their own.

A storage reads and writes rows and positions; checks, audit and events around a write are `fleet.api.actions`' part.
All writing methods run inside the caller's transaction.
"""

from __future__ import annotations

import uuid as uuid_
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from django.db import connection, transaction
from django.db.utils import IntegrityError
from django.utils import timezone

from fleet.api.errors import already_exists
from fleet.api.rights import Actor
from fleet.api.selectors import FieldSelector, LabelSelector, field_text
from fleet.control.kinds import API_VERSION, Json, Kind, Problem
from fleet.control.models import KubeObject
from fleet.control.times import format_time
from fleet.events.publish import DELETED, MODIFIED, Cursor, note_change

STRIDE = 4
PHASE_COLUMN: Final = {"metadata.name": "name", "status.phase": "phase"}


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it lies in its row."""

    id: int
    rv: int
    cluster_id: int
    obj: Json


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list asks for. `clusters`: names that the asker may see, None = all."""

    labels: LabelSelector = field(default_factory=LabelSelector)
    fields: FieldSelector = field(default_factory=FieldSelector)
    after: str = ""
    limit: int = 1_000
    clusters: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page, sorted by name. `next_name` is where the next begins ("" = the end); `rv` the list's position."""

    objects: list[Json]
    rv: int
    next_name: str = ""


def metadata_json(row: KubeObject) -> Json:
    """`metadata` of a row; empty maps are left out, as Kubernetes does."""
    meta: Json = {"name": row.name, "uid": str(row.uid), "resourceVersion": str(row.rv), "generation": row.generation}
    meta["creationTimestamp"] = format_time(row.created_at)
    if row.deleted_at is not None:
        meta |= {"deletionTimestamp": format_time(row.deleted_at), "deletionGracePeriodSeconds": 0}
    for key, value in (("labels", row.labels), ("annotations", row.annotations), ("finalizers", row.finalizers)):
        if value:
            meta[key] = value
    if row.managed_fields:
        meta["managedFields"] = row.managed_fields
    return meta


class Storage:
    """Objects of one kind in one table derived from `KubeObject`."""

    field_columns: Mapping[str, str] = {"metadata.name": "name"}  # selectable fields that are columns

    def __init__(self, kind: Kind, model: type[KubeObject] | None) -> None:
        self.kind = kind
        self._model = model

    # -- what subclasses say differently -------------------------------------------------------------------------

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """Last check before a write, inside the transaction; raises ApiError. `old` is None for a create."""

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """Last check before a delete; raises ApiError."""

    def admit_deletes(self, count: int, by: Actor) -> None:
        """The same before so many are deleted by one request."""

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """Checks that need the database (uniqueness, references): shown as 422 by field."""
        return ()

    def default(self, obj: Json, by: Actor) -> None:
        """Fill in what a new object needs besides what people wrote (finalizers of ours, owner). In place."""

    def settle(self, new: Json, old: Json) -> Json:
        """Bring a wish to the form that is stored, so that "nothing changed" is seen as such."""
        return new

    def columns(self, obj: Json) -> Mapping[str, Any]:
        """Typed columns beside spec, from the object."""
        return {}

    def after_write(self, cursor: Cursor, stored: Stored, old: Stored | None) -> None:
        """More rows of the same transaction. `old` is None for a create."""

    def after_remove(self, cursor: Cursor, stored: Stored) -> None:
        """More rows to go with a removed object."""

    def after_commit(self, stored: Stored) -> None:
        """Wake whoever reconciles the object: a statement of its own, after the commit."""

    def foresee(self, new: Json, old: Json | None) -> Sequence[str]:
        """What a write would lead to, told by a dry run as warnings. `old` is None for a create."""
        return ()

    def presented(self, obj: Json) -> Json:
        """Computed parts of an object that is shown (fingerprints, effective state)."""
        return obj

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def model(self) -> type[KubeObject]:
        if self._model is None:
            raise TypeError(f"{self.kind.kind} has no table of the shared shape")
        return self._model

    def to_json(self, row: KubeObject) -> Json:
        """The object of a row."""
        obj: Json = {
            "apiVersion": API_VERSION,
            "kind": self.kind.kind,
            "metadata": metadata_json(row),
            "spec": row.spec,
        }
        if row.status:
            obj["status"] = row.status
        return self.presented(obj)

    def cluster_name(self, obj: Json) -> str:
        """Name of the cluster that scopes the object; "" = outside every cluster."""
        return field_text(obj, self.kind.cluster_field) if self.kind.cluster_field else ""

    def cluster_id(self, obj: Json) -> int:
        """Id of that cluster as `change` and `event` carry it; 0 = none."""
        name = self.cluster_name(obj)
        return cluster_ids([name]).get(name, 0) if name else 0

    def read(self, name: str, *, lock: bool = False) -> Stored | None:
        """The object of that name; locked against other writers until the transaction ends."""
        rows = self.model._default_manager.filter(name=name)
        row = (rows.select_for_update(no_key=True) if lock else rows).first()
        if row is None:
            return None
        obj = self.to_json(row)
        is_cluster = self.kind.cluster_field == "metadata.name"  # which lies in itself: its own id needs no look-up
        return Stored(row.pk, row.rv, row.pk if is_cluster else self.cluster_id(obj), obj)

    def by_ids(self, ids: Sequence[int]) -> dict[int, Json]:
        """Objects by row id, those that exist, one query."""
        return {row.pk: self.to_json(row) for row in self.model._default_manager.filter(pk__in=ids)}

    def ids_of(self, names: Sequence[str]) -> list[int]:
        """Row ids of those names."""
        return list(self.model._default_manager.filter(name__in=names).values_list("pk", flat=True))

    def page(self, query: ListQuery) -> Page:
        """One keyset page; the position is read in the same statement order that makes a watch from it complete."""
        where, params = self._where(query)
        sql = f"SELECT id, name, fleet_horizon() - 1 AS horizon FROM {self.model._meta.db_table} WHERE {where} ORDER BY name LIMIT %s"
        with connection.cursor() as cursor:
            cursor.execute(sql, [*params, query.limit + 1])
            found = cursor.fetchall()
            if not found:
                cursor.execute("SELECT fleet_horizon() - 1")
                return Page([], int(cursor.fetchone()[0]))
        more = len(found) > query.limit
        shown = found[: query.limit]
        objects = self.by_ids([i for i, _, _ in shown])
        # What was deleted since is left out; where the next page begins comes from the names that were found, or the list would end early.
        ordered = [objects[i] for i, _, _ in shown if i in objects]
        return Page(ordered, int(found[0][2]), str(shown[-1][1]) if more else "")

    def text_page(self, query: ListQuery) -> Page | None:
        """The same page with each object as `orjson.Fragment`, for a kind whose objects lie ready as text; None = it has none."""
        return None

    def count(self, query: ListQuery) -> int | None:
        """How many objects there are after `query.after`, where that is cheap to say; None otherwise."""
        if query.labels.requirements or query.fields.terms or query.clusters is not None:
            return None
        return self.model._default_manager.filter(name__gt=query.after).count()

    def _where(self, query: ListQuery) -> tuple[str, list[Any]]:
        parts: list[str] = ["name > %s"]
        params: list[Any] = [query.after]
        label_sql, label_params = query.labels.sql("labels")
        if query.labels.requirements:
            parts.append(label_sql)
            params += label_params
        for path, operator, value in query.fields.terms:
            expression, values = self.field_sql(path)
            parts.append(f"({expression}) {operator if operator == '=' else '<>'} %s")
            params += [*values, value]
        if query.clusters is not None and self.kind.cluster_field:
            expression, values = self.field_sql(self.kind.cluster_field)
            parts.append(f"({expression}) = ANY (%s)")
            params += [*values, sorted(query.clusters)]
        return " AND ".join(parts), params

    def field_sql(self, path: str) -> tuple[str, list[Any]]:
        """A selectable field as SQL text."""
        column = self.field_columns.get(path)
        if column is not None:
            return column, []
        root, _, rest = path.partition(".")
        return f"coalesce({root} #>> %s::text[], '')", [rest.split(".")]

    # -- writing (inside the caller's transaction) -----------------------------------------------------------------

    def insert(self, obj: Json) -> Stored:
        """Store a new object; 409 when the name is taken."""
        meta = obj["metadata"]
        values: dict[str, Any] = {
            "name": meta["name"],
            "labels": meta.get("labels", {}),
            "annotations": meta.get("annotations", {}),
            "finalizers": meta.get("finalizers", []),
            "managed_fields": meta.get("managedFields", []),
            "spec": obj.get("spec", {}),
            "status": obj.get("status", {}),
            **self.columns(obj),
        }
        row = self.model(uid=uuid_.uuid4(), created_at=timezone.now().replace(microsecond=0), **values)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
        except IntegrityError as error:
            if "_name_" in str(error) or "(name)" in str(error):
                raise already_exists(self.kind, meta["name"]) from None
            raise
        row.rv = self._first_position(row)
        out = self.to_json(row)
        return Stored(row.pk, row.rv, self.cluster_id(out), out)

    def _first_position(self, row: KubeObject) -> int:
        """Above the deletion of the last object of that name, which the insert may have waited for: so computed after it."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {self.model._meta.db_table} SET rv = greatest(fleet_pos(%s), "
                "(SELECT max(rv) + 1 FROM tombstone WHERE kind = %s AND name = %s)) WHERE id = %s RETURNING rv",
                [STRIDE, self.kind.number, row.name, row.pk],
            )
            return int(cursor.fetchone()[0])

    def replace(self, stored: Stored, obj: Json) -> Stored:
        """Write a locked object anew: metadata, spec and status as `obj` says (rv and generation computed by the caller's rules)."""
        meta = obj["metadata"]
        rv = self.next_position(stored.rv)
        values: dict[str, Any] = {
            "rv": rv, "generation": meta["generation"], "labels": meta.get("labels", {}), "annotations": meta.get("annotations", {}),
            "finalizers": meta.get("finalizers", []), "managed_fields": meta.get("managedFields", []), "spec": obj.get("spec", {}),
            "status": obj.get("status", {}), **self.columns(obj),
        }  # fmt: skip
        if "deletionTimestamp" in meta and "deletionTimestamp" not in stored.obj["metadata"]:
            values["deleted_at"] = timezone.now().replace(microsecond=0)
        self.model._default_manager.filter(pk=stored.id).update(**values)
        out = self.to_json(self.model._default_manager.get(pk=stored.id))
        return Stored(stored.id, rv, self.cluster_id(out), out)

    def remove(self, stored: Stored) -> int:
        """Delete the row, leave a tombstone; the position of the deletion."""
        rv = self.next_position(stored.rv)
        bury(self.kind, stored, rv)
        self.model._default_manager.filter(pk=stored.id).delete()
        return rv

    def next_position(self, old: int) -> int:
        """A position above the object's last, whatever order transaction ids and row locks came in."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT greatest(fleet_pos(%s), %s + 1)", [STRIDE, old])
            return int(cursor.fetchone()[0])

    def write_status(self, statuses: Mapping[int, Json]) -> list[int]:
        """Controllers: set whole statuses by row id, only where they differ, in id order; ids that changed. One transaction."""
        changed: list[int] = []
        with transaction.atomic(), connection.cursor() as cursor:
            rows = self.model._default_manager.filter(pk__in=statuses).order_by("pk").select_for_update(no_key=True)
            for row in rows:
                if row.status == statuses[row.pk]:
                    continue
                before = self.to_json(row)
                row.status, row.rv = statuses[row.pk], self.next_position(row.rv)
                self.model._default_manager.filter(pk=row.pk).update(status=row.status, rv=row.rv)
                after = self.to_json(row)
                note_change(
                    cursor,
                    row.rv,
                    row.pk,
                    self.cluster_id(after),
                    self.kind.number,
                    MODIFIED,
                    difference(self.kind, before, after),
                )
                changed.append(row.pk)
        return changed


def bury(kind: Kind, stored: Stored, rv: int) -> None:
    """Tombstone and change row of a deletion: DELETED goes out from the tombstone."""
    from fleet.api.redact import redact

    last = redact(kind, stored.obj)
    last = {**last, "metadata": {**last["metadata"], "resourceVersion": str(rv)}}
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tombstone (rv, kind, name, object) VALUES (%s, %s, %s, %s::jsonb)",
            [rv, kind.number, last["metadata"]["name"], orjson.dumps(last).decode()],
        )
        note_change(cursor, rv, stored.id, stored.cluster_id, kind.number, DELETED)


def difference(kind: Kind, before: Json, after: Json) -> Json | None:
    """What selectors need of before: labels and selectable fields, as far as they changed."""
    out: Json = {}
    old_labels = before["metadata"].get("labels", {})
    if old_labels != after["metadata"].get("labels", {}):
        out["labels"] = old_labels
    paths = {*kind.selectable, *([kind.cluster_field] if kind.cluster_field else [])} - {"metadata.name"}
    fields = {p: field_text(before, p) for p in sorted(paths) if field_text(before, p) != field_text(after, p)}
    if fields:
        out["fields"] = fields
    return out or None


def cluster_ids(names: Iterable[str]) -> dict[str, int]:
    """Row ids of clusters by name; unknown names are missing. The table is named in SQL: its app lies above this one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, id FROM clusters_cluster WHERE name = ANY (%s)", [sorted(set(names))])
        return {str(n): int(i) for n, i in cursor.fetchall()}


_storages: dict[str, Storage] = {}
_by_number: dict[int, Storage] = {}


def register_storage(storage: Storage) -> Storage:
    """Make a storage known; each registered kind needs one before it is served."""
    _storages[storage.kind.plural] = storage
    _by_number[storage.kind.number] = storage
    return storage


def storage_for(plural: str) -> Storage:
    """The storage of a kind by its plural; KeyError when there is none."""
    return _storages[plural]


def storage_of(number: int) -> Storage | None:
    """The storage by the kind's number in the log."""
    return _by_number.get(number)
