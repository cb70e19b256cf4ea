"""The nodes that have a kubelet here: heartbeats, conditions, pods that start and end, and what the node controller makes of silence.

A kubelet is well (""), `NotReady` (says so), `Dead` (says nothing, and its pods neither start nor end), `Lying` (says Ready, but its
pods neither start nor end) or `NoSandbox` (says Ready, and of each new pod that it cannot make its sandbox). Only those that are not well, and pods under way, take memory of their own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from simulator.kube import bodies
from simulator.kube.follow import Follower
from simulator.kube.journal import Journal
from simulator.kube.packing import body_of
from simulator.kube.resources import LEASES, NODES, PODS, Json
from simulator.kube.verbs import Api, Options, Place
from simulator.kube.wheel import Wheel

MODES: Final = ("", "NotReady", "Dead", "Lying", "NoSandbox")
_RENEWED: Final = b'"renewTime":"'
_MICRO: Final = len("2026-01-01T00:00:00.000000Z")
_OUT_OF_SERVICE: Final = bodies.OUT_OF_SERVICE.encode()
_STUCK: Final = ("Dead", "Lying")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `lease` between renewals, `status` between reports without news, `grace` until silence counts, `tolerated` until the
    pods of a silent node are deleted, `start` until a pod runs, `again` until one that did not start is tried again."""

    lease: float = 10.0
    status: float = 300.0
    grace: float = 50.0
    tolerated: float = 300.0
    start: float = 2.0
    again: float = 12.0


