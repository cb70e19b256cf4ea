"""The pods of one DaemonSet: on which nodes one of them is Ready."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from clusters.kube import Kube
from fleet.control.conditions import Condition
from fleet.control.kinds import Json
from machines.reporters import MESSAGE, Pods
from machines.watch.pace import Pace
from machines.watch.reflect import ORDINARY, Reflector, Times, decoded
from machines.watch.seen import ListMeta

log = logging.getLogger("fleet.watch")

_REASON: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,126}")


class Owner(Struct, frozen=True, gc=False):
    """Who made a pod."""

    kind: str = ""
    name: str = ""
    controller: bool = False


class PodMeta(Struct, frozen=True):
    """Metadata of a pod."""

    name: str = ""
    version: str = field(default="", name="resourceVersion")
    ending: str | None = field(default=None, name="deletionTimestamp")
    owners: tuple[Owner, ...] = field(default=(), name="ownerReferences")


class Waiting(Struct, frozen=True, gc=False):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class State(Struct, frozen=True):
    """How a container is."""

    waiting: Waiting | None = None


class Container(Struct, frozen=True):
    """A container's status."""

    state: State = field(default_factory=State)


class PodCondition(Struct, frozen=True, gc=False):
    """One of a pod's conditions."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class PodStatus(Struct, frozen=True):
    """What the kubelet says of a pod."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[PodCondition, ...] = ()
    containers: tuple[Container, ...] = field(default=(), name="containerStatuses")


class PodSpec(Struct, frozen=True, gc=False):
    """Where it is."""

    node: str = field(default="", name="nodeName")


class Pod(Struct, frozen=True):
    """A pod."""

    metadata: PodMeta
    spec: PodSpec = field(default_factory=PodSpec)
    status: PodStatus = field(default_factory=PodStatus)


class PodLine(Struct, frozen=True):
    """One line of the watch."""

    type: str
    object: Pod


class PodPage(Struct, frozen=True):
    """One page of a list."""

    metadata: ListMeta
    items: list[Pod] | None = None


_line: Final = msgspec.json.Decoder(PodLine).decode
_page: Final = msgspec.json.Decoder(PodPage).decode


@dataclass(frozen=True, slots=True)
class Fact:
    """What matters of a pod."""

    ready: bool
    ending: bool
    reason: str = ""
    message: str = ""


