"""SQL of reported conditions. Two statements a batch, in one transaction: the machines are locked first, so that the second sees
what every other writer has committed (watcher, API, lapsing), and nobody writes between its look and its write.
"""

from __future__ import annotations

from typing import Final, LiteralString

# In order of id, behind the watcher's lease where there is one: (whether the lease held, how many machines).
LOCK: Final[LiteralString] = """
WITH sh AS MATERIALIZED (SELECT 1 FROM shard WHERE cluster_id = %(c)s AND epoch = %(epoch)s AND holder = %(me)s FOR SHARE),
lk AS MATERIALIZED (SELECT s.id FROM machine_state s WHERE s.id = ANY (%(ids)s::bigint[]) AND (%(epoch)s::int IS NULL OR EXISTS (SELECT FROM sh)) ORDER BY s.id FOR NO KEY UPDATE)
SELECT %(epoch)s::int IS NULL OR EXISTS (SELECT FROM sh), (SELECT count(*) FROM lk)
"""

# OFFSET 0 and the arrays keep the planner at the keys of the batch: while statistics call a table empty that has been filled a moment
# ago, it reads the whole of it for each row, and the transaction runs out of its time.
# r: what is taken. `at`: only where nothing was received since (lapsing, removal); without `renew`, what lapsed stays lapsed.
# e: what stands, by type; a status that did not change keeps its second. kind NULL: the condition goes altogether.
APPLY: Final[LiteralString] = """
WITH r0 AS MATERIALIZED (
  SELECT * FROM unnest(%(id)s::bigint[], %(type)s::text[], %(status)s::text[], %(reason)s::text[], %(message)s::text[], %(source)s::text[], %(map)s::text[], %(ttl)s::int[], %(renew)s::bool[],
    %(at)s::timestamptz[], %(kind)s::bigint[], %(note)s::text[]) AS r(id, type, status, reason, message, source, map, ttl, renew, at, kind, note)),
r AS MATERIALIZED (
  SELECT r0.*, s.cluster_id, CASE WHEN r0.renew THEN now() ELSE coalesce(o.received_at, cm.received_at, now()) END AS received,
    CASE WHEN r0.at IS NOT NULL THEN true WHEN r0.renew THEN false ELSE coalesce(o.lapsed, false) END AS lapsed
  FROM r0 CROSS JOIN LATERAL (SELECT cluster_id FROM machine_state WHERE id = r0.id OFFSET 0) s
    LEFT JOIN LATERAL (SELECT received_at, lapsed FROM report WHERE machine_id = r0.id AND type = r0.type OFFSET 0) o ON true
    LEFT JOIN LATERAL (SELECT received_at FROM condition_map WHERE cluster_id = s.cluster_id AND map = r0.map AND r0.map <> '' OFFSET 0) cm ON true
  WHERE (%(c)s::int IS NULL OR s.cluster_id = %(c)s) AND CASE WHEN r0.at IS NOT NULL THEN o.received_at = r0.at WHEN r0.renew OR r0.status = 'Unknown' THEN true
    ELSE NOT coalesce(o.lapsed, false) AND coalesce(coalesce(o.received_at, cm.received_at) + r0.ttl * interval '1 s' > now(), true) END),
st AS MATERIALIZED (
  SELECT s.* FROM (SELECT DISTINCT id FROM r) i CROSS JOIN LATERAL (SELECT id, name, cluster_id, rv AS old_rv, x_cond, notes FROM machine_state WHERE id = i.id OFFSET 0) s),
e AS MATERIALIZED (SELECT st.id, v.v, k.type, k.status, v.v & 4294967295 AS second FROM st, unnest(st.x_cond) AS v(v) JOIN condition_kind k ON k.id = v.v >> 32),
w AS MATERIALIZED (
  SELECT e.id, e.type, e.v FROM e LEFT JOIN r ON r.id = e.id AND r.type = e.type WHERE r.id IS NULL
  UNION ALL
  SELECT r.id, r.type, r.kind << 32 | coalesce(e.second, extract(epoch FROM now())::bigint) FROM r LEFT JOIN e ON e.id = r.id AND e.type = r.type AND e.status = r.status WHERE r.kind IS NOT NULL),
a AS MATERIALIZED (SELECT id, array_agg(v ORDER BY type COLLATE "C") AS packed FROM w GROUP BY id),
m AS MATERIALIZED (SELECT id, array_agg(type) AS types, jsonb_object_agg(type, note) FILTER (WHERE note IS NOT NULL) AS said FROM r GROUP BY id),
x AS MATERIALIZED (
  SELECT st.*, coalesce(a.packed, '{}') AS packed, nullif((coalesce(st.notes, '{}') - m.types) || coalesce(m.said, '{}'), '{}') AS new_notes FROM st JOIN m USING (id) LEFT JOIN a USING (id)),
d AS MATERIALIZED (SELECT * FROM x WHERE (packed, new_notes) IS DISTINCT FROM (x_cond, notes)),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM d) + 4) AS base),
n AS MATERIALIZED (SELECT d.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), old_rv + 1) AS rv FROM d),
up AS (UPDATE machine_state s SET rv = n.rv, x_cond = n.packed, notes = n.new_notes FROM n WHERE s.id = n.id AND s.id = ANY (%(id)s::bigint[])),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 1, 2 FROM n),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT n.rv, (row_number() OVER (PARTITION BY n.id ORDER BY r.type))::smallint, n.id, n.cluster_id, 1, 0, 'dev.fleet.machine.condition', '/machines',
    jsonb_build_object('reason', r.reason, 'message', r.type || ' went from ' || coalesce(e.status, 'Unknown') || ' to ' || r.status || ': ' || CASE r.message WHEN '' THEN r.reason ELSE r.message END, 'name', n.name, 'by', r.source)
  FROM n JOIN r ON r.id = n.id AND r.kind IS NOT NULL LEFT JOIN e ON e.id = r.id AND e.type = r.type WHERE r.status <> coalesce(e.status, 'Unknown')),
g AS MATERIALIZED (SELECT id, type FROM r WHERE kind IS NULL),
rd AS (DELETE FROM report t USING g WHERE t.machine_id = g.id AND t.type = g.type AND t.machine_id = ANY (%(id)s::bigint[])),
rp AS (
  INSERT INTO report AS t (machine_id, cluster_id, type, status, reason, message, source, map, received_at, expires_at, lapsed)
  SELECT id, cluster_id, type, status, reason, message, source, map, received, received + ttl * interval '1 s', lapsed FROM r WHERE kind IS NOT NULL ORDER BY id, type
  ON CONFLICT (machine_id, type) DO UPDATE SET cluster_id = excluded.cluster_id, status = excluded.status, reason = excluded.reason, message = excluded.message, source = excluded.source, map = excluded.map,
    received_at = excluded.received_at, expires_at = excluded.expires_at, lapsed = excluded.lapsed
  WHERE (t.cluster_id, t.status, t.reason, t.message, t.source, t.map, t.received_at, t.expires_at, t.lapsed)
    IS DISTINCT FROM (excluded.cluster_id, excluded.status, excluded.reason, excluded.message, excluded.source, excluded.map, excluded.received_at, excluded.expires_at, excluded.lapsed))
SELECT n.id FROM n WHERE (SELECT array_agg(v >> 32) FROM unnest(n.packed) v) IS DISTINCT FROM (SELECT array_agg(v >> 32) FROM unnest(n.x_cond) v)
"""

