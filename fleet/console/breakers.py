"""Breakers as the page of safety shows them: how each stands, and how many machines it counted in its window, minute by minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from fleet.api.rights import Actor
from fleet.console.queries import rows, scope_ids
from fleet.console.words import closed, count

MINUTES: Final = 60  # of the chart
_WIDTH, _HEIGHT, _LIMIT = 600, 88, 24  # the limit's line; what lies above it has room to the top
_SHOWN: Final = 40
STATES: Final = {
    "closed": ("ok", "Closed"),
    "open": ("bad", "Open"),
    "half-open": ("warn", "Half-open"),
    "off": ("off", "Off"),
}
# The fleet's, those of the clusters that somebody sees, and of racks and idcs those where something happened lately.
_READ: Final = """
WITH w AS MATERIALIZED (
  SELECT 'fleet' AS dim, 0 AS key UNION SELECT 'cluster', id::int FROM clusters_cluster WHERE %(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[])
  UNION SELECT dim, key FROM breaker WHERE state <> 'closed' AND (dim <> 'cluster' AND %(ids)s::bigint[] IS NULL OR dim = 'cluster' AND key = ANY (%(ids)s::bigint[]))
  UNION SELECT v.dim, v.key FROM breaker_strike s, LATERAL (VALUES ('idc', s.idc_id::int), ('rack', s.rack_id)) v(dim, key) WHERE s.at > now() - interval '1 hour' AND v.key <> 0 AND %(ids)s::bigint[] IS NULL)
SELECT b.dim, b.key, b.name, CASE WHEN b.off THEN 'off' ELSE b.state END AS state, b.allow, b.let, b.since, b.last_at, b.why, b.seconds, b.policy, b.most AS threshold, coalesce(b.hit, 0) AS hit,
  coalesce(k.asked_by, '') AS asked_by, k.asked_at
FROM breaker_read((SELECT array_agg(dim ORDER BY dim, key) FROM w), (SELECT array_agg(key ORDER BY dim, key) FROM w), now(), true) b
LEFT JOIN breaker k ON k.dim = b.dim AND k.key = b.key
"""
_SERIES: Final = """
WITH d AS MATERIALIZED (SELECT * FROM unnest(%(dims)s::text[], %(keys)s::int[], %(seconds)s::int[]) AS d(dim, key, seconds)),
s AS MATERIALIZED (SELECT machine_id, cluster_id, idc_id::int AS idc_id, rack_id, at FROM breaker_strike WHERE at > now() - interval '1 hour' - make_interval(secs => %(longest)s))
SELECT d.dim, d.key, m.minute, count(DISTINCT s.machine_id) AS n FROM d CROSS JOIN generate_series(0, 59) AS m(minute)
JOIN s ON s.at <= now() - make_interval(mins => 59 - m.minute) AND s.at > now() - make_interval(mins => 59 - m.minute, secs => d.seconds)
  AND CASE d.dim WHEN 'cluster' THEN s.cluster_id = d.key WHEN 'idc' THEN s.idc_id = d.key WHEN 'rack' THEN s.rack_id = d.key ELSE true END
GROUP BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker. `series`: unique machines in its window at each of the last minutes, the newest last."""

    dim: str
    key: int
    name: str
    state: str
    threshold: int
    hit: int
    seconds: int
    since: datetime | None = None
    last_at: datetime | None = None
    why: str = ""
    allow: int = 0
    let: int = 0
    policy: str = ""
    asked_by: str = ""
    asked_at: datetime | None = None
    series: Sequence[int] = ()

    @property
    def place(self) -> str:
        """What it guards, in words."""
        if self.dim == "fleet":
            return "Fleet"
        return f"{self.dim.capitalize()} {self.name}" if self.name else f"Machines without {self.dim}"

    @property
    def id(self) -> str:
        """As it is named in addresses and in fleetctl."""
        return "fleet" if self.dim == "fleet" else f"{self.dim}/{self.name}"

    @property
    def href(self) -> str:
        """The page of its cluster, "" = it is of no cluster."""
        return f"/clusters/{quote(self.name)}" if self.dim == "cluster" and self.name else ""

    @property
    def pill(self) -> tuple[str, str]:
        """(tone, word)."""
        return STATES[self.state]

    @property
    def trouble(self) -> bool:
        """Whether it lets less through than when it is closed."""
        return self.state in ("open", "half-open")

    @property
    def window(self) -> str:
        """ "10 min"."""
        return f"{self.seconds // 60} min" if self.seconds % 60 == 0 else f"{self.seconds} s"

    @property
    def counted(self) -> str:
        """ "12 of 50 in 10 min"."""
        return f"{self.hit:,} of {self.threshold:,} in {self.window}"

    @property
    def said(self) -> str:
        """What passes and how it closes, in one or two sentences."""
        if self.state == "off":
            return f"Switched off by {self.policy}: nothing stops a storm of repairs here but the budgets."
        if self.state == "open":
            ends = "Only a person frees it." if self.dim == "fleet" else f"It lets one through once {self.window} passed without another, or when an approver resets it."  # fmt: skip
            return f"{closed(self.why)} Nothing that takes a machine away starts here; healing goes on. {ends}".strip()
        if self.state == "half-open":
            return f"It lets {count(self.allow, 'machine')} through at a time ({self.let:,} under way), and twice as many once they end well; it opens again when one fails."
        return f"It opens at the start of the {_th(self.threshold)} machine that a fault takes, or that fails a change. One that flaps counts once."

    @property
    def bars(self) -> list[tuple[str, str, str, str, str]]:
        """(swatch, x, y, width, height) of each minute; red from the limit on."""
        step, scale = _WIDTH / max(1, len(self.series)), (_HEIGHT - _LIMIT) / max(1, self.threshold)
        out = []
        for number, n in enumerate(self.series):
            height = min(float(_HEIGHT), max(2.0, n * scale)) if n else 0.6
            swatch = "s-bad" if n >= self.threshold else "s-ink3"
            out.append(
                (swatch, f"{number * step + 0.6:.1f}", f"{_HEIGHT - height:.1f}", f"{step - 1.2:.1f}", f"{height:.1f}")
            )
        return out


def _th(n: int) -> str:
    ending = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"


def breakers(actor: Actor) -> list[Breaker]:
    """Those that matter to somebody: open ones first, then those that count something."""
    ids = scope_ids(actor)
    found = [Breaker(**row) for row in rows(_READ, {"ids": ids})]
    if ids is not None:  # the fleet's stops them too, but its counts are not theirs
        found = [b for b in found if b.dim != "fleet" or b.trouble]
    order = {"open": 0, "half-open": 1, "off": 2, "closed": 3}
    found.sort(key=lambda b: (order[b.state], -b.hit / max(1, b.threshold), b.dim != "fleet", b.dim, b.name))
    return _with_series(found)


def _with_series(found: list[Breaker]) -> list[Breaker]:
    """With a chart where there is something to see."""
    drawn = [b for b in found if b.trouble or b.hit][:_SHOWN]
    if not drawn:
        return found
    values: dict[str, Any] = {
        "dims": [b.dim for b in drawn],
        "keys": [b.key for b in drawn],
        "seconds": [b.seconds for b in drawn],
    }
    series = {(b.dim, b.key): [0] * MINUTES for b in drawn}
    for row in rows(_SERIES, values | {"longest": max(b.seconds for b in drawn)}):
        series[row["dim"], row["key"]][row["minute"]] = int(row["n"])
    return [replace(b, series=tuple(series.get((b.dim, b.key), ()))) for b in found]
