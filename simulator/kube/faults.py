"""Misbehaviour on order: which requests it meets is drawn from a seed, so that a run can be had again. Pure: the time is passed in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from zlib import crc32

from simulator.kube.resources import Json

# what: what the server does to a request that it meets.
FAULTS: Final[dict[str, str]] = {
    "slow": "answers after `seconds`, drawn between half and all of it",
    "refuse": "answers with `code` (429, 500, 503 ...) and Retry-After of `retry` seconds, if any",
    "hang": "takes the request and never answers",
    "mute": "takes a watch and says nothing, for ever: a half-open stream",
    "cut": "sends half of the answer, then cuts the connection; of a watch, after the first lines",
    "empty": "a list without items",
    "lacking": "a list without the objects called `names`, or without a share of `part` of them",
    "stale": "lists and single objects as they were at revision `revision` (as they were when it was ordered)",
    "expired": "410 for every watch and every continue token",
}
VERBS: Final = ("get", "list", "page", "watch", "create", "update", "patch", "delete", "evict")
_VERBS_OF: Final[dict[str, tuple[str, ...]]] = {
    "mute": ("watch",), "empty": ("list",), "lacking": ("list",), "stale": ("get", "list"), "expired": ("page", "watch"),
}  # fmt: skip


class FaultError(ValueError):
    """A sentence for the person who asked."""


@dataclass(slots=True)
class Fault:
    """One order. It meets requests of these verbs (all that it makes sense for) whose path begins so, a `share` of them,
    `times` times at most (`page` is a list that goes on; each page is a request), between `begin` and `until` (seconds since the server's start)."""

    what: str
    path: str = ""
    verbs: Sequence[str] = ()
    share: float = 1.0
    times: int | None = None
    begin: float = 0.0
    until: float | None = None
    seconds: float = 1.0
    code: int = 503
    retry: int = 0
    names: Sequence[str] = ()
    part: float = 0.1
    revision: int | None = None
    id: int = 0
    met: int = field(default=0)

    def __post_init__(self) -> None:
        if self.what not in FAULTS:
            raise FaultError(f"There is no fault {self.what!r}; there are {', '.join(sorted(FAULTS))}.")
        wrong = sorted(set(self.verbs) - set(VERBS))
        if wrong:
            raise FaultError(f"There is no verb {wrong[0]!r}; there are {', '.join(VERBS)}.")
        if not 0 <= self.share <= 1:
            raise FaultError("The share is between 0 and 1.")

    def concerns(self, verb: str, path: str, now: float) -> bool:
        """Whether a request is one that this fault may meet."""
        verbs = self.verbs or _VERBS_OF.get(self.what, VERBS)
        fits = (verb in verbs or (verb == "page" and "list" in verbs)) and path.startswith(self.path)
        return fits and self.begin <= now and (self.until is None or now < self.until) and self.met != self.times

    def hides(self, key: str, seed: int) -> bool:
        """Whether a list lacks the object; of a share, always the same ones."""
        if self.what == "empty":
            return True
        name = key.rpartition("/")[2]
        return name in self.names if self.names else crc32(f"{seed} {self.id} {key}".encode()) < self.part * 2**32


class Faults:
    """All orders of one server."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._random = random.Random(seed)
        self._orders: list[Fault] = []
        self._last = 0

    def add(self, fault: Fault) -> Fault:
        """Put a fault on."""
        self._last += 1
        fault.id = self._last
        self._orders.append(fault)
        return fault

    def clear(self, number: int | None = None) -> int:
        """Take one off, or all; how many there were."""
        gone = [f for f in self._orders if number in (None, f.id)]
        self._orders = [f for f in self._orders if f not in gone]
        return len(gone)

    def meeting(self, verb: str, path: str, now: float) -> list[Fault]:
        """The faults that a request meets, in the order in which they were given; each counts it."""
        out = []
        for fault in self._orders:
            if fault.concerns(verb, path, now) and (fault.share >= 1 or self._random.random() < fault.share):
                fault.met += 1
                out.append(fault)
        return out

    def draw(self, low: float, high: float) -> float:
        """A number between two, from the seed."""
        return self._random.uniform(low, high)

    def show(self) -> list[Json]:
        """All orders, as the admin path tells them."""
        return [asdict(f) for f in self._orders]


def from_json(order: Json) -> Fault:
    """An order as it comes over HTTP."""
    try:
        return Fault(**{k: v for k, v in order.items() if k not in ("id", "met")})
    except TypeError as error:
        raise FaultError(str(error)) from None


def script(seed: int, seconds: float, every: float) -> list[Fault]:
    """Foul weather for so long: a fault about every so many seconds, what and how long from the seed."""
    drawn = random.Random(f"script {seed}")
    out: list[Fault] = []
    at = drawn.expovariate(1 / every)
    while at < seconds:
        what: dict[str, Any] = drawn.choice(_WEATHER)
        lasts = drawn.uniform(0.3, 1.0) * every
        out.append(Fault(**what, begin=at, until=at + lasts))
        at += drawn.expovariate(1 / every)
    return out


_WEATHER: Final[tuple[dict[str, Any], ...]] = (
    {"what": "slow", "seconds": 3.0, "share": 0.5},
    {"what": "refuse", "code": 429, "retry": 1, "share": 0.7},
    {"what": "refuse", "code": 503, "share": 0.7},
    {"what": "refuse", "code": 500, "share": 0.3},
    {"what": "mute", "share": 0.5},
    {"what": "cut", "share": 0.2},
    {"what": "empty", "times": 1},
    {"what": "lacking", "part": 0.02, "times": 2},
    {"what": "stale", "share": 0.5},
    {"what": "expired", "times": 2},
)
