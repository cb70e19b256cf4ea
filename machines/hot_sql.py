"""SQL of the hot path. Shape of every writing statement: lock the lease rows in id order, then the state rows in id order,
look at them as they are now, write. A join is no fence: only a locked row is looked at again after a wait.
"""

from __future__ import annotations

from typing import Final, LiteralString

# Everything of claimed machines in one query. The bodies of accepted sets are shared by thousands: read apart, once a process.
LOAD: Final[LiteralString] = """
SELECT s.id, m.uid::text, s.name, s.generation, s.desired_hash, s.latest_hash, s.observed_generation, s.phase, s.phase_at, s.cluster_id,
  s.open, s.paused, s.k_cond, s.m_cond, s.x_cond, s.notes::text, m.spec::text, m.labels::text, m.annotations::text, m.finalizers::text,
  m.deleted_at, s.drift, a.generation, a.layers::text, f.facts::text, f.at, o.doc, i.doc,
  CASE WHEN n.name IS NOT NULL THEN jsonb_build_array(n.name, n.uid, n.unschedulable, n.closed_by, n.taints, n.labels, n.boot_id, n.kubelet_version, n.rv)::text END,
  CASE WHEN q.machine_id IS NOT NULL THEN jsonb_build_array(q.state, q.reason, q.message, extract(epoch FROM q.since), q.node_uid, q.cause, q.rv, q.opened, q.overruled, q.dressed)::text END,
  (SELECT jsonb_build_array(x.name, x.type, x.phase, x.message, x.mine)::text FROM machine_fault x WHERE x.machine_id = s.id LIMIT 1)
FROM machine_state s JOIN machine m ON m.id = s.id LEFT JOIN accepted a ON a.machine_id = s.id LEFT JOIN machine_fact f ON f.machine_id = s.id
LEFT JOIN node n ON n.machine_id = s.id LEFT JOIN scheduling q ON q.machine_id = s.id
LEFT JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_array(p.id, p.uid, p.name, p.owner_class, p.phase, p.spec, p.status, extract(epoch FROM p.started_at), p.permit_id, p.epoch)
    ORDER BY p.started_at IS NULL, p.owner_class DESC, p.id)::text AS doc
  FROM machines_operation p WHERE p.machine_id = s.id AND p.ended_at IS NULL) o ON true
LEFT JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_array(n.package, n.version, n.format, n.host_version, n.previous, extract(epoch FROM n.installed_at)) ORDER BY n.package)::text AS doc
  FROM inventory n WHERE n.machine_id = s.id AND n.removed_at IS NULL) i ON true
WHERE s.id = ANY (%s::bigint[]) ORDER BY s.id
"""

SETS: Final[LiteralString] = "SELECT hash, body::text FROM accepted_set WHERE hash = ANY (%s::bigint[])"

# Drifted machines whose item is neither held nor due, and either rested or last tried something else. Reading only: no lock.
SWEEP: Final[LiteralString] = """
WITH d AS MATERIALIZED (SELECT id, desired_hash # (generation::bigint << 40) AS want FROM machine_state WHERE drift <> 0)
SELECT w.object_id FROM work_item w JOIN d ON w.kind = 1 AND w.object_id = d.id
WHERE w.holder IS NULL AND w.due_at > now() AND (w.resting OR w.tried <> d.want) ORDER BY w.object_id
"""
SWEEP_CHANGED: Final[LiteralString] = """
WITH c AS MATERIALIZED (SELECT DISTINCT object_id FROM change WHERE rv > %(after)s AND rv < %(until)s AND kind = 1),
d AS MATERIALIZED (SELECT s.id, s.desired_hash # (s.generation::bigint << 40) AS want FROM machine_state s JOIN c ON s.id = c.object_id WHERE s.drift <> 0)
SELECT w.object_id FROM work_item w JOIN d ON w.kind = 1 AND w.object_id = d.id
WHERE w.holder IS NULL AND w.due_at > now() AND (w.resting OR w.tried <> d.want) ORDER BY w.object_id
"""
# One chunk of what a sweep found, looked at again under its lock; who is just being claimed is passed over.
# By the wall clock: another sweeper's due_at may be younger than this transaction's now().
SWEEP_CHUNK: Final[LiteralString] = """
WITH lk AS MATERIALIZED (SELECT w.object_id FROM work_item w WHERE w.kind = 1 AND w.object_id = ANY (%s::bigint[]) AND w.holder IS NULL AND w.due_at > clock_timestamp()
  ORDER BY w.object_id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE work_item w SET due_at = now(), resting = false FROM lk WHERE w.kind = 1 AND w.object_id = lk.object_id
"""

