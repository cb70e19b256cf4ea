"""Operations as rows: opened, settled, their permits given back. Set-based and fenced by the machine's lease, like `machines.writes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import orjson

from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.safety import permits
from machines.operation_moves import InventoryChange
from machines.rows import OperationRow


@dataclass(frozen=True, slots=True)
class Opening:
    """An Operation to be stored as Pending before anything is done for it."""

    machine_id: int
    epoch: int
    owner_class: int
    spec: Json
    status: Json


@dataclass(frozen=True, slots=True)
class Settling:
    """How the Operation stands after the pass. `ended`: "" while it goes on."""

    machine_id: int
    epoch: int
    operation_id: int
    status: Json
    ended: str = ""
    reason: str = ""
    message: str = ""
    permit_id: int | None = None
    inventory: Sequence[InventoryChange] = field(default=())


_OPEN: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(owner)s::smallint[], %(spec)s::text[], %(status)s::text[]) AS r(id, epoch, owner, spec, status)),
lk AS MATERIALIZED (SELECT r.* FROM work_item w JOIN r ON w.kind = 1 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s ORDER BY w.object_id FOR NO KEY UPDATE OF w),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM lk) + 4) AS base),
n AS MATERIALIZED (
  SELECT lk.*, m.uid, m.name, m.cluster_id, nextval('machines_operation_id_seq') AS op, (SELECT base FROM p) + 4 * row_number() OVER (ORDER BY lk.id) AS rv FROM lk JOIN machine m ON m.id = lk.id),
ins AS (
  INSERT INTO machines_operation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch)
  SELECT op, gen_random_uuid(), left(name, 230) || '-' || op, rv, 1, '{}', '{}', '[]', '[]', spec::jsonb, status::jsonb, date_trunc('second', now()), id, uid, cluster_id, owner, 'Pending', epoch FROM n
  ON CONFLICT DO NOTHING RETURNING id, uid::text, name, rv, machine_id, cluster_id, owner_class, spec::text, status::text),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 3, 1 FROM ins)
SELECT machine_id, id, uid, name, owner_class, spec, status FROM ins
"""

_SETTLE: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(op)s::bigint[], %(status)s::text[], %(ended)s::text[], %(reason)s::text[], %(message)s::text[], %(permit)s::bigint[], %(inventory)s::text[])
    AS r(id, epoch, op, status, ended, reason, message, permit, inventory)),
lk AS MATERIALIZED (SELECT r.* FROM work_item w JOIN r ON w.kind = 1 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s ORDER BY w.object_id FOR NO KEY UPDATE OF w),
st AS MATERIALIZED (
  SELECT lk.*, o.rv AS old_rv, o.name, o.cluster_id, o.phase AS was FROM lk JOIN machines_operation o ON o.id = lk.op AND o.machine_id = lk.id AND o.ended_at IS NULL
  WHERE lk.ended <> '' OR lk.inventory IS NOT NULL OR (o.status, coalesce(o.permit_id, 0)) IS DISTINCT FROM (lk.status::jsonb, coalesce(lk.permit, o.permit_id, 0))
  ORDER BY o.id FOR NO KEY UPDATE OF o),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY op), old_rv + 1) AS rv FROM st),
up AS (
  UPDATE machines_operation o SET rv = n.rv, status = n.status::jsonb, permit_id = coalesce(n.permit, o.permit_id), phase = CASE WHEN n.ended = '' THEN o.phase ELSE n.ended END,
    ended_at = CASE WHEN n.ended = '' THEN NULL ELSE now() END
  FROM n WHERE o.id = n.op),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, op, cluster_id, 3, 2, CASE WHEN ended <> '' THEN jsonb_build_object('fields', jsonb_build_object('status.phase', was)) END FROM n),
rt AS (  -- its right to begin ends with it; the machine counts until it is seen well, and its next Operation takes the permit over
  UPDATE permit t SET expires_at = least(t.expires_at, now()) FROM n WHERE n.ended <> '' AND t.id = n.permit AND t.released_at IS NULL),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, op, cluster_id, 3, CASE ended WHEN 'Failed' THEN 2 ELSE 0 END, 'dev.fleet.operation.' || lower(ended), '/operations',
    jsonb_build_object('reason', reason, 'message', message, 'name', name) FROM n WHERE ended <> ''),
iv AS MATERIALIZED (SELECT n.id, i.* FROM n, LATERAL jsonb_to_recordset(n.inventory::jsonb) AS i(package text, version text, format text, host_version text, previous text) WHERE n.inventory IS NOT NULL),
put AS (
  INSERT INTO inventory AS v (machine_id, package, version, format, host_version, previous) SELECT id, package, version, format, host_version, previous FROM iv WHERE version <> ''
  ON CONFLICT (machine_id, package) DO UPDATE SET version = excluded.version, format = excluded.format, host_version = excluded.host_version,
    previous = CASE WHEN v.removed_at IS NULL AND v.version <> excluded.version THEN v.version ELSE excluded.previous END, installed_at = now(), removed_at = NULL),
