"""Permits as people and foreign tools make and see them: their own by the names they chose, Fleet's as permit-<id>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.db import connection

from fleet.api import errors
from fleet.api.foreign_permits import owner_of, settle_requests
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, Page, Storage, Stored
from fleet.control import clock
from fleet.control.kinds import API_VERSION, Json, Problem
from fleet.control.times import format_time
from fleet.events.publish import Cursor
from fleet.safety.models import PermitRequest
from fleet.safety.permits import FOREIGN, RELEASE
from fleet.safety.schema_permit import OF_FLEET, PERMIT_KIND

_OF_FLEET: Final = f"p.owner NOT LIKE '%%{FOREIGN}%%)'"
_PERMIT_COLUMNS: Final = """p.id, p.rv, p.uid::text, coalesce(t.name, ''), coalesce(t.cluster, ''), p.verb, p.owner, p.unplanned, p.draws, p.cost, p.granted_at, p.expires_at, p.released_at, p.cluster_id"""
_PERMIT_FROM: Final = "permit p LEFT JOIN safety_target t ON t.machine_id = p.machine_id"
_PERMIT_NAME: Final = "('permit-' || p.id) COLLATE \"C\""
_PERMIT_PHASE: Final = (
    "CASE WHEN p.released_at IS NOT NULL THEN 'Released' WHEN p.expires_at <= now() THEN 'Expired' ELSE 'Granted' END"
)
_PERMIT_FIELDS: Final = {
    "metadata.name": _PERMIT_NAME,
    "spec.machine": "coalesce(t.name, '')",
    "spec.clusterName": "coalesce(t.cluster, '')",
    "spec.verb": "p.verb",
    "spec.owner": "p.owner",
    "status.phase": _PERMIT_PHASE,
}


class _Grants(Storage):
    """Grants of the ledger to Fleet's own parts, read-only, under the names permit-<id>."""

    def __init__(self) -> None:
        super().__init__(PERMIT_KIND, None)

    def read(self, name: str, *, lock: bool = False) -> Stored | None:
        """The permit of that name; nobody writes one through here, so nothing is locked."""
        rows = self._rows(f"{_PERMIT_NAME} = %s", [name])
        return Stored(rows[0][0], rows[0][1], rows[0][13], _permit_json(rows[0])) if rows else None

    def by_ids(self, ids: Sequence[int]) -> dict[int, Json]:
        """Permits by id."""
        return {row[0]: _permit_json(row) for row in self._rows("p.id = ANY (%s)", [list(ids)])}

    def ids_of(self, names: Sequence[str]) -> list[int]:
        """Ids of those names."""
        return [row[0] for row in self._rows(f"{_PERMIT_NAME} = ANY (%s)", [list(names)])]

    def page(self, query: ListQuery) -> Page:
        """One page in order of name."""
        where, params = self._where(query)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {_PERMIT_COLUMNS}, fleet_horizon() - 1 FROM {_PERMIT_FROM} WHERE {where} AND {_OF_FLEET} ORDER BY {_PERMIT_NAME} LIMIT %s",
                [*params, query.limit + 1],
            )
            rows = cursor.fetchall()
            if not rows:
                cursor.execute("SELECT fleet_horizon() - 1")
                return Page([], int(cursor.fetchone()[0]))
        objects = [_permit_json(row) for row in rows[: query.limit]]
        return Page(objects, int(rows[0][14]), objects[-1]["metadata"]["name"] if len(rows) > query.limit else "")

    def count(self, query: ListQuery) -> int | None:
        """Not worth a scan."""
        return None

    def field_sql(self, path: str) -> tuple[str, list[Any]]:
        """A selectable field as SQL."""
        return _PERMIT_FIELDS[path], []

    def _where(self, query: ListQuery) -> tuple[str, list[Any]]:
        where, params = super()._where(query)
        labels_sql, _ = query.labels.sql("labels")
        where = (
            where.replace(labels_sql, labels_sql.replace("labels", "'{}'::jsonb"))
            if query.labels.requirements
            else where
        )
        return where.replace("name > %s", f"{_PERMIT_NAME} > %s", 1), params

    def _rows(self, where: str, params: list[Any]) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {_PERMIT_COLUMNS} FROM {_PERMIT_FROM} WHERE {where} AND {_OF_FLEET}", params)
            return list(cursor.fetchall())