RECORD: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(gen)s::int[], %(want)s::bigint[], %(hash)s::bigint[], %(phase)s::text[], %(open)s::bool[],
    %(ct)s::bigint[], %(cf)s::bigint[], %(cond)s::text[], %(notes)s::text[], %(seen)s::int[], %(next)s::float8[], %(att)s::smallint[], %(rest)s::bool[], %(service)s::bool[],
    %(events)s::text[], %(facts)s::text[], %(plan)s::text[], %(why)s::text[], %(gt)s::bigint[], %(gf)s::bigint[], %(lt)s::bigint[], %(lf)s::bigint[])
    AS r(id, epoch, gen, want, hash, target, open, ct, cf, cond, notes, seen, next_s, att, rest, service, events, facts, plan, why, gate_true, gate_false, close_true, close_false)),
lk AS MATERIALIZED (
  SELECT r.*, w.wake FROM work_item w JOIN r ON w.kind = 1 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s ORDER BY w.object_id FOR NO KEY UPDATE OF w),
st AS MATERIALIZED (
  SELECT lk.*, s.cluster_id, s.name, s.rv AS old_rv, s.phase AS was, s.open AS was_open, s.paused, s.is_node, s.observed_generation, s.observed_hash, s.seen_id, s.m_cond, s.notes AS old_notes,
    (s.gate_true, s.gate_false, s.close_true, s.close_false) IS DISTINCT FROM (lk.gate_true, lk.gate_false, lk.close_true, lk.close_false) AS regated, s.cond_true & %(own)s AS own_true, s.cond_false & %(own)s AS own_false,
    s.cond_true & ~%(own)s | lk.ct AS new_true, s.cond_false & ~%(own)s | lk.cf AS new_false,
    CASE WHEN s.notes IS NULL THEN lk.notes::jsonb ELSE nullif((s.notes - %(types)s::text[]) || coalesce(lk.notes::jsonb, '{}'), '{}') END AS new_notes,
    CASE WHEN lk.seen = 0 THEN s.seen_id ELSE lk.seen END AS new_seen,
    s.generation = lk.gen AND s.desired_hash = lk.want AS ok, s.phase = lk.target OR s.phase || '>' || lk.target = ANY (%(legal)s::text[]) AS lawful,
    c.in_service AS was_service
  FROM lk JOIN machine_state s ON s.id = lk.id LEFT JOIN capacity c ON c.machine_id = s.id ORDER BY s.id FOR NO KEY UPDATE OF s),
x AS MATERIALIZED (
  SELECT st.*, CASE WHEN lawful THEN target ELSE was END AS phase,
    CASE WHEN is_node THEN NOT open OR new_true & 1 = 0 ELSE new_true & 2 = 0 END AS down,
    paused OR (hash = want AND NOT CASE WHEN open THEN (new_false & close_true) | (new_true & close_false) <> 0
      ELSE (new_true & gate_true) = gate_true AND (new_false & gate_false) = gate_false END) AS calm,
    (CASE WHEN lawful THEN target ELSE was END, open, ct, cf, gen, hash, cond::bigint[], new_seen, new_notes)
      IS DISTINCT FROM (was, was_open, own_true, own_false, observed_generation, observed_hash, m_cond, seen_id, old_notes) OR regated AS changed
  FROM st),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM x) + 4) AS base),
n AS MATERIALIZED (
  SELECT x.*, CASE WHEN changed THEN greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), old_rv + 1) ELSE (SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id) END AS rv
  FROM x WHERE ok AND (changed OR events IS NOT NULL OR NOT lawful)),
up AS (
  UPDATE machine_state s SET rv = n.rv, phase = n.phase, phase_at = CASE WHEN n.was <> n.phase THEN now() ELSE s.phase_at END, open = n.open, cond_true = n.new_true, cond_false = n.new_false,
    m_cond = n.cond::bigint[], notes = n.new_notes, seen_id = n.new_seen, observed_generation = n.gen, observed_hash = n.hash,
    gate_true = n.gate_true, gate_false = n.gate_false, close_true = n.close_true, close_false = n.close_false
  FROM n WHERE s.id = n.id AND n.changed),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, id, cluster_id, 1, 2, CASE WHEN was <> phase THEN jsonb_build_object('fields', jsonb_build_object('status.phase', was)) END FROM n WHERE changed),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, id, cluster_id, 1, CASE phase WHEN 'Failed' THEN 2 WHEN 'Repairing' THEN 1 ELSE 0 END, 'dev.fleet.machine.phase', '/machines',
    jsonb_build_object('reason', phase, 'message', 'Phase went from ' || was || ' to ' || phase || '.', 'name', name, 'from', was, 'to', phase) FROM n WHERE was <> phase
  UNION ALL
  SELECT rv, 0, id, cluster_id, 1, 2, 'dev.fleet.machine.phase-illegal', '/machines',
    jsonb_build_object('reason', 'PhaseIllegal', 'message', 'A pass asked for the phase ' || target || ', which ' || was || ' does not lead to; the phase was left.', 'name', name, 'from', was, 'to', target)
  FROM n WHERE NOT lawful
  UNION ALL
  SELECT n.rv, e.ord::smallint, n.id, n.cluster_id, 1, (e.v ->> 'severity')::smallint, e.v ->> 'type', '/machines', (e.v -> 'data') || jsonb_build_object('name', n.name)
  FROM n, LATERAL jsonb_array_elements(n.events::jsonb) WITH ORDINALITY AS e(v, ord) WHERE n.events IS NOT NULL),
