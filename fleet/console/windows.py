"""Maintenance windows in words."""

from __future__ import annotations

from typing import Any, Final

import orjson

from fleet.console import queries
from fleet.control.kinds import Json

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
