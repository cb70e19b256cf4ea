"""The filter language of events: the same `key:value`, `-key:value` and bare words as of machines, and the range of time in the address."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.api.storage import cluster_ids
from fleet.console.filters import FilterError, pieces, token_of
from fleet.control.kinds import kinds
from fleet.events.log import SEVERITIES

KEYS: Final = ("machine", "cluster", "kind", "name", "type", "severity", "by", "reason")
_COMPARED: Final = re.compile(r"severity>=?(\w+)")
_RELATIVE: Final = re.compile(r"(\d{1,4})(m|h|d)")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_PREFIX: Final = "dev.fleet."


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A parsed `q`. `tokens` are shown back, in order; `at_least`: the weakest severity."""

    tokens: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    at_least: int = 0

    def values(self, key: str) -> list[str]:
        """What is asked of a key."""
        return [v for k, v in self.tokens if k == key]

    @property
    def machine(self) -> str:
        """The machine whose story is asked for, "" = none."""
        return next(iter(self.values("machine")), "")

    @property
    def says(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.tokens or self.words)


def parse(text: str) -> EventFilter:
    """Read a filter; FilterError for an unknown key or value, with the nearest known one."""
    tokens: list[tuple[str, str]] = []
    words: list[str] = []
    at_least = 0
    for part in pieces(text):
        compared = _COMPARED.fullmatch(part)
        if compared:
            at_least = _severity(compared[1]) + (0 if ">=" in part else 1)
            tokens.append(("severity>=" if ">=" in part else "severity>", compared[1]))
            continue
        token = token_of(part)
        if token is None:
            words.append(part)
            continue
        sign, key, value = token
        _check(key, value)
        tokens.append((f"{sign}{key}", value))
    if sum(key == "machine" for key, _ in tokens) > 1:
        raise FilterError("One machine at a time: an event is about one.")
    return EventFilter(tuple(tokens), tuple(words), at_least)


def _check(key: str, value: str) -> None:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f" Did you mean “{near[0]}”?" if near else f" Keys are {', '.join(KEYS)}."
        raise FilterError(f"“{key}” is no key to filter events by.{hint}")
    if key == "severity":
        _severity(value)
    if key == "kind":
        _kind(value)


def _severity(word: str) -> int:
    if word not in SEVERITIES:
        raise FilterError(f"“{word[:40]}” is no severity. Severities are {', '.join(SEVERITIES)}.")
    return SEVERITIES.index(word)


def _kind(word: str) -> int:
    known = {k.singular: k.number for k in kinds().values()}
    if word.lower() not in known:
        near = difflib.get_close_matches(word.lower(), known, 1)
        raise FilterError(f"“{word[:40]}” is no kind." + (f" Did you mean “{near[0]}”?" if near else ""))
    return known[word.lower()]


def join(tokens: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> str:
    """The text of a filter."""
    parts = [f"{k}{_quoted(v)}" if k.endswith((">", "=")) else f"{k}:{_quoted(v)}" for k, v in tokens]
    return " ".join([*parts, *(_quoted(w) for w in words)])


def _quoted(value: str) -> str:
    return value if value and re.fullmatch(r"[^\s'\"\\]+", value) else "'" + value.replace("'", "'\"'\"'") + "'"


def conditions(parsed: EventFilter) -> tuple[str, list[Any]]:
    """The filter over rows of `event` as SQL; the machine is left to who reads, for it has an index."""
    parts, params = ["true"], list[Any]()
    for key, value in parsed.tokens:
        if key in ("machine", "severity>", "severity>="):
            continue  # by its index; with `at_least`
        sql, values = _condition(key.removeprefix("-"), value)
        parts.append(f"NOT coalesce({sql}, false)" if key.startswith("-") else sql)
        params += values
    if parsed.at_least:
        parts.append("severity >= %s")
        params.append(parsed.at_least)
    for word in parsed.words:
        parts.append("strpos(lower(concat_ws(' ', type, data ->> 'name', data ->> 'reason', data ->> 'message', data ->> 'by')), lower(%s)) > 0")  # fmt: skip
        params.append(word)
    return " AND ".join(parts), params


def _condition(key: str, value: str) -> tuple[str, list[Any]]:
    if key == "cluster":
        return "cluster_id = %s", [cluster_ids([value]).get(value, -1) if value else 0]
    if key == "kind":
        return "kind = %s", [_kind(value)]
    if key == "severity":
        return "severity = %s", [_severity(value)]
    if key == "type":
        return "(starts_with(type, %s) OR starts_with(type, %s))", [value, _PREFIX + value]
    if key == "machine":  # left out: by the name that events carry
        return "data ->> 'name' = %s", [value]
    return f"data ->> '{key}' = %s", [value]  # name, by, reason: keys of ours


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of time. None = open; the texts are what stands in the address."""

    since: datetime | None = None
    until: datetime | None = None
    since_text: str = ""
    until_text: str = ""


def read_range(since: str, until: str, now: datetime) -> Range:
    """`from` and `to`: a time, or how long ago (15m, 6h, 7d); FilterError for anything else."""
    begin, end = _moment("from", since, now), _moment("to", until, now)
    if begin and end and begin >= end:
        raise FilterError("The range ends before it begins.")
    return Range(begin, end, since, until)


def _moment(what: str, text: str, now: datetime) -> datetime | None:
    if not text:
        return None
    ago = _RELATIVE.fullmatch(text)
    if ago:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text.replace(" ", "+") if "+" not in text else text)
    except ValueError:
        raise FilterError(f"“{text[:40]}” is no time for {what}. Write 15m, 6h, 7d, or a time such as 2026-01-31T18:00.") from None  # fmt: skip
    return found if found.tzinfo else found.replace(tzinfo=UTC)
