"""One machine on its way through a pass, and what a pass works with."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from fleet.control import clock
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.control.errors import ReconcileError
from machines.accepting import Chosen
from machines.bmc import Bmcs
from machines.conclude import Outcome, conditions, remember, standing
from machines.gates import NodeRow
from machines.hosts import Facts, Hosts, StepOrder, Target
from machines.judge import Judgement
from machines.nodes import Clusters, KeptClusters
from machines.provisioner import Provisioners
from machines.rows import Row
from machines.scheduled import Scheduled

log = logging.getLogger(__name__)
T = TypeVar("T")


async def no_fault(point: int) -> None:
    """Tests end a pass at a numbered point; nothing else uses this."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a pass works with. `hosts_by_driver`: the adapters of this process, by name."""

    conn: Connection
    me: int
    hosts_by_driver: Mapping[str, Hosts]
    installation: str
    incarnation: int
    clock: Callable[[], datetime] = clock.now
    rest_seconds: float = 600.0  # a machine at rest is looked at again this often, with jitter
    point: Callable[[int], Awaitable[None]] = no_fault
    clusters: Clusters = field(default_factory=KeptClusters)
    bmcs_by_driver: Mapping[str, Bmcs] = field(default_factory=dict)
    provisioners_by_driver: Mapping[str, Provisioners] = field(default_factory=dict)  # a driver may have none


@dataclass(slots=True)
class Pass:
    """One machine on its way through the pass."""

    row: Row
    chosen: Chosen | None = None
    driver: str = "ssh"
    target: Target | None = None
    facts: Facts | None = None
    judged: Judgement | None = None
    outcome: Outcome = field(default_factory=Outcome)
    order: StepOrder | None = None
    downloads: bool = False  # has a slot for the download that begins in this pass
    scheduled: Scheduled | None = None
    owners: Mapping[str, str] = field(default_factory=dict)  # condition type -> whose it is
    node_after: NodeRow | None = None  # the node as this pass left it, where an Operation closed it
    dressed: str | None = None  # labels and taints that this pass put on the node
    node_rv: str = ""  # its resourceVersion after the last patch of this pass
    error: Exception | None = None

    @property
    def halted(self) -> bool:
        """A person's hold or pause keeps Fleet's hands off."""
        return self.judged is not None and bool(self.judged.halt[0])

    def conditions(self) -> tuple[Condition, ...]:
        """The Machine-Operator's conditions as this pass would record them."""
        if self.judged is None:
            return ()
        return conditions(self.row, self.judged, standing(self.outcome), remember(self.judged, self.outcome))


def guarded(each: Pass, work: Callable[[], T]) -> T | None:
    """One poisoned machine spoils no batch: its error becomes its own condition."""
    try:
        return work()
    except Exception as error:
        each.error = error
        if not isinstance(error, ReconcileError):
            log.exception("machine %s: a bug in its pass", each.row.name)
        return None
