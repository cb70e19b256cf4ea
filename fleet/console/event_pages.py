"""The page of events: filter and range in the address, a histogram to pick ranges from, rows that unfold to the CloudEvent."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.http import QueryDict

from fleet.api.rights import Actor
from fleet.console import event_filters, event_search, queries, records, words
from fleet.console.event_filters import EventFilter, Range
from fleet.console.event_search import BARS, Counted
from fleet.console.filters import FilterError
from fleet.console.letter_pages import TABS
from fleet.console.page import Fragment, Page
from fleet.control.kinds import CLUSTER, HOLD, MACHINE, OPERATION, kinds
from fleet.events.log import SEVERITIES

SECONDS: Final = 3
SPANS: Final = {"15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 days"}
_DEFAULT: Final = timedelta(hours=6)
_POSITION: Final = re.compile(r"(\d{1,18})-(\d{1,5})")
_TONES: Final = ("off", "warn", "bad")
_WIDTH, _HEIGHT = 1000, 64


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of the histogram; geometry travels as attributes."""

    swatch: str
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of events by severity over time. `begin` and `end` in seconds since 1970, for who drags over it."""

    rects: tuple[Rect, ...]
    most: int
    total: tuple[int, int, int]
    begin: datetime
    end: datetime
    cut: str = ""  # "" = all of it was looked at, else how much of the left is not drawn

    @property
    def said(self) -> str:
        """The numbers in words."""
        normal, warning, error = self.total
        parts = [words.count(normal, "normal event"), words.count(warning, "warning"), words.count(error, "error")]
        return f"{', '.join(parts)}, {self.begin:%-d %b %H:%M} to {self.end:%-d %b %H:%M} UTC"


def histogram(counted: Counted) -> Histogram:
    """Stacked bars, errors at the bottom, so that they stand on the line."""
    most = max((b.total for b in counted.bars), default=0)
    step = _WIDTH / BARS
    rects = []
    for number, bar in enumerate(counted.bars):
        y = float(_HEIGHT)
        for swatch, n in (("s-bad", bar.error), ("s-warn", bar.warning), ("s-ink3", bar.normal)):
            if n:
                height = max(2.0, n / most * (_HEIGHT - 4))
                y -= height
                rects.append(Rect(swatch, f"{number * step + 0.5:.1f}", f"{y:.1f}", f"{step - 1:.1f}", f"{height:.1f}"))
    total = (
        sum(b.normal for b in counted.bars),
        sum(b.warning for b in counted.bars),
        sum(b.error for b in counted.bars),
    )
    cut = f"{counted.from_bar * step:.1f}" if counted.from_bar else ""
    return Histogram(tuple(rects), most, total, counted.begin, counted.end, cut)


def events(actor: Actor, query: QueryDict) -> Page:
    """What happened, newest first."""
    now = datetime.now(UTC)
    text = " ".join(filter(None, (query.get("base", "").strip(), query.get("q", "").strip())))
    parsed, span, error = EventFilter(), Range(), ""
    try:
        parsed = event_filters.parse(text)
        span = event_filters.read_range(query.get("from", ""), query.get("to", ""), now)
    except FilterError as problem:
        error = str(problem)
    place = _POSITION.fullmatch(query.get("position", ""))
    before = (int(place[1]), int(place[2])) if place else None
    found, drawn, notice = _read(actor, parsed, span, before, now) if not error else (event_search.Found([]), None, "")
    shown = [{**records.told(r), "envelope": records.envelope(r)} for r in found.rows]
    address = _Address(event_filters.join(parsed.tokens, parsed.words), span)
    context: dict[str, Any] = {
        "q": text, "error": error, "notice": notice, "events": shown, "histogram": drawn, "before": before, "span": span,
        "tokens": [(k, v, address.of(q=_without(parsed, n))) for n, (k, v) in enumerate(parsed.tokens)],
        "base": event_filters.join(parsed.tokens, ()), "words": " ".join(parsed.words) if not error else query.get("q", ""),
        "severities": [(s, _TONES[n], address.of(q=_with(parsed, s)), parsed.values("severity") == [s]) for n, s in enumerate(SEVERITIES)],
        "spans": [(w, address.of(since=k, until=""), span.since_text == k and not span.until_text) for k, w in SPANS.items()],
        "always": address.of(since="", until=""), "newest": address.of(), "older": address.of(position=f"{found.next[0]}-{found.next[1]}") if found.next else "",
        "back_to": found.back_to, "searched": event_search.STRETCH, "kinds": [k.singular for k in kinds().values()], "clusters": _clusters(actor),
        "tab": "events", "tabs": TABS, "command": _command(parsed), "since_field": _field(span.since), "until_field": _field(span.until),
    }  # fmt: skip
    fragments = _fragments(shown) if not before and not error and not span.until else ()
    return Page("console/events.html", "Events", context, fragments, frozenset({MACHINE, OPERATION, CLUSTER, HOLD}), "events")  # fmt: skip


def _read(
    actor: Actor, parsed: EventFilter, span: Range, before: tuple[int, int] | None, now: datetime
) -> tuple[event_search.Found, Histogram | None, str]:
    """(rows, histogram, why there is less than was asked for)."""
    found: event_search.Found | None = None
    try:
        with queries.bounded(SECONDS):
            found = event_search.find(actor, parsed, span, before)
            return found, histogram(event_search.count(actor, parsed, span, now, _DEFAULT)), ""
    except queries.TooSlow:
        if found is None:
            why = f"Looking took more than {SECONDS} s. Name a machine or a shorter range."
            return event_search.Found([]), None, why
        return found, None, f"The histogram was given up after {SECONDS} s. A shorter range can be counted."


def _fragments(shown: list[dict[str, Any]]) -> tuple[Fragment, ...]:
    rows = (Fragment(e["id"], "console/_event_row.html", {"e": e}) for e in shown)
    return (Fragment("e-histogram", "console/_event_histogram.html"), *rows)


@dataclass(frozen=True, slots=True)
class _Address:
    """Addresses of the page that differ from the present one in what is given."""

    q: str
    span: Range

    def of(self, **other: str) -> str:
        """Its query."""
        parts = {"q": self.q, "since": self.span.since_text, "until": self.span.until_text, "position": ""} | other
        named = {"q": parts["q"], "from": parts["since"], "to": parts["until"], "position": parts["position"]}
        return urlencode({k: v for k, v in named.items() if v})


def _without(parsed: EventFilter, number: int) -> str:
    return event_filters.join(parsed.tokens[:number] + parsed.tokens[number + 1 :], parsed.words)


def _with(parsed: EventFilter, severity: str) -> str:
    """The filter with this severity instead of any other; pressed again, without one."""
    kept = tuple(t for t in parsed.tokens if not t[0].lstrip("-").startswith("severity"))
    again = parsed.values("severity") == [severity]
    return event_filters.join(kept if again else (*kept, ("severity", severity)), parsed.words)


def _clusters(actor: Actor) -> list[str]:
    """Names to suggest, at most 50."""
    if actor.clusters is not None:
        return sorted(actor.clusters)
    return [r["name"] for r in queries.rows("SELECT name FROM clusters_cluster ORDER BY name LIMIT 50")]


def _field(moment: datetime | None) -> str:
    """As an input of type datetime-local holds it, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M") if moment else ""


def _command(parsed: EventFilter) -> str:
    """The line that lists the same of an object, or everything."""
    named = parsed.machine or next(iter(parsed.values("name")), "")
    return "kubectl get events -A" + (
        f" --field-selector {shlex.quote(f'involvedObject.name={named}')}" if named else ""
    )
