"""Subresources beyond status: read-only answers computed for one object (`why`)."""

from __future__ import annotations

from collections.abc import Callable

from fleet.api.rights import Actor
from fleet.control.kinds import Json

Answer = Callable[[Json, Actor], Json]
_known: dict[str, dict[str, Answer]] = {}


def register_subresource(plural: str, name: str, get: Answer) -> None:
    """Serve `GET …/<plural>/<object>/<name>`."""
    _known.setdefault(plural, {})[name] = get


def subresource(plural: str, name: str) -> Answer | None:
    """The function that answers, or None."""
    return _known.get(plural, {}).get(name)


def names() -> dict[str, list[str]]:
    """All by plural, for discovery."""
    return {plural: sorted(each) for plural, each in _known.items()}
