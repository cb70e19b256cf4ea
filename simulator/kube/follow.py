"""Following a collection from inside, as controllers do: what changed since the last look, or all of it when too much was missed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from simulator.kube.store import Change, Collection, Forgotten

_BATCH: Final = 1_000


class Follower:
    """One reader's place in a collection. The first look sees everything as ADDED."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._at = -1

    @property
    def pending(self) -> bool:
        """Whether there is anything to see."""
        log = self._collection.log
        return self._at < 0 or bool(log and log[-1].revision > self._at)

    def news(self) -> Iterator[Change]:
        """Changes in order. Those that happen while they are read come too."""
        while self.pending:
            try:
                if self._at < 0:
                    raise Forgotten
                changes = self._collection.since(self._at, _BATCH, following=True)
            except Forgotten:
                changes = [Change(e.revision, "ADDED", k, e, None) for k, e in self._collection.entries.items()]
                log = self._collection.log
                self._at = log[-1].revision if log else self._collection.forgotten
                yield from changes
                continue
            for change in changes:
                self._at = change.revision
                yield change