gone AS (UPDATE inventory v SET removed_at = now() FROM iv WHERE v.machine_id = iv.id AND v.package = iv.package AND iv.version = '')
SELECT id FROM st
"""

# Operations that are not wanted any more: they end between two steps.
_CANCEL: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(op)s::bigint[], %(by)s::text[]) AS r(op, by)),
st AS MATERIALIZED (SELECT r.*, o.rv AS old_rv, o.cluster_id, o.machine_id FROM r CROSS JOIN LATERAL (SELECT * FROM machines_operation WHERE id = r.op AND ended_at IS NULL FOR NO KEY UPDATE) o ORDER BY r.op),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY op), old_rv + 1) AS rv FROM st),
up AS (UPDATE machines_operation o SET rv = n.rv, spec = o.spec || jsonb_build_object('cancelledBy', n.by) FROM n WHERE o.id = n.op),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, op, cluster_id, 3, 2 FROM n)
SELECT machine_id FROM n
"""

# Permits of Operations that ended, on machines that were just seen well or are out of service.
_DUE_BACK: Final[LiteralString] = """
SELECT p.id FROM permit p JOIN machines_operation o ON o.machine_id = p.machine_id AND o.uid::text = p.owner
WHERE p.machine_id = ANY (%s::bigint[]) AND p.released_at IS NULL AND o.ended_at IS NOT NULL
"""


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


async def open_operations(conn: Connection, me: int, openings: Sequence[Opening]) -> Mapping[int, OperationRow]:
    """Store Pending Operations; by machine. Who lost the lease, or has one of that owner class waiting, is missing."""
    if not openings:
        return {}
    ordered = sorted(openings, key=lambda o: o.machine_id)
    values = {
        "me": me, "id": [o.machine_id for o in ordered], "epoch": [o.epoch for o in ordered], "owner": [o.owner_class for o in ordered],
        "spec": [_text(o.spec) for o in ordered], "status": [_text(o.status) for o in ordered],
    }  # fmt: skip
    found = await (await conn.execute(_OPEN, values, prepare=True)).fetchall()
    return {
        machine: OperationRow(id_, uid, name, owner, "Pending", orjson.loads(spec), orjson.loads(status), None, None, 0)
        for machine, id_, uid, name, owner, spec, status in found
    }


async def cancel_operations(conn: Connection, wanted: Mapping[int, str]) -> list[int]:
    """Mark open Operations, by id with who cancels them, so that they end between two steps; ids of their machines, which are to be woken."""
    ordered = sorted(wanted.items())
    if not ordered:
        return []
    values = {"op": [op for op, _ in ordered], "by": [by for _, by in ordered]}
    return [row[0] for row in await (await conn.execute(_CANCEL, values)).fetchall()]


async def settle_operations(conn: Connection, me: int, settlings: Sequence[Settling]) -> None:
    """Write how Operations stand, end those that ended, keep the inventory in the same statement."""
    if not settlings:
        return
    ordered = sorted(settlings, key=lambda s: s.machine_id)
    values = {
        "me": me, "id": [s.machine_id for s in ordered], "epoch": [s.epoch for s in ordered], "op": [s.operation_id for s in ordered],
        "status": [_text(s.status) for s in ordered], "ended": [s.ended for s in ordered], "reason": [s.reason for s in ordered],
        "message": [s.message[:1000] for s in ordered], "permit": [s.permit_id for s in ordered],
        "inventory": [_inventory(s.inventory) for s in ordered],
    }  # fmt: skip
    await conn.execute(_SETTLE, values, prepare=True)


def _inventory(changes: Sequence[InventoryChange]) -> str | None:
    if not changes:
        return None
    last = {c.package: c for c in changes}  # one row a package: an upsert may not meet the same one twice
    return _text(
        [
            {
                "package": c.package,
                "version": c.version,
                "format": c.format,
                "host_version": c.host_version,
                "previous": c.previous,
            }
            for c in last.values()
        ]
    )


async def give_back(conn: Connection, machine_ids: Sequence[int]) -> int:
    """Release permits of ended Operations on machines seen well, or out of service; how many."""
    if not machine_ids:
        return 0
    due = [row[0] for row in await (await conn.execute(_DUE_BACK, [sorted(machine_ids)], prepare=True)).fetchall()]
    return await permits.release(conn, due) if due else 0
