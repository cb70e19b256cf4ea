"""SQL of orders and of remediations in work."""

from __future__ import annotations

from typing import Final, LiteralString

# Confirmed faults whose turn it is: the worst first, then the oldest. A machine that a remediation works on waits for that one.
_WHAT: Final[LiteralString] = """
SELECT f.id, f.uid::text, f.name, f.type, f.severity, f.sources, f.status ->> 'message', f.spec ->> 'playbook', f.evidence, f.machine_id, f.cluster_id, s.name, coalesce((SELECT c.name FROM clusters_cluster c WHERE c.id = f.cluster_id), ''),
  s.rack_id, coalesce(q.state = 'CordonedByPerson', false), coalesce(q.message, ''),
  (SELECT count(*) FROM recovery_remediation r WHERE r.machine_id = f.machine_id AND r.created_at > now() - interval '24 hours' AND r.operation_uid IS NOT NULL)::int,
  (SELECT r.name FROM recovery_remediation r WHERE r.machine_id = f.machine_id AND r.ended_at IS NULL), coalesce(m.serial_number, ''),
  coalesce((SELECT (f.severity, f.category <> 'Resource') > (g.severity, g.category <> 'Resource') FROM recovery_remediation r CROSS JOIN LATERAL (SELECT severity, category FROM recovery_fault WHERE id = r.fault_id OFFSET 0) g
    WHERE r.machine_id = f.machine_id AND r.ended_at IS NULL), false), f.confirmed_at < now() - interval '10 minutes',
  (SELECT count(*) FROM recovery_remediation r WHERE r.fault_id = f.id)::int,
  (SELECT p.rv FROM recovery_playbook p WHERE p.name = f.spec ->> 'playbook' AND p.deleted_at IS NULL)
"""
_AROUND: Final[LiteralString] = """
CROSS JOIN LATERAL (SELECT * FROM machine_state WHERE id = f.machine_id OFFSET 0) s
CROSS JOIN LATERAL (SELECT * FROM machine WHERE id = f.machine_id AND deleted_at IS NULL OFFSET 0) m
LEFT JOIN LATERAL (SELECT * FROM scheduling WHERE machine_id = f.machine_id OFFSET 0) q ON true
"""
# Clusters in which anything is confirmed, one descent of the index for each.
_CLUSTERS: Final[LiteralString] = """
WITH RECURSIVE k AS (
  (SELECT cluster_id AS id FROM recovery_fault WHERE phase = 'Confirmed' AND NOT shadow ORDER BY cluster_id LIMIT 1)
  UNION ALL
  SELECT (SELECT f.cluster_id FROM recovery_fault f WHERE f.phase = 'Confirmed' AND NOT f.shadow AND f.cluster_id > k.id ORDER BY f.cluster_id LIMIT 1) FROM k WHERE k.id IS NOT NULL)
"""
_OPEN: Final[LiteralString] = (
    "EXISTS (SELECT FROM breaker b WHERE b.state = 'open' AND (b.dim = 'fleet' OR b.dim = 'cluster' AND b.key = c.id))"
)
# Cluster by cluster, as the index `fault_turn` lies: what rages under an open breaker is not even read.
_THEIRS: Final[LiteralString] = """
CROSS JOIN LATERAL (
  SELECT * FROM recovery_fault WHERE cluster_id = c.id AND phase = 'Confirmed' AND NOT shadow AND cleared_since IS NULL AND due_at <= now()
  ORDER BY severity DESC, confirmed_at, id LIMIT %(limit)s) f
"""
_TURN: Final[LiteralString] = "ORDER BY f.severity DESC, f.confirmed_at, f.id LIMIT %(limit)s"
CANDIDATES: Final[LiteralString] = (
    _CLUSTERS
    + _WHAT
    + f"FROM (SELECT c.id FROM k AS c WHERE c.id IS NOT NULL AND NOT {_OPEN} OFFSET 0) c"
    + _THEIRS
    + _AROUND
    + _TURN
)
CANDIDATES_IN: Final[LiteralString] = (
    _WHAT
    + f"FROM (SELECT c.id FROM unnest((SELECT %(clusters)s::int[])) AS c(id) WHERE NOT {_OPEN} OFFSET 0) c"
    + _THEIRS
    + _AROUND
    + _TURN
)
# Whom an open breaker covers: nobody is asked for them one by one.
TRIPPED: Final[LiteralString] = (
    _CLUSTERS
    + "SELECT f.id, f.cluster_id"
    + f" FROM (SELECT c.id FROM k AS c WHERE c.id IS NOT NULL AND {_OPEN} OFFSET 0) c"
    + _THEIRS
    + _TURN
)

