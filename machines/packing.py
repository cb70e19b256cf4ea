"""Conditions packed: two masks of bits (`machines.conditions`) and one bigint a condition: dictionary id << 32 | transition second.

The dictionary `condition_kind` holds each (type, status, reason) once, with the message it was first seen with; another
message stands in `notes` beside the row. Rows of the dictionary never change and never go: every process keeps a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from fleet.control.conditions import Condition, Status
from fleet.control.db import Connection
from machines.conditions import BIT

_SECONDS = (1 << 32) - 1
OTHERS = 64  # where types without a bit stand in a packed array: after all that have one


class Entry(NamedTuple):
    """One row of the dictionary."""

    type: str
    status: Status
    reason: str
    message: str


class Reader(Protocol):
    """A cursor of Django or psycopg, for reading the dictionary."""

    def execute(self, sql: Any, params: Any = None) -> Any: ...

    def fetchall(self) -> Any: ...


@dataclass(slots=True)
class Packed:
    """The conditions of one owner as the row holds them. `notes`: messages that are not the dictionary's, by type."""

    array: list[int]
    true: int
    false: int
    notes: dict[str, str] = field(default_factory=dict)


_entries: dict[int, Entry] = {}
_ids: dict[tuple[str, str, str], int] = {}
_KEPT = 100_000
_conditions: dict[int, Condition] = {}
_ADD = "INSERT INTO condition_kind (bit, type, status, reason, message) SELECT * FROM unnest(%s::smallint[], %s::text[], %s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING"
_READ = "SELECT id, type, status, reason, message FROM condition_kind WHERE id > %s"


def _learn(rows: Iterable[tuple[Any, ...]]) -> None:
    for number, type_, status, reason, message in rows:
        _entries[number] = Entry(type_, status, reason, message)
        _ids[type_, status, reason] = number


def known(arrays: Iterable[Sequence[int]]) -> bool:
    """Whether every condition in these arrays can be read with this process's copy of the dictionary."""
    return all(packed >> 32 in _entries for array in arrays for packed in array)


async def refresh(conn: Connection) -> None:
    """Read the rows of the dictionary that this process does not know yet."""
    _learn(await (await conn.execute(_READ, [0])).fetchall())


def refresh_sync(cursor: Reader) -> None:
    """The same through Django's cursor."""
    cursor.execute(_READ, [0])
    _learn(cursor.fetchall())


async def ensure_entries(conn: Connection, conditions: Iterable[Condition]) -> None:
    """Put new combinations into the dictionary, in a transaction of its own: a rolled back id must not stay in the copy."""
    missing = _missing(conditions)
    if missing:
        await conn.execute(_ADD, _new_rows(missing))
        await refresh(conn)


def ensure_entries_sync(cursor: Reader, conditions: Iterable[Condition]) -> None:
    """The same through Django's cursor, outside every transaction."""
    missing = _missing(conditions)
    if missing:
        cursor.execute(_ADD, _new_rows(missing))
        refresh_sync(cursor)


def _missing(conditions: Iterable[Condition]) -> dict[tuple[str, str, str], str]:
    return {(c.type, c.status, c.reason): c.message for c in conditions if (c.type, c.status, c.reason) not in _ids}


def _new_rows(missing: Mapping[tuple[str, str, str], str]) -> list[list[Any]]:
    keys = sorted(missing)
    columns = [[k[part] for k in keys] for part in range(3)]
    return [[BIT.get(k[0]) for k in keys], *columns, [missing[k] for k in keys]]


def crowded(condition: Condition, most: int) -> bool:
    """Whether a condition is new to the dictionary, and its type has so many rows there already."""
    key = condition.type, condition.status, condition.reason
    return key not in _ids and sum(type_ == condition.type for type_, _, _ in _ids) >= most


def number_of(condition: Condition) -> int:
    """The dictionary's row of a condition; it must be there (`ensure_entries`)."""
    return _ids[condition.type, condition.status, condition.reason]


def note_of(condition: Condition) -> str | None:
    """Its message, where that is not the dictionary's."""
    return condition.message if condition.message != _entries[number_of(condition)].message else None


def pack(conditions: Iterable[Condition], before: Sequence[int], now: datetime) -> Packed:
    """Pack one owner's whole set. A status that did not change keeps the second of `before`; entries must be known."""
    since = {}
    for packed in before:
        entry = _entries[packed >> 32]
        since[entry.type] = (entry.status, packed & _SECONDS)
    out = Packed([], 0, 0)
    fresh = int(now.timestamp())
    for condition in sorted(conditions, key=_order):
        number = _ids[condition.type, condition.status, condition.reason]
        old = since.get(condition.type)
        second = old[1] if old is not None and old[0] == condition.status else fresh
        out.array.append(number << 32 | second)
        bit = BIT.get(condition.type)
        if bit is not None and condition.status == "True":
            out.true |= 1 << bit
        elif bit is not None and condition.status == "False":
            out.false |= 1 << bit
        if condition.message != _entries[number].message:
            out.notes[condition.type] = condition.message
    return out


def _order(condition: Condition) -> tuple[int, str]:
    return BIT.get(condition.type, OTHERS), condition.type


def unpack(arrays: Iterable[Sequence[int]], notes: Mapping[str, str] | None) -> tuple[Condition, ...]:
    """All owners' conditions, by bit. The dictionary must be known (`known`, `refresh`)."""
    found = [_conditions.get(packed) or _unpacked(packed) for array in arrays for packed in array]
    if notes:
        found = [replace(c, message=notes[c.type]) if c.type in notes else c for c in found]
    return tuple(sorted(found, key=_order))


def _unpacked(packed: int) -> Condition:
    """Kept by its number: a batch's machines share their seconds, and a Condition never changes."""
    if len(_conditions) >= _KEPT:
        _conditions.clear()
    entry = _entries[packed >> 32]
    since = datetime.fromtimestamp(packed & _SECONDS, UTC)
    made = _conditions[packed] = Condition(entry.type, entry.status, entry.reason, entry.message, since)
    return made


def entry(packed: int) -> Entry:
    """The dictionary's row of one packed condition."""
    return _entries[packed >> 32]


def size() -> int:
    """How many rows of the dictionary this process knows."""
    return len(_entries)


def numbers_where(wanted: Callable[[str, str, str], bool]) -> list[int]:
    """Rows of the dictionary, as far as this process knows it, whose (type, status, reason) are wanted."""
    return [number for (type_, status, reason), number in _ids.items() if wanted(type_, status, reason)]
