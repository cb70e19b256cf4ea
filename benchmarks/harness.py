"""How a measure is run: contenders side by side in rounds, each result checked, ratios per round, CPU of Fleet and PostgreSQL.

A measure is a module `benchmarks.h<N>` (speed) or `benchmarks.l<N>` (load) with a class `Measure` (see the Protocol); adding one means adding that module.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil

from benchmarks.world import World


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a contender gives back: `count` units of work done, anything to check, and further figures (ms)."""

    count: int = 1
    result: Any = None
    figures: Mapping[str, float] = field(default_factory=dict)


class Measure(Protocol):
    """One row of the table of measures. `reset` runs untimed before each contender, `check` after it and raises on a wrong result."""

    title: str
    target: str

    def prepare(self, world: World) -> None: ...

    def reset(self, world: World, who: str) -> None: ...

    def floor(self, world: World) -> Run: ...

    def ours(self, world: World) -> Run: ...

    def peers(self) -> Mapping[str, Callable[[World], Run]]: ...

    def check(self, world: World, who: str, run: Run) -> None: ...

    def figures(self, world: World) -> Mapping[str, float]:
        """Absolute figures (ms) that have no contender."""
        ...


@dataclass(slots=True)
class Sample:
    """One timed run."""

    wall: float
    cpu: float
    count: int
    figures: Mapping[str, float]

    @property
    def per_unit(self) -> float:
        """Wall seconds for one unit of work."""
        return self.wall / self.count

    @property
    def cpu_per_unit(self) -> float:
        """CPU seconds for one unit of work."""
        return self.cpu / self.count


def cpu_seconds(postgres: int) -> float:
    """CPU of this process and of PostgreSQL with all its processes, those that ended included."""
    own = time.process_time()
    server = psutil.Process(postgres)
    times = server.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in server.children(recursive=True):
        try:
            its = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += its.user + its.system
    return own + total


def run(measure: Measure, world: World, rounds: int) -> dict[str, Any]:
    """All rounds of one measure; the outcome as it goes to the results file."""
    measure.prepare(world)
    contenders: dict[str, Callable[[World], Run]] = {"floor": measure.floor, "ours": measure.ours, **measure.peers()}
    samples: dict[str, list[Sample]] = {who: [] for who in contenders}
    for _ in range(rounds):
        for who, contender in contenders.items():
            measure.reset(world, who)
            cpu, began = cpu_seconds(world.postgres_pid), time.perf_counter()
            outcome = contender(world)
            wall = time.perf_counter() - began
            spent = cpu_seconds(world.postgres_pid) - cpu
            measure.check(world, who, outcome)
            samples[who].append(Sample(wall, spent, outcome.count, outcome.figures))
    return {
        "title": measure.title,
        "target": measure.target,
        "rounds": rounds,
        "contenders": {who: _summary(found) for who, found in samples.items()},
        "ratios": {who: _ratios(samples["ours"], found) for who, found in samples.items() if who != "ours"},
        "figures": dict(measure.figures(world)),
    }


def _summary(samples: list[Sample]) -> dict[str, Any]:
    names = sorted({name for s in samples for name in s.figures})
    return {
        "count": samples[0].count,
        "wall_seconds": [round(s.wall, 6) for s in samples],
        "cpu_seconds": [round(s.cpu, 6) for s in samples],
        "units_per_second": round(1 / statistics.median(s.per_unit for s in samples), 1),
        "figures": {n: round(statistics.median(s.figures[n] for s in samples), 4) for n in names},
    }


def _ratios(ours: list[Sample], theirs: list[Sample]) -> dict[str, Any]:
    """Ours divided by theirs, round by round, per unit of work: below 1 = ours is faster."""
    pairs = list(zip(ours, theirs, strict=True))
    out = {"wall": _spread([o.per_unit / t.per_unit for o, t in pairs])}
    if all(
        t.cpu > 0.02 and o.cpu > 0.02 for o, t in pairs
    ):  # CPU clocks tick at 10 ms: below that a ratio says nothing
        out["cpu"] = _spread([o.cpu_per_unit / t.cpu_per_unit for o, t in pairs])
    for name in set(ours[0].figures) & set(theirs[0].figures):
        out[name] = _spread([o.figures[name] / t.figures[name] for o, t in pairs])
    return out


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(ratios), 4), "low": round(min(ratios), 4), "high": round(max(ratios), 4)}


def table(name: str, outcome: Mapping[str, Any]) -> str:
    """For people: one line a contender."""
    lines = [f"{name}  {outcome['title']}", f"    target: {outcome['target']}"]
    for who, found in outcome["contenders"].items():
        wall, cpu = statistics.median(found["wall_seconds"]), statistics.median(found["cpu_seconds"])
        lines.append(
            f"    {who:<24} {wall:10.4f} s  {cpu:9.3f} s CPU  {found['units_per_second']:>12,.1f} /s"
            + _inline(found["figures"])
        )
    for who, ratios in outcome["ratios"].items():
        shown = "  ".join(
            f"{what} {r['median']:.3f} ({r['low']:.3f}-{r['high']:.3f})" for what, r in sorted(ratios.items())
        )
        lines.append(f"    ours / {who:<17} {shown}")
    for what, value in outcome["figures"].items():
        lines.append(f"    {what:<24} {value:10.2f} ms")
    return "\n".join(lines)


def _inline(figures: Mapping[str, float]) -> str:
    return "".join(
        f"  {name} {value:.2f}{'' if name.startswith(('bytes', 'count')) else ' ms'}" for name, value in figures.items()
    )
