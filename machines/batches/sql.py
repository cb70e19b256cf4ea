"""Statements of batches: what became of Operations, which begin now. A batch is worked on by one process at a time (its row is locked).

Rows are looked up by LATERAL with OFFSET 0 or where they lie (ctid, which nobody moves while the batch is locked): also when statistics know nothing
of the tables yet.
"""

from __future__ import annotations

from typing import Final, LiteralString

from fleet.control.kinds import OPERATION_BATCH
from machines.models import OwnerClass

# States of a target.
WAITING, OPEN, DONE, FAILED, SKIPPED = 0, 1, 2, 3, 4

LIVE: Final[LiteralString] = """
SELECT id, name, rv, cluster_id, spec, status, created_at FROM machines_operationbatch
WHERE id = %s AND NOT status ? 'endTime' FOR NO KEY UPDATE SKIP LOCKED
"""
LIVE_IDS: Final[LiteralString] = "SELECT id FROM machines_operationbatch WHERE NOT status ? 'endTime' ORDER BY id"

COUNTS: Final[LiteralString] = "SELECT state, count(*) FROM operation_batch_target WHERE batch_id = %s GROUP BY state"

SETTLE: Final[LiteralString] = f"""
WITH e AS MATERIALIZED (
  SELECT t.ctid AS tid, CASE WHEN o.id IS NULL THEN {SKIPPED} WHEN o.phase = 'Succeeded' THEN {DONE} WHEN o.phase = 'Failed' THEN {FAILED} ELSE {SKIPPED} END AS state,
    CASE WHEN o.id IS NULL THEN 'Its Operation is not there any more.' ELSE left(coalesce(o.status ->> 'message', ''), 400) END AS said
  FROM operation_batch_target t LEFT JOIN LATERAL (SELECT id, phase, status, ended_at FROM machines_operation WHERE id = t.operation_id OFFSET 0) o ON true
  WHERE t.batch_id = %(batch)s AND t.state = {OPEN} AND t.operation_id IS NOT NULL AND (o.id IS NULL OR o.ended_at IS NOT NULL))
UPDATE operation_batch_target t SET state = e.state, said = e.said FROM e WHERE t.ctid = e.tid
"""

# Of a decommission: done when the machine is gone. Its Operation is opened by the deletion.
SETTLE_GONE: Final[LiteralString] = f"""
WITH e AS MATERIALIZED (
  SELECT t.ctid AS tid, CASE WHEN m.id IS NULL THEN {DONE} ELSE {FAILED} END AS state, CASE WHEN m.id IS NULL THEN 'Gone.' ELSE left(coalesce(o.status ->> 'message', ''), 400) END AS said
  FROM operation_batch_target t LEFT JOIN LATERAL (SELECT id FROM machine WHERE id = t.machine_id OFFSET 0) m ON true
  LEFT JOIN LATERAL (SELECT phase, status, created_at FROM machines_operation WHERE machine_id = t.machine_id AND spec ->> 'verb' = 'Decommission' ORDER BY id DESC LIMIT 1) o ON true
  WHERE t.batch_id = %(batch)s AND t.state = {OPEN} AND t.operation_id IS NULL AND (m.id IS NULL OR o.phase = 'Failed' AND o.created_at >= date_trunc('second', t.due_at)))
UPDATE operation_batch_target t SET state = e.state, said = e.said FROM e WHERE t.ctid = e.tid
"""

# As many as fit into each cluster; who had to wait for something comes later again.
_PICK: Final[LiteralString] = f"""
WITH c AS MATERIALIZED (SELECT DISTINCT cluster_id FROM operation_batch_target WHERE batch_id = %(batch)s AND state = {WAITING}),
pick AS MATERIALIZED (
  SELECT w.machine_id, w.tid FROM c CROSS JOIN LATERAL (
    SELECT t.machine_id, t.ctid AS tid FROM operation_batch_target t WHERE t.batch_id = %(batch)s AND t.cluster_id = c.cluster_id AND t.state = {WAITING} AND t.due_at <= now()
    ORDER BY t.due_at, t.machine_id
    LIMIT greatest(0, %(parallel)s - (SELECT count(*) FROM operation_batch_target o WHERE o.batch_id = %(batch)s AND o.cluster_id = c.cluster_id AND o.state = {OPEN}))) w LIMIT 500),
m AS MATERIALIZED (
  SELECT pick.tid, m.id, m.uid, m.name, m.cluster_id, m.spec ->> 'clusterName' AS cluster FROM pick
  CROSS JOIN LATERAL (SELECT * FROM machine WHERE id = pick.machine_id AND deleted_at IS NULL OFFSET 0) m
  CROSS JOIN LATERAL (SELECT phase FROM machine_state WHERE id = pick.machine_id OFFSET 0) s WHERE s.phase NOT IN ('Decommissioning', 'Retired') ORDER BY m.id),
gone AS (
  UPDATE operation_batch_target t SET state = {SKIPPED}, said = 'It is gone or is being decommissioned.'
  FROM (SELECT tid FROM pick EXCEPT SELECT tid FROM m) x WHERE t.ctid = x.tid),
"""

