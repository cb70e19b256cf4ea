"""How many pods of a cluster start, and how many do not: unique ones in a moving window, from Events. Pure.

Only that counts for which nodes or the control plane are to blame. An image that is not there, a container that ends at once, a Secret
that nobody made, a quota that is used up, a cluster without room: those are of whoever wrote the pod, and open no breaker.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fleet.safety import pods
from machines.watch.seen import KubeEvent

STARTED: Final = "Started"
OF_NODES: Final = frozenset({"FailedCreatePodSandBox", "FailedCreatePodContainer", "FailedKillPod", "NetworkNotReady"})
CONTROLLERS: Final = frozenset({"ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job"})
FAILED_CREATE: Final = "FailedCreate"
# What an API server that is ill says to controllers. Whatever else it refuses, a quota or a policy for instance, it refuses rightly.
_ILL: Final = re.compile(
    r"internal error occurred|etcdserver:|timed out|timeout|deadline exceeded|connection refused|no endpoints available", re.I
)  # fmt: skip
PATIENCE_SECONDS: Final = (
    60.0  # on a node that just joined, pods fail until its network is up: they are undecided so long
)
_MOST: Final = (
    10_000  # pods kept; with more of them in a window the oldest go first, and the rate is that of the others
)


@dataclass(frozen=True, slots=True)
class Rule:
    """When too few pods start: under `percent`, of `at_least` pods tried within `window_seconds`. `policy`: who says so."""

    percent: float = pods.PERCENT
    at_least: int = pods.AT_LEAST
    window_seconds: int = pods.WINDOW_SECONDS
    disabled: bool = False
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """`nodes`: on so many of them pods failed; `plane`: some failed before they had a node."""

    tried: int = 0
    failed: int = 0
    nodes: int = 0
    plane: bool = False

    @property
    def percent(self) -> float:
        """How many of a hundred started; 100 where none was tried."""
        return 100.0 if not self.tried else 100.0 * (self.tried - self.failed) / self.tried


@dataclass(slots=True)
class _Try:
    first: float
    last: float
    failed: bool
    node: str


class Starts:
    """Pods tried of one cluster. A pod is tried when it is first heard of, and its newest Event says how that went.

    One that keeps failing is heard of again and again: it stays known, so that it counts in one window only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: dict[int, _Try] = {}  # by a hash of the uid, a third of its size

    def __len__(self) -> int:
        return len(self._tries)

    def clear(self) -> None:
        """Forget all: what comes next does not continue what was heard."""
        self._tries.clear()

    def take(self, event: KubeEvent, *, again: bool) -> None:
        """One Event. `again`: a repetition of an earlier one; of a pod that is not known it tells of an old try."""
        failed = fails(event)
        if failed is None or not event.involved.uid:
            return
        key, now = hash(event.involved.uid), self._clock()
        known = self._tries.get(key)
        if known is not None:
            known.last, known.failed, known.node = now, failed, node_of(event)
        elif not again:
            self._tries[key] = _Try(now, now, failed, node_of(event))
            while len(self._tries) > _MOST:
                del self._tries[next(iter(self._tries))]

    def rate(self, window_seconds: float) -> Rate:
        """Of the pods tried in the window that ends now; what was not heard of since is forgotten."""
        now = self._clock()
        after, decided = now - window_seconds, now - PATIENCE_SECONDS
        for key in [k for k, each in self._tries.items() if each.last <= after]:
            del self._tries[key]
        tried = [
            each for each in self._tries.values() if each.first > after and (not each.failed or each.first <= decided)
        ]
        where = [each.node for each in tried if each.failed]
        return Rate(len(tried), len(where), len({node for node in where if node}), "" in where)


def fails(event: KubeEvent) -> bool | None:
    """Whether an Event says that a pod does not start for a fault of nodes or control plane; None: nothing of both."""
    kind, reason = event.involved.kind, event.reason
    if kind == "Pod":
        return False if reason == STARTED else True if reason in OF_NODES else None
    return True if kind in CONTROLLERS and reason == FAILED_CREATE and _ILL.search(event.message) else None


def node_of(event: KubeEvent) -> str:
    """The node whose kubelet says so; "" for a controller."""
    return "" if event.involved.kind != "Pod" else event.source.host or event.instance


def complaint(rate: Rate, rule: Rule) -> str:
    """Why the breaker of the cluster is to open, or nothing. One node that fails alone is what a repair is for: it never opens it."""
    if rule.disabled or rate.tried < rule.at_least or rate.percent >= rule.percent:
        return ""
    if rate.nodes < 2 and not rate.plane:
        return ""
    where = [f"on {rate.nodes} node{'' if rate.nodes == 1 else 's'}"] if rate.nodes else []
    where += ["before they had a node"] if rate.plane else []
    span = f"{rule.window_seconds // 60} min" if rule.window_seconds % 60 == 0 else f"{rule.window_seconds} s"
    policy = f" (SafetyPolicy {rule.policy})" if rule.policy else ""
    return (
        f"{rate.failed} of {rate.tried} pods tried within {span} did not start, {' and '.join(where)}, by no fault of their own: "
        f"{int(rate.percent * 10) / 10:g} % started, and at least {rule.percent:g} % must{policy}."
    )
