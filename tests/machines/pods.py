"""Pods as an API server shows them."""

from __future__ import annotations

from typing import Any

import orjson

from machines.drain import Pod, pod_page

Json = dict[str, Any]
SET: Json = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u-web", "controller": True}
DAEMONS: Json = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u-agent", "controller": True}


def pod(name: str, on: str = "n1", *, owner: Json | None = SET, scratch: bool = False, **meta: Any) -> Json:
    """One of a ReplicaSet, where no other owner is named; `scratch`: it has data in an emptyDir; `meta` goes into its metadata."""
    spec: Json = {"nodeName": on, "containers": [{"name": "c", "image": "x"}]}
    if scratch:
        spec["volumes"] = [{"name": "config", "configMap": {"name": "c"}}, {"name": "scratch", "emptyDir": {}}]
    owners = {"ownerReferences": [owner]} if owner else {}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, **owners, **meta}, "spec": spec}


def seen(*pods: Json) -> list[Pod]:
    """As they are decoded from a list; the uid of a pod is its name where it says no other."""
    items = []
    for each in pods:
        meta = {"namespace": "default", "uid": each["metadata"]["name"]} | each["metadata"]
        items.append({"status": {"phase": "Running"}} | each | {"metadata": meta})
    return pod_page(orjson.dumps({"kind": "PodList", "metadata": {}, "items": items})).items
