"""SQL of detection: machines with something to say, their faults, and the one statement that writes what was found."""

from __future__ import annotations

from typing import Final, LiteralString

from machines.reinstall import UNDERWAY

# By key, machine by machine: of tables that a storm has just filled the planner knows nothing. Planned each time: a plan kept from
# when there was hardly a fault would read all of a storm's for each batch.
FAULTS: Final[LiteralString] = """
SELECT a.id, f.id, type, phase, rule, shadow, severity, count, held_since, cleared_since, sources, evidence, flips FROM unnest(%s::bigint[]) AS a(id)
CROSS JOIN LATERAL (SELECT * FROM recovery_fault WHERE machine_id = a.id AND phase IN ('Open', 'Suspected', 'Confirmed', 'Recovering', 'NeedsPerson') OFFSET 0) f
"""
EVIDENCE: Final[LiteralString] = """
SELECT machine_id, type, status, reason, message, source, since FROM recovery_evidence WHERE machine_id = ANY (%s::bigint[]) AND (until IS NULL OR until > now()) ORDER BY machine_id, type, source
"""
# Machines of which a condition speaks for a fault, and those that are named; with all that detection looks at.
# `ids`: rows of the dictionary of conditions that a rule looks for; `labelled`: labels are given, else none. The array in a SELECT of
# its own is no constant to the planner, so that it keeps its plan for one machine too.
SIGHTS: Final[LiteralString] = (
    """
SELECT s.id, s.name, s.cluster_id, s.rack_id, CASE WHEN %(labelled)s THEN m.labels::text ELSE '{}' END, s.k_cond, s.m_cond, s.x_cond, s.notes::text,
  EXISTS (SELECT FROM machines_operation o WHERE o.machine_id = a.id AND o.started_at IS NOT NULL AND o.ended_at IS NULL AND """
    + UNDERWAY
    + """ OFFSET 0)
FROM unnest((SELECT %(machines)s::bigint[])) AS a(id)
CROSS JOIN LATERAL (SELECT * FROM machine_state WHERE id = a.id OFFSET 0) s
CROSS JOIN LATERAL (SELECT * FROM machine WHERE id = a.id AND deleted_at IS NULL OFFSET 0) m
WHERE s.phase NOT IN ('Pending', 'Provisioning', 'Decommissioning', 'Retired')
  AND (a.id = ANY (%(named)s::bigint[]) OR EXISTS (SELECT FROM unnest(s.k_cond || s.m_cond || s.x_cond) v WHERE v >> 32 = ANY (%(ids)s::bigint[])))
"""
)
CLUSTERS: Final[LiteralString] = (
    "SELECT id::int, name, spec -> 'reporters' FROM clusters_cluster WHERE id = ANY (%s::bigint[])"
)

# Machines that changed since a position, and those whose fault waits for nothing but time.
CHANGED: Final[LiteralString] = (
    "SELECT DISTINCT object_id FROM change WHERE rv > %(after)s AND rv < %(until)s AND kind = 1 ORDER BY object_id"
)
DUE: Final[LiteralString] = (
    "SELECT machine_id FROM recovery_fault WHERE due_at <= now() AND phase <> 'Confirmed' AND phase <> 'Resolved' OR due_at <= now() AND cleared_since IS NOT NULL AND phase <> 'Resolved' LIMIT 20000"
)
# A stretch of all machines, at most 50,000: where it ends, and who of them may have something to say. One statement never reads the whole fleet.
ALL: Final[LiteralString] = """
WITH part AS MATERIALIZED (SELECT id, phase, k_cond || m_cond || x_cond AS said FROM machine_state WHERE id > %(after)s ORDER BY id LIMIT 50000)
SELECT max(p.id), coalesce(array_agg(p.id ORDER BY p.id) FILTER (WHERE p.phase NOT IN ('Pending', 'Provisioning', 'Decommissioning', 'Retired')
  AND EXISTS (SELECT FROM unnest(p.said) v WHERE v >> 32 = ANY (%(ids)s::bigint[]))), '{}') FROM part p
"""