cd AS (
  INSERT INTO count_delta SELECT cluster_id, v.phase, sum(v.d) FROM n, LATERAL (VALUES (n.was, -1), (n.phase, 1)) v(phase, d) WHERE n.was <> n.phase GROUP BY 1, 2),
cp AS (
  UPDATE capacity c SET in_service = x.service, down = x.down FROM x WHERE c.machine_id = x.id AND x.ok AND (c.in_service, c.down) IS DISTINCT FROM (x.service, x.down)),
tt AS (
  INSERT INTO capacity_total AS t (cluster_id, n) SELECT cluster_id, sum(CASE WHEN service THEN 1 ELSE -1 END) FROM x WHERE ok AND was_service <> service GROUP BY 1 ORDER BY 1
  ON CONFLICT (cluster_id) DO UPDATE SET n = t.n + excluded.n),
mf AS (
  UPDATE machine_fact f SET at = CASE WHEN x.facts IS NULL THEN f.at ELSE now() END, facts = coalesce(x.facts::jsonb, f.facts), plan = coalesce(x.plan::jsonb, f.plan), why = coalesce(x.why::jsonb, f.why)
  FROM x WHERE f.machine_id = x.id AND (x.facts IS NOT NULL OR x.plan IS NOT NULL OR x.why IS NOT NULL)
    AND (f.at < now() - interval '5 min' OR (f.facts, f.plan, f.why) IS DISTINCT FROM (coalesce(x.facts::jsonb, f.facts), coalesce(x.plan::jsonb, f.plan), coalesce(x.why::jsonb, f.why)))),
wk AS (
  UPDATE work_item w SET holder = NULL, wake = false, attempts = CASE WHEN x.lawful THEN x.att ELSE least(x.att + 1, 1000) END,
    resting = x.ok AND x.lawful AND x.rest AND x.calm AND NOT x.wake, tried = x.want # (x.gen::bigint << 40),
    due_at = CASE WHEN x.wake OR NOT x.ok THEN now() WHEN NOT x.lawful THEN now() + greatest(x.next_s, 60) * interval '1 s' ELSE now() + x.next_s * interval '1 s' END
  FROM x WHERE w.kind = 1 AND w.object_id = x.id)
SELECT id, ok, changed, lawful FROM x
"""

ACCEPT: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(gen)s::int[], %(hash)s::bigint[], %(latest)s::bigint[], %(layers)s::text[]) AS r(id, epoch, gen, hash, latest, layers)),
lk AS MATERIALIZED (SELECT r.* FROM work_item w JOIN r ON w.kind = 1 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s ORDER BY w.object_id FOR NO KEY UPDATE OF w),
st AS MATERIALIZED (
  SELECT lk.*, s.cluster_id, s.rv AS old_rv, (s.desired_hash, s.latest_hash) IS DISTINCT FROM (lk.hash, lk.latest) AS changed
  FROM lk JOIN machine_state s ON s.id = lk.id WHERE s.generation = lk.gen ORDER BY s.id FOR NO KEY UPDATE OF s),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), old_rv + 1) AS rv FROM st WHERE changed),
up AS (UPDATE machine_state s SET rv = n.rv, desired_hash = n.hash, latest_hash = n.latest FROM n WHERE s.id = n.id),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 1, 2 FROM n),
ac AS (
  INSERT INTO accepted AS a (machine_id, hash, generation, layers) SELECT id, hash, gen, layers::jsonb FROM st
  ON CONFLICT (machine_id) DO UPDATE SET hash = excluded.hash, generation = excluded.generation, layers = excluded.layers,
    accepted_at = CASE WHEN a.hash = excluded.hash THEN a.accepted_at ELSE now() END)
SELECT id FROM st
"""

# OFFSET 0 keeps a probe a probe: as joins the planner reads a whole partial index once a row while its statistics call it empty.
# Intent before effect: lease, kill switch, permit and the Operation's own state are looked at and the intent written in one statement.
BEGIN: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(op)s::bigint[], %(status)s::text[], %(permit)s::bigint[]) AS r(id, epoch, op, status, permit)),
lk AS MATERIALIZED (
  SELECT r.* FROM work_item w JOIN r ON w.kind = 1 AND w.object_id = r.id AND w.epoch = r.epoch AND w.holder = %(me)s
  WHERE (SELECT NOT stopped FROM ledger WHERE id = 1) ORDER BY w.object_id FOR NO KEY UPDATE OF w),