# A remediation and the Operation of its first rung, in one commit, where the fault is still confirmed and not taken back at that moment.
ORDER: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(fault)s::bigint[], %(playbook)s::text[], %(spec)s::text[], %(op)s::text[], %(op_spec)s::text[], %(permit)s::bigint[], %(serial)s::text[], %(rung)s::text[])
    AS r(fault, playbook, spec, op, op_spec, permit, serial, rung)),
st AS MATERIALIZED (
  SELECT r.*, f.rv AS old_rv, f.name AS fault_name, f.machine_id, f.cluster_id, f.type, f.severity, f.spec ->> 'machine' AS machine, m.uid AS machine_uid
  FROM r CROSS JOIN LATERAL (SELECT * FROM recovery_fault WHERE id = r.fault AND phase = 'Confirmed' AND cleared_since IS NULL FOR NO KEY UPDATE) f
  CROSS JOIN LATERAL (SELECT uid FROM machine WHERE id = f.machine_id AND deleted_at IS NULL OFFSET 0) m ORDER BY r.fault),
p AS MATERIALIZED (SELECT fleet_pos(12 * (SELECT count(*)::int FROM st) + 12) AS base),
n AS MATERIALIZED (
  SELECT st.*, nextval('recovery_remediation_id_seq') AS rid, nextval('machines_operation_id_seq') AS oid, row_number() OVER (ORDER BY fault) AS nth FROM st),
rem AS (
  INSERT INTO recovery_remediation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, fault_id, machine_id, cluster_id, serial_number, phase, playbook, rung, operation_uid, phase_at)
  SELECT rid, gen_random_uuid(), left(machine, 200) || '-' || rid, (SELECT base FROM p) + 12 * nth, 1, '{}', '{}', '[]', '[]', spec::jsonb,
    jsonb_build_object('reason', 'RungBegins', 'message', 'The first rung begins: ' || rung || '.', 'rungs', jsonb_build_array(jsonb_build_object('name', rung, 'operation', left(machine, 230) || '-' || oid, 'phase', 'Pending', 'startTime', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))),
    date_trunc('second', now()), fault, machine_id, cluster_id, serial, 'Repairing', playbook, 0, op::uuid, now() FROM n
  ON CONFLICT DO NOTHING RETURNING id, name, rv, cluster_id),
opn AS (
  INSERT INTO machines_operation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch, permit_id)
  SELECT n.oid, n.op::uuid, left(n.machine, 230) || '-' || n.oid, (SELECT base FROM p) + 12 * n.nth + 4, 1, '{}', '{}', '[]', '[]', n.op_spec::jsonb || jsonb_build_object('remediation', rem.name, 'owner', 'remediation/' || rem.name),
    jsonb_build_object('message', 'Waits for its turn.', 'steps', '[]'::jsonb, 'permit', 'permit-' || n.permit), date_trunc('second', now()), n.machine_id, n.machine_uid, n.cluster_id, 2, 'Pending', 0, n.permit
  FROM n JOIN rem ON rem.id = n.rid ON CONFLICT DO NOTHING RETURNING id, rv, cluster_id),
wi AS (INSERT INTO work_item (kind, object_id, cluster_id, due_at) SELECT 16, id, cluster_id, now() + interval '1 s' FROM rem ON CONFLICT DO NOTHING),
up AS (
  UPDATE recovery_fault f SET rv = greatest((SELECT base FROM p) + 12 * n.nth + 8, n.old_rv + 1), phase = 'Recovering', due_at = NULL, status = (f.status - 'repair') || jsonb_build_object('remediation', rem.name)
  FROM n JOIN rem ON rem.id = n.rid WHERE f.id = n.fault RETURNING f.id, f.rv, f.cluster_id),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, id, cluster_id, 16, 1, NULL::jsonb FROM rem UNION ALL SELECT rv, id, cluster_id, 3, 1, NULL FROM opn
  UNION ALL SELECT rv, id, cluster_id, 14, 2, '{"fields": {"status.phase": "Confirmed"}}' FROM up),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT (SELECT base FROM p) + 12 * n.nth, 0, n.machine_id, n.cluster_id, 1, 1, 'dev.fleet.remediation.started', '/remediations',
    jsonb_build_object('reason', n.type, 'message', 'Playbook ' || n.playbook || ' begins with ' || n.rung || '.', 'name', n.machine, 'fault', n.fault_name, 'remediation', rem.name) FROM n JOIN rem ON rem.id = n.rid)
