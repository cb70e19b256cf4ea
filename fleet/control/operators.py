"""Who reconciles which kind, and what has to be done from time to time. Apps register here; the worker knows no app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.control.db import Connection
from fleet.control.work import Claim


@dataclass(slots=True)
class Seat:
    """Where a pass runs: the process's one connection, its number as holder of leases, and things that outlive a pass.

    `stopping` turns true when the process shall end: a pass finishes its step, starts nothing new and records.
    """

    conn: Connection
    me: int
    stopping: Callable[[], bool] = lambda: False
    idc_ids: tuple[int, ...] | None = None  # idcs this process serves; None = all
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operator:
    """How one kind is reconciled. `reconcile` takes a batch of leases and ends each of them, or leaves it to run out.

    `sweep` looks at everything, `sweep_changes` at what changed since a position (and says where to go on).
    """

    kind: int
    reconcile: Callable[[Seat, list[Claim]], Awaitable[None]]
    sweep: Callable[[Connection], Awaitable[int]] | None = None
    sweep_changes: Callable[[Connection, int], Awaitable[tuple[int, int]]] | None = None
    batch: int = 500


@dataclass(frozen=True, slots=True)
class Chore:
    """Periodic work, done once per period by whichever process comes first. `run` for async code, `run_sync` for Django's."""

    name: str
    seconds: float
    run: Callable[[Seat], Awaitable[object]] | None = None
    run_sync: Callable[[], object] | None = None


_operators: dict[int, Operator] = {}
_chores: dict[str, Chore] = {}


def register_operator(operator: Operator) -> None:
    """Make an operator known; the last one of a kind counts."""
    _operators[operator.kind] = operator


def register_chore(chore: Chore) -> None:
    """Make a chore known; the last one of a name counts."""
    _chores[chore.name] = chore


def operators() -> Mapping[int, Operator]:
    """By kind."""
    return _operators


def chores() -> Mapping[str, Chore]:
    """By name."""
    return _chores
