"""Statistics that a mass write has left behind are taken anew at once: autovacuum comes by once a minute.

A table that was looked at while it was empty has no rows in the planner's eyes, and a batch may read the whole of it for each row.
"""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

from fleet.control.db import Connection

SECONDS: Final = 5.0
# Tables with ten times the rows that the planner counts on; -1 of those that nobody has looked at yet.
_BEHIND: Final[LiteralString] = """
SELECT c.relname FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND s.n_live_tup > 1000 AND s.n_live_tup > 10 * c.reltuples
ORDER BY s.n_live_tup DESC
"""


async def catch_up(conn: Connection) -> list[str]:
    """Analyze the tables whose statistics are far behind, a transaction each; their names."""
    names = [row[0] for row in await (await conn.execute(_BEHIND)).fetchall()]
    for name in names:
        await conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
    return names