SELECT n.fault, n.machine_id, n.permit, rem.id IS NOT NULL FROM n LEFT JOIN rem ON rem.id = n.rid
"""

# Why a confirmed fault is not repaired now; written when the reason changes, asked again after a while. A person: the ladder is not even begun.
REFUSE: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(fault)s::bigint[], %(reason)s::text[], %(message)s::text[], %(person)s::bool[], %(wait)s::float8[]) AS r(fault, reason, message, person, wait)),
st AS MATERIALIZED (
  SELECT r.*, f.rv AS old_rv, f.cluster_id, f.machine_id, f.name, f.type, f.severity, f.spec ->> 'machine' AS machine, r.person OR f.status #>> '{repair,reason}' IS DISTINCT FROM r.reason AS changed
  FROM r CROSS JOIN LATERAL (SELECT * FROM recovery_fault WHERE id = r.fault AND phase = 'Confirmed' FOR NO KEY UPDATE) f ORDER BY r.fault),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY fault), old_rv + 1) AS rv FROM st WHERE changed),
later AS (UPDATE recovery_fault f SET due_at = now() + st.wait * interval '1 s' FROM st WHERE f.id = st.fault AND NOT st.changed),
up AS (
  UPDATE recovery_fault f SET rv = n.rv, due_at = CASE WHEN n.person THEN NULL ELSE now() + n.wait * interval '1 s' END, phase = CASE WHEN n.person THEN 'NeedsPerson' ELSE f.phase END,
    status = f.status || jsonb_build_object('repair', jsonb_build_object('reason', n.reason, 'message', n.message, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
  FROM n WHERE f.id = n.fault),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, fault, cluster_id, 14, 2, CASE WHEN person THEN '{"fields": {"status.phase": "Confirmed"}}'::jsonb END FROM n),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, machine_id, cluster_id, 1, CASE WHEN person THEN 2 ELSE 1 END, CASE WHEN person THEN 'dev.fleet.fault.needsperson' ELSE 'dev.fleet.fault.refused' END, '/faults',
    jsonb_build_object('reason', reason, 'message', message, 'name', machine, 'fault', name) FROM n)
SELECT count(*) FROM n
"""

# A remediation of a lesser fault ends before its next step.
OUTRANK: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(machine)s::bigint[], %(by)s::text[]) AS r(machine, by)),
st AS MATERIALIZED (SELECT r.by, x.* FROM r CROSS JOIN LATERAL (SELECT * FROM recovery_remediation WHERE machine_id = r.machine AND ended_at IS NULL FOR NO KEY UPDATE) x WHERE NOT x.spec ? 'cancelledBy' ORDER BY x.id),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.id, st.by, st.cluster_id, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), rv + 1) AS new_rv FROM st),
up AS (UPDATE recovery_remediation x SET rv = n.new_rv, spec = x.spec || jsonb_build_object('cancelledBy', n.by) FROM n WHERE x.id = n.id),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT new_rv, id, cluster_id, 16, 2 FROM n)
SELECT id FROM n
"""

# Everything of claimed remediations. Who says that the machine has no power speaks for the next rung as well: where it never came
# back from the one before, those who saw the first fault may see nothing any more.
LOAD: Final[LiteralString] = """
SELECT r.id, r.uid::text, r.name, r.phase, r.rung, r.playbook, r.spec, r.status, r.phase_at, r.machine_id, r.cluster_id, f.id, f.uid::text, f.type, f.phase, f.cleared_since, f.sources || coalesce(p.sources - ARRAY(SELECT jsonb_array_elements_text(f.sources)), '[]'), f.rule, f.evidence, f.status ->> 'message',
  s.name, coalesce((SELECT c.name FROM clusters_cluster c WHERE c.id = r.cluster_id), ''), s.rack_id, s.is_node, s.cond_true, m.id IS NULL OR m.deleted_at IS NOT NULL,
  coalesce(q.state = 'CordonedByPerson', false), coalesce(q.message, ''), o.id, o.name, o.phase, o.started_at IS NOT NULL, o.status ->> 'message', o.spec ->> 'cancelledBy', o.reason, r.operation_uid::text, f.category
