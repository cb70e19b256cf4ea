"""SQL of the watcher's writes. The lease row is locked first: a take-over waits, a stale watcher writes nothing.

Each statement answers in its first row whether the lease held: (-1, held, false).
"""

from __future__ import annotations

from typing import Final, LiteralString

_FENCE: Final[LiteralString] = (
    "sh AS MATERIALIZED (SELECT 1 FROM shard WHERE cluster_id = %(c)s AND epoch = %(epoch)s AND holder = %(me)s FOR SHARE)"
)

# What stands in the table when a watcher takes a cluster over.
LOAD: Final[LiteralString] = (
    "SELECT n.name, coalesce(n.machine_id, 0), coalesce(s.k_cond, '{}') FROM node n LEFT JOIN machine_state s ON s.id = n.machine_id WHERE n.cluster_id = %s"
)

# Machines of nodes: by the uid in the provider id, or by name where the cluster was not made by Fleet. OFFSET 0 keeps the planner at
# the unique indexes: of a cluster whose machines were declared a moment ago it knows nothing, and would read all of them for each node.
LINKS: Final[LiteralString] = """
SELECT r.name, m.id FROM unnest(%(names)s::text[], %(uids)s::uuid[]) AS r(name, uid)
CROSS JOIN LATERAL (SELECT id, cluster_id FROM machine WHERE uid = r.uid OFFSET 0) m
WHERE m.cluster_id = %(c)s AND coalesce((SELECT (o.cluster_id, o.name) = (%(c)s, r.name) FROM node o WHERE o.machine_id = m.id), true)
UNION ALL
SELECT r.name, m.id FROM unnest(%(names)s::text[], %(uids)s::uuid[]) AS r(name, uid)
CROSS JOIN LATERAL (SELECT id, cluster_id FROM machine WHERE name = r.name OFFSET 0) m
WHERE %(by_name)s AND r.uid IS NULL AND m.cluster_id = %(c)s AND coalesce((SELECT (o.cluster_id, o.name) = (%(c)s, r.name) FROM node o WHERE o.machine_id = m.id), true)
"""

# A machine that another node holds already stays with that one: the unique index must not spoil the batch.
NODES: Final[LiteralString] = (
    "WITH "
    + _FENCE
    + """,
r AS MATERIALIZED (SELECT * FROM unnest(%(name)s::text[], %(uid)s::text[], %(machine)s::bigint[], %(provider)s::text[], %(closed)s::bool[], %(by)s::text[], %(taints)s::text[], %(labels)s::text[],
    %(boot)s::text[], %(kubelet)s::text[], %(ip)s::text[], %(created)s::timestamptz[], %(rv)s::text[]) AS r(name, uid, machine, provider, closed, closed_by, taints, labels, boot, kubelet, ip, created, rv)),
up AS (
  INSERT INTO node AS n (cluster_id, name, uid, machine_id, provider_id, unschedulable, closed_by, taints, labels, boot_id, kubelet_version, internal_ip, created_at, rv)
  SELECT %(c)s, r.name, r.uid, CASE WHEN EXISTS (SELECT FROM node o WHERE o.machine_id = r.machine AND (o.cluster_id, o.name) <> (%(c)s, r.name)) THEN NULL ELSE r.machine END,
    r.provider, r.closed, r.closed_by, r.taints::jsonb, r.labels::jsonb, r.boot, r.kubelet, r.ip, r.created, r.rv
  FROM r WHERE EXISTS (SELECT FROM sh) ORDER BY r.name
  ON CONFLICT (cluster_id, name) DO UPDATE SET uid = excluded.uid, machine_id = excluded.machine_id, provider_id = excluded.provider_id, unschedulable = excluded.unschedulable, closed_by = excluded.closed_by,
    taints = excluded.taints, labels = excluded.labels, boot_id = excluded.boot_id, kubelet_version = excluded.kubelet_version, internal_ip = excluded.internal_ip, created_at = excluded.created_at, rv = excluded.rv, seen_at = now()
  WHERE (n.uid, n.machine_id, n.provider_id, n.unschedulable, n.closed_by, n.taints, n.labels, n.boot_id, n.kubelet_version, n.internal_ip)
    IS DISTINCT FROM (excluded.uid, excluded.machine_id, excluded.provider_id, excluded.unschedulable, excluded.closed_by, excluded.taints, excluded.labels, excluded.boot_id, excluded.kubelet_version, excluded.internal_ip)
  RETURNING n.machine_id)
SELECT -1::bigint, EXISTS (SELECT FROM sh) UNION ALL SELECT machine_id, true FROM up WHERE machine_id IS NOT NULL
"""
)

