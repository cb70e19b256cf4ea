"""Maintenance windows in words, and such words read."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from fleet.console import queries
from fleet.control.kinds import Json
from fleet.safety.schema_policy import DAYS

_WINDOWS: Final = """
SELECT s.policy, s.dim, coalesce(pl.name, '') AS place, w.open, w.next, (s.spec -> 'windows')::text AS windows FROM safety_scopes() s
LEFT JOIN safety_place pl ON pl.dim = s.dim AND pl.key = s.key CROSS JOIN LATERAL safety_window(s.spec -> 'windows', now(), s.dim || s.key) w
WHERE s.spec ? 'windows' ORDER BY w.open DESC, w.next NULLS LAST, s.policy
"""


def windows() -> list[dict[str, Any]]:
    """Maintenance windows of policies: whether one is open, when the next opens, and how each is written."""
    found = queries.rows(_WINDOWS)
    for row in found:
        row["windows"] = [window_words(w) for w in orjson.loads(row["windows"])]
    return found


def window_words(window: Json) -> str:
    """ "Mon, Tue 22:30–04:30 Europe/Berlin, up to 20 min later"."""
    hours, minutes = (int(part) for part in window["start"].split(":"))
    end = (hours * 60 + minutes + int(window["durationMinutes"])) % 1440
    days = ", ".join(window.get("days", [])) or "every day"
    later = f", up to {window['jitterMinutes']} min later" if window.get("jitterMinutes") else ""
    return f"{days} {window['start']}–{end // 60:02}:{end % 60:02} {window.get('timeZone', 'UTC')}{later}"


_LINE: Final = re.compile(
    r"(?P<days>[^0-9]*?)\s*(?P<start>\d{1,2}:\d\d)\s*[-\u2013]\s*(?P<end>\d{1,2}:\d\d)(?:\s+(?P<zone>[A-Za-z][\w/+-]*))?(?:\s*,?\s*up to (?P<later>\d{1,4}) min(?:utes)? later)?", re.ASCII
)  # fmt: skip


def window_of(line: str) -> Json | None:
    """The window that such words mean, None = they cannot be read. Days may be a list and stretches, as in Mon-Fri; no days are every day."""
    found = _LINE.fullmatch(line.strip())
    days = _days(found["days"]) if found else None
    if found is None or days is None:
        return None
    start, end = (_minutes(found[part]) for part in ("start", "end"))
    if start is None or end is None:
        return None
    out: Json = {"days": days} if days else {}
    out |= {"start": f"{start // 60:02}:{start % 60:02}", "durationMinutes": (end - start) % 1440 or 1440}
    out |= {"timeZone": found["zone"]} if found["zone"] not in (None, "UTC") else {}
    return out | ({"jitterMinutes": int(found["later"])} if found["later"] else {})


def _minutes(text: str) -> int | None:
    hours, minutes = map(int, text.split(":"))
    return hours * 60 + minutes if hours < 24 and minutes < 60 else None


def _days(text: str) -> list[str] | None:
    """In the order of the week; an empty list is every day, None a day that nobody knows."""
    if re.fullmatch(r"\s*(every day|daily)?\s*,?", text, re.IGNORECASE):
        return []
    wanted: set[int] = set()
    for word in re.split(r"[,\s]+", re.sub(r"\s*[-\u2013]\s*", "-", text.strip(" ,"))):
        ends = [_day(part) for part in word.split("-")]
        if len(ends) > 2 or None in ends:
            return None
        first, last = ends[0] or 0, ends[-1] or 0
        wanted.update((first + n) % 7 for n in range((last - first) % 7 + 1))
    return [DAYS[n] for n in sorted(wanted)]


def _day(word: str) -> int | None:
    """Mon, monday: 0."""
    names = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    return next((n for n, name in enumerate(names) if len(word) >= 3 and name.startswith(word.lower())), None)
