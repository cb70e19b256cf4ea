"""The life cycle of a control plane as a pure function: what is wanted, what was seen and how far it is -> the next move.

Level-based: each component stands at one ClusterPackageVersion (`Progress.versions`), and whatever is seen is brought to that.
An upgrade moves these entries one by one, in order, each verified before the next, the addons as the last; what does not get ready is put
back and the change stops there with its reason. So every pass may be cut off anywhere and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from clusters.planes import COMPONENTS, ComponentSeen
from fleet.control.kinds import Json
from fleet.control.times import format_time

ADDONS: Final = "addons"  # the part of a change that comes after the components, and before them on the way back
PARTS: Final = (*COMPONENTS, ADDONS)
MOST_STARTS: Final = 5  # of a component that ends each time; what starts it may have died too, so one is not enough
AGAIN_SECONDS: Final = 15.0  # after so many, where there is nothing to put back: the time from one start to the next
READY_SECONDS: Final = (
    180.0  # a component that is not ready so long after it was started will not be; of several, for each of them
)

Verb = Literal[
    "begin", "refuse", "snapshot", "intend", "apply", "wait", "done", "put-back", "late", "finish", "unemulate", "rest"
]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of one cluster now. `digests`: of each part as it shall be at the version where it stands.

    `refusals`: why the change to `target` may not begin; `waits`: what has to happen first, and will. `down`: it goes back to
    an older version. `addons_lost`: why the addons will not get ready, "" = they may.
    """

    target: str
    generation: int
    digests: Mapping[str, str]
    refusals: Sequence[str] = ()
    waits: Sequence[str] = ()
    down: bool = False
    addons_lost: str = ""
    ready_seconds: float = READY_SECONDS


@dataclass(frozen=True, slots=True)
class Step:
    """What is or was done to one component. `status`: Running, True, False. `starts`: how often it was started without having
    been ready. `good_until`: the first end of the certificates that it was started with, None = it reads none."""

    name: str
    status: str
    start: datetime
    digest: str = ""
    end: datetime | None = None
    reason: str = ""
    message: str = ""
    starts: int = 1
    good_until: datetime | None = None

    def json(self) -> Json:
        """As in `status.steps[]`."""
        out: Json = {
            "name": self.name,
            "status": self.status,
            "startTime": format_time(self.start),
            "digest": self.digest,
        }
        out |= {"endTime": format_time(self.end)} if self.end else {}
        out |= {"starts": self.starts} if self.starts > 1 else {}
        out |= {"goodUntil": format_time(self.good_until)} if self.good_until else {}
        return out | {k: v for k, v in (("reason", self.reason), ("message", self.message)) if v}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a cluster is; kept in its status, written before each effect.

    `versions`: the ClusterPackageVersion that each part shall stand at. `reached`: the one that all reached last.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    reached: str = ""
    emulated: str = ""
    soak_until: datetime | None = None
    steps: tuple[Step, ...] = ()
    stopped: Json = field(default_factory=dict)
    snapshot_for: str = ""

    def step(self, name: str) -> Step | None:
        """The step of a component, if there is one."""
        return next((s for s in self.steps if s.name == name), None)

    def with_step(self, step: Step) -> Progress:
        """The same with this step in place of an older one of that name."""
        kept = [s for s in self.steps if s.name != step.name]
        return replace(self, steps=(*kept, step))

    def is_stopped(self, wish: Wish) -> bool:
        """Whether the change to this target was given up; a new wish of a person begins anew."""
        return self.stopped.get("packageVersion") == wish.target and self.stopped.get("generation") == wish.generation


@dataclass(frozen=True, slots=True)
class Move:
    """What to do next."""

    verb: Verb
    component: str = ""
    reason: str = ""
    message: str = ""


def order(down: bool) -> tuple[str, ...]:
    """Parts of a control plane in the order of a change."""
    return tuple(reversed(PARTS)) if down else PARTS


def next_move(wish: Wish, progress: Progress, seen: Mapping[str, ComponentSeen], now: datetime) -> Move:
    """The one next thing to do. What is begun is settled before another component is begun, and what others need first."""
    if not progress.versions:
        return Move("begin")
    for name in COMPONENTS:
        move = _settle(wish, progress, name, seen.get(name, ComponentSeen(name, ready=False)), now)
        if move is not None:
            return move
    move = _settle_addons(wish, progress, seen.get(ADDONS, ComponentSeen(ADDONS)))
    if move is not None:
        return move
    stopped = progress.is_stopped(wish)
    behind = [name for name in order(wish.down) if progress.versions.get(name) != wish.target]
    if behind and not stopped:
        if wish.refusals:
            return Move("refuse", reason="PreflightFailed", message="; ".join(wish.refusals))
        if wish.waits:
            return Move("wait", reason="WaitsForMachines", message="; ".join(wish.waits))
        if progress.reached and progress.reached != wish.target and progress.snapshot_for != wish.target:
            return Move("snapshot")
        return Move("intend", behind[0])
    if not behind and progress.reached != wish.target:
        return Move("finish")
    if progress.emulated and progress.soak_until is not None and now >= progress.soak_until:
        return Move("unemulate")
    return Move("rest")


