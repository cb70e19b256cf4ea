"""Maintenance windows in words, and as rows of a form: there each has a beginning and an end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import available_timezones

from fleet.api.openings import Opening, openings
from fleet.control.kinds import Json
from fleet.safety.schema_policy import DAYS

MOST: Final = 20  # windows of a policy, as its schema says
NEW: Final = "new"  # stands for the number of a row that is not there yet
_AREAS: Final = ("Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")


def window_words(window: Json) -> str:
    """ "Mon, Tue 22:30–04:30 Europe/Berlin, up to 20 min later"."""
    days = ", ".join(window.get("days", [])) or "every day"
    day = " (24 h)" if end_of(window) == window["start"] else ""
    later = f", up to {window['jitterMinutes']} min later" if window.get("jitterMinutes") else ""
    return f"{days} {window['start']}–{end_of(window)}{day} {window.get('timeZone', 'UTC')}{later}"


def end_of(window: Json) -> str:
    """When it ends, as a time of day; one of 24 hours ends when it begins, and that of a whole day at 24:00."""
    end = _minutes(window["start"]) + int(window["durationMinutes"])
    end = end if window["durationMinutes"] == end else end % 1440
    return f"{end // 60:02}:{end % 60:02}"


def minutes_between(start: str, end: str) -> int:
    """How long a window lasts that begins and ends at these times of day (HH:MM): 1 to 1440."""
    return (_minutes(end) - _minutes(start)) % 1440 or 1440


def _minutes(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


def told() -> list[dict[str, Any]]:
    """The windows of each policy as a page shows them."""
    return [{"now": each, "said": [window_words(w) for w in each.windows], "next": each.moment(each.next), "href": f"/safety/policies/{quote(each.policy, safe='')}"} for each in openings()]  # fmt: skip


def opening_of(policy: str, spec: Json) -> Opening | None:
    """How the windows of a policy stand; None = it has none, or they belong to no place."""
    return next(iter(openings(policy)), None) if "windows" in spec else None


@dataclass(frozen=True, slots=True)
class Row:
    """A window as a form asks it. `number`: of its fields; `was`: which of the stored windows it is, "" = a new one."""

    number: str
    was: str
    window: Json

    @property
    def path(self) -> str:
        return f"spec.windows[{self.number}]"

    @property
    def end(self) -> str:
        return end_of(self.window) if self.window else ""

    @property
    def days(self) -> list[tuple[str, bool]]:
        """(day, whether it is one of its days)."""
        return [(day, day in self.window.get("days", ())) for day in DAYS]


BLANK: Final = Row(NEW, "", {})


def rows(windows: Sequence[Json]) -> list[Row]:
    """The stored windows."""
    return [Row(str(n), str(n), window) for n, window in enumerate(windows)]


@cache
def zones() -> tuple[str, ...]:
    """Time zones that people write: UTC and those of places. Others are understood too."""
    return ("UTC", *sorted(z for z in available_timezones() if z.partition("/")[0] in _AREAS))
