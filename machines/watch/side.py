"""The side streams of a cluster: Condition ConfigMaps by label, and Kubernetes Events about nodes and the starts of pods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from clusters.kube import Kube, KubeUnreachable
from machines.watch.pace import Pace
from machines.watch.reflect import ORDINARY, Reflector, Times, decoded
from machines.watch.seen import ConditionMap, ConfigMap, KubeEvent, event_line, event_page, map_line, map_page
from machines.watch.starts import Starts

log = logging.getLogger("fleet.watch")

LABEL: Final = "fleet.dev/conditions=true"
REPORTER: Final = "fleet.dev/reporter"
_MOST_EVENTS: Final = 200  # kept until they are written; the oldest go first
# Terms of a field selector all hold, so one stream for nodes and pods can only say what it does without: what there is most of.
_NOT_HEARD: Final = (
    "Scheduled", "Pulling", "Pulled", "Created", "Killing", "BackOff", "Failed", "Unhealthy", "ProbeWarning", "FailedScheduling", "FailedMount",
    "FailedAttachVolume", "SuccessfulAttachVolume", "SuccessfulCreate", "SuccessfulDelete", "ScalingReplicaSet", "SuccessfulRescale",
    "SawCompletedJob", "Completed", "LeaderElection",
)  # fmt: skip


class MapTaker(Protocol):
    """Who takes Condition ConfigMaps."""

    def listed(self, namespace: str, maps: Sequence[ConditionMap]) -> None:
        """All that there are in a namespace."""

    def take(self, found: ConditionMap) -> None:
        """One that is new or changed."""

    def gone(self, key: str) -> None:
        """One that was deleted, as namespace/name."""


class MapStream(Reflector):
    """Condition ConfigMaps of one namespace."""

    def __init__(
        self,
        kube: Kube,
        cluster_id: int,
        namespace: str,
        taker: MapTaker,
        *,
        times: Times = ORDINARY,
        pace: Pace | None = None,
    ) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        super().__init__(kube, path, times=times, pace=pace, selection={"labelSelector": LABEL})
        self.trouble = ""  # why they cannot be read
        self._cluster_id = cluster_id
        self._namespace = namespace
        self._taker = taker

    async def read_all(self) -> str:
        """All of them."""
        found: list[ConditionMap] = []
        version = ""
        async for page in self.pages(lambda body: decoded(map_page, body), lambda page: page.metadata.go_on):
            found += [self._map(each) for each in page.items or ()]
            version = version or page.metadata.version
        self._taker.listed(self._namespace, found)
        self.trouble = ""
        return version

    def line(self, line: bytes) -> str:
        """One changed or deleted map."""
        try:
            event = map_line(line)
        except msgspec.DecodeError as error:
            log.warning("cluster %d: a ConfigMap cannot be read: %s", self._cluster_id, error)
            return ""
        meta = event.object.metadata
        if event.type in ("ADDED", "MODIFIED"):
            self._taker.take(self._map(event.object))
        elif event.type == "DELETED":
            self._taker.gone(f"{self._namespace}/{meta.name}")
        return meta.version

    def failed(self, reason: str) -> None:
        """Kept until a list is whole."""
        self.trouble = reason

    def _map(self, found: ConfigMap) -> ConditionMap:
        meta = found.metadata
        reporter = meta.annotations.get(REPORTER, "")
        return ConditionMap(self._cluster_id, self._namespace, meta.name, reporter, meta.version, found.data)


class EventStream(Reflector):
    """Warnings about nodes and starts of pods from now on; what happened before the watch began is not told again."""

    def __init__(self, kube: Kube, starts: Starts, *, times: Times = ORDINARY, pace: Pace | None = None) -> None:
        selection = {"fieldSelector": ",".join(f"reason!={reason}" for reason in _NOT_HEARD)}
        super().__init__(kube, "/api/v1/events", times=times, pace=pace, selection=selection)
        self._starts = starts
        self._kept: dict[tuple[str, str], KubeEvent] = {}

    async def read_all(self) -> str:
        """Only where the present is. What was counted of pods ends here: what happened meanwhile is not known."""
        body = await self.kube.send("GET", self.path, params={**self.selection, "limit": "1"})
        self._starts.clear()
        version = decoded(event_page, body).metadata.version
        if not version:  # a watch from nowhere would begin with all that was
            raise KubeUnreachable("the API server's list of Events has no version")
        return version

    def line(self, line: bytes) -> str:
        """One event; the newest of a node and reason is kept, those of pods are counted."""
        try:
            found = event_line(line)
        except msgspec.DecodeError as error:
            log.warning("%s: an Event cannot be read: %s", self.kube.endpoint.server, error)
            return ""
        event = found.object
        if found.type not in ("ADDED", "MODIFIED"):
            return event.metadata.version
        if event.involved.kind != "Node":
            self._starts.take(event, again=found.type == "MODIFIED" or (event.count or 0) > 1)
        elif event.type == "Warning":
            key = event.involved.name, event.reason
            self._kept.pop(key, None)
            self._kept[key] = event
            while len(self._kept) > _MOST_EVENTS:
                self._kept.pop(next(iter(self._kept)))
        return event.metadata.version

    def taken(self) -> list[KubeEvent]:
        """What came since the last call."""
        kept, self._kept = self._kept, {}
        return list(kept.values())
