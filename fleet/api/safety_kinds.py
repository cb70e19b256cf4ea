"""Storages of Hold, SafetyPolicy and Permit, and what is done for them from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from django.db import connection

from fleet.api.rights import Actor
from fleet.api.safety_status import policy_now, refresh_holds, refresh_policies, refresh_statuses
from fleet.api.storage import ListQuery, Page, Storage, Stored, format_time, register_storage
from fleet.control.kinds import API_VERSION, MACHINE, Json, register
from fleet.control.operators import Chore, register_chore
from fleet.control.work import wake
from fleet.safety.breakers import TURN_SECONDS, turn
from fleet.safety.models import Hold, SafetyPolicy
from fleet.safety.permits import tidy
from fleet.safety.schema import HOLD_KIND, PERMIT_KIND
from fleet.safety.schema_policy import SAFETY_POLICY_KIND

_REFRESH_SECONDS: Final = 15.0
_TIDY_SECONDS: Final = 60.0
_WAKE_AT_MOST: Final = 5_000  # a wider hold binds at once all the same: every permit and every pass asks for it


class HoldStorage(Storage):
    """Holds are scoped by the cluster of what they cover; those of labels and of everything belong to the whole fleet."""

    def __init__(self) -> None:
        super().__init__(HOLD_KIND, Hold)

    def default(self, obj: Json, by: Actor) -> None:
        """Whoever makes a hold owns it unless another is named."""
        obj["spec"].setdefault("owner", by.name)

    def cluster_name(self, obj: Json) -> str:
        """The held cluster, or that of the held machine; "" for wider holds and for machines outside every cluster."""
        target = obj.get("spec", {}).get("target", {})
        if not isinstance(target, dict) or "machine" not in target:
            return super().cluster_name(obj)
        with connection.cursor() as cursor:
            cursor.execute("SELECT cluster FROM safety_target WHERE name = %s", [target["machine"]])
            row = cursor.fetchone()
        return str(row[0]) if row else ""

    def field_sql(self, path: str) -> tuple[str, list[Any]]:
        """As `cluster_name` when a list is cut to the clusters that somebody sees."""
        if path == HOLD_KIND.cluster_field:
            return (
                "coalesce(spec #>> '{target,cluster}', (SELECT t.cluster FROM safety_target t WHERE t.name = spec #>> '{target,machine}'), '')",
                [],
            )
        return super().field_sql(path)

    def after_commit(self, stored: Stored) -> None:
        """Its status, and a look at the machines that it covers or gives free."""
        refresh_holds([stored.id])
        wake(MACHINE, _covered(stored.obj["spec"]["target"]))


def _dump(value: Json) -> str:
    return orjson.dumps(value).decode()


def _covered(target: Json) -> list[int]:
    """Ids of the machines that a target means, at most as many as are woken at once."""
    if set(target) == {"machine"}:  # by the index of names: many are held one by one
        where, value = "t.name = %s", target["machine"]
    else:
        where, value = "safety_matches(%s::jsonb, t.name, t.cluster, t.labels)", _dump(target)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT machine_id FROM safety_target t WHERE {where} LIMIT %s", [value, _WAKE_AT_MOST])
        return [int(row[0]) for row in cursor.fetchall()]


class SafetyPolicyStorage(Storage):
    """Policies bind from their commit on: the ledger reads them when it is asked."""

    def __init__(self) -> None:
        super().__init__(SAFETY_POLICY_KIND, SafetyPolicy)

    def foresee(self, new: Json, old: Json | None) -> Sequence[str]:
        """What it would mean now; the dry run has it stored until its end."""
        return policy_now(new["metadata"]["name"])

    def after_commit(self, stored: Stored) -> None:
        """Show what it means in machines."""
        refresh_policies([stored.id])


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


class PermitStorage(Storage):
    """Grants of the ledger, read-only, under the names permit-<id>."""

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
                f"SELECT {_PERMIT_COLUMNS}, fleet_horizon() - 1 FROM {_PERMIT_FROM} WHERE {where} ORDER BY {_PERMIT_NAME} LIMIT %s",
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
            cursor.execute(f"SELECT {_PERMIT_COLUMNS} FROM {_PERMIT_FROM} WHERE {where}", params)
            return list(cursor.fetchall())


def _permit_json(row: tuple[Any, ...]) -> Json:
    id_, rv, uid, machine, cluster, verb, owner, unplanned, draws, cost, granted, expires, released = row[:13]
    phase = "Released" if released else "Expired" if expires <= datetime.now(UTC) else "Granted"
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


def register_safety_kinds() -> None:
    """Called when the models are loaded."""
    register_chore(Chore("safety-status", _REFRESH_SECONDS, run_sync=refresh_statuses))
    register_chore(Chore("breakers", TURN_SECONDS, run=lambda seat: turn(seat.conn)))
    register_chore(Chore("tidy-permits", _TIDY_SECONDS, run=lambda seat: tidy(seat.conn)))
    for kind in (HOLD_KIND, SAFETY_POLICY_KIND, PERMIT_KIND):
        register(kind)
    for storage in (HoldStorage(), SafetyPolicyStorage(), PermitStorage()):
        register_storage(storage)