# Conditions of nodes on their machines: the watcher's own array and bits, others' stay. `member` false: the machine is no node any more.
CONDITIONS: Final[LiteralString] = (
    "WITH "
    + _FENCE
    + """,
r AS MATERIALIZED (SELECT * FROM unnest(%(id)s::bigint[], %(own)s::bigint[], %(ct)s::bigint[], %(cf)s::bigint[], %(cond)s::text[], %(notes)s::text[], %(member)s::bool[], %(why)s::text[], %(message)s::text[])
    AS r(id, own, ct, cf, cond, notes, member, why, message)),
st AS MATERIALIZED (
  SELECT r.*, r.cond::bigint[] AS packed, s.cluster_id, s.name, s.rv AS old_rv, s.open, s.k_cond, s.is_node, s.cond_true & 1 AS was_true, s.cond_false & 1 AS was_false, s.notes AS old_notes,
    s.cond_true AS old_true, s.cond_false AS old_false, s.cond_true & ~r.own | r.ct AS new_true, s.cond_false & ~r.own | r.cf AS new_false,
    CASE WHEN s.notes IS NULL THEN r.notes::jsonb ELSE nullif((s.notes - %(types)s::text[]) || coalesce(r.notes::jsonb, '{}'), '{}') END AS new_notes
  FROM machine_state s JOIN r ON s.id = r.id WHERE EXISTS (SELECT FROM sh) AND (s.cluster_id = %(c)s OR NOT r.member) ORDER BY s.id FOR NO KEY UPDATE OF s),
x AS MATERIALIZED (SELECT * FROM st WHERE (new_true, new_false, packed, new_notes, member) IS DISTINCT FROM (old_true, old_false, k_cond, old_notes, is_node)),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM x) + 4) AS base),
n AS MATERIALIZED (SELECT x.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), old_rv + 1) AS rv, (ct & 1, cf & 1) <> (was_true, was_false) AS flipped FROM x),
up AS (UPDATE machine_state s SET rv = n.rv, cond_true = n.new_true, cond_false = n.new_false, k_cond = n.packed, notes = n.new_notes, is_node = n.member FROM n WHERE s.id = n.id),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 1, 2 FROM n),
ev AS (
  INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
  SELECT rv, 0, id, cluster_id, 1, CASE WHEN ct & 1 = 1 THEN 0 ELSE 1 END, 'dev.fleet.machine.node', '/machines',
    jsonb_build_object('reason', why, 'message', message, 'name', name) FROM n WHERE flipped),
cp AS (
  UPDATE capacity c SET down = CASE WHEN n.member THEN NOT n.open OR n.new_true & 1 = 0 ELSE n.new_true & 2 = 0 END
  FROM n WHERE c.machine_id = n.id AND c.down IS DISTINCT FROM (CASE WHEN n.member THEN NOT n.open OR n.new_true & 1 = 0 ELSE n.new_true & 2 = 0 END))
SELECT -1::bigint, EXISTS (SELECT FROM sh) UNION ALL SELECT id, flipped FROM n WHERE (new_true, new_false, member) IS DISTINCT FROM (old_true, old_false, is_node) OR flipped
  OR (SELECT array_agg(v >> 32) FROM unnest(packed) v) IS DISTINCT FROM (SELECT array_agg(v >> 32) FROM unnest(k_cond) v)
"""
)

GONE: Final[LiteralString] = (
    "WITH "
    + _FENCE
    + """,
del AS (DELETE FROM node n WHERE n.cluster_id = %(c)s AND n.name = ANY (%(names)s::text[]) AND EXISTS (SELECT FROM sh) RETURNING n.machine_id)
SELECT -1::bigint, EXISTS (SELECT FROM sh) UNION ALL SELECT machine_id, true FROM del WHERE machine_id IS NOT NULL
"""
)

UNLINK: Final[LiteralString] = (
    "WITH "
    + _FENCE
    + """,
up AS (UPDATE node n SET machine_id = NULL WHERE n.cluster_id = %(c)s AND n.name = ANY (%(names)s::text[]) AND EXISTS (SELECT FROM sh) RETURNING 1)
SELECT -1::bigint, EXISTS (SELECT FROM sh)
"""
)

# Nodes whose machine is not (any more) the one that it should be: a machine declared after its node, moved, or gone.
STRAYED: Final[LiteralString] = """
SELECT n.name, n.machine_id, n.machine_id IS NOT NULL FROM node n LEFT JOIN machine m ON m.id = n.machine_id
WHERE n.cluster_id = %(c)s AND n.machine_id IS NOT NULL AND (m.id IS NULL OR m.cluster_id <> n.cluster_id)
UNION ALL
SELECT n.name, m.id, false FROM node n JOIN machine m ON m.cluster_id = n.cluster_id AND ('fleet://' || m.uid::text = n.provider_id OR (%(by_name)s AND m.name = n.name AND n.provider_id NOT LIKE 'fleet://%%'))
WHERE n.cluster_id = %(c)s AND n.machine_id IS NULL AND NOT EXISTS (SELECT FROM node o WHERE o.machine_id = m.id)
"""

COUNTS: Final[LiteralString] = """
SELECT count(*), count(*) FILTER (WHERE s.cond_true & 1 = 1), count(*) FILTER (WHERE NOT n.unschedulable), count(*) FILTER (WHERE n.machine_id IS NOT NULL AND (s.cond_true | s.cond_false) & 1 = 0),
  count(*) FILTER (WHERE n.machine_id IS NULL) FROM node n LEFT JOIN machine_state s ON s.id = n.machine_id WHERE n.cluster_id = %s
"""