# New faults and moves of known ones. What a storm says of a thousand machines alike is given, and made to JSON, once (`g`); `shapes` tells
# each its own. Positions follow the order of the arrays, known faults last. When a confirmed fault is due is said by orders (see `REFUSE`), and stays: a look that finds it as it was must not
# take away the time at which its repair is asked for again. Rows are locked in id order and looked at again; an illegal move is left out and said.
WRITE: Final[LiteralString] = """
WITH g AS MATERIALIZED (
  SELECT g.*, jsonb_build_object('reason', reason, 'message', message) AS said,
    jsonb_strip_nulls(jsonb_build_object('clusterName', nullif(cluster_name, ''), 'type', type, 'category', category, 'severity', (ARRAY['normal', 'warning', 'error'])[severity + 1], 'rule', rule, 'playbook', nullif(playbook, ''))) AS spec
  FROM unnest(%(cluster)s::int[], %(cluster_name)s::text[], %(type)s::text[], %(category)s::text[], %(severity)s::smallint[], %(phase)s::text[], %(rule)s::text[], %(shadow)s::bool[], %(sources)s::jsonb[], %(count)s::int[],
    %(held)s::timestamptz[], %(cleared)s::timestamptz[], %(due)s::float8[], %(evidence)s::jsonb[], %(flips)s::jsonb[], %(reason)s::text[], %(message)s::text[], %(playbook)s::text[])
    WITH ORDINALITY AS g(cluster, cluster_name, type, category, severity, phase, rule, shadow, sources, count, held, cleared, due, evidence, flips, reason, message, playbook, shape)),
r AS MATERIALIZED (SELECT a.nth, a.id, a.machine, a.name, g.* FROM unnest(%(id)s::bigint[], %(machine)s::bigint[], %(name)s::text[], %(shapes)s::int[]) WITH ORDINALITY AS a(id, machine, name, shape, nth) JOIN g ON g.shape = a.shape),
st AS MATERIALIZED (
  SELECT r.*, f.rv AS old_rv, f.phase AS was, f.name AS fault, f.status AS old_status,
    f.phase = r.phase OR f.phase || '>' || r.phase = ANY (%(legal)s::text[]) AS lawful,
    (f.phase, f.sources, f.count, f.evidence, f.cleared_since IS NULL, CASE WHEN r.phase IN ('Recovering', 'NeedsPerson') THEN f.status ->> 'seen' ELSE f.status ->> 'reason' END) IS DISTINCT FROM
      (r.phase, r.sources, r.count, CASE WHEN r.evidence = '[]' THEN f.evidence ELSE r.evidence END, r.cleared IS NULL, CASE WHEN r.phase IN ('Recovering', 'NeedsPerson') THEN r.message ELSE r.reason END)
      OR r.rule <> '' AND (f.rule, f.shadow, f.severity) IS DISTINCT FROM (r.rule, r.shadow, r.severity) AS changed
  FROM r JOIN LATERAL (SELECT * FROM recovery_fault WHERE id = r.id AND phase <> 'Resolved' FOR NO KEY UPDATE) f ON true WHERE r.id <> 0 ORDER BY r.id),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM r) + 4) AS base),
n AS MATERIALIZED (SELECT st.*, greatest((SELECT base FROM p) + 4 * nth, old_rv + 1) AS rv FROM st WHERE lawful AND changed),
calm AS (
  UPDATE recovery_fault f SET due_at = CASE WHEN f.phase = 'Confirmed' AND f.cleared_since IS NULL AND st.cleared IS NULL THEN coalesce(f.due_at, now()) WHEN st.due IS NULL THEN NULL ELSE now() + st.due * interval '1 s' END, held_since = st.held, cleared_since = st.cleared, flips = st.flips
  FROM st WHERE f.id = st.id AND NOT (st.lawful AND st.changed)),
up AS (
  UPDATE recovery_fault f SET rv = n.rv, phase = n.phase, sources = n.sources, count = n.count, held_since = n.held, cleared_since = n.cleared, flips = n.flips,
    rule = CASE WHEN n.rule = '' THEN f.rule ELSE n.rule END, shadow = CASE WHEN n.rule = '' THEN f.shadow ELSE n.shadow END, severity = CASE WHEN n.rule = '' THEN f.severity ELSE n.severity END,
    evidence = CASE WHEN n.evidence = '[]' THEN f.evidence ELSE n.evidence END, last_seen = CASE WHEN n.cleared IS NULL AND n.evidence <> '[]' THEN now() ELSE f.last_seen END,
    confirmed_at = CASE WHEN n.phase = 'Confirmed' AND n.was <> 'Confirmed' THEN now() ELSE f.confirmed_at END, resolved_at = CASE WHEN n.phase = 'Resolved' THEN now() END,
    due_at = CASE WHEN n.phase = 'Resolved' THEN NULL WHEN n.phase = 'Confirmed' AND n.cleared IS NULL THEN now() WHEN n.due IS NULL THEN NULL ELSE now() + n.due * interval '1 s' END,
    status = CASE WHEN n.phase IN ('Recovering', 'NeedsPerson') THEN f.status || jsonb_build_object('seen', n.message) ELSE f.status || n.said END
  FROM n WHERE f.id = n.id),
fresh AS MATERIALIZED (
  SELECT r.*, nextval('recovery_fault_id_seq') AS new_id, (SELECT base FROM p) + 4 * nth AS rv FROM r WHERE r.id = 0),
ins AS (
  INSERT INTO recovery_fault (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, cluster_id, type, category, severity, phase, rule, shadow, sources, count,
    first_seen, last_seen, held_since, cleared_since, confirmed_at, due_at, evidence, flips)
  SELECT new_id, gen_random_uuid(), left(name, 180) || '-' || lower(type) || '-' || new_id, rv, 1, '{}', '{}', '[]', '[]',
    spec || jsonb_build_object('machine', name), said, date_trunc('second', now()), machine, cluster, type, category, severity, phase, rule, shadow, sources, count,
    now(), now(), held, NULL, CASE WHEN phase = 'Confirmed' THEN now() END, CASE WHEN phase = 'Confirmed' THEN now() WHEN due IS NULL THEN NULL ELSE now() + due * interval '1 s' END, evidence, flips
  FROM fresh ON CONFLICT (machine_id, type) WHERE phase IN ('Open', 'Suspected', 'Confirmed', 'Recovering', 'NeedsPerson') DO NOTHING RETURNING id, rv, machine_id, cluster_id, name, phase, type, severity, shadow, status ->> 'reason' AS reason, status ->> 'message' AS message, spec ->> 'machine' AS machine),
told AS MATERIALIZED (
  SELECT rv, id, cluster_id, machine_id, phase, name AS fault, type, severity, shadow, reason, message, machine, NULL::text AS was FROM ins
  UNION ALL SELECT rv, id, cluster, machine, phase, fault, type, severity, shadow, reason, message, name, was FROM n),
ch AS (
  INSERT INTO change (rv, object_id, cluster_id, kind, op, old)
  SELECT rv, id, cluster_id, 14, CASE WHEN was IS NULL THEN 1 ELSE 2 END, CASE WHEN was <> phase THEN jsonb_build_object('fields', jsonb_build_object('status.phase', was)) END FROM told),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, machine_id, cluster_id, 1, CASE WHEN phase = 'Resolved' OR shadow THEN 0 ELSE severity END, 'dev.fleet.fault.' || lower(phase), '/faults',
    CASE WHEN shadow THEN jsonb_build_object('reason', type, 'message', message, 'name', machine, 'fault', fault, 'phase', phase, 'shadow', true)
      ELSE jsonb_build_object('reason', type, 'message', message, 'name', machine, 'fault', fault, 'phase', phase) END
  FROM told WHERE (was IS NULL AND phase <> 'Open' OR was <> phase AND phase <> 'Open'))
SELECT t.id, t.machine_id, t.phase, t.shadow, t.was IS DISTINCT FROM t.phase FROM told t UNION ALL SELECT -s.id, s.machine, s.phase, false, false FROM st s WHERE NOT s.lawful
"""
