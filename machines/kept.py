"""Adapters that a process makes once and keeps: their connections outlive a pass."""

from __future__ import annotations

import abc
from typing import Protocol, TypeVar


class Closes(Protocol):
    """What is closed at the end of the process."""

    async def close(self) -> None: ...


A = TypeVar("A", bound=Closes)


class Kept(dict[str, A], abc.ABC):
    """By driver, made at first use."""

    @abc.abstractmethod
    def make(self, name: str) -> A:
        """A new adapter of that driver; KeyError names one that is not known."""

    def __missing__(self, name: str) -> A:
        self[name] = made = self.make(name)
        return made

    async def close(self) -> None:
        """At the end of the process."""
        for adapter in self.values():
            await adapter.close()
