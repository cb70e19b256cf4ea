"""Looking for events: by object, cluster, type, severity, text and time, newest first.

The log has no index over texts, which would slow down every writer. A search reads a bounded stretch of it and says how far
it has come; whoever wants to look further back goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fleet.events.log import EventRow, Sight, row_of

MOST: Final = 500
STRETCH: Final = 20_000  # rows that one search reads at most: about a tenth of a second
NEWEST: Final = (1 << 62, 0)


@dataclass(frozen=True, slots=True)
class Search:
    """What somebody looks for. `before`: (position, n) from which on newer ones are left out; `text`: anywhere in type, reason or message."""

    kind: int | None = None
    name: str = ""
    cluster: int | None = None
    type: str = ""  # a prefix
    severity: int = 0  # at least
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    sight: Sight | None = None
    before: tuple[int, int] = NEWEST
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Found:
    """Events, newest first; where to go on (None = that was all), and back to when it was looked."""

    rows: list[EventRow]
    next: tuple[int, int] | None
    back_to: datetime | None


_BOUNDS = """
SELECT fleet_horizon(), coalesce((SELECT max(pos) FROM position_mark WHERE at <= %(since)s), 0), (SELECT min(pos) FROM position_mark WHERE at >= %(until)s),
  (SELECT id FROM event_target WHERE kind = %(kind)s AND name = %(name)s LIMIT 1)
"""
_WINDOW = "pos >= %(low)s AND pos <= %(high)s AND (pos, n) < (%(before)s, %(before_n)s)"
# Of one object by its index; else whatever lies in the stretch.
_OBJECT = " AND kind = %(kind)s AND object_id = %(object)s"
_EDGE = f"SELECT pos, n, at FROM event WHERE {_WINDOW}{{object}} ORDER BY pos DESC, n DESC OFFSET {STRETCH} LIMIT 1"
_FIND = f"""
SELECT pos, n, at, object_id, cluster_id, kind, severity, type, source, data FROM event
WHERE {_WINDOW}{{object}} AND pos >= %(edge)s AND severity >= %(severity)s AND (%(kind)s::int IS NULL OR kind = %(kind)s)
  AND (%(name)s = '' OR data ->> 'name' = %(name)s) AND (%(cluster)s::int IS NULL OR cluster_id = %(cluster)s)
  AND (%(type)s = '' OR starts_with(type, %(type)s)) AND (%(since)s::timestamptz IS NULL OR at >= %(since)s) AND (%(until)s::timestamptz IS NULL OR at <= %(until)s)
  AND (%(clusters)s::int[] IS NULL OR cluster_id = ANY (%(clusters)s::int[]) OR (cluster_id = 0 AND kind = ANY (%(open)s::int[])))
  AND (%(text)s = '' OR strpos(lower(concat_ws(' ', type, data ->> 'reason', data ->> 'message', data ->> 'name')), lower(%(text)s)) > 0)
ORDER BY pos DESC, n DESC LIMIT %(limit)s
"""


def search(cursor: Any, wanted: Search) -> Found:
    """One stretch of the log, on a Django or psycopg cursor."""
    limit = max(1, min(wanted.limit, MOST))
    values: dict[str, Any] = {
        "kind": wanted.kind, "name": wanted.name, "cluster": wanted.cluster, "type": wanted.type, "severity": wanted.severity, "text": wanted.text,
        "since": wanted.since, "until": wanted.until, "before": wanted.before[0], "before_n": wanted.before[1], "limit": limit,
        "clusters": list(wanted.sight.clusters) if wanted.sight else None, "open": list(wanted.sight.fleet_wide_kinds) if wanted.sight else [],
    }  # fmt: skip
    cursor.execute(_BOUNDS, values)
    horizon, low, high, object_id = cursor.fetchone()
    high = min(int(high) if high is not None else 1 << 62, int(horizon) - 1, wanted.before[0])
    values |= {"low": int(low), "high": high, "object": object_id}
    object_ = _OBJECT if object_id is not None else ""
    cursor.execute(_EDGE.format(object=object_), values)
    edge = cursor.fetchone()
    cursor.execute(_FIND.format(object=object_), values | {"edge": int(edge[0]) if edge else 0})
    rows = [row_of(row) for row in cursor.fetchall()]
    if len(rows) >= limit:
        return Found(rows, (rows[-1].pos, rows[-1].n), rows[-1].at)
    if edge is not None:
        return Found(rows, (int(edge[0]), 0), edge[2])
    return Found(rows, None, None)
