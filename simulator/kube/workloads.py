"""Pods that somebody wants: a number of them, made anew on other nodes when they go, as a ReplicaSet and a scheduler would."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from simulator.kube.follow import Follower
from simulator.kube.resources import BUDGETS, NAMESPACES, NODES, PODS, Json, Resource
from simulator.kube.verbs import Api, Options, Place

_TRIES: Final = 50  # nodes looked at for one pod in one tick


@dataclass(slots=True)
class Workload:
    """So many pods of one kind. `pods`: keys of those that are there and not on their way out."""

    namespace: str
    name: str
    replicas: int
    uid: str
    grace_seconds: int = 30
    pods: set[str] = field(default_factory=set)


class Workloads:
    """All workloads of one server."""

    def __init__(self, api: Api, seed: int = 0) -> None:
        self._api = api
        self._random = random.Random(f"workloads {seed}")
        self._known: dict[str, Workload] = {}  # by uid
        self._owner: dict[str, str] = {}  # pod key: uid
        self._pods = Follower(api.store.of(PODS))

    def add(
        self, namespace: str, name: str, replicas: int, *, grace_seconds: int = 30, budget: Json | None = None
    ) -> Workload:
        """Want so many pods, under a budget (the spec of a PodDisruptionBudget without its selector) if one is given."""
        if namespace not in self._api.store.of(NAMESPACES).entries:
            self._create(NAMESPACES, {"name": namespace}, {})
        made = Workload(namespace, name, replicas, self._api.uid("workload", name), grace_seconds)
        self._known[made.uid] = made
        if budget is not None:
            spec = {**budget, "selector": {"matchLabels": {"app": name}}}
            self._create(BUDGETS, {"name": name, "namespace": namespace}, {"spec": spec})
        self.tick()
        return made

    def _create(self, kind: Resource, meta: Json, rest: Json) -> None:
        obj = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta, **rest}
        self._api.create(Place(kind, meta.get("namespace", "")), obj, Options("kube-controller-manager"))

    def wanted(self, pod: str) -> int | None:
        """Replicas that the owner of a pod wants."""
        found = self._known.get(self._owner.get(pod, ""))
        return None if found is None else found.replicas

    def tick(self) -> None:
        """Make what is missing, as far as there are nodes that take it."""
        if not self._known:
            return
        self._catch_up()
        names = self._api.store.of(NODES).keys
        for each in self._known.values():
            for _ in range(each.replicas - len(each.pods)):
                where = self._place(names)
                if where is None:
                    break
                self._make(each, where)
        self._catch_up()

    def _catch_up(self) -> None:
        pods = self._api.store.of(PODS)
        for change in self._pods.news():
            pod = pods.get(change.key)
            uid = self._owner.get(change.key, "")
            if pod is None:
                self._owner.pop(change.key, None)
            else:
                owner: Json = next(iter(pod["metadata"].get("ownerReferences") or ()), {})
                uid = str(owner.get("uid", ""))
            found = self._known.get(uid)
            if found is None:
                continue
            if pod is None or "deletionTimestamp" in pod["metadata"] or _is_over(pod):
                found.pods.discard(change.key)
            else:
                found.pods.add(change.key)
                self._owner[change.key] = uid

    def _place(self, names: Sequence[str]) -> str | None:
        """A node that is Ready and takes pods, by chance."""
        for _ in range(_TRIES if names else 0):
            name = names[self._random.randrange(len(names))]
            node = self._api.store.of(NODES).get(name)
            if node is not None and _takes_pods(node):
                return name
        return None

    def _make(self, owner: Workload, where: str) -> None:
        reference = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": owner.name,
            "uid": owner.uid,
            "controller": True,
        }
        meta = {
            "generateName": f"{owner.name}-", "namespace": owner.namespace, "labels": {"app": owner.name}, "ownerReferences": [reference],
        }  # fmt: skip
        spec = {
            "nodeName": where, "terminationGracePeriodSeconds": owner.grace_seconds,
            "containers": [{"name": "app", "image": "registry.example.com/app:v1"}],
        }  # fmt: skip
        self._create(PODS, meta, {"spec": spec})


def _is_over(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _takes_pods(node: Json) -> bool:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    closed = spec.get("unschedulable") or any(t["effect"] != "PreferNoSchedule" for t in spec.get("taints") or ())
    return not closed and any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
