"""What ended long ago goes, in the sight of watchers: each leaves a change and a tombstone, as a deletion does. A thousand at a time."""

from __future__ import annotations

from typing import Any, Final, LiteralString

from fleet.control.db import Connection

KEEP_DAYS: Final = 180

# In no order: by their numbers the whole table would be read whenever nothing is old.
_FORGET: Final[LiteralString] = """
WITH old AS MATERIALIZED (SELECT id, rv, uid, name, cluster_id, created_at FROM {table} o WHERE {over} LIMIT 1000 FOR UPDATE SKIP LOCKED),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM old) + 4) AS base),
n AS MATERIALIZED (SELECT old.*, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), rv + 1) AS new_rv FROM old),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT new_rv, id, cluster_id, %(kind)s, 3 FROM n),
tb AS (INSERT INTO tombstone (rv, kind, name, object) SELECT new_rv, %(kind)s, name, jsonb_build_object('apiVersion', 'fleet.dev/v1', 'kind', %(word)s::text, 'spec', '{{}}'::jsonb,
  'metadata', jsonb_build_object('name', name, 'uid', uid, 'resourceVersion', new_rv::text, 'creationTimestamp', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))) FROM n),
wi AS (DELETE FROM work_item w USING n WHERE w.kind = %(kind)s AND w.object_id = n.id)
DELETE FROM {table} USING n WHERE {table}.id = n.id RETURNING {table}.id
"""


async def forget(
    conn: Connection, table: LiteralString, over: LiteralString, kind: int, word: str, days: int = KEEP_DAYS
) -> list[int]:
    """Ids of the rows that went. `over`: which rows `o` of the table ended more than `%(days)s` days ago; `word`: the kind's name."""
    values: dict[str, Any] = {"days": days, "kind": kind, "word": word}
    found = await conn.execute(_FORGET.format(table=table, over=over), values)
    return [row[0] for row in await found.fetchall()]