BEGIN: Final[LiteralString] = (
    _PICK
    + f"""p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM m) + 4) AS base),
n AS MATERIALIZED (SELECT m.*, nextval('machines_operation_id_seq') AS op, (SELECT base FROM p) + 4 * row_number() OVER (ORDER BY m.id) AS rv FROM m),
ins AS (
  INSERT INTO machines_operation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch)
  SELECT op, gen_random_uuid(), left(name, 230) || '-' || op, rv, 1, '{{}}', '{{}}', '[]', '[]',
    %(spec)s::jsonb || jsonb_build_object('machine', name) || CASE WHEN cluster <> '' THEN jsonb_build_object('clusterName', cluster) ELSE '{{}}'::jsonb END,
    '{{"message": "Waits for its turn.", "steps": []}}', date_trunc('second', now()), id, uid, cluster_id, {int(OwnerClass.PERSON)}, 'Pending', 0 FROM n
  ON CONFLICT DO NOTHING RETURNING id, rv, machine_id, cluster_id),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 3, 1 FROM ins),
up AS (UPDATE operation_batch_target t SET state = {OPEN}, operation_id = ins.id, said = '' FROM ins JOIN m ON m.id = ins.machine_id WHERE t.ctid = m.tid),
late AS (
  UPDATE operation_batch_target t SET due_at = now() + interval '20 s', said = 'Another Operation waits for this machine already.'
  FROM (SELECT tid FROM m WHERE id NOT IN (SELECT machine_id FROM ins)) x WHERE t.ctid = x.tid)
SELECT machine_id FROM ins
"""
)

# Machines to be deleted now; each by the ordinary way, which opens its Operation.
BEGIN_GONE: Final[LiteralString] = (
    _PICK
    + f"""up AS (UPDATE operation_batch_target t SET state = {OPEN}, said = '', due_at = now() FROM m WHERE t.ctid = m.tid)
SELECT name FROM m
"""
)

CANCEL_WAITING: Final[LiteralString] = (
    f"UPDATE operation_batch_target SET state = {SKIPPED}, said = 'The batch was cancelled.' WHERE batch_id = %s AND state = {WAITING}"
)
OPEN_OPERATIONS: Final[LiteralString] = f"""
SELECT o.id FROM operation_batch_target t CROSS JOIN LATERAL (SELECT * FROM machines_operation WHERE id = t.operation_id OFFSET 0) o
WHERE t.batch_id = %s AND t.state = {OPEN} AND o.ended_at IS NULL AND NOT o.spec ? 'cancelledBy'
"""

# The status with its change; with `phase` an event that tells of it.
RECORD: Final[LiteralString] = f"""
WITH p AS MATERIALIZED (SELECT greatest(fleet_pos(8), %(rv)s + 1) AS rv),
up AS (UPDATE machines_operationbatch b SET status = %(status)s::jsonb, rv = p.rv FROM p WHERE b.id = %(id)s),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, %(id)s, %(cluster)s, {OPERATION_BATCH}, 2, CASE WHEN %(was)s <> %(phase)s THEN jsonb_build_object('fields', jsonb_build_object('status.phase', %(was)s::text)) END FROM p)
INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
SELECT rv, 0, %(id)s, %(cluster)s, {OPERATION_BATCH}, %(severity)s, 'dev.fleet.operationbatch.' || lower(%(phase)s), '/operationbatches',
  jsonb_build_object('reason', %(phase)s::text, 'message', %(message)s::text, 'name', %(name)s::text) FROM p WHERE %(was)s <> %(phase)s
"""

TO_DELETE: Final[LiteralString] = f"""
SELECT m.name FROM operation_batch_target t CROSS JOIN LATERAL (SELECT id, name FROM machine WHERE id = t.machine_id AND deleted_at IS NULL OFFSET 0) m WHERE t.batch_id = %s AND t.state = {OPEN} ORDER BY m.id LIMIT %s
"""
REFUSED: Final[LiteralString] = (
    f"UPDATE operation_batch_target SET state = {FAILED}, said = %s WHERE batch_id = %s AND name = %s AND state = {OPEN}"
)
