"""Breakers as the page of safety shows them: how each stands, and how many machines it counted in its window, minute by minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from fleet.api.rights import Actor
from fleet.console.queries import rows
from fleet.console.words import closed, count
from fleet.safety.breakers import Breaker, read_breakers

MINUTES: Final = 60  # of the chart
_WIDTH, _HEIGHT, _LIMIT = 600, 88, 24  # the limit's line; what lies above it has room to the top
_SHOWN: Final = 40
STATES: Final = {
    "closed": ("ok", "Closed"),
    "open": ("bad", "Open"),
    "half-open": ("warn", "Half-open"),
    "off": ("off", "Off"),
}
_SERIES: Final = """
WITH d AS MATERIALIZED (SELECT * FROM unnest(%(dims)s::text[], %(keys)s::int[], %(seconds)s::int[]) AS d(dim, key, seconds)),
s AS MATERIALIZED (SELECT machine_id, cluster_id, idc_id::int AS idc_id, rack_id, at FROM breaker_strike WHERE at > now() - interval '1 hour' - make_interval(secs => %(longest)s))
SELECT d.dim, d.key, m.minute, count(DISTINCT s.machine_id) AS n FROM d CROSS JOIN generate_series(0, 59) AS m(minute)
JOIN s ON s.at <= now() - make_interval(mins => 59 - m.minute) AND s.at > now() - make_interval(mins => 59 - m.minute, secs => d.seconds)
  AND CASE d.dim WHEN 'cluster' THEN s.cluster_id = d.key WHEN 'idc' THEN s.idc_id = d.key WHEN 'rack' THEN s.rack_id = d.key ELSE true END
GROUP BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Dial:
    """A breaker as it is drawn. `series`: unique machines in its moving window at each of the last minutes, the newest last."""

    breaker: Breaker
    series: Sequence[int] = ()
    may_reset: bool = False  # the reader is an approver there

    @property
    def dim(self) -> str:
        return self.breaker.dim

    @property
    def state(self) -> str:
        return self.breaker.state

    @property
    def threshold(self) -> int:
        return self.breaker.threshold

    @property
    def since(self) -> datetime | None:
        return self.breaker.since

    @property
    def asked_by(self) -> str:
        return self.breaker.asked_by if self.trouble else ""

    @property
    def lapses_at(self) -> datetime | None:
        return self.breaker.lapses_at

    @property
    def reset_word(self) -> str:
        """What the button says: the next step, or the second word for it."""
        if self.asked_by:
            return "Say the same…"
        return "Half-open now…" if self.state == "open" else "Close…"

    @property
    def takes(self) -> str:
        """Whose word a reset takes."""
        return f"An approver of cluster {self.breaker.name}" if self.href else "An approver of the whole fleet"

    @property
    def place(self) -> str:
        """What it guards, in words."""
        if self.dim == "fleet":
            return "Fleet"
        word = "IDC" if self.dim == "idc" else self.dim.capitalize()
        return f"{word} {self.breaker.name}" if self.breaker.name else f"Machines without {self.dim}"

    @property
    def id(self) -> str:
        """As it is named in addresses and in fleetctl."""
        return self.breaker.place

    @property
    def href(self) -> str:
        """The page of its cluster, "" = it is of no cluster."""
        return f"/clusters/{quote(self.breaker.name)}" if self.dim == "cluster" and self.breaker.name else ""

    @property
    def pill(self) -> tuple[str, str]:
        """(tone, word)."""
        return STATES[self.state]

    @property
    def trouble(self) -> bool:
        """Whether it lets less through than when it is closed."""
        return self.state in ("open", "half-open")

    @property
    def drawn(self) -> bool:
        """Whether it is worth a chart: troubled, off, past half of its limit, or the fleet's."""
        return self.state != "closed" or self.dim == "fleet" or self.breaker.count * 2 >= self.threshold

    @property
    def width(self) -> int:
        """Of a bar of 200; the limit's mark stands at 160."""
        return min(200, round(160 * self.breaker.count / max(1, self.threshold)))

    @property
    def window(self) -> str:
        """ "10 min"."""
        seconds = self.breaker.window_seconds
        return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"

    @property
    def counted(self) -> str:
        """ "12 of 50 in 10 min"."""
        return f"{self.breaker.count:,} of {self.threshold:,} in {self.window}"

    @property
    def said(self) -> str:
        """What passes and how it closes, in one or two sentences."""
        if self.state == "off":
            return f"Switched off by {self.breaker.policy}: nothing stops a storm of repairs here but the budgets."
        if self.state == "open":
            ends = "Only a person frees it." if self.dim == "fleet" else f"It lets one through once {self.window} passed without another, or when an approver resets it."  # fmt: skip
            return f"{closed(self.breaker.why)} Nothing that takes a machine away starts here; healing goes on. {ends}".strip()
        if self.state == "half-open":
            return f"It lets {count(self.breaker.allow, 'machine')} through at a time ({self.breaker.under_way:,} under way), and twice as many once they end well; it opens again when one fails."
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


def breakers(actor: Actor) -> list[Dial]:
    """Those that matter to somebody: open ones first, then those that count something.

    Who sees some clusters sees theirs; the fleet's when it binds them, for its counts are not theirs.
    """
    seen = actor.clusters
    found = [
        b
        for b in read_breakers()
        if seen is None or (b.dim == "cluster" and b.name in seen) or (b.dim == "fleet" and b.state != "closed")
    ]
    order = {"open": 0, "half-open": 1, "off": 2, "closed": 3}
    found.sort(key=lambda b: (order[b.state], -b.count / max(1, b.threshold), b.dim != "fleet", b.dim, b.name))
    return [replace(d, may_reset=actor.may_approve(d.breaker.name if d.dim == "cluster" else None)) for d in _with_series(found)]  # fmt: skip


def _with_series(found: Sequence[Breaker]) -> list[Dial]:
    """With a chart where there is something to see."""
    drawn = [b for b in found if Dial(b).drawn and (b.state != "closed" or b.count or any(b.series))][:_SHOWN]
    if not drawn:
        return [Dial(b) for b in found]
    values: dict[str, Any] = {
        "dims": [b.dim for b in drawn],
        "keys": [b.key for b in drawn],
        "seconds": [b.window_seconds for b in drawn],
    }
    series = {(b.dim, b.key): [0] * MINUTES for b in drawn}
    for row in rows(_SERIES, values | {"longest": max(b.window_seconds for b in drawn)}):
        series[row["dim"], row["key"]][row["minute"]] = int(row["n"])
    return [Dial(b, tuple(series.get((b.dim, b.key), ()))) for b in found]