class PodStream(Reflector):
    """Follows the pods of one DaemonSet; `changed` is called with the nodes where something moved, None = all."""

    def __init__(
        self, kube: Kube, pods: Pods, changed: Callable[[Pods, Iterable[str] | None], None], *, times: Times = ORDINARY, pace: Pace | None = None
    ) -> None:  # fmt: skip
        super().__init__(kube, f"/api/v1/namespaces/{pods[0]}/pods", times=times, pace=pace)
        self.pods = pods
        self.listed = False  # whether there was one whole list: before, nobody can say anything
        self.missing = False  # there is no such DaemonSet
        self.trouble = ""  # why it cannot be read
        self._changed = changed
        self._on: dict[str, dict[str, Fact]] = {}  # by node and pod
        self._node: dict[str, str] = {}

    async def read_all(self) -> str:
        """The DaemonSet for its selector, then its pods. Without a DaemonSet there are none, and it is looked for again."""
        namespace, name = self.pods
        while (found := await self.kube.find(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")) is None:
            self._replace({}, missing=True)
            await asyncio.sleep(self.times.relist)
        self.selection = {"labelSelector": selector_text(found.get("spec", {}).get("selector", {}))}
        read: dict[str, Pod] = {}
        version = ""
        async for page in self.pages(lambda body: decoded(_page, body), lambda page: page.metadata.go_on):
            read |= {pod.metadata.name: pod for pod in page.items or ()}
            version = version or page.metadata.version
        self._replace(read, missing=False)
        return version

    def failed(self, reason: str) -> None:
        """Kept until a list is whole."""
        self.trouble = reason

    def doubt(self) -> float | None:
        """A DaemonSet without pods may be another one by now."""
        return None if self._node else self.times.relist

    def line(self, line: bytes) -> str:
        """One pod that changed or went."""
        try:
            event = _line(line)
        except msgspec.DecodeError as error:
            log.warning("%s%s: a pod cannot be read: %s", self.kube.endpoint.server, self.path, error)
            return ""
        pod = event.object
        if event.type == "BOOKMARK":
            return pod.metadata.version
        nodes = self._drop(pod.metadata.name)
        if event.type != "DELETED":
            nodes |= self._put(pod)
        if nodes:
            self._changed(self.pods, nodes)
        if not self._node:
            self.again.set()
        return pod.metadata.version

    def nodes(self) -> Iterable[str]:
        """Nodes with a pod."""
        return self._on

    def ready(self, node: str) -> bool:
        """Whether a pod on that node is Ready."""
        return any(f.ready for f in self._on.get(node, {}).values())

    def condition(self, type_: str, node: str) -> Condition:
        """True while a pod on that node is Ready, False with its reason while one is there that is not, else Unknown."""
        facts = self._on.get(node, {})
        if any(f.ready for f in facts.values()):
            return Condition(type_, "True", "PodReady", "Its pod is Ready.")
        name, fact = next(((n, f) for n, f in sorted(facts.items()) if not f.ending), ("", None))
        if fact is not None:
            return Condition(type_, "False", fact.reason, f"Pod {name}: {fact.message or fact.reason}"[:MESSAGE])
        if facts:
            return Condition(type_, "Unknown", "PodEnding", "Its pod is being replaced.")
        return Condition(type_, "Unknown", "NoPod", "There is no pod of it on the node.")

    def _replace(self, read: Mapping[str, Pod], *, missing: bool) -> None:
        self._on, self._node = {}, {}
        self.missing, self.listed, self.trouble = missing, True, ""
        for pod in read.values():
            self._put(pod)
        self._changed(self.pods, None)

    def _put(self, pod: Pod) -> set[str]:
        """The pod as it is now, if it is one of the DaemonSet's and has a node."""
        node, mine = (
            pod.spec.node,
            any(o.controller and (o.kind, o.name) == ("DaemonSet", self.pods[1]) for o in pod.metadata.owners),
        )
        if not node or not mine:
            return set()
        self._node[pod.metadata.name] = node
        self._on.setdefault(node, {})[pod.metadata.name] = fact_of(pod)
        return {node}

    def _drop(self, name: str) -> set[str]:
        node = self._node.pop(name, None)
        if node is None:
            return set()
        there = self._on[node]
        del there[name]
        if not there:
            del self._on[node]
        return {node}


def fact_of(pod: Pod) -> Fact:
    """A pod in a few words; why it is not Ready: its container's reason before the pod's own."""
    status = pod.status
    ready = next((c for c in status.conditions if c.type == "Ready"), PodCondition())
    ending = pod.metadata.ending is not None
    if ready.status == "True":
        return Fact(True, ending)
    waits = next((c.state.waiting for c in status.containers if c.state.waiting is not None), Waiting())
    told = ((waits.reason, waits.message), (status.reason, status.message), (ready.reason, ready.message))
    reason, message = next((each for each in told if _REASON.fullmatch(each[0])), ("PodNotReady", status.phase))
    return Fact(False, ending, reason, message.replace("\x00", ""))


_OPERATORS: Final[Mapping[str, str]] = {"In": "{key} in ({values})", "NotIn": "{key} notin ({values})", "Exists": "{key}", "DoesNotExist": "!{key}"}  # fmt: skip


def selector_text(selector: Json) -> str:
    """A LabelSelector as a query parameter. An empty one is no selector of a DaemonSet's: it would mean all pods."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for each in selector.get("matchExpressions") or ():
        values: Any = ",".join(each.get("values") or ())
        parts.append(_OPERATORS[each["operator"]].format(key=each["key"], values=values))
    return ",".join(parts) or "fleet.dev/nothing,!fleet.dev/nothing"