def _settle(wish: Wish, progress: Progress, name: str, found: ComponentSeen, now: datetime) -> Move | None:
    """What a component needs to be what it shall be at the version where it stands; None = nothing."""
    running = progress.step(name) if is_started(progress, name, wish.digests[name]) else None
    if found.ready is None:
        return Move("wait", name, "Unknown", found.message or f"{name} could not be looked at")
    seconds = wish.ready_seconds * max(1, found.replicas)  # they are replaced one after the other
    is_over = running is not None and now - running.start > timedelta(seconds=seconds)
    why = found.message or f"{name} was not ready within {seconds:.0f} s"
    if found.digest != wish.digests[name]:
        if running is None or running.starts < MOST_STARTS:
            return Move("apply", name, message=found.message)
        if can_put_back(wish, progress, name):
            return Move("put-back", name, "ComponentNotReady", why)
        is_early = now - running.start < timedelta(seconds=AGAIN_SECONDS)
        return Move("late" if is_early else "apply", name, "ComponentNotReady", why)
    if found.ready:
        return Move("done", name) if running else None
    if running is None:  # it was ready before: whoever supervises it brings it back
        return Move("wait", name, "NotReady", found.message or f"{name} is not ready")
    if not is_over:
        return Move("wait", name, "Starting", found.message or f"{name} is starting")
    return Move("put-back" if can_put_back(wish, progress, name) else "late", name, "ComponentNotReady", why)


def _settle_addons(wish: Wish, progress: Progress, found: ComponentSeen) -> Move | None:
    """The same for the addons. A change waits for them where it brings them; at any other time what is wrong with them holds nothing up."""
    if ADDONS not in progress.versions:
        return None
    if found.digest != wish.digests[ADDONS]:
        return Move("apply", ADDONS)
    if not is_started(progress, ADDONS, wish.digests[ADDONS]):
        return None
    if found.ready:
        return Move("done", ADDONS)
    if progress.versions[ADDONS] != wish.target:
        return None
    if not wish.addons_lost:
        return Move("wait", ADDONS, "RollingOut" if found.ready is False else "Unknown", found.message)
    verb: Verb = "put-back" if can_put_back(wish, progress, ADDONS) else "late"
    return Move(verb, ADDONS, "AddonsNotReady", wish.addons_lost)


def can_put_back(wish: Wish, progress: Progress, name: str) -> bool:
    """Whether the change to the target brought the part where it stands, and there is a version to put it back to."""
    return bool(progress.reached) and progress.versions.get(name) == wish.target != progress.reached


def intended(progress: Progress, wish: Wish, name: str) -> Progress:
    """The component is to stand at the target from now on."""
    return replace(progress, versions={**progress.versions, name: wish.target}, stopped={})


def started(progress: Progress, name: str, digest: str, now: datetime, good_until: datetime | None = None) -> Progress:
    """The component is being brought to this digest; the time in which it must get ready begins. Starts are counted until it is ready."""
    step = progress.step(name)
    if step is not None and is_started(progress, name, digest):
        return progress.with_step(replace(step, start=now, starts=step.starts + 1))
    return progress.with_step(Step(name, "Running", now, digest, good_until=good_until))


def is_started(progress: Progress, name: str, digest: str) -> bool:
    """Whether it was started at this digest already and was not ready since."""
    step = progress.step(name)
    return step is not None and step.status == "Running" and step.digest == digest


def ended(progress: Progress, name: str, now: datetime, *, ok: bool, reason: str = "", message: str = "") -> Progress:
    """The step of the component has an outcome."""
    step = progress.step(name)
    if step is None:
        return progress
    status = "True" if ok else "False"
    return progress.with_step(replace(step, status=status, end=now, reason=reason, message=message))


def put_back(progress: Progress, wish: Wish, move: Move, now: datetime) -> Progress:
    """The component goes back to the version before, and the change stops."""
    back = replace(progress, versions={**progress.versions, move.component: progress.reached})
    return stop(ended(back, move.component, now, ok=False, reason=move.reason, message=move.message), wish, move, now)


def stop(progress: Progress, wish: Wish, move: Move, now: datetime) -> Progress:
    """The change to this target is given up until a person changes the spec."""
    stopped = {
        "packageVersion": wish.target, "generation": wish.generation, "component": move.component,
        "reason": move.reason, "message": move.message, "time": format_time(now),
    }  # fmt: skip
    return replace(progress, stopped=stopped)


def finished(progress: Progress, wish: Wish, soak_until: datetime | None) -> Progress:
    """Every component stands at the target and is ready. While a minor is emulated the soak begins; without, it is over."""
    emulated = progress.emulated if soak_until else ""
    return replace(progress, reached=wish.target, stopped={}, emulated=emulated, soak_until=soak_until, snapshot_for="")
