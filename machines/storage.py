"""Where machines lie: `machine` (what people wrote), `machine_state` (hot) and the rows that go with them, as one object of the API.

All writing methods run inside the caller's transaction and keep machine, state, capacity and counters consistent. The work
item is touched after the commit only (lock order), but for a new machine, whose item nobody can hold.
"""

from __future__ import annotations

import hashlib
import uuid as uuid_
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import psycopg
from django.db import connection, transaction
from django.db.utils import IntegrityError

from fleet.api.errors import already_exists, invalid
from fleet.api.selectors import field_text
from fleet.api.storage import STRIDE, ListQuery, Page, Storage, Stored, bury, cluster_ids
from fleet.control import work
from fleet.control.kinds import MACHINE, Json, Kind, Problem
from machines import compose, counts, packing
from machines.places import place_id, rack_name
from machines.states import NARROWER, STATE_SQL

_COUNTED = 5_000  # a rest is told only when the rows before it are quickly counted
_PREPARED = 40  # texts of lists kept prepared by a connection


def shard_of(uid: str) -> int:
    """0..255: the first byte of the SHA-256 of the uid."""
    return hashlib.sha256(uid.encode()).digest()[0]


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


class MachineStorage(Storage):
    """Machines as objects of the API."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind, None)

    # -- checks --------------------------------------------------------------------------------------------------

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """A known cluster; an address and a serial number that no other machine has."""
        spec, name = new.get("spec", {}), new["metadata"].get("name", "")
        found: list[Problem] = []
        cluster = spec.get("clusterName", "")
        moved = old is None or old.get("spec", {}).get("clusterName") != cluster
        if cluster and moved and not cluster_ids([cluster]):
            found.append(Problem("spec.clusterName", f'"{cluster}": there is no cluster of that name'))
        with connection.cursor() as cursor:
            if spec.get("ip"):
                cursor.execute(
                    "SELECT name FROM machine WHERE idc = %s AND ip = %s AND name <> %s LIMIT 1",
                    [str(spec.get("idc", "")), spec["ip"], name],
                )
                if taken := cursor.fetchone():
                    found.append(_taken_address(spec, taken[0]))
            if spec.get("serialNumber"):
                cursor.execute(
                    "SELECT name FROM machine WHERE serial_number = %s AND name <> %s LIMIT 1",
                    [spec["serialNumber"], name],
                )
                if taken := cursor.fetchone():
                    found.append(_taken_serial(spec, taken[0]))
            if bmc := spec.get("bmc"):  # one controller for two machines would switch off the wrong one
                cursor.execute(
                    "SELECT name FROM machine WHERE spec #>> '{bmc,address}' = %s AND coalesce(spec #>> '{bmc,port}', '443') = %s AND name <> %s LIMIT 1",
                    [bmc["address"], str(bmc.get("port", 443)), name],
                )
                if taken := cursor.fetchone():
                    text = f'"{bmc["address"]}": is the controller of machine {taken[0]}'
                    found.append(Problem("spec.bmc.address", text, "FieldValueDuplicate"))
        return found

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, name: str, *, lock: bool = False) -> Stored | None:
        rows = self._rows("m.name = %s" + (" FOR NO KEY UPDATE OF m, s" if lock else ""), [name])
        if not rows:
            return None
        return Stored(rows[0][0], rows[0][1], rows[0][2], self.presented(orjson.loads(_texts(rows)[0])))

    def by_ids(self, ids: Sequence[int]) -> dict[int, Json]:
        rows = self._rows("m.id = ANY (%s::bigint[])", [list(ids)])
        return {row[0]: self.presented(orjson.loads(text)) for row, text in zip(rows, _texts(rows), strict=True)}

    def ids_of(self, names: Sequence[str]) -> list[int]:
        return [row[0] for row in fetch("SELECT id FROM machine WHERE name = ANY (%s)", [list(names)])]

    def page(self, query: ListQuery) -> Page:
        objects, rv, next_name = self.page_bytes(query)
        return Page([self.presented(orjson.loads(b)) for b in objects], rv, next_name)

    def text_page(self, query: ListQuery) -> Page | None:
        objects, rv, next_name = self.page_bytes(query)
        return Page([orjson.Fragment(b) for b in objects], rv, next_name)  # type: ignore[misc]

    def page_bytes(self, query: ListQuery) -> tuple[list[bytes], int, str]:
        """One keyset page as JSON texts: (objects by name, the list's position, where the next page begins or "")."""
        where, params, rare = self.filter_sql(query)
        name = (
            "s.name" if rare else "m.name"
        )  # a rare phase is driven from the state's index, all else from the machine's
        rows = self._rows(
            f"{name} > %s{where} ORDER BY {name} LIMIT %s",
            [query.after, *params, query.limit + 1],
            ", fleet_horizon() - 1",
        )
        if not rows:
            return [], int(fetch("SELECT fleet_horizon() - 1", [])[0][0]), ""
        more = len(rows) > query.limit
        shown = rows[: query.limit]
        return _texts(shown), int(rows[0][-1]), shown[-1][3] if more else ""

    def count(self, query: ListQuery) -> int | None:
        """From the kept counters; None with selectors, or far into the list."""
        if query.labels.requirements or query.fields.terms or query.clusters is not None:
            return None
        before = fetch(
            "SELECT count(*) FROM (SELECT FROM machine WHERE name <= %s LIMIT %s) t", [query.after, _COUNTED + 1]
        )[0][0]
        if before > _COUNTED:
            return None
        with connection.cursor() as cursor:
            return max(0, sum(counts.totals(cursor).values()) - int(before))

    def field_sql(self, path: str) -> tuple[str, list[Any]]:
        known = {
            "metadata.name": "m.name",
            "status.phase": "s.phase",
            "spec.idc": "m.idc",
            "spec.ip": "m.ip",
            "status.state": f"({STATE_SQL})",
        }
        if path in known:
            return known[path], []
        root, _, rest = path.partition(".")
        if root != "spec":
            raise ValueError(f"no field selector for {path}")
        return "coalesce(m.spec #>> %s::text[], '')", [rest.split(".")]

    def filter_sql(self, query: ListQuery, cluster: str = "m.cluster_id") -> tuple[str, list[Any], bool]:
        """(conditions beginning with AND, parameters, whether the partial index of rare phases drives).

        `cluster`: the column of the index that drives; machine and state hold the same.
        """
        parts, params, rare = [""], list[Any](), False
        if query.clusters is not None:
            parts.append(f"{cluster} = ANY (ARRAY(SELECT id::int FROM clusters_cluster WHERE name = ANY (%s)))")
            params.append(sorted(query.clusters))
        for path, operator, value in query.fields.terms:
            if path == "spec.clusterName":
                named = "(SELECT id::int FROM clusters_cluster WHERE name = %s)" if value else "%s::int"
                parts.append(f"{cluster} {'=' if operator == '=' else 'IS DISTINCT FROM'} {named}")
                params.append(value or 0)
                continue
            if path == "status.phase" and operator == "=" and value != "Running":
                parts.append("s.phase <> 'Running'")  # as literal text: the partial index asks for it
                rare = True
            elif path == "status.state" and operator == "=" and value in NARROWER:
                parts.append(NARROWER[value])
                rare = True
            expression, values = self.field_sql(path)
            parts.append(f"{expression} {'=' if operator == '=' else '<>'} %s")
            params += [*values, value]
        if query.labels.requirements:
            text, values = query.labels.sql("m.labels")
            parts.append(text)
            params += values
        return " AND ".join(parts), params, rare

    def _rows(self, where: str, params: list[Any], extra: str = "") -> list[tuple[Any, ...]]:
        return fetch(f"SELECT {compose.COLUMNS}{extra} FROM {compose.TABLES} WHERE {where}", params)

    # -- writing -------------------------------------------------------------------------------------------------

    def insert(self, obj: Json) -> Stored:
        meta, spec = obj["metadata"], obj.get("spec", {})
        uid, cluster_id = str(uuid_.uuid4()), self.cluster_id(obj)
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO machine (uid, created_at, cluster_id, name, labels, annotations, finalizers, managed_fields, spec, idc, ip, serial_number) "
                    "VALUES (%s, date_trunc('second', now()), %s, %s, %s::jsonb, %s::jsonb, %s::jsonb, %s, %s::jsonb, %s, %s, %s) RETURNING id",
                    [uid, cluster_id, meta["name"], *_written(obj), *_address(spec)],
                )
                id_ = int(cursor.fetchone()[0])
        except IntegrityError as error:
            raise self._refusal(error, obj) from error
        with connection.cursor() as cursor:
            places = _places(cursor, spec)
            cursor.execute(
                "INSERT INTO machine_state (id, rv, cluster_id, rack_id, idc_id, model_id, paused, simulated, name) "
                "VALUES (%s, greatest(fleet_pos(%s), (SELECT max(rv) + 1 FROM tombstone WHERE kind = %s AND name = %s)), %s, %s, %s, %s, %s, %s, %s)",
                [id_, STRIDE, MACHINE, meta["name"], cluster_id, *places, *_flags(spec), meta["name"]],
            )
            cursor.execute(
                "INSERT INTO capacity (machine_id, cluster_id, rack_id, idc_id, model_id) VALUES (%s, %s, %s, %s, %s)",
                [id_, cluster_id, *places],
            )
            cursor.execute("INSERT INTO machine_fact (machine_id) VALUES (%s)", [id_])
            cursor.execute("INSERT INTO count_delta VALUES (%s, 'Pending', 1)", [cluster_id])
            work.ensure(cursor, MACHINE, id_, cluster_id=cluster_id, idc_id=places[1], shard=shard_of(uid))
        return self._again(meta["name"])

    def replace(self, stored: Stored, obj: Json) -> Stored:
        meta, spec, cluster_id = obj["metadata"], obj.get("spec", {}), self.cluster_id(obj)
        deleting = "deletionTimestamp" in meta and "deletionTimestamp" not in stored.obj["metadata"]
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE machine SET cluster_id = %s, labels = %s::jsonb, annotations = %s::jsonb, finalizers = %s::jsonb, managed_fields = %s, spec = %s::jsonb, "
                    "idc = %s, ip = %s, serial_number = %s, deleted_at = CASE WHEN %s THEN date_trunc('second', now()) ELSE deleted_at END WHERE id = %s",
                    [cluster_id, *_written(obj), *_address(spec), deleting, stored.id],
                )
        except IntegrityError as error:
            raise self._refusal(error, obj) from error
        with connection.cursor() as cursor:
            places = _places(cursor, spec)
            cursor.execute(
                "UPDATE machine_state SET rv = greatest(fleet_pos(%s), rv + 1), generation = %s, cluster_id = %s, rack_id = %s, idc_id = %s, model_id = %s, paused = %s, simulated = %s WHERE id = %s RETURNING phase",
                [STRIDE, meta["generation"], cluster_id, *places, *_flags(spec), stored.id],
            )
            phase = cursor.fetchone()[0]
            cursor.execute(
                "UPDATE capacity SET cluster_id = %s, rack_id = %s, idc_id = %s, model_id = %s WHERE machine_id = %s "
                "AND (cluster_id, rack_id, idc_id, model_id) IS DISTINCT FROM (%s, %s, %s, %s) RETURNING in_service",
                [cluster_id, *places, stored.id, cluster_id, *places],
            )
            moved = cursor.fetchone()
            if stored.cluster_id != cluster_id:
                cursor.execute(
                    "INSERT INTO count_delta VALUES (%s, %s, -1), (%s, %s, 1)",
                    [stored.cluster_id, phase, cluster_id, phase],
                )
                if moved and moved[0]:
                    counts.shift_capacity(cursor, {stored.cluster_id: -1, cluster_id: 1})
        return self._again(meta["name"])

    def remove(self, stored: Stored) -> int:
        rv = self.next_position(stored.rv)
        bury(self.kind, stored, rv)
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM machine WHERE id = %s", [stored.id])
            cursor.execute("DELETE FROM machine_state WHERE id = %s RETURNING cluster_id, phase", [stored.id])
            cluster_id, phase = cursor.fetchone()
            cursor.execute("INSERT INTO count_delta VALUES (%s, %s, -1)", [cluster_id, phase])
            cursor.execute("DELETE FROM capacity WHERE machine_id = %s RETURNING in_service", [stored.id])
            gone = cursor.fetchone()
            if gone and gone[0]:
                counts.shift_capacity(cursor, {cluster_id: -1})
            for table in ("accepted", "machine_fact", "inventory", "refusal", "scheduling", "report", "join_token"):
                cursor.execute(f"DELETE FROM {table} WHERE machine_id = %s", [stored.id])
        return rv

    def after_commit(self, stored: Stored) -> None:
        """Wake, in the cluster and idc where the machine now stands; of a machine that is gone, remove the work item."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE work_item w SET wake = true, due_at = CASE WHEN w.holder IS NULL THEN now() ELSE w.due_at END, cluster_id = s.cluster_id, idc_id = s.idc_id "
                "FROM machine_state s WHERE w.kind = %s AND w.object_id = %s AND s.id = w.object_id",
                [MACHINE, stored.id],
            )
            if not cursor.rowcount:
                cursor.execute(
                    "DELETE FROM work_item WHERE kind = %s AND object_id = %s AND NOT EXISTS (SELECT FROM machine WHERE id = %s)",
                    [MACHINE, stored.id, stored.id],
                )

    def _again(self, name: str) -> Stored:
        stored = self.read(name)
        assert stored is not None  # written in this transaction
        return stored

    def _refusal(self, error: IntegrityError, obj: Json) -> Exception:
        """Another writer was first with a name, address or serial number."""
        text, name, spec = str(error), obj["metadata"]["name"], obj.get("spec", {})
        if "machine_address" in text:
            return invalid(self.kind, name, [_taken_address(spec, "")])
        if "machine_serial" in text:
            return invalid(self.kind, name, [_taken_serial(spec, "")])
        return already_exists(self.kind, name) if "machine_name_key" in text else error


def _taken_address(spec: Json, by: str) -> Problem:
    where = f' in idc "{spec["idc"]}"' if spec.get("idc") else ""
    return Problem(
        "spec.ip",
        f'"{spec["ip"]}"{where} belongs to machine "{by}"'
        if by
        else f'"{spec["ip"]}"{where} belongs to another machine',
        "FieldValueDuplicate",
    )


def _taken_serial(spec: Json, by: str) -> Problem:
    return Problem(
        "spec.serialNumber",
        f'"{spec["serialNumber"]}" belongs to {f"machine {chr(34)}{by}{chr(34)}" if by else "another machine"}',
        "FieldValueDuplicate",
    )


def _written(obj: Json) -> tuple[str, str, str, bytes | None, str]:
    """labels, annotations, finalizers, managed_fields, spec as the row holds them."""
    meta = obj["metadata"]
    return (
        _dump(meta.get("labels") or {}),
        _dump(meta.get("annotations") or {}),
        _dump(meta.get("finalizers") or []),
        compose.pack_managed(meta.get("managedFields") or []),
        _dump(obj.get("spec", {})),
    )


def _address(spec: Json) -> tuple[str, str, str | None]:
    return str(spec.get("idc") or ""), str(spec.get("ip") or ""), spec.get("serialNumber") or None


def _places(cursor: Any, spec: Json) -> tuple[int, int, int]:
    """rack_id, idc_id, model_id."""
    idc, model = str(spec.get("idc") or ""), str(spec.get("hardwareModel") or "")
    return place_id(cursor, "rack", rack_name(spec)), place_id(cursor, "idc", idc), place_id(cursor, "model", model)


def _flags(spec: Json) -> tuple[bool, bool]:
    """paused, simulated."""
    return bool(spec.get("paused")), field_text({"spec": spec}, "spec.driver.type") == "simulated"


def _texts(rows: Sequence[Sequence[Any]]) -> list[bytes]:
    """Rows as JSON texts; the dictionary of conditions is read again when it has grown."""
    try:
        return [compose.to_bytes(row) for row in rows]
    except KeyError:
        with connection.cursor() as cursor:
            packing.refresh_sync(cursor)
        return [compose.to_bytes(row) for row in rows]


def fetch(text: str, params: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of a statement that is prepared on Django's own connection and transaction: its cursor would bind on the client."""
    connection.ensure_connection()
    raw: psycopg.Connection[Any] = connection.connection
    with connection.wrap_database_errors, psycopg.Cursor(raw) as cursor:
        raw.prepared_max = _PREPARED
        cursor.execute(text.encode(), list(params), prepare=True, binary=True)
        return cursor.fetchall()
