"""Things that are due again and again, each at its own moment of the period. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32


class Wheel:
    """Names spread over a period of so many seconds; every name comes once a turn."""

    def __init__(self, seconds: float, slots: int, begin: float) -> None:
        self._seconds = seconds / slots
        self._slots: list[dict[str, None]] = [{} for _ in range(slots)]
        self._at = int(begin / self._seconds)

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    def _slot(self, name: str) -> dict[str, None]:
        return self._slots[crc32(name.encode()) % len(self._slots)]

    def add(self, name: str) -> None:
        """From its next moment on."""
        self._slot(name)[name] = None

    def remove(self, name: str) -> None:
        """No more."""
        self._slot(name).pop(name, None)

    def due(self, now: float) -> Iterator[str]:
        """Names whose moment came since the last call; of several missed turns, one."""
        last, self._at = self._at, int(now / self._seconds)
        for number in range(max(last + 1, self._at - len(self._slots) + 1), self._at + 1):
            yield from list(self._slots[number % len(self._slots)])
