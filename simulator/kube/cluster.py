"""One simulated cluster without HTTP: its store, its verbs, and everything that happens by itself when it is let."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from simulator.kube import bodies
from simulator.kube.budgets import Budgets
from simulator.kube.faults import Fault, Faults
from simulator.kube.follow import Follower
from simulator.kube.kubelets import Kubelets, Times
from simulator.kube.packing import Packer, body_of
from simulator.kube.resources import NAMESPACES, RESOURCES, Resource
from simulator.kube.store import HISTORY, Store
from simulator.kube.verbs import Api, Options, Place
from simulator.kube.workloads import Workloads

_NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
VERSION: Final = "1.37.2"


class SimulatedCluster:
    """All of it on one event loop. `clock`: seconds since 1970; `seed` decides uids, places of pods, which requests faults meet."""

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        times: Times = Times(),
        history: int = HISTORY,
        version: str = VERSION,
    ) -> None:
        self.version = version
        self.clock = clock
        self.started = clock()
        self.store = Store(_packers(), history)
        self.api = Api(self.store, clock, seed)
        for name in _NAMESPACES:
            obj = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
            self.api.create(Place(NAMESPACES), obj, Options("kube-apiserver"))
        self.kubelets = Kubelets(self.api, times, seed)
        self.workloads = Workloads(self.api, seed)
        self.budgets = Budgets(self.api, self.workloads.wanted)
        self.faults = Faults(seed)
        self._namespaces = Follower(self.store.of(NAMESPACES))
        self._ending: set[str] = set()

    def tick(self) -> None:
        """Let happen what is due: controllers and kubelets."""
        self.kubelets.tick()
        self.workloads.tick()
        self.budgets.publish()
        self._end_namespaces()

    def order(self, fault: Fault) -> Fault:
        """Put a fault on; a stale one without a revision shows what stands now."""
        if fault.what == "stale" and fault.revision is None:
            fault.revision = self.store.revision
        return self.faults.add(fault)

    def _end_namespaces(self) -> None:
        """A namespace that is going takes its objects along; those with finalizers keep it."""
        for change in self._namespaces.news():
            found = self.store.of(NAMESPACES).get(change.key)
            if found is not None and "deletionTimestamp" in found["metadata"]:
                self._ending.add(change.key)
        for name in list(self._ending):
            left = [self._empty(resource, name) for resource in RESOURCES if resource.namespaced]
            if not any(left):
                self._ending.discard(name)
                if name in self.store.of(NAMESPACES).entries:
                    self.store.delete(NAMESPACES, name)

    def _empty(self, resource: Resource, namespace: str) -> int:
        collection = self.store.of(resource)
        low, high = collection.range(f"{namespace}/")
        for key in collection.keys[low:high]:
            self.api.delete(Place(resource, namespace, key.partition("/")[2]), {}, Options())
        low, high = collection.range(f"{namespace}/")
        return high - low


def _packers() -> dict[str, Packer]:
    """Examples of what there is much of."""
    at = "2026-01-01T00:00:00Z"
    node = bodies.node("node-0000000", 0, at)
    node["metadata"] = bodies.owned(node, at)
    pod = {
        "metadata": {"name": "p", "namespace": "default", "uid": bodies.uid_of("p")},
        "spec": {"nodeName": "node-0000000", "containers": [{"name": "app", "image": "registry.example.com/app:v1"}]},
    }
    pod["status"] = bodies.running(pod, at, "10.0.0.1")
    return {"nodes": Packer(body_of(node)), "pods": Packer(body_of(pod))}
