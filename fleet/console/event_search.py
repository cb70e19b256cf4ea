"""Reading the event log for pages: newest first, a bounded stretch at a time, and counted by time for the histogram.

The log has no index over texts. What a filter asks for is looked for in the next `STRETCH` events; the answer says how far that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fleet.api.event_sight import sight_of
from fleet.api.rights import Actor
from fleet.console.event_filters import EventFilter, Range, conditions
from fleet.console.queries import rows

PAGE: Final = 100
STRETCH: Final = 20_000  # events that one page looks through
COUNTED: Final = 100_000  # events that the histogram counts at most
BARS: Final = 72
_NEWEST: Final = (1 << 62, 0)
_COLUMNS: Final = "pos, n, at, object_id, cluster_id, kind, severity, type, source, data"
_LOG: Final = f"SELECT {_COLUMNS} FROM event WHERE {{where}} ORDER BY pos DESC, n DESC LIMIT {{most}}"
# A machine and its Operations, each from the index of objects.
_MACHINE: Final = f"""SELECT * FROM (
  (SELECT {_COLUMNS} FROM event WHERE kind = 1 AND object_id = (SELECT id FROM machine WHERE name = %(machine)s) AND {{where}} ORDER BY pos DESC, n DESC LIMIT {{most}})
  UNION ALL
  (SELECT {_COLUMNS} FROM event WHERE kind = 3 AND object_id = ANY (ARRAY(SELECT o.id FROM machines_operation o JOIN machine m ON m.id = o.machine_id WHERE m.name = %(machine)s ORDER BY o.id DESC LIMIT 200))
    AND {{where}} ORDER BY pos DESC, n DESC LIMIT {{most}})) u ORDER BY pos DESC, n DESC LIMIT {{most}}"""
_FOUND: Final = """
WITH e AS MATERIALIZED ({log})
SELECT s.looked, s.edge, s.back_to, f.* FROM (SELECT count(*) AS looked, min(pos) AS edge, min(at) AS back_to FROM e) s
LEFT JOIN LATERAL (SELECT * FROM e WHERE {asked} ORDER BY pos DESC, n DESC LIMIT %(limit)s) f ON true ORDER BY f.pos DESC, f.n DESC
"""
_COUNT: Final = """
WITH e AS MATERIALIZED ({log})
SELECT b.bar, b.severity, b.n, s.looked, s.back_to FROM (SELECT count(*) AS looked, min(at) AS back_to FROM e) s LEFT JOIN (
  SELECT floor(extract(epoch FROM at - %(begin)s) / %(width)s)::int AS bar, least(severity, 2) AS severity, count(*) AS n FROM e WHERE {asked} GROUP BY 1, 2) b ON true
"""
# Everything that was committed by a moment lies below the position that was noted then.
_SINCE: Final = "pos >= coalesce((SELECT max(pos) FROM position_mark WHERE at <= %(since)s), 0) AND at >= %(since)s"
_UNTIL: Final = (
    "pos <= coalesce((SELECT min(pos) FROM position_mark WHERE at >= %(until)s), 1::bigint << 62) AND at <= %(until)s"
)


@dataclass(frozen=True, slots=True)
class Found:
    """Rows, newest first. `next`: (position, n) behind which older ones are, None = there are none; `back_to`: how far back was looked, where
    that is less than everything."""

    rows: list[dict[str, Any]]
    next: tuple[int, int] | None = None
    back_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """Events of a slice of time by severity (normal, warning, error)."""

    normal: int = 0
    warning: int = 0
    error: int = 0

    @property
    def total(self) -> int:
        return self.normal + self.warning + self.error


@dataclass(frozen=True, slots=True)
class Counted:
    """`bars` from `begin` on, `width` seconds each. `from_bar`: the first that was looked at."""

    begin: datetime
    end: datetime
    bars: tuple[Bar, ...]
    from_bar: int = 0


def find(actor: Actor, parsed: EventFilter, span: Range, before: tuple[int, int] | None = None, limit: int = PAGE) -> Found:  # fmt: skip
    """One page of what the actor may see of it."""
    asked, values = _asked(parsed)
    most = STRETCH if asked != "true" else limit + 1
    where, more = _where(actor, span, before or _NEWEST)
    log = (_MACHINE if parsed.machine else _LOG).format(where=where, most=most)
    found = rows(_FOUND.format(log=log, asked=asked), {**values, **more, "machine": parsed.machine, "limit": limit + 1})
    looked, shown = int(found[0]["looked"]), [r for r in found if r["pos"] is not None]
    if len(shown) > limit:
        return Found(shown[:limit], (shown[limit - 1]["pos"], shown[limit - 1]["n"]))
    if looked >= most and most == STRETCH:
        return Found(shown, (int(found[0]["edge"]), 0), found[0]["back_to"])
    return Found(shown)


def count(actor: Actor, parsed: EventFilter, span: Range, now: datetime, default: timedelta) -> Counted:
    """The same events by time, over the range that is asked for, else over the last while."""
    end = span.until or now
    begin = span.since or end - default
    width = max(1.0, (end - begin).total_seconds() / BARS)
    asked, values = _asked(parsed)
    where, more = _where(actor, Range(begin, end), _NEWEST)
    log = (_MACHINE if parsed.machine else _LOG).format(where=where, most=COUNTED)
    found = rows(_COUNT.format(log=log, asked=asked), {**values, **more, "machine": parsed.machine, "begin": begin, "width": width})  # fmt: skip
    bars = [[0, 0, 0] for _ in range(BARS)]
    for row in found:
        if row["bar"] is not None:
            bars[min(max(row["bar"], 0), BARS - 1)][row["severity"]] += int(row["n"])
    from_bar = 0
    if int(found[0]["looked"]) >= COUNTED:
        from_bar = int((found[0]["back_to"] - begin).total_seconds() / width)
    return Counted(begin, end, tuple(Bar(*b) for b in bars), max(0, min(from_bar, BARS)))


def _asked(parsed: EventFilter) -> tuple[str, dict[str, Any]]:
    """Conditions with named parameters, for the statements above name theirs."""
    sql, params = conditions(parsed)
    parts = sql.split("%s")
    named = "".join(f"{part}%(a{n})s" if n < len(params) else part for n, part in enumerate(parts))
    return named, {f"a{n}": value for n, value in enumerate(params)}


def _where(actor: Actor, span: Range, before: tuple[int, int]) -> tuple[str, Mapping[str, Any]]:
    """What of the log is looked at: what the actor may see, of a range, behind a position."""
    parts = ["(pos, n) < (%(before)s, %(before_n)s)", "pos <= %(before)s"]  # the second is what prunes partitions
    values: dict[str, Any] = {"before": before[0], "before_n": before[1]}
    sight = sight_of(actor)
    if sight is not None:
        parts.append("(cluster_id = ANY (%(clusters)s::int[]) OR (cluster_id = 0 AND kind = ANY (%(open)s::int[])))")
        values |= {"clusters": list(sight.clusters), "open": list(sight.fleet_wide_kinds)}
    parts += [sql for moment, sql in ((span.since, _SINCE), (span.until, _UNTIL)) if moment]
    return " AND ".join(parts), values | {"since": span.since, "until": span.until}
