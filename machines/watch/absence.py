"""When the absence of nodes from a list is believed. Pure: the time is passed in.

A list that came back shorter may be a lie, or half of the truth: a node is gone when three complete lists in a row lack it.
When more than a tenth of the known nodes is missing, or all, the view counts as broken and belief takes ten minutes more.
What a watch says (DELETED) is said of one object by name and needs no such doubt.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

LISTS: Final = 3
TENTH: Final = 0.1
SHRUNK_SECONDS: Final = 600.0


def shrink_limit(known: int) -> int:
    """How many nodes may be missing from a list before the list itself is doubted."""
    return max(1, int(known * TENTH))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one complete list. `broken`: so much is missing that the whole view is doubted."""

    gone: frozenset[str]
    doubted: frozenset[str]
    broken: bool


@dataclass(slots=True)
class Absences:
    """How often in a row complete lists lacked a name, and since when."""

    _lacking: dict[str, tuple[int, float]] = field(default_factory=dict)
    broken: bool = False

    def __len__(self) -> int:
        return len(self._lacking)

    def seen(self, name: str) -> None:
        """A node that was missed shows itself."""
        self._lacking.pop(name, None)

    def judge(self, known: AbstractSet[str], listed: AbstractSet[str], now: float) -> Verdict:
        """What a complete list says of the nodes that were known before it."""
        missing = known - listed
        shrunk = len(missing) > shrink_limit(len(known)) or (bool(missing) and not listed)
        lacking: dict[str, tuple[int, float]] = {}
        for name in missing:
            times, since = self._lacking.get(name, (0, now))
            lacking[name] = (times + 1, since)
        gone = frozenset(
            name
            for name, (times, since) in lacking.items()
            if times >= LISTS and (not shrunk or now - since >= SHRUNK_SECONDS)
        )
        self._lacking = {name: lacks for name, lacks in lacking.items() if name not in gone}
        self.broken = shrunk and bool(self._lacking)
        return Verdict(gone, frozenset(self._lacking), self.broken)
