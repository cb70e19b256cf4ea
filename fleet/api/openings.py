"""Maintenance windows at this moment: until when one is open, or when the next opens. The ledger's own function says what is open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import orjson
from django.db import connection

from fleet.control.kinds import Json

# until = the first end, of any window on any day, at which none is open: one may go over into another, and jitter moves a beginning only.
# The ends are sorted before the first is asked, for each is a call of the function.
_OPENINGS: Final = """
SELECT s.policy, s.dim, coalesce(pl.name, ''), (s.spec -> 'windows')::text, w.open, CASE WHEN w.open THEN (SELECT o.next FROM safety_window(s.spec -> 'windows', t.until, s.dim || s.key) o) ELSE w.next END, t.until
FROM safety_scopes() s LEFT JOIN safety_place pl ON pl.dim = s.dim AND pl.key = s.key CROSS JOIN LATERAL safety_window(s.spec -> 'windows', now(), s.dim || s.key) w
CROSS JOIN LATERAL (SELECT CASE WHEN w.open THEN (SELECT e.at FROM (
    SELECT (d.day + (v.w ->> 'start')::time) AT TIME ZONE z.zone + make_interval(mins => (v.w ->> 'durationMinutes')::numeric::int) AS at
    FROM jsonb_array_elements(s.spec -> 'windows') AS v(w) CROSS JOIN LATERAL (SELECT coalesce(v.w ->> 'timeZone', 'UTC') AS zone) z
    CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE z.zone)::date + o.n AS day FROM generate_series(-2, 9) AS o(n)) d ORDER BY 1 OFFSET 0) e
  WHERE e.at > now() AND NOT (SELECT o.open FROM safety_window(s.spec -> 'windows', e.at, s.dim || s.key) o) LIMIT 1) END AS until) t
WHERE s.spec ? 'windows' AND (%s = '' OR s.policy = %s) ORDER BY w.open DESC, t.until NULLS LAST, w.next NULLS LAST, s.policy
"""


@dataclass(frozen=True, slots=True)
class Opening:
    """The windows of one policy. `until`: None = shut, or open without an end; `next`: when the next begins after that, or after now, its jitter included."""

    policy: str
    dim: str
    place: str
    windows: tuple[Json, ...]
    open: bool
    next: datetime | None
    until: datetime | None

    def tell(self, machines: int) -> str:
        """What it means for so many machines."""
        changes = f"planned changes of {machines} machine{'' if machines == 1 else 's'}"
        if self.open and self.until is None:
            return "open at all times."
        if self.open:
            return f"open now until {self.moment(self.until)}; {changes} may begin."
        if self.next is None:
            return f"none of them can be read; {changes} never begin."
        jitter = ", its jitter included" if any(w.get("jitterMinutes") for w in self.windows) else ""
        return f"all are shut now. The next opens {self.moment(self.next)}{jitter}; until then {changes} wait."

    def moment(self, at: datetime | None) -> str:
        """In the zone that the windows are written in, where that is one, and in UTC."""
        if at is None:
            return ""
        zones = {w.get("timeZone", "UTC") for w in self.windows}
        utc = at.astimezone(UTC)
        if len(zones) != 1 or zones == {"UTC"}:
            return f"{utc:%a %-d %b %H:%M} UTC"
        zone = zones.pop()
        here = at.astimezone(ZoneInfo(zone))
        return f"{here:%a %-d %b %H:%M} {zone} ({utc:{'%H:%M' if here.date() == utc.date() else '%a %H:%M'}} UTC)"


def openings(policy: str = "") -> list[Opening]:
    """Of this policy, or of all; the open ones first."""
    with connection.cursor() as cursor:
        cursor.execute(_OPENINGS, [policy, policy])
        return [Opening(p, dim, place, tuple(orjson.loads(windows)), *rest) for p, dim, place, windows, *rest in cursor.fetchall()]  # fmt: skip