class Kubelets:
    """All kubelets of one server; `tick` lets happen what is due."""

    def __init__(self, api: Api, times: Times = Times(), seed: int = 0) -> None:
        self._api = api
        self.times = times
        self._seed = seed
        now = api.clock()
        self._leases = Wheel(times.lease, 40, now)
        self._statuses = Wheel(times.status, 600, now)
        self._modes: dict[str, str] = {}
        self._journal = Journal(api)
        self._due: list[tuple[float, str, str]] = []  # (when, what, node or pod)
        self._pods = Follower(api.store.of(PODS))
        self._nodes = Follower(api.store.of(NODES))
        self._names: dict[str, None] = {}
        self._fields: tuple[tuple[str, ...], list[Json]] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def names(self) -> Iterable[str]:
        """Nodes with a kubelet."""
        return self._names

    def mode(self, name: str) -> str:
        """How a kubelet is."""
        return self._modes.get(name, "")

    # -- orders -----------------------------------------------------------------------------------------------------

    def add(
        self,
        names: Iterable[str],
        *,
        provider: str = "",
        labels: Json | None = None,
        shape: Callable[[Json], None] | None = None,
    ) -> int:
        """Give nodes a kubelet, which registers those that are not there. `provider` with `{name}` in it; how many are new.

        `shape` makes a new node what it shall be before anybody sees it.
        """
        store, at, count = self._api.store, self._api.now(), 0
        for name in names:
            if name in self._names:
                continue
            if name not in store.of(NODES).entries:
                number = len(self._names)
                made = bodies.node(
                    name, number, at, seed=self._seed, provider=provider.format(name=name), labels=labels
                )
                if shape is not None:
                    shape(made)
                self._own(made, at)
                uid = str(made["metadata"]["uid"])
                store.put_body(NODES, name, body_of(made))
                count += 1
            else:
                self._write(name, "")
                uid = ""
            self._renew(name, uid)
            self._names[name] = None
            self._leases.add(name)
            self._statuses.add(name)
        return count

    def _own(self, made: Json, at: str) -> None:
        """managedFields are alike on all nodes of one moment that have the same fields: computed once."""
        meta = made["metadata"]
        alike = (at, *made["spec"], *meta["labels"], *meta["annotations"])
        if self._fields is None or self._fields[0] != alike:
            self._fields = (alike, bodies.owned(made, at)["managedFields"])
        meta["managedFields"] = self._fields[1]

    def fail(self, name: str, mode: str) -> None:
        """Make a kubelet so; "" = well again."""
        if mode not in MODES:
            raise ValueError(f"A kubelet is one of {', '.join(MODES[1:])}, or well: an empty string.")
        if name not in self._names:
            raise ValueError(f"The node {name} has no simulated kubelet.")
        before, now = self.mode(name), self._api.clock()
        if mode == before:
            return
        self._modes.pop(name, None)
        if mode:
            self._modes[name] = mode
        if mode == "Dead":
            self._leases.remove(name)
            self._statuses.remove(name)
            self._later(now + self.times.grace, "silent", name)
            return
        if before == "Dead":
            self._leases.add(name)
            self._statuses.add(name)
            self._renew(name)
        self._write(name, "NotReady" if mode == "NotReady" else "")
        if before in _STUCK and mode not in _STUCK:
            for key in self._api.store.of(PODS).by_node.get(name, ()):
                self._look(key)

    def report(self, name: str, info: Json) -> None:
        """Let a kubelet say so in its node's `nodeInfo`, as after a boot or with another version."""
        obj = self._api.store.of(NODES).get(name)
        if obj is not None:
            obj.setdefault("status", {}).setdefault("nodeInfo", {}).update(info)
            self._api.store.put_body(NODES, name, body_of(obj))

    def remove(self, name: str) -> None:
        """Take the kubelet off; the node stays as it is."""
        self._names.pop(name, None)
        self._modes.pop(name, None)
        self._leases.remove(name)
        self._statuses.remove(name)

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """All that is due now."""
        now = self._api.clock()
        for name in self._leases.due(now):
            self._renew(name)
        for name in self._statuses.due(now):
            self._write(name, "NotReady" if self.mode(name) == "NotReady" else "")
        for change in self._nodes.news():
            if change.kind == "DELETED" and change.key in self._names:
                self._gone(change.key)
            elif change.kind != "DELETED" and _OUT_OF_SERVICE in self._api.store.of(NODES).packer.unpack(
                change.after.data
            ):
                self._release(change.key)
        for change in self._pods.news():
            if change.kind != "DELETED":
                self._look(change.key)
        for what, name in self._happening(now):
            self._happen(what, name, now)

    def _happening(self, now: float) -> Iterator[tuple[str, str]]:
        while self._due and self._due[0][0] <= now:
            _, what, name = heapq.heappop(self._due)
            yield what, name

    def _happen(self, what: str, name: str, now: float) -> None:
        if what == "start":
            self._start(name)
        elif what == "end":
            self._end(name, now)
        elif self.mode(name) == "Dead" and name in self._api.store.of(NODES).entries:
            if what == "silent":
                self._write(name, "Dead")
                self._later(now + self.times.tolerated, "evict", name)
            else:
                for key in list(self._api.store.of(PODS).by_node.get(name, ())):
                    namespace, _, pod = key.partition("/")
                    self._api.delete(Place(PODS, namespace, pod), {}, Options())

    def _later(self, when: float, what: str, name: str) -> None:
        heapq.heappush(self._due, (when, what, name))

    # -- nodes ------------------------------------------------------------------------------------------------------

    def _write(self, name: str, mode: str) -> None:
        """Report, or be reported on; pods are as ready as their node."""
        collection = self._api.store.of(NODES)
        obj = collection.get(name)
        if obj is None:
            return
        before = _is_ready(obj)
        bodies.set_ready(obj, mode, self._api.now())
        self._api.store.put_body(NODES, name, body_of(obj))
        if before != _is_ready(obj):
            for key in list(self._api.store.of(PODS).by_node.get(name, ())):
                self._set_pod(key, ready=not mode)

    def _renew(self, name: str, uid: str = "") -> None:
        collection, key = self._api.store.of(LEASES), f"{bodies.LEASE_NAMESPACE}/{name}"
        renewed = datetime.fromtimestamp(self._api.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        entry = collection.entries.get(key)
        body = b"" if entry is None else collection.packer.unpack(entry.data)
        at = body.find(_RENEWED) + len(_RENEWED)
        if at < len(_RENEWED):
            node = None if uid else self._api.store.of(NODES).get(name)
            uid = node["metadata"]["uid"] if node else uid
            body = body_of(bodies.lease(name, uid, self._api.now(), renewed, seed=self._seed))
        else:
            body = body[:at] + renewed.encode() + body[at + _MICRO :]
        self._api.store.put_body(LEASES, key, body)

    def _gone(self, name: str) -> None:
        """The node was deleted: so are its lease and its pods, by the garbage collectors; its kubelet does not come back by itself."""
        if name in self._api.store.of(NODES).entries:
            return  # made anew meanwhile
        self.remove(name)
        key = f"{bodies.LEASE_NAMESPACE}/{name}"
        if key in self._api.store.of(LEASES).entries:
            self._api.store.delete(LEASES, key)
        for pod in list(self._api.store.of(PODS).by_node.get(name, ())):
            namespace, _, short = pod.partition("/")
            self._api.delete(Place(PODS, namespace, short), {"gracePeriodSeconds": 0}, Options())

    def _release(self, name: str) -> None:
        """A node that is out of service and not Ready: its pods are deleted without its kubelet's word, as the pod garbage collector does it."""
        obj = self._api.store.of(NODES).get(name)
        if obj is None or _is_ready(obj) or not bodies.is_out_of_service(obj):
            return
        for pod in list(self._api.store.of(PODS).by_node.get(name, ())):
            namespace, _, short = pod.partition("/")
            self._api.delete(Place(PODS, namespace, short), {"gracePeriodSeconds": 0}, Options())

    # -- pods -------------------------------------------------------------------------------------------------------

    def _look(self, key: str) -> None:
        """A pod came or changed: what its kubelet has to do, and when."""
        pod = self._api.store.of(PODS).get(key)
        if pod is None or (name := pod["spec"].get("nodeName")) not in self._names or self.mode(name) in _STUCK:
            return
        deleted = pod["metadata"].get("deletionTimestamp")
        if deleted is not None:
            self._later(datetime.fromisoformat(deleted).timestamp(), "end", key)
        elif (pod.get("status") or {}).get("phase") == "Pending":
            self._later(self._api.clock() + self.times.start, "start", key)

    def _start(self, key: str) -> None:
        pod = self._api.store.of(PODS).get(key)
        if (
            pod is None
            or (pod.get("status") or {}).get("phase") != "Pending"
            or self.mode(pod["spec"]["nodeName"]) in _STUCK
        ):
            return
        mode = self.mode(pod["spec"]["nodeName"])
        if mode == "NoSandbox":
            self._journal.tell(pod, "FailedCreatePodSandBox", bodies.NO_SANDBOX, type="Warning")
            self._later(self._api.clock() + self.times.again, "start", key)
            return
        self._set_pod(key, ready=mode == "")
        self._journal.tell(pod, "Started", "Container started")

    def _set_pod(self, key: str, *, ready: bool) -> None:
        pod = self._api.store.of(PODS).get(key)
        if pod is None or (pod.get("status") or {}).get("phase") not in ("Pending", "Running"):
            return
        node = self._api.store.of(NODES).get(pod["spec"]["nodeName"]) or {}
        addresses = (node.get("status") or {}).get("addresses") or ()
        host = next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")
        pod["status"] = bodies.running(pod, self._api.now(), host, ready=ready)
        self._api.store.put(PODS, key, pod)

    def _end(self, key: str, now: float) -> None:
        pod = self._api.store.of(PODS).get(key)
        if pod is None or "deletionTimestamp" not in pod["metadata"] or self.mode(pod["spec"]["nodeName"]) in _STUCK:
            return
        when = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"]).timestamp()
        if when > now:
            self._later(when, "end", key)
            return
        namespace, _, name = key.partition("/")
        self._api.delete(Place(PODS, namespace, name), {"gracePeriodSeconds": 0}, Options())


def _is_ready(obj: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in obj["status"].get("conditions") or ())
