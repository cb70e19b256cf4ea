"""Plain data of the hot path: what a pass over one machine reads, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fleet.control.conditions import Condition
from fleet.control.kinds import Json
from machines.gates import Memory, NodeRow


@dataclass(frozen=True, slots=True)
class InventoryRow:
    """A package that Fleet itself installed on the machine."""

    package: str
    version: str
    format: str
    host_version: str
    previous: str
    installed_at: datetime


@dataclass(frozen=True, slots=True)
class OperationRow:
    """The open Operation of a machine: the started one, else the strongest that waits."""

    id: int
    uid: str
    name: str
    owner_class: int
    phase: str
    spec: Json
    status: Json
    started_at: datetime | None
    permit_id: int | None
    epoch: int
    waiting: tuple[tuple[int, int], ...] = ()  # (owner class, id) of Operations that wait behind it


@dataclass(frozen=True, slots=True)
class FaultRow:
    """The worst confirmed fault of a machine: whether recovery works on it, and what it is. `mine`: recovery repairs it, or will."""

    name: str
    type: str
    phase: str
    message: str
    mine: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One claimed machine, everything a pass needs. JSON values may be shared between rows: never change them."""

    id: int
    uid: str
    name: str
    epoch: int
    attempts: int
    generation: int
    desired_hash: int
    latest_hash: int
    observed_generation: int
    phase: str
    phase_since: datetime
    cluster_id: int
    open: bool
    paused: bool
    conditions: tuple[Condition, ...]  # as stored, of all owners
    packed: tuple[int, ...]  # the Machine-Operator's own, for Record.before
    spec: Json
    labels: Json
    annotations: Json
    finalizers: list[str]
    deleted_at: datetime | None
    drift: int
    accepted: Json | None  # body of the set that desired_hash names; None = nothing accepted yet
    accepted_generation: int
    layers: Json
    operation: OperationRow | None
    inventory: tuple[InventoryRow, ...]
    last_facts: Json
    last_seen_at: datetime | None
    node: NodeRow | None = None
    scheduling: Memory = Memory()
    fault: FaultRow | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something to tell about the machine: type as in `dev.fleet.machine.drifted`; severity 0 normal, 1 warning, 2 error."""

    type: str
    severity: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one pass leaves behind.

    `want` is Row.desired_hash (or the hash accepted in this pass); `observed` the same number when the facts met it, else 0.
    `conditions` is the Machine-Operator's whole own set. `facts`, `plan`, `why`, `seen`: None leaves what is stored.
    `before` is Row.packed; without it the old transition times are read again. `masks`: bits of conditions that must be
    True, False for the node to open, and whose False, True closes it; by them a sweep finds what no message told.
    """

    id: int
    epoch: int
    generation: int
    want: int
    observed: int
    phase: str
    open: bool
    conditions: tuple[Condition, ...]
    next_seconds: float
    attempts: int = 0
    resting: bool = False
    seen: Json | None = None
    facts: Json | None = None
    plan: Json | None = None
    why: list[Json] | None = None
    in_service: bool = False
    events: tuple[NewEvent, ...] = ()
    before: tuple[int, ...] | None = None
    masks: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """`ok`: generation and accepted set were still those of the pass (else nothing was written and the item is due at once).

    Missing from the answer altogether = the lease had moved. `lawful` False = the phase was left as it was.
    """

    id: int
    ok: bool
    changed: bool
    lawful: bool = True


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The set that a machine takes as its own from now on."""

    id: int
    epoch: int
    generation: int
    hash: int
    body: Json
    layers: Json
    latest_hash: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Intent of one step: the Operation's status (with that step) as it shall stand before anything reaches the host."""

    machine_id: int
    epoch: int
    operation_id: int
    status: Json
    permit_id: int | None = None