FROM recovery_remediation r
CROSS JOIN LATERAL (SELECT * FROM recovery_fault WHERE id = r.fault_id OFFSET 0) f
LEFT JOIN LATERAL (
  SELECT o.sources FROM recovery_fault o WHERE o.machine_id = r.machine_id AND o.type = 'PowerFailure' AND o.phase IN ('Confirmed', 'Recovering', 'NeedsPerson') AND NOT o.shadow AND o.cleared_since IS NULL ORDER BY o.id DESC LIMIT 1 OFFSET 0) p ON true
LEFT JOIN LATERAL (SELECT * FROM machine_state WHERE id = r.machine_id OFFSET 0) s ON true
LEFT JOIN LATERAL (SELECT * FROM machine WHERE id = r.machine_id OFFSET 0) m ON true
LEFT JOIN LATERAL (SELECT * FROM scheduling WHERE machine_id = r.machine_id OFFSET 0) q ON true
LEFT JOIN LATERAL (
  SELECT o.*, (SELECT t ->> 'reason' FROM jsonb_array_elements(o.status -> 'steps') t WHERE t ->> 'status' = 'False' OR t ->> 'reason' = 'HostSilent' LIMIT 1) AS reason FROM machines_operation o WHERE o.uid = r.operation_uid OFFSET 0) o ON true
WHERE r.id = ANY (%s::bigint[]) AND r.ended_at IS NULL
"""

# The next rung: its Operation; the one that a pass made which died before it could record it is found again.
RUNG: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(op)s::text[], %(op_spec)s::text[], %(permit)s::bigint[], %(rung)s::smallint[]) AS r(id, epoch, op, op_spec, permit, rung)),
lk AS MATERIALIZED (SELECT r.* FROM r CROSS JOIN LATERAL (SELECT object_id FROM work_item w WHERE w.kind = 16 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s FOR NO KEY UPDATE) w ORDER BY r.id),
n AS MATERIALIZED (
  SELECT lk.*, x.machine_id, x.cluster_id, m.uid AS machine_uid, m.name AS machine, nextval('machines_operation_id_seq') AS oid, row_number() OVER (ORDER BY lk.id) AS nth
  FROM lk CROSS JOIN LATERAL (SELECT * FROM recovery_remediation WHERE id = lk.id AND phase = 'Waiting' AND rung = lk.rung FOR NO KEY UPDATE) x
  CROSS JOIN LATERAL (SELECT phase, cleared_since FROM recovery_fault WHERE id = x.fault_id FOR NO KEY UPDATE) f
  CROSS JOIN LATERAL (SELECT uid, name FROM machine WHERE id = x.machine_id AND deleted_at IS NULL OFFSET 0) m WHERE f.phase = 'Recovering' AND f.cleared_since IS NULL),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM n) + 4) AS base),
opn AS (
  INSERT INTO machines_operation (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch, permit_id)
  SELECT oid, op::uuid, left(machine, 230) || '-' || oid, (SELECT base FROM p) + 4 * nth, 1, '{}', '{}', '[]', '[]', op_spec::jsonb, jsonb_build_object('message', 'Waits for its turn.', 'steps', '[]'::jsonb, 'permit', 'permit-' || permit),
    date_trunc('second', now()), machine_id, machine_uid, cluster_id, 2, 'Pending', 0, permit FROM n ON CONFLICT DO NOTHING RETURNING id, uid, name, rv, cluster_id),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 3, 1 FROM opn)
SELECT n.id, opn.name FROM n JOIN opn ON opn.id = n.oid
UNION ALL SELECT n.id, o.name FROM n CROSS JOIN LATERAL (SELECT name FROM machines_operation WHERE uid = n.op::uuid OFFSET 0) o
"""

# What a pass leaves behind, behind the leases: remediation, its fault, news, the next time.
RECORD: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(phase)s::text[], %(rung)s::smallint[], %(status)s::text[], %(op)s::text[], %(wait)s::float8[], %(fault)s::text[], %(fault_reason)s::text[], %(fault_message)s::text[],
    %(told)s::text[], %(told_message)s::text[]) AS r(id, epoch, phase, rung, status, op, wait, fault_phase, fault_reason, fault_message, told, told_message)),
