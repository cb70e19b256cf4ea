"""Subresources beyond status: answers computed for one object (`why`), and what may be put beside it (`conditions`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet.api.actions import Write
from fleet.api.rights import Actor
from fleet.control.kinds import Json

Answer = Callable[[Json, Actor], Json]
Put = Callable[[Json, Write, Any], Json]  # object, who asks and how, body → answer; says itself who may


@dataclass(frozen=True, slots=True)
class Subresource:
    """One of a kind."""

    get: Answer
    put: Put | None = None


_known: dict[str, dict[str, Subresource]] = {}


def register_subresource(plural: str, name: str, get: Answer, put: Put | None = None) -> None:
    """Serve `GET …/<plural>/<object>/<name>`, and PUT where that is given."""
    _known.setdefault(plural, {})[name] = Subresource(get, put)


def subresource(plural: str, name: str) -> Subresource | None:
    """What answers, or None."""
    return _known.get(plural, {}).get(name)


def names() -> dict[str, list[str]]:
    """All by plural, for discovery."""
    return {plural: sorted(each) for plural, each in _known.items()}


def writable() -> frozenset[tuple[str, str]]:
    """(plural, name) of those that take a PUT."""
    return frozenset((plural, name) for plural, each in _known.items() for name, sub in each.items() if sub.put)
