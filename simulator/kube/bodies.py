"""What simulated nodes, their leases and pods look like: as kubelets of a large cluster report them, about 9 kB a node. Pure."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Final

from simulator.kube.owners import Writer, track
from simulator.kube.resources import NODES, Json

LEASE_NAMESPACE: Final = "kube-node-lease"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
NOT_READY: Final = "node.kubernetes.io/not-ready"
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
NO_SANDBOX: Final = "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox: no route to the address pool"
_GOOD: Final = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)
_SILENT: Final = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
_BROKEN: Final = ("False", "KubeletNotReady", "container runtime is down")
_IMAGES: Final[list[Json]] = [
    {"names": [f"registry.example.com/some/image-{k}@sha256:{hashlib.sha256(str(k).encode()).hexdigest()}",
               f"registry.example.com/some/image-{k}:v1.2.{k}"], "sizeBytes": 12345678 + k}
    for k in range(28)
]  # fmt: skip


def uid_of(*parts: object) -> str:
    """A uid that is the same in every run."""
    digest = hashlib.md5(repr(parts).encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def node(name: str, number: int, at: str, *, seed: int = 0, provider: str = "", labels: Json | None = None) -> Json:
    """A node that its kubelet has just registered and found Ready. `number` gives zone, rack and address."""
    uid = uid_of(seed, "node", name)
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    resources = {
        "cpu": "64",
        "ephemeral-storage": "1843200Mi",
        "hugepages-2Mi": "0",
        "memory": "263825824Ki",
        "pods": "110",
    }
    return {
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": uid, "creationTimestamp": at,
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "m64.large",
                "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": f"zone-{number % 3}",
                "example.com/rack": f"rack-{number // 40:04}", **{f"example.com/pool-{k}": f"value-{k}" for k in range(8)},
                **(labels or {}),
            },
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                **{f"example.com/note-{k}": "x" * 40 for k in range(4)},
            },
        },
        "spec": {"podCIDR": f"100.{number >> 8 & 255}.{number & 255}.0/24", "podCIDRs": [f"100.{number >> 8 & 255}.{number & 255}.0/24"],
                 "providerID": provider or f"simulated:///{name}"},
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [
                {"type": t, "status": s, "lastHeartbeatTime": at, "lastTransitionTime": at, "reason": r, "message": m} for t, s, r, m in _GOOD
            ],
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": uid.replace("-", ""), "systemUUID": uid, "bootID": uid_of(seed, "boot", name, 0),
                "kernelVersion": "6.1.0-35-amd64", "osImage": "Debian GNU/Linux 12 (bookworm)", "containerRuntimeVersion": "containerd://2.2.0",
                "kubeletVersion": "v1.37.2", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
            },
            "images": _IMAGES,
        },
    }  # fmt: skip


def owned(obj: Json, at: str) -> Json:
    """managedFields of a node as its kubelet leaves them: spec by registration, status by its heartbeats."""
    track(NODES, None, obj, Writer("kubelet", at))
    before = {**obj, "status": {}}
    track(NODES, before, obj, Writer("kubelet", at, "status"))
    found: Json = obj["metadata"]
    return found


def set_ready(obj: Json, mode: str, at: str) -> None:
    """Bring a node's conditions and taints to what its kubelet ("" and NotReady) or the node controller (Dead) says of it."""
    for each in obj.setdefault("status", {}).setdefault("conditions", []):
        good = next((c for c in _GOOD if c[0] == each["type"]), None)
        if good is None:
            continue
        wanted = _SILENT if mode == "Dead" else _BROKEN if mode == "NotReady" and each["type"] == "Ready" else good[1:]
        if each["status"] != wanted[0]:
            each["lastTransitionTime"] = at
        if mode != "Dead":
            each["lastHeartbeatTime"] = at
        each["status"], each["reason"], each["message"] = wanted
    key = {"Dead": UNREACHABLE, "NotReady": NOT_READY}.get(mode)
    taints = obj.setdefault("spec", {}).get("taints") or []
    kept = [t for t in taints if t.get("key") == key or t.get("key") not in (UNREACHABLE, NOT_READY)]
    if key is not None and not any(t.get("key") == key and t.get("effect") == "NoExecute" for t in kept):
        kept = [t for t in kept if t.get("key") != key]
        kept += [{"key": key, "effect": "NoSchedule"}, {"key": key, "effect": "NoExecute", "timeAdded": at}]
    obj["spec"].pop("taints", None)
    if kept:
        obj["spec"]["taints"] = kept


def is_out_of_service(obj: Json) -> bool:
    """Whether somebody says of the node that its machine is certainly off."""
    taints = obj.get("spec", {}).get("taints") or []
    return any(t.get("key") == OUT_OF_SERVICE and t.get("effect") == "NoExecute" for t in taints)


def lease(name: str, uid: str, at: str, renewed: str, *, seed: int = 0) -> Json:
    """The heartbeat of one node. `renewed` in microseconds."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    return {
        "metadata": {
            "name": name, "namespace": LEASE_NAMESPACE, "uid": uid_of(seed, "lease", name), "creationTimestamp": at,
            "ownerReferences": [owner],
        },
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed},
    }  # fmt: skip


def running(pod: Json, at: str, host: str, *, ready: bool = True) -> Json:
    """The status of a pod whose containers run."""
    answer = "True" if ready else "False"
    conditions: list[Any] = [
        {"type": t, "status": "True" if t in ("Initialized", "PodScheduled") else answer, "lastProbeTime": None, "lastTransitionTime": at}
        for t in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]  # fmt: skip
    digest = uid_of(pod["metadata"]["uid"])
    statuses = [
        {"name": c["name"], "image": c.get("image", ""), "imageID": "", "containerID": f"containerd://{digest}", "ready": ready,
         "started": True, "restartCount": 0, "state": {"running": {"startedAt": at}}, "lastState": {}}
        for c in pod["spec"]["containers"]
    ]  # fmt: skip
    address = f"100.{int(digest[:2], 16)}.{int(digest[2:4], 16)}.{int(digest[4:6], 16)}"
    return {
        "phase": "Running", "conditions": conditions, "hostIP": host, "podIP": address, "podIPs": [{"ip": address}],
        "startTime": at, "containerStatuses": statuses, "qosClass": "BestEffort",
    }  # fmt: skip