st AS MATERIALIZED (
  SELECT lk.*, o.rv AS old_rv, o.name, o.cluster_id, o.started_at IS NULL AS fresh, o.phase AS was FROM lk JOIN machines_operation o ON o.id = lk.op
  WHERE o.machine_id = lk.id AND o.ended_at IS NULL
    AND (coalesce(lk.permit, o.permit_id) IS NULL OR EXISTS (SELECT FROM permit t WHERE t.id = coalesce(lk.permit, o.permit_id) AND t.machine_id = lk.id AND t.released_at IS NULL AND t.expires_at > now() OFFSET 0))
    AND NOT EXISTS (SELECT FROM machines_operation b WHERE b.machine_id = lk.id AND b.id <> lk.op AND b.started_at IS NOT NULL AND b.ended_at IS NULL OFFSET 0)
  ORDER BY o.id FOR NO KEY UPDATE OF o),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM st) + 4) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY op), old_rv + 1) AS rv FROM st),
up AS (
  UPDATE machines_operation o SET rv = n.rv, phase = 'Running', started_at = coalesce(o.started_at, now()), epoch = n.epoch, status = n.status::jsonb, permit_id = coalesce(n.permit, o.permit_id)
  FROM n WHERE o.id = n.op),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, op, cluster_id, 3, 2, CASE WHEN was <> 'Running' THEN jsonb_build_object('fields', jsonb_build_object('status.phase', was)) END FROM n),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, op, cluster_id, 3, 0, 'dev.fleet.operation.started', '/operations', jsonb_build_object('reason', 'Started', 'message', 'The first step begins.', 'name', name) FROM n WHERE fresh)
SELECT id FROM n
"""

FOLD: Final[LiteralString] = """
WITH d AS (DELETE FROM count_delta RETURNING cluster_id, phase, n),
s AS MATERIALIZED (SELECT cluster_id, phase, sum(n) AS n FROM d GROUP BY 1, 2 ORDER BY 1, 2)
INSERT INTO count_total AS t (cluster_id, phase, n) SELECT cluster_id, phase, n FROM s ORDER BY 1, 2 ON CONFLICT (cluster_id, phase) DO UPDATE SET n = t.n + excluded.n
"""

RECOUNT: Final[LiteralString] = """
INSERT INTO count_delta (cluster_id, phase, n)
SELECT cluster_id, phase, sum(n) FROM (
  SELECT cluster_id, phase, count(*) AS n FROM machine_state GROUP BY 1, 2
  UNION ALL SELECT cluster_id, phase, -n FROM count_total UNION ALL SELECT cluster_id, phase, -n FROM count_delta) t
GROUP BY 1, 2 HAVING sum(n) <> 0
"""
RECOUNT_CAPACITY: Final[LiteralString] = """
WITH d AS MATERIALIZED (
  SELECT cluster_id, sum(n) AS n FROM (SELECT cluster_id, count(*) AS n FROM capacity WHERE in_service GROUP BY 1 UNION ALL SELECT cluster_id, -n FROM capacity_total) t
  GROUP BY 1 HAVING sum(n) <> 0)
INSERT INTO capacity_total AS t (cluster_id, n) SELECT cluster_id, n FROM d ORDER BY 1 ON CONFLICT (cluster_id) DO UPDATE SET n = t.n + excluded.n
"""
REHOME: Final[LiteralString] = """
WITH d AS MATERIALIZED (SELECT s.id, s.cluster_id, s.idc_id FROM machine_state s JOIN work_item w ON w.kind = 1 AND w.object_id = s.id
  WHERE (w.cluster_id, w.idc_id) IS DISTINCT FROM (s.cluster_id, s.idc_id) ORDER BY s.id LIMIT 1000),
lk AS MATERIALIZED (SELECT w.object_id, d.cluster_id, d.idc_id FROM work_item w JOIN d ON w.kind = 1 AND w.object_id = d.id ORDER BY w.object_id FOR NO KEY UPDATE OF w)
UPDATE work_item w SET cluster_id = lk.cluster_id, idc_id = lk.idc_id FROM lk WHERE w.kind = 1 AND w.object_id = lk.object_id
"""
ORPHANS: Final[LiteralString] = """
WITH d AS MATERIALIZED (SELECT w.object_id FROM work_item w WHERE w.kind = 1 AND NOT EXISTS (SELECT FROM machine_state s WHERE s.id = w.object_id) ORDER BY w.object_id LIMIT 1000 FOR UPDATE)
DELETE FROM work_item w USING d WHERE w.kind = 1 AND w.object_id = d.object_id
"""
