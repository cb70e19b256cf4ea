"""Hosts that behave, in memory: boxes of the simulator without its table, on a clock that only tests move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from machines.hosts import Facts, StepOrder, StepResult, Target
from simulator.box import Box, bare, look, unseen
from simulator.fence import start
from simulator.timeline import settle


@dataclass
class FakeHosts:
    """The port to hosts. `started` are the steps that truly began, by folder: a step that ran twice would be there twice."""

    now: float = 1_800_000_000.0
    boxes: dict[str, Box] = field(default_factory=dict)
    looks: int = 0
    started: list[str] = field(default_factory=list)
    deaf: bool = False  # answers of act() are lost on the way
    poisoned: set[str] = field(default_factory=set)  # machines whose facts make analysis fail

    def box(self, uid: str) -> Box:
        """The host of a machine; a bare Debian at first."""
        return self.boxes.setdefault(uid, bare(uid, 7))

    async def observe(self, targets: Sequence[Target]) -> list[Facts]:
        self.looks += 1
        return [self._look(target) for target in targets]

    def _look(self, target: Target) -> Facts:
        box = self.box(target.uid)
        settle(box, self.now)
        facts = look(box, target, self.now)
        if target.name in self.poisoned:
            object.__setattr__(facts, "files", None)
        return facts

    async def act(self, orders: Sequence[StepOrder]) -> list[StepResult]:
        return [self._act(order) for order in orders]

    def _act(self, order: StepOrder) -> StepResult:
        box = self.box(order.target.uid)
        settle(box, self.now)
        dark = unseen(box, order.target, self.now)
        if dark is not None:
            return StepResult(order.ref, "Unknown", dark.reason, dark.message)
        known = set(box.ops)
        result = start(box, order, self.now)
        self.started += [folder for folder in box.ops if folder not in known]
        return StepResult(order.ref, "Unknown", "Disconnected", "The connection ended.") if self.deaf else result

    async def close(self) -> None:
        """Nothing is held."""
