"""The filter language of faults and remediations: the words of the other lists, with keys of their own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.api.storage import cluster_ids
from fleet.console.event_filters import join
from fleet.console.filters import FilterError, pieces, token_of
from recovery.schema import CATEGORIES
from recovery.types import (
    CANCELLED,
    ESCALATED,
    LIVE,
    PROBATION,
    REPAIRING,
    RESOLVED,
    SEVERITIES,
    SUCCEEDED,
    VERIFYING,
    WAITING,
)

__all__ = ["FAULTS", "REMEDIATIONS", "Language", "ListFilter", "join"]

_AGE: Final = re.compile(r"age([<>])=?(\d{1,4})(m|h|d)")
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Language:
    """Keys of a list as SQL over its rows. `values`: those of a key that are known beforehand."""

    columns: Mapping[str, str]
    values: Mapping[str, tuple[str, ...]]
    since: str  # what `age` counts from
    words: tuple[str, ...]  # what bare words are looked for in


FAULTS: Final = Language(
    {
        "machine": "f.spec ->> 'machine'", "cluster": "f.cluster_id", "type": "f.type", "category": "f.category", "phase": "f.phase", "severity": "f.severity",
        "rule": "f.rule", "shadow": "f.shadow",
    },
    {"category": CATEGORIES, "phase": (*LIVE, RESOLVED), "severity": SEVERITIES, "shadow": ("yes", "no")},
    "f.first_seen",
    ("f.name", "f.type", "f.status ->> 'message'"),
)  # fmt: skip
REMEDIATIONS: Final = Language(
    {"machine": "f.spec ->> 'machine'", "cluster": "f.cluster_id", "phase": "f.phase", "playbook": "f.playbook", "serial": "f.serial_number"},
    {"phase": (WAITING, REPAIRING, VERIFYING, PROBATION, SUCCEEDED, ESCALATED, CANCELLED)},
    "f.created_at",
    ("f.name", "f.spec ->> 'fault'", "f.status ->> 'message'"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ListFilter:
    """A parsed `q`. `tokens` are shown back, in order."""

    tokens: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()

    def values(self, key: str) -> list[str]:
        """What is asked of a key."""
        return [v for k, v in self.tokens if k == key]

    def has(self, key: str) -> bool:
        """Whether a key is asked for, or left out by name."""
        return any(k.lstrip("-") == key for k, _ in self.tokens)

    @property
    def text(self) -> str:
        """The filter as it is written."""
        return join(self.tokens, self.words)


def parse(text: str, language: Language) -> ListFilter:
    """Read a filter; FilterError for an unknown key or value, with the nearest known one."""
    tokens: list[tuple[str, str]] = []
    words: list[str] = []
    for part in pieces(text):
        age = _AGE.fullmatch(part)
        token = token_of(part)
        if age:
            tokens.append((f"age{age[1]}", age[2] + age[3]))
        elif token is None:
            words.append(part)
        else:
            sign, key, value = token
            _check(key, value, language)
            tokens.append((f"{sign}{key}", value))
    return ListFilter(tuple(tokens), tuple(words))


def _check(key: str, value: str, language: Language) -> None:
    if key not in language.columns:
        near = difflib.get_close_matches(key, [*language.columns, "age"], 1)
        hint = f" Did you mean “{near[0]}”?" if near else f" Keys are {', '.join(language.columns)}, age>."
        raise FilterError(f"“{key}” is no key to filter by here.{hint}")
    known = language.values.get(key)
    if known is not None and value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f" Did you mean “{near[0]}”?" if near else f" There are {', '.join(known)}."
        raise FilterError(f"“{value[:60]}” is no {key}.{hint}")


def sql_of(parsed: ListFilter, language: Language) -> tuple[str, list[Any]]:
    """The filter as conditions on rows that are called f."""
    parts, params = ["true"], list[Any]()
    for key, value in parsed.tokens:
        if key.startswith("age"):
            parts.append(f"{language.since} {'<' if key == 'age>' else '>'} now() - %s * interval '1 s'")
            params.append(int(value[:-1]) * _SECONDS[value[-1]])
            continue
        bare = key.removeprefix("-")
        parts.append(f"{language.columns[bare]} {'<>' if key.startswith('-') else '='} %s")
        params.append(_value(bare, value))
    for word in parsed.words:
        parts.append(f"strpos(lower(concat_ws(' ', {', '.join(language.words)})), lower(%s)) > 0")
        params.append(word)
    return " AND ".join(parts), params


def _value(key: str, value: str) -> Any:
    if key == "cluster":
        return cluster_ids([value]).get(value, -1) if value else 0
    if key == "severity":
        return SEVERITIES.index(value)
    return value == "yes" if key == "shadow" else value
