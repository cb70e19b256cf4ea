"""Kubernetes Events about nodes in Fleet's own log: of machines that are known, each reason once in ten minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from fleet.control.db import Connection
from machines.watch.leases import Lease
from machines.watch.seen import KubeEvent

# An event needs a position of its own, which no object has yet: rows of `event` without a change of the machine.
_TELL: Final[LiteralString] = """
WITH sh AS MATERIALIZED (SELECT 1 FROM shard WHERE cluster_id = %(c)s AND epoch = %(epoch)s AND holder = %(me)s FOR SHARE),
r AS MATERIALIZED (SELECT * FROM unnest(%(names)s::text[], %(reasons)s::text[], %(messages)s::text[]) AS r(node, reason, message)),
m AS MATERIALIZED (
  SELECT n.machine_id AS id, s.name, r.reason, r.message FROM r JOIN node n ON n.cluster_id = %(c)s AND n.name = r.node JOIN machine_state s ON s.id = n.machine_id
  WHERE EXISTS (SELECT FROM sh) AND NOT EXISTS (
    SELECT FROM event e WHERE e.pos > %(since)s AND e.kind = 1 AND e.object_id = n.machine_id AND e.type = 'dev.fleet.machine.node-event' AND e.data ->> 'reason' = r.reason)),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM m) + 4) AS base)
INSERT INTO event (pos, n, object_id, cluster_id, kind, severity, type, source, data)
SELECT (SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id, reason), 0, id, %(c)s, 1, 1, 'dev.fleet.machine.node-event', '/kubernetes',
  jsonb_build_object('reason', reason, 'message', message, 'name', name) FROM m
"""
_SINCE: Final[LiteralString] = "SELECT coalesce(max(pos), 0) FROM position_mark WHERE at <= now() - interval '10 min'"
_MESSAGE: Final = 400
_REASON: Final = 128


async def tell(conn: Connection, lease: Lease, events: Sequence[KubeEvent]) -> int:
    """Write them down; how many were new."""
    if not events:
        return 0
    since = await (await conn.execute(_SINCE)).fetchone()
    assert since is not None
    values = {
        "c": lease.cluster_id, "epoch": lease.epoch, "me": lease.holder, "since": since[0], "names": [e.involved.name for e in events],
        "reasons": [_clean(e.reason)[:_REASON] for e in events], "messages": [_clean(e.message)[:_MESSAGE] for e in events],
    }  # fmt: skip
    return (await conn.execute(_TELL, values)).rowcount


def _clean(text: str) -> str:
    return text.replace("\x00", "")
