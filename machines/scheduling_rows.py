"""What Fleet decided about the scheduling of nodes, as rows. Set-based and fenced by the machine's lease, like `machines.writes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import orjson

from fleet.control.db import Connection
from fleet.control.kinds import Json


@dataclass(frozen=True, slots=True)
class Decided:
    """One row to be written. `act`: an effect follows, so the kill switch is looked at too. `fresh`: the state is another one."""

    machine_id: int
    epoch: int
    cluster_id: int
    state: str
    reason: str
    message: str
    node: str = ""
    node_uid: str = ""
    cause: str = ""
    rv: str = ""
    opened: str = ""
    overruled: tuple[str, ...] = ()
    gates: Sequence[Json] = ()
    dressed: str = ""


# A row that says the same is neither locked nor written. `since` moves with the state and its reason.
_WRITE: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT id, epoch, cluster_id, state, reason, message, node, uid, cause, rv, opened, ARRAY(SELECT jsonb_array_elements_text(overruled::jsonb)) AS overruled, gates::jsonb AS gates, dressed
  FROM unnest(%(id)s::bigint[], %(epoch)s::int[], %(cluster)s::int[], %(state)s::text[], %(reason)s::text[], %(message)s::text[], %(node)s::text[], %(uid)s::text[],
    %(cause)s::text[], %(rv)s::text[], %(opened)s::text[], %(overruled)s::text[], %(gates)s::text[], %(dressed)s::text[])
    AS r(id, epoch, cluster_id, state, reason, message, node, uid, cause, rv, opened, overruled, gates, dressed)),
d AS MATERIALIZED (
  SELECT r.*, s.machine_id IS NULL OR (s.cluster_id, s.node, s.node_uid, s.state, s.reason, s.message, s.cause, s.rv, s.opened, s.overruled, s.gates, s.dressed)
    IS DISTINCT FROM (r.cluster_id, r.node, r.uid, r.state, r.reason, r.message, r.cause, r.rv, r.opened, r.overruled, r.gates, r.dressed) AS news
  FROM r LEFT JOIN scheduling s ON s.machine_id = r.id),
lk AS MATERIALIZED (
  SELECT d.* FROM work_item w JOIN d ON w.kind = 1 AND w.object_id = d.id AND w.epoch = d.epoch AND w.holder = %(me)s
  WHERE CASE WHEN %(act)s THEN (SELECT NOT stopped FROM ledger WHERE id = 1) ELSE d.news END ORDER BY w.object_id FOR NO KEY UPDATE OF w),
up AS (
  INSERT INTO scheduling AS s (machine_id, cluster_id, node, node_uid, state, reason, message, cause, rv, opened, overruled, gates, dressed)
  SELECT id, cluster_id, node, uid, state, reason, message, cause, rv, opened, overruled, gates, dressed FROM lk WHERE news ORDER BY id
  ON CONFLICT (machine_id) DO UPDATE SET cluster_id = excluded.cluster_id, node = excluded.node, node_uid = excluded.node_uid, state = excluded.state, reason = excluded.reason, message = excluded.message,
    cause = excluded.cause, rv = excluded.rv, opened = excluded.opened, overruled = excluded.overruled, gates = excluded.gates, dressed = excluded.dressed,
    since = CASE WHEN (s.state, s.reason) = (excluded.state, excluded.reason) THEN s.since ELSE now() END, updated_at = now())
SELECT id FROM lk
"""
# A view can be believed while a watcher holds the cluster and says so.
_FRESH: Final[LiteralString] = """
SELECT a.cluster_id, s.state = 'Fresh' AND s.lease_until > now() FROM cluster_access a LEFT JOIN shard s ON s.cluster_id = a.cluster_id WHERE a.cluster_id = ANY (%s::int[])
"""
_DUE_BACK: Final[LiteralString] = (
    "SELECT p.id FROM permit p WHERE p.machine_id = ANY (%s::bigint[]) AND p.released_at IS NULL AND starts_with(p.owner, 'gate:')"
)


async def write(conn: Connection, me: int, rows: Sequence[Decided], *, act: bool = False) -> set[int]:
    """Keep what was decided. Before an `act`: the machines whose lease holds, with the kill switch off."""
    if not rows:
        return set()
    ordered = sorted(rows, key=lambda r: r.machine_id)
    values: dict[str, Any] = {
        "me": me, "act": act, "id": [r.machine_id for r in ordered], "epoch": [r.epoch for r in ordered], "cluster": [r.cluster_id for r in ordered],
        "state": [r.state for r in ordered], "reason": [r.reason for r in ordered], "message": [r.message for r in ordered],
        "node": [r.node for r in ordered], "uid": [r.node_uid for r in ordered], "cause": [r.cause for r in ordered], "rv": [r.rv for r in ordered],
        "opened": [r.opened for r in ordered], "overruled": [orjson.dumps(sorted(r.overruled)).decode() for r in ordered],
        "gates": [orjson.dumps(list(r.gates)).decode() for r in ordered], "dressed": [r.dressed for r in ordered],
    }  # fmt: skip
    return {row[0] for row in await (await conn.execute(_WRITE, values, prepare=True)).fetchall()}


async def views(conn: Connection, clusters: Sequence[int]) -> dict[int, bool]:
    """Clusters of these that have nodes at all: whether their view is fresh."""
    if not clusters:
        return {}
    found = await conn.execute(_FRESH, [sorted(set(clusters))], prepare=True)
    return {int(cluster): bool(fresh) for cluster, fresh in await found.fetchall()}


async def gate_permits(conn: Connection, machine_ids: Sequence[int]) -> list[int]:
    """Permits that gates hold on these machines."""
    if not machine_ids:
        return []
    found = await conn.execute(_DUE_BACK, [sorted(machine_ids)], prepare=True)
    return [int(row[0]) for row in await found.fetchall()]