# Conditions that are too old: by their reporter's ttl, or by that of a rule that covers the machine.
EXPIRED: Final[LiteralString] = """
SELECT machine_id, type, source, map, received_at FROM report WHERE expires_at <= now() AND NOT lapsed ORDER BY machine_id, type LIMIT %(limit)s
"""
EXPIRED_BY_RULE: Final[LiteralString] = """
SELECT r.machine_id, r.type, r.source, r.map, r.received_at FROM report r JOIN machine m ON m.id = r.machine_id LEFT JOIN clusters_cluster c ON c.id = m.cluster_id
WHERE r.type = %(type)s AND NOT r.lapsed AND r.received_at < now() - %(ttl)s * interval '1 s' AND (%(all)s OR c.name = ANY (%(clusters)s::text[]) OR (%(labels)s::jsonb <> '{}' AND m.labels @> %(labels)s::jsonb))
ORDER BY r.machine_id LIMIT %(limit)s
"""

# Reports of machines that went elsewhere, and what nobody declares any more.
STRAYED: Final[LiteralString] = """
WITH d AS MATERIALIZED (
  SELECT c.id AS cluster_id, p ->> 'name' AS source, t AS type FROM clusters_cluster c, jsonb_array_elements(coalesce(c.spec -> 'reporters', '[]')) p, jsonb_array_elements_text(p -> 'conditionTypes') t
  UNION ALL
  SELECT c.id, 'fleet', 'daemonset/' || (g ->> 'namespace') || '/' || (g ->> 'name') FROM clusters_cluster c, jsonb_array_elements(coalesce(c.spec -> 'daemonSetGates', '[]')) g)
SELECT r.machine_id, r.type, r.source, r.map, r.received_at FROM report r JOIN machine_state s ON s.id = r.machine_id LEFT JOIN d ON d.cluster_id = r.cluster_id AND d.source = r.source AND d.type = r.type
WHERE s.cluster_id <> r.cluster_id OR d.source IS NULL ORDER BY r.machine_id, r.type LIMIT %(limit)s
"""
ORPHANS: Final[tuple[LiteralString, ...]] = (
    "DELETE FROM condition_map m WHERE NOT EXISTS (SELECT FROM clusters_cluster c WHERE c.id = m.cluster_id)",
    "DELETE FROM report r WHERE NOT EXISTS (SELECT FROM machine_state s WHERE s.id = r.machine_id)",
)

