"""Many machines at once, by COPY: demo fleets, imports and benchmarks. The rows that MachineStorage.insert makes, without checks."""

from __future__ import annotations

import uuid as uuid_
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
import psycopg

from fleet.api.storage import STRIDE
from fleet.control.kinds import MACHINE, Json
from machines.decommission import FINALIZER
from machines.places import Dim, place_ids, rack_name
from machines.storage import shard_of

CHUNK = 1_000  # rows a transaction may touch

Cursor = psycopg.Cursor[Any]


@dataclass(frozen=True, slots=True)
class NewMachine:
    """A machine to make: spec as people would write it, `cluster_id` of spec.clusterName (0 = none)."""

    name: str
    spec: Json
    cluster_id: int = 0
    labels: Json = field(default_factory=dict)
    annotations: Json = field(default_factory=dict)
    finalizers: Sequence[str] = (FINALIZER,)


def create_machines(cursor: Cursor, rows: Iterable[NewMachine]) -> list[int]:
    """Create machines, due at once, with their change rows; their ids in the order given.

    `cursor` belongs to a psycopg connection in autocommit: each 1,000 are one transaction. A name, address or serial number
    that is taken fails its chunk with psycopg's UniqueViolation; the chunks before it stay.
    """
    ids: list[int] = []
    for chunk in _chunks(rows):
        with cursor.connection.transaction():
            ids += _create(cursor, chunk)
    return ids


def _chunks(rows: Iterable[NewMachine]) -> Iterator[list[NewMachine]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _text(spec: Json, key: str) -> str:
    return str(spec.get(key) or "")


def _create(cursor: Cursor, chunk: list[NewMachine]) -> list[int]:
    specs = [row.spec for row in chunk]
    places: dict[Dim, dict[str, int]] = {
        "idc": place_ids(cursor, "idc", {_text(s, "idc") for s in specs}),
        "rack": place_ids(cursor, "rack", {rack_name(s) for s in specs}),
        "model": place_ids(cursor, "model", {_text(s, "hardwareModel") for s in specs}),
    }
    cursor.execute("SELECT nextval('machine_id_seq') FROM generate_series(1, %s)", [len(chunk)])
    ids = [int(row[0]) for row in cursor.fetchall()]
    cursor.execute("SELECT fleet_pos(%s)", [STRIDE * len(chunk)])
    first = cursor.fetchone()
    assert first is not None
    uids = [str(uuid_.uuid4()) for _ in chunk]
    numbered = list(zip(ids, uids, range(first[0], first[0] + STRIDE * len(chunk), STRIDE), chunk, strict=True))
    where = {
        id_: (
            places["rack"][rack_name(m.spec)],
            places["idc"][_text(m.spec, "idc")],
            places["model"][_text(m.spec, "hardwareModel")],
        )
        for id_, _, _, m in numbered
    }
    _copy(
        cursor, "machine (id, uid, cluster_id, name, labels, annotations, finalizers, spec, idc, ip, serial_number)",
        ((i, uid, m.cluster_id, m.name, _json(m.labels), _json(m.annotations), _json(list(m.finalizers)), _json(m.spec), _text(m.spec, "idc"), _text(m.spec, "ip"), m.spec.get("serialNumber") or None)
         for i, uid, _, m in numbered),
    )  # fmt: skip
    _copy(
        cursor, "machine_state (id, rv, cluster_id, rack_id, idc_id, model_id, paused, simulated, name)",
        ((i, rv, m.cluster_id, *where[i], bool(m.spec.get("paused")), m.spec.get("driver", {}).get("type") == "simulated", m.name) for i, _, rv, m in numbered),
    )  # fmt: skip
    _copy(
        cursor,
        "capacity (machine_id, cluster_id, rack_id, idc_id, model_id)",
        ((i, m.cluster_id, *where[i]) for i, _, _, m in numbered),
    )
    _copy(cursor, "machine_fact (machine_id)", ((i,) for i in ids))
    _copy(
        cursor, "work_item (kind, object_id, cluster_id, idc_id, shard)",
        ((MACHINE, i, m.cluster_id, where[i][1], shard_of(uid)) for i, uid, _, m in numbered),
    )  # fmt: skip
    _copy(
        cursor,
        "change (rv, object_id, cluster_id, kind, op)",
        ((rv, i, m.cluster_id, MACHINE, 1) for i, _, rv, m in numbered),
    )
    cursor.execute(
        "INSERT INTO count_delta SELECT c, 'Pending', count(*) FROM unnest(%s::int[]) AS c GROUP BY c",
        [[m.cluster_id for m in chunk]],
    )
    return ids


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _copy(cursor: Cursor, target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)
