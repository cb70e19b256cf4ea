"""PodDisruptionBudgets: their status, and what an eviction may do.

The numbers are always those of now: kube-controller-manager is some moments behind. A percentage is of the pods that are there, or
of the replicas that a simulated workload wants; kube-controller-manager asks the pods' controllers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from fleet.api.selectors import Operator, Requirement
from simulator.kube.follow import Follower
from simulator.kube.refusals import Refusal, bad_request, not_found, too_many
from simulator.kube.resources import BUDGETS, PODS, Json
from simulator.kube.store import Change
from simulator.kube.verbs import Answer, Api, Options, Place, decoded, success

_REFUSED: Final = "Cannot evict pod as it would violate the pod's disruption budget."
_AGAIN_SECONDS: Final = 10
_OPERATORS: Final[dict[str, Operator]] = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


@dataclass(slots=True)
class _Budget:
    """One budget and its pods: whether each is healthy."""

    spec: Json
    selector: tuple[Requirement, ...]
    pods: dict[str, bool] = field(default_factory=dict)
    dirty: bool = True


@dataclass(frozen=True, slots=True)
class Numbers:
    """The status of a budget."""

    expected: int
    healthy: int
    desired: int

    @property
    def allowed(self) -> int:
        return max(0, self.healthy - self.desired) if self.expected else 0


class Budgets:
    """All budgets of a server. `wanted`: replicas that the owner of these pods wants, None where nobody says."""

    def __init__(self, api: Api, wanted: Callable[[str], int | None] = lambda key: None) -> None:
        self._api = api
        self._wanted = wanted
        self._known: dict[str, _Budget] = {}
        self._budgets = Follower(api.store.of(BUDGETS))
        self._pods = Follower(api.store.of(PODS))

    def catch_up(self) -> None:
        """See all that happened."""
        store = self._api.store
        for change in self._budgets.news():
            if change.kind == "DELETED":
                self._known.pop(change.key, None)
            elif (obj := store.of(BUDGETS).get(change.key)) is not None:
                self._take(change.key, obj)
        if not self._known:
            for _ in self._pods.news():
                pass
            return
        for change in self._pods.news():
            self._pod(change)

    def _take(self, key: str, obj: Json) -> None:
        spec = obj.get("spec") or {}
        known = self._known.get(key)
        if known is not None and known.spec == spec:
            return
        budget = self._known[key] = _Budget(spec, _requirements(spec.get("selector") or {}))
        pods = self._api.store.of(PODS)
        low, high = pods.range(key.partition("/")[0] + "/")
        for name in pods.keys[low:high]:
            pod = pods.decode(pods.entries[name])
            if _covers(budget, pod):
                budget.pods[name] = is_healthy(pod)

    def _pod(self, change: Change) -> None:
        namespace = change.key.partition("/")[0]
        for key, budget in self._known.items():
            if key.partition("/")[0] != namespace:
                continue
            pod = None if change.kind == "DELETED" else self._api.store.of(PODS).decode(change.after)
            before = budget.pods.get(change.key)
            if pod is not None and _covers(budget, pod):
                budget.pods[change.key] = is_healthy(pod)
            else:
                budget.pods.pop(change.key, None)
            budget.dirty |= before != budget.pods.get(change.key)

    def publish(self) -> None:
        """Write the status of budgets whose numbers moved."""
        self.catch_up()
        for key, budget in list(self._known.items()):
            if not budget.dirty:
                continue
            budget.dirty = False
            obj = self._api.store.of(BUDGETS).get(key)
            if obj is None:
                continue
            numbers = self.numbers(key)
            enough = {"type": "DisruptionAllowed", "status": "True" if numbers.allowed else "False",
                      "reason": "SufficientPods" if numbers.allowed else "InsufficientPods", "message": ""}  # fmt: skip
            status = {
                "observedGeneration": obj["metadata"].get("generation", 1), "disruptionsAllowed": numbers.allowed,
                "currentHealthy": numbers.healthy, "desiredHealthy": numbers.desired, "expectedPods": numbers.expected,
                "conditions": [enough],
            }  # fmt: skip
            if obj.get("status") != status:
                self._api.store.put(BUDGETS, key, obj | {"status": status})

    def numbers(self, key: str) -> Numbers:
        """What a budget allows now."""
        budget = self._known[key]
        count = len(budget.pods)
        wanted = max((self._wanted(name) or 0 for name in budget.pods), default=0)
        expected = max(count, wanted)
        least, most = budget.spec.get("minAvailable"), budget.spec.get("maxUnavailable")
        if most is not None:
            desired = max(0, expected - _scaled(most, expected))
        else:
            desired = _scaled(1 if least is None else least, expected)
            expected = expected if isinstance(least, str) else count
        return Numbers(expected, sum(budget.pods.values()), desired)

    def evict(self, place: Place, body: bytes, options: Options) -> Answer:
        """POST to a pod's `eviction`: a DELETE that asks the budgets first."""
        eviction = decoded(body)
        name = (eviction.get("metadata") or {}).get("name") or place.name
        if name != place.name:
            raise bad_request("name in URL does not match name in Eviction object")
        pod = self._api.store.of(PODS).get(place.key)
        if pod is None:
            raise not_found(PODS, place.name)
        self.catch_up()
        phase = (pod.get("status") or {}).get("phase")
        if phase not in ("Succeeded", "Failed", "Pending") and "deletionTimestamp" not in pod["metadata"]:
            self._permit(place, pod)
        self._api.delete(place, eviction.get("deleteOptions") or {}, options)
        return Answer(201, orjson.dumps(success() | {"code": 201}))

    def _permit(self, place: Place, pod: Json) -> None:
        namespace = place.namespace
        keys = [k for k, b in self._known.items() if k.startswith(f"{namespace}/") and place.key in b.pods]
        if len(keys) > 1:
            text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise Refusal(500, "InternalError", f"Internal error occurred: {text}", {"causes": [{"message": text}]})
        for key in keys:
            stored = self._api.store.of(BUDGETS).get(key) or {}
            name, numbers = key.partition("/")[2], self.numbers(key)
            if (stored.get("status") or {}).get("observedGeneration", 0) < stored["metadata"].get("generation", 1):
                raise _refused(f"The disruption budget {name} is still being processed by the server.", _AGAIN_SECONDS)
            always = (stored.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
            if not is_healthy(pod) and (always or (numbers.healthy >= numbers.desired > 0)):
                return
            if not numbers.allowed:
                needs = f"needs {numbers.desired} healthy pods and has {numbers.healthy} currently"
                raise _refused(f"The disruption budget {name} {needs}")


def _refused(why: str, seconds: int = 0) -> Refusal:
    return too_many(_REFUSED, seconds, [{"reason": "DisruptionBudget", "message": why}])


def _requirements(selector: Json) -> tuple[Requirement, ...]:
    out = [Requirement(k, "=", (v,)) for k, v in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or ():
        out.append(Requirement(each["key"], _OPERATORS[each["operator"]], tuple(each.get("values") or ())))
    return tuple(out)


def _covers(budget: _Budget, pod: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not over and all(r.matches(labels) for r in budget.selector)


def is_healthy(pod: Json) -> bool:
    """Ready and not on its way out."""
    ready = any(
        c.get("type") == "Ready" and c.get("status") == "True"
        for c in (pod.get("status") or {}).get("conditions") or ()
    )
    return ready and "deletionTimestamp" not in pod["metadata"]


def _scaled(value: Any, count: int) -> int:
    """A number, or a percentage of the count rounded up."""
    if isinstance(value, str):
        return math.ceil(int(value.rstrip("%")) * count / 100)
    return int(value)