def _permit_json(row: tuple[Any, ...]) -> Json:
    id_, rv, uid, machine, cluster, verb, owner, unplanned, draws, cost, granted, expires, released = row[:13]
    phase = "Released" if released else "Expired" if expires <= clock.now() else "Granted"
    status: Json = {"phase": phase, "takesCapacity": draws, "cost": cost, "grantedTime": format_time(granted)}
    status["expiresTime"] = format_time(expires)
    if released:
        status["releasedTime"] = format_time(released)
    return {
        "apiVersion": API_VERSION,
        "kind": "Permit",
        "metadata": {
            "name": f"permit-{id_}", "uid": uid, "resourceVersion": str(rv), "generation": 1,
            "creationTimestamp": format_time(granted),
        },
        "spec": {"machine": machine, "clusterName": cluster, "verb": verb, "owner": owner, "unplanned": unplanned},
        "status": status,
    }  # fmt: skip


class PermitStorage(Storage):
    """Both together, in order of name. Only those with chosen names are written."""

    def __init__(self) -> None:
        super().__init__(PERMIT_KIND, PermitRequest)
        self._grants = _Grants()

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, name: str, *, lock: bool = False) -> Stored | None:
        """By its chosen name, else a grant of Fleet's own."""
        return self._grants.read(name) if OF_FLEET.fullmatch(name) else super().read(name, lock=lock)

    def by_ids(self, ids: Sequence[int]) -> dict[int, Json]:
        """Permits by id; both draw theirs from one sequence."""
        return self._grants.by_ids(ids) | super().by_ids(ids)

    def ids_of(self, names: Sequence[str]) -> list[int]:
        """Ids of those names."""
        return self._grants.ids_of(names) + super().ids_of(names)

    def page(self, query: ListQuery) -> Page:
        """One page of both."""
        chosen, granted = super().page(query), self._grants.page(query)
        found = sorted([*chosen.objects, *granted.objects], key=lambda o: o["metadata"]["name"])
        shown = found[: query.limit]
        more = len(found) > query.limit or chosen.next_name or granted.next_name
        next_name = shown[-1]["metadata"]["name"] if more and shown else ""
        return Page(shown, min(chosen.rv, granted.rv), next_name)

    def count(self, query: ListQuery) -> int | None:
        """Not worth a scan."""
        return None

    # -- checks --------------------------------------------------------------------------------------------------

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """The machine must be there."""
        if old is None and _machine(new["spec"]["machine"]) is None:
            return [Problem("spec.machine", f'"{new["spec"]["machine"]}": there is no machine of that name')]
        return ()

    def default(self, obj: Json, by: Actor) -> None:
        """Its cluster, whatever was sent, and who asks."""
        obj["spec"].pop("clusterName", None)
        found = _machine(obj["spec"]["machine"])
        if found is not None and found[1]:
            obj["spec"]["clusterName"] = found[1]
        obj["spec"].setdefault("owner", by.name)
        obj["spec"].setdefault("ttlSeconds", 600)

    def settle(self, new: Json, old: Json) -> Json:
        """What Fleet filled in stays when a client sends its own form again."""
        for key in ("clusterName", "owner", "ttlSeconds"):
            if key in old["spec"]:
                new["spec"].setdefault(key, old["spec"][key])
        return new

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """Fleet's own are written by Fleet alone."""
        if old is not None:
            self.admit_delete(old, by, "update")

    def admit_delete(self, obj: Json, by: Actor, verb: str = "delete") -> None:
        """Likewise: giving back a permit of Fleet's under its hands would let the next machine go."""
        name = obj["metadata"]["name"]
        if OF_FLEET.fullmatch(name):
            raise errors.forbidden(
                by.name, verb, self.kind, name, "it is Fleet's own, and given back when its machine was seen well"
            )

    # -- rows ----------------------------------------------------------------------------------------------------

    def columns(self, obj: Json) -> Mapping[str, Any]:
        """The machine of a new one, which begins as Pending."""
        if "uid" in obj["metadata"]:
            return {}
        found = _machine(obj["spec"]["machine"])
        status = {"phase": "Pending", "pendingTime": format_time(clock.now())}
        return {"machine_id": found[0] if found else 0, "status": status}

    def after_remove(self, cursor: Cursor, stored: Stored) -> None:
        """Deleting gives back; a machine that is still away counts as such."""
        cursor.execute(
            "SELECT p.id FROM permit p JOIN safety_target t ON t.machine_id = p.machine_id WHERE t.name = %s AND p.owner = %s AND p.released_at IS NULL",
            [stored.obj["spec"]["machine"], owner_of(stored.obj["spec"], stored.obj["metadata"]["name"])],
        )
        row = cursor.fetchone()
        cursor.execute(RELEASE, [[row[0]] if row else []])

    def after_commit(self, stored: Stored) -> None:
        """The ledger is asked at once, in a statement of its own."""
        settle_requests([stored.id])


def _machine(name: str) -> tuple[int, str] | None:
    """(id, cluster) of a machine."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT machine_id, cluster FROM safety_target WHERE name = %s", [name])
        row = cursor.fetchone()
    return (int(row[0]), str(row[1])) if row else None
