"""What kubelets write down of pods: core/v1 Events, of which the newest are kept, as a server forgets them after an hour."""

from __future__ import annotations

from collections import deque
from typing import Final

from simulator.kube import bodies
from simulator.kube.resources import EVENTS, Json
from simulator.kube.verbs import Api

MOST: Final = 2_000


class Journal:
    """The Events of one server's kubelets. One said again is the same Event with a higher count."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._keys: deque[str] = deque()

    def tell(self, pod: Json, reason: str, message: str, *, type: str = "Normal") -> None:
        """One Event about a pod, by the kubelet of its node."""
        meta, events, at = pod["metadata"], self._api.store.of(EVENTS), self._api.now()
        name = f"{meta['name']}.{bodies.uid_of(meta['uid'], reason)[:13]}"
        key = f"{meta['namespace']}/{name}"
        known = events.get(key)
        if known is not None:
            self._api.store.put(EVENTS, key, {**known, "count": known["count"] + 1, "lastTimestamp": at})
            return
        source = {"component": "kubelet", "host": pod["spec"]["nodeName"]}
        about = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        }
        made = {
            "metadata": {"name": name, "namespace": meta["namespace"], "uid": bodies.uid_of("event", key), "creationTimestamp": at},
            "involvedObject": about, "reason": reason, "message": message, "type": type, "source": source, "count": 1,
            "firstTimestamp": at, "lastTimestamp": at, "eventTime": None, "reportingComponent": "kubelet", "reportingInstance": source["host"],
        }  # fmt: skip
        self._api.store.put(EVENTS, key, made)
        self._keys.append(key)
        if len(self._keys) > MOST:
            oldest = self._keys.popleft()
            if oldest in events.entries:
                self._api.store.delete(EVENTS, oldest)