lk AS MATERIALIZED (SELECT r.*, w.wake FROM r CROSS JOIN LATERAL (SELECT wake FROM work_item w WHERE w.kind = 16 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s FOR NO KEY UPDATE) w ORDER BY r.id),
st AS MATERIALIZED (
  SELECT lk.*, x.rv AS old_rv, x.phase AS was, x.fault_id, x.machine_id, x.cluster_id, x.name, x.playbook, f.rv AS fault_rv, f.phase AS fault_was, f.name AS fault_name, f.severity, f.type AS fault_type, f.spec ->> 'machine' AS machine,
    x.phase = lk.phase OR x.phase || '>' || lk.phase = ANY (%(legal)s::text[]) AS lawful,
    lk.fault_phase <> '' AND f.phase <> lk.fault_phase AND f.phase || '>' || lk.fault_phase = ANY (%(fault_legal)s::text[]) AS fault_moves,
    (x.phase, x.rung, x.status, coalesce(x.operation_uid::text, '')) IS DISTINCT FROM (lk.phase, lk.rung, lk.status::jsonb, lk.op) AS changed
  FROM lk CROSS JOIN LATERAL (SELECT * FROM recovery_remediation WHERE id = lk.id AND ended_at IS NULL FOR NO KEY UPDATE) x
  CROSS JOIN LATERAL (SELECT * FROM recovery_fault WHERE id = x.fault_id FOR NO KEY UPDATE) f ORDER BY lk.id),
p AS MATERIALIZED (SELECT fleet_pos(8 * (SELECT count(*)::int FROM st) + 8) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 8 * row_number() OVER (ORDER BY id), old_rv + 1) AS rv, greatest((SELECT base FROM p) + 8 * row_number() OVER (ORDER BY id) + 4, fault_rv + 1) AS new_fault_rv FROM st WHERE lawful),
up AS (
  UPDATE recovery_remediation x SET rv = n.rv, phase = n.phase, rung = n.rung, status = n.status::jsonb, operation_uid = nullif(n.op, '')::uuid, phase_at = CASE WHEN n.was <> n.phase THEN now() ELSE x.phase_at END,
    ended_at = CASE WHEN n.phase IN ('Succeeded', 'Escalated', 'Cancelled') THEN now() END
  FROM n WHERE x.id = n.id AND n.changed),
uf AS (
  UPDATE recovery_fault f SET rv = n.new_fault_rv, phase = n.fault_phase, resolved_at = CASE WHEN n.fault_phase = 'Resolved' THEN now() END, due_at = CASE n.fault_phase WHEN 'NeedsPerson' THEN now() + interval '30 s' WHEN 'Confirmed' THEN now() + interval '5 s' END,
    status = f.status || jsonb_build_object('reason', n.fault_reason, 'message', n.fault_message)
  FROM n WHERE f.id = n.fault_id AND n.fault_moves),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, id, cluster_id, 16, 2, CASE WHEN was <> phase THEN jsonb_build_object('fields', jsonb_build_object('status.phase', was)) END FROM n WHERE changed
  UNION ALL SELECT new_fault_rv, fault_id, cluster_id, 14, 2, jsonb_build_object('fields', jsonb_build_object('status.phase', fault_was)) FROM n WHERE fault_moves),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, machine_id, cluster_id, 1, CASE WHEN phase = 'Escalated' THEN 2 WHEN phase IN ('Succeeded', 'Probation', 'Verifying') THEN 0 ELSE 1 END,
    'dev.fleet.remediation.' || CASE WHEN was <> phase THEN lower(phase) ELSE 'rung' END, '/remediations',
    jsonb_build_object('reason', told, 'message', told_message, 'name', machine, 'fault', fault_name, 'remediation', name) FROM n WHERE told <> ''
  UNION ALL
  SELECT new_fault_rv, 0, machine_id, cluster_id, 1, CASE WHEN fault_phase = 'Resolved' THEN 0 ELSE 2 END, 'dev.fleet.fault.' || lower(fault_phase), '/faults',
    jsonb_build_object('reason', fault_type, 'message', fault_message, 'name', machine, 'fault', fault_name) FROM n WHERE fault_moves),
wk AS (
  UPDATE work_item w SET holder = NULL, wake = false, attempts = CASE WHEN st.lawful THEN 0 ELSE least(w.attempts + 1, 1000) END, resting = false,
    due_at = CASE WHEN st.wake THEN now() WHEN NOT st.lawful THEN now() + interval '60 s' ELSE now() + st.wait * interval '1 s' END
  FROM st WHERE w.kind = 16 AND w.object_id = st.id)
SELECT id, machine_id, lawful, fault_moves FROM st
"""