# -- what the watcher keeps of ConfigMaps --------------------------------------------------------------------------------

DECLARED: Final[LiteralString] = """
SELECT spec, ARRAY(SELECT DISTINCT r.spec ->> 'conditionType' FROM machines_readinessrule r WHERE r.spec ? 'ttlSeconds' AND r.deleted_at IS NULL ORDER BY 1) FROM clusters_cluster WHERE id = %s
"""
MAPS: Final[LiteralString] = "SELECT map, rv, problem FROM condition_map WHERE cluster_id = %s"
HELD: Final[LiteralString] = (
    "SELECT n.name, r.type, r.map FROM report r JOIN node n ON n.machine_id = r.machine_id WHERE r.cluster_id = %s AND r.map <> ''"
)
WATCHED: Final[LiteralString] = (
    "SELECT n.name, r.type FROM report r JOIN node n ON n.machine_id = r.machine_id WHERE r.cluster_id = %s AND r.source = 'fleet' AND r.map = ''"
)
NODES: Final[LiteralString] = """
SELECT name, machine_id FROM node WHERE cluster_id = %(c)s AND name = ANY (%(names)s::text[]) AND machine_id IS NOT NULL
"""
NODES_LATELY: Final[LiteralString] = """
SELECT name, machine_id FROM node WHERE cluster_id = %(c)s AND machine_id IS NOT NULL AND seen_at > now() - %(seconds)s * interval '1 s'
"""
NOTE_MAPS: Final[LiteralString] = """
WITH sh AS MATERIALIZED (SELECT 1 FROM shard WHERE cluster_id = %(c)s AND epoch = %(epoch)s AND holder = %(me)s FOR SHARE),
r AS MATERIALIZED (SELECT * FROM unnest(%(map)s::text[], %(reporter)s::text[], %(rv)s::text[], %(problem)s::text[]) AS r(map, reporter, rv, problem)),
up AS (
  INSERT INTO condition_map AS t (cluster_id, map, reporter, rv, problem) SELECT %(c)s, map, reporter, rv, problem FROM r WHERE EXISTS (SELECT FROM sh) ORDER BY map
  ON CONFLICT (cluster_id, map) DO UPDATE SET reporter = excluded.reporter, rv = excluded.rv, problem = excluded.problem, received_at = CASE WHEN t.rv = excluded.rv THEN t.received_at ELSE now() END
  WHERE (t.reporter, t.rv, t.problem) IS DISTINCT FROM (excluded.reporter, excluded.rv, excluded.problem)),
gone AS (DELETE FROM condition_map t WHERE t.cluster_id = %(c)s AND t.map = ANY (%(gone)s::text[]) AND EXISTS (SELECT FROM sh))
SELECT EXISTS (SELECT FROM sh)
"""
