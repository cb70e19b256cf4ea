"""What templates need: icons, pills, ages, grouped numbers, bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import yaml
from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

# state of a machine: (word, status colour and icon, swatch of bars)
STATES: dict[str, tuple[str, str, str]] = {
    "ok": ("Running", "ok", "s-open"),
    "busy": ("In work", "busy", "s-busy"),
    "warn": ("Drifted or in repair", "warn", "s-repair"),
    "gate": ("Closed by a gate", "warn", "s-closed"),
    "held": ("Held", "held", "s-held"),
    "bad": ("Needs a person", "bad", "s-failed"),
    "unknown": ("No news", "unknown", "s-unknown"),
    "off": ("Off", "off", "s-off"),
}
PHASES = {
    "Succeeded": "ok",
    "Running": "busy",
    "Pending": "held",
    "Failed": "bad",
    "Cancelled": "off",
    "Degraded": "warn",
    "Provisioning": "busy",
}
ANSWERS = {
    "holds": ("ok", "holds"),
    "no": ("bad", "stops here"),
    "unknown": ("unknown", "unknown"),
    "notAsked": ("later", "not asked"),
}


@register.simple_tag
def icon(name: str, label: str = "", tone: str = "") -> SafeString:
    """One icon of the sprite; with a label it speaks, without it is decoration."""
    href = f"{static('img/icons.svg')}#{name}"
    if label:
        return format_html('<svg class="i {}" role="img" aria-label="{}"><use href="{}"/></svg>', tone, label, href)
    return format_html('<svg class="i {}" aria-hidden="true"><use href="{}"/></svg>', tone, href)


@register.simple_tag
def pill(tone: str, text: str) -> SafeString:
    """Icon, colour and word: never colour alone."""
    return format_html('<span class="pill {}">{}{}</span>', tone, icon(tone if tone != "later" else "off"), text)


@register.simple_tag
def state_pill(state: str, phase: str = "Running") -> SafeString:
    """The pill of a machine's state; a machine that is well but does not run yet says its phase."""
    word, tone, _ = STATES.get(state, STATES["unknown"])
    if state == "ok" and phase != "Running":
        return pill("unknown", phase or "Pending")
    return pill(tone, word)


@register.simple_tag
def phase_pill(phase: str) -> SafeString:
    """The pill of an Operation's or Cluster's phase (a Cluster that runs is well, an Operation that runs is busy)."""
    return pill(PHASES.get(phase, "unknown"), phase)


@register.simple_tag
def condition_icon(status: str, type_: str = "") -> SafeString:
    """How a condition stands. Stalled, Drifted, Held, Reconciling, RemovalHeld are bad or busy when True."""
    negative = {
        "Stalled": "bad",
        "Drifted": "warn",
        "Held": "held",
        "Reconciling": "busy",
        "RemovalHeld": "held",
        "UpdateAvailable": "busy",
        "Pinned": "held",
    }
    if status == "Unknown":
        return icon("unknown", "Unknown", "unknown")
    if type_ in negative:
        return icon(negative[type_], status, negative[type_]) if status == "True" else icon("ok", status, "ok")
    return icon("ok", status, "ok") if status == "True" else icon("bad", status, "bad")


@register.simple_tag
def answer_icon(answer: str) -> SafeString:
    """The icon of a rung."""
    name, label = ANSWERS.get(answer, ANSWERS["unknown"])
    return icon(name, label, "off" if name == "later" else name)


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and value:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def age_text(seconds: float) -> str:
    """Rounded as people say it."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    if seconds < 129_600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86_400)} d"


@register.simple_tag
def ago(value: Any) -> SafeString:
    """An age that the page keeps ticking; the exact time on hover."""
    moment = _moment(value)
    if moment is None:
        return mark_safe("")
    text = age_text((timezone.now() - moment).total_seconds())
    return format_html(
        '<time data-at="{}" datetime="{}" title="{}">{}</time>',
        int(moment.timestamp()),
        moment.isoformat(),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        text,
    )


@register.filter
def clock(value: Any) -> str:
    """Hours and minutes, UTC."""
    moment = _moment(value)
    return moment.strftime("%H:%M:%S") if moment else ""


@register.filter
def thin(value: Any) -> str:
    """18,412."""
    return f"{int(value):,}" if isinstance(value, int | float) else str(value)


@register.filter
def as_yaml(value: Any) -> str:
    """An object as people read it."""
    return yaml.safe_dump(orjson.loads(orjson.dumps(value)), sort_keys=False, allow_unicode=True, width=110)


@register.filter
def get(value: Any, key: str) -> Any:
    """A key of a dictionary that is no attribute name."""
    return value.get(key, "") if isinstance(value, dict) else ""


@register.simple_tag
def stacked(parts: Sequence[tuple[str, int, str]], label: str) -> SafeString:
    """A stacked bar of (swatch class, count, word); small parts stay visible."""
    total = sum(n for _, n, _ in parts) or 1
    shown = [(swatch, max(4.0, n / total * 1000)) for swatch, n, _ in parts if n]
    scale = 1000 / sum(w for _, w in shown) if shown else 1.0
    rects, at = [], 0.0
    for swatch, width in shown:
        rects.append((swatch, f"{at:.1f}", f"{max(1.0, width * scale - 2):.1f}"))
        at += width * scale
    inner = format_html_join("", '<rect class="{}" x="{}" width="{}" height="14"/>', rects)
    return format_html(
        '<svg class="bar" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        label,
        inner,
    )


@register.inclusion_tag("console/_command.html")
def command(text: str) -> dict[str, str]:
    """A line that does or shows the same by hand."""
    return {"text": text}
