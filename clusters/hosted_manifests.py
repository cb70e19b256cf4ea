"""The objects of a Hosted control plane in its meta cluster. Pure.

All pods use the network of their node with six ports in a row, which need neither a cluster DNS nor a kube-proxy nor a pod
network of the meta cluster. Only what Fleet means to own stands here; defaults are the API server's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clusters import flags
from clusters.flags import Place
from clusters.placing import standing
from clusters.planes import APISERVER, CONTROLLER_MANAGER, ETCD, FILES, SCHEDULER, Hosting, Plane
from fleet.control.kinds import Json

PLANE: Final = "fleet.dev/plane"  # label: uid of the control plane
COMPONENT: Final = "app.kubernetes.io/component"
DIGEST: Final = "fleet.dev/digest"
VERSION: Final = "fleet.dev/version"
START: Final = "etcd-start"  # ConfigMap of what a member with an empty volume starts from
FOLDERS: Final = "/var/lib/fleet-planes"  # on nodes: etcd's data without a storage class
_FILES: Final = Path("/etc/fleet")
_DATA: Final = Path("/var/lib/fleet")
_SIZE: Final = "8Gi"
_AWAY_SECONDS: Final = 30  # of a node, until what can run elsewhere does
_SETTLE_SECONDS: Final = (
    10  # that one of several API servers is ready before the next may go: a balancer has to find it first
)
# An API server waits as long as it is told to and then for a minute at most for requests that it began; who has none is gone before.
_END_SECONDS: Final = 135
_REQUESTS: Final[Mapping[str, tuple[str, str]]] = {
    ETCD: ("100m", "128Mi"), APISERVER: ("200m", "384Mi"), CONTROLLER_MANAGER: ("50m", "96Mi"), SCHEDULER: ("50m", "64Mi"),
}  # fmt: skip


def labels(plane: Plane, component: str = "") -> dict[str, str]:
    """Of everything that is made for a plane."""
    own = {"app.kubernetes.io/managed-by": "fleet", PLANE: plane.uid}
    return {**own, COMPONENT: component} if component else own


def objects(plane: Plane, component: str) -> list[Json]:
    """What a component consists of, in the order in which it is applied: its workload last."""
    own = [_secret(plane, component), _budget(plane, component)]
    if component == ETCD:
        return [*_ground(plane), *own, _peers(plane), _stateful_set(plane)]
    if component == APISERVER:
        own.append(_service(plane))
    return [*own, _deployment(plane, component)]


def member_names(plane: Plane) -> list[str]:
    """Pods of etcd, which are the names of its members."""
    return [f"{ETCD}-{i}" for i in range(plane.etcd_replicas)]


def member_hosts(plane: Plane) -> dict[str, str]:
    """Where members are reached, by name: the address of the node that a member is bound to, else its name in the cluster's DNS."""
    placing = standing(plane)
    return {
        name: member.address or f"{name}.{ETCD}.{placing.namespace}.svc"
        for name, member in zip(member_names(plane), placing.members, strict=True)
    }


def peer_url(plane: Plane, name: str) -> str:
    """Where other members reach this one."""
    return f"https://{member_hosts(plane)[name]}:{hosting(plane).port + 2}"


def hosting(plane: Plane) -> Hosting:
    """Where it is hosted; only for planes that are."""
    assert plane.meta is not None
    return plane.meta


def place(plane: Plane, component: str) -> Place:
    """Where a component finds its things in its pod."""
    meta, port = hosting(plane), hosting(plane).port
    bound = not meta.storage_class
    own = plane.host if meta.exposure == "HostPort" and flags.is_address(plane.host) else "$(HOST_IP)"
    return Place(
        files=_FILES, data=_DATA / "data" if component == ETCD else _DATA,
        bind="$(HOST_IP)" if component == ETCD else "127.0.0.1",
        etcd=port + 1, peer=port + 2, controller_manager=port + 3, scheduler=port + 4, api=port, health=port + 5,
        members=member_hosts(plane), member="$(POD_NAME)",
        host="$(HOST_IP)" if bound else f"$(POD_NAME).{ETCD}.{standing(plane).namespace}.svc", advertise=own,
    )  # fmt: skip


def command(plane: Plane, component: str) -> list[str]:
    """The program and its flags. Which members there were at the start is told by the ConfigMap: it counts for empty volumes only."""
    words = flags.arguments(plane, component, place(plane, component))
    return [component, *(w for w in words if not w.startswith("--initial-cluster="))]


# -- ground: what etcd stands on, and with it everything -----------------------------------------------------------------


def _ground(plane: Plane) -> list[Json]:
    namespace = standing(plane).namespace
    found = [] if hosting(plane).shared else [_namespace(plane, namespace)]
    return [*found, start_map(plane, "new"), *volumes(plane)]


def _namespace(plane: Plane, name: str) -> Json:
    # Pods on the network of their node are forbidden by the stricter levels.
    level = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**labels(plane), **level}}}


def start_map(plane: Plane, state: str) -> Json:
    """`state`: new = all members start together, existing = one joins those that are there."""
    members = place(plane, ETCD).peers()
    data = {"ETCD_INITIAL_CLUSTER": members, "ETCD_INITIAL_CLUSTER_STATE": state}
    return {**_head(plane, "v1", "ConfigMap", START, ETCD), "data": data}


def volumes(plane: Plane) -> list[Json]:
    """Without a storage class each member has a folder on the node that it is bound to."""
    if hosting(plane).storage_class:
        return []
    return [_volume(plane, name) for name in member_names(plane)]


def volume_name(plane: Plane, member: str) -> str:
    """Of the PersistentVolume of a member."""
    return f"fleet-{plane.uid}-{member}"


def claim_name(member: str) -> str:
    """Of the claim that the StatefulSet makes for a member."""
    return f"data-{member}"


def _volume(plane: Plane, name: str) -> Json:
    placing = standing(plane)
    member = placing.members[member_names(plane).index(name)]
    head = _head(plane, "v1", "PersistentVolume", volume_name(plane, name), ETCD)
    del head["metadata"]["namespace"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [member.hostname]}
    spec = {
        "capacity": {"storage": _SIZE},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": placing.namespace, "name": claim_name(name),
        },
        "hostPath": {"path": f"{FOLDERS}/{plane.uid}/{name}", "type": "DirectoryOrCreate"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }  # fmt: skip
    return {**head, "spec": spec}


# -- of each component ---------------------------------------------------------------------------------------------------


def _head(plane: Plane, version: str, kind: str, name: str, component: str) -> Json:
    namespace = standing(plane).namespace
    return {
        "apiVersion": version, "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels(plane, component)},
    }  # fmt: skip


def _secret(plane: Plane, component: str) -> Json:
    data = {n: base64.b64encode(plane.files[n].encode()).decode() for n in FILES[component]}
    return {**_head(plane, "v1", "Secret", f"{component}-files", component), "type": "Opaque", "data": data}


def count(plane: Plane, component: str) -> int:
    """How many pods a component has."""
    return plane.etcd_replicas if component == ETCD else plane.replicas


def _budget(plane: Plane, component: str) -> Json:
    """One may be away at a time. A single one that cannot go elsewhere is not evicted: that would only take it down."""
    placing = standing(plane)
    bound = bool(placing.front) if component == APISERVER else component == ETCD and not hosting(plane).storage_class
    spec = {
        "maxUnavailable": 0 if bound and count(plane, component) == 1 else 1,
        "selector": {"matchLabels": _selector(plane, component)},
    }
    return {**_head(plane, "policy/v1", "PodDisruptionBudget", component, component), "spec": spec}


def _peers(plane: Plane) -> Json:
    """Names of members in the cluster's DNS, where there is one."""
    port = hosting(plane).port
    spec = {
        "clusterIP": "None", "publishNotReadyAddresses": True, "selector": _selector(plane, ETCD),
        "ports": [_service_port("client", port + 1, port + 1), _service_port("peer", port + 2, port + 2)],
    }  # fmt: skip
    return {**_head(plane, "v1", "Service", ETCD, ETCD), "spec": spec}


def _service(plane: Plane) -> Json:
    """The API server under one address: as exposed, and with HostPort for clients inside the meta cluster."""
    meta = hosting(plane)
    own = meta.exposure == "HostPort"
    entry = _service_port("https", meta.port if own else plane.port, meta.port)
    spec: Json = {"type": "ClusterIP" if own else meta.exposure, "selector": _selector(plane, APISERVER)}
    if meta.exposure == "NodePort":
        entry |= {"nodePort": plane.port}
    if flags.is_address(plane.host):
        spec |= {"ClusterIP": {"clusterIP": plane.host}, "LoadBalancer": {"loadBalancerIP": plane.host}}.get(
            meta.exposure, {}
        )
    return {**_head(plane, "v1", "Service", APISERVER, APISERVER), "spec": {**spec, "ports": [entry]}}


def _service_port(name: str, port: int, target: int) -> Json:
    return {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}


def _selector(plane: Plane, component: str) -> dict[str, str]:
    return {PLANE: plane.uid, COMPONENT: component}


def _deployment(plane: Plane, component: str) -> Json:
    spec: Json = {
        "replicas": plane.replicas,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": _selector(plane, component)},
        # The new pod needs the ports of the old one.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "template": _template(plane, component),
    }
    if _is_balanced(plane, component):
        spec["minReadySeconds"] = _SETTLE_SECONDS
    return {**_head(plane, "apps/v1", "Deployment", component, component), "spec": spec}


def _is_balanced(plane: Plane, component: str) -> bool:
    """Whether it is one of several that clients are led to."""
    return component == APISERVER and plane.replicas > 1


def _stateful_set(plane: Plane) -> Json:
    claim: Json = {
        "metadata": {"name": "data", "labels": labels(plane, ETCD)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": _SIZE}},
            "storageClassName": hosting(plane).storage_class,
        },
    }
    spec = {
        "replicas": plane.etcd_replicas,
        "serviceName": ETCD,
        "podManagementPolicy": "Parallel",  # the first start needs a quorum; updates go one by one all the same
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": _selector(plane, ETCD)},
        "updateStrategy": {"type": "RollingUpdate"},
        "template": _template(plane, ETCD),
        "volumeClaimTemplates": [claim],
    }
    return {**_head(plane, "apps/v1", "StatefulSet", ETCD, ETCD), "spec": spec}


def _template(plane: Plane, component: str) -> Json:
    made = plane.components[component]
    spec = {
        **pod_basics(),
        "priorityClassName": "system-cluster-critical",
        "affinity": _affinity(plane, component),
        "tolerations": _tolerations(component),
        "containers": [_container(plane, component)],
        "volumes": [{"name": "files", "secret": {"secretName": f"{component}-files", "defaultMode": 0o400}}],
    }
    if component != ETCD and hosting(plane).selector:
        spec["nodeSelector"] = dict(hosting(plane).selector)
    if component == APISERVER:
        spec["volumes"].append({"name": "data", "emptyDir": {"sizeLimit": "300Mi"}})
    if _is_balanced(plane, component):
        spec["terminationGracePeriodSeconds"] = _END_SECONDS
    return {
        "metadata": {
            "labels": labels(plane, component),
            "annotations": {DIGEST: plane.digest(component), VERSION: made.version},
        },
        "spec": spec,
    }


def pod_basics() -> Json:
    """What all pods of Fleet have in common: the network of their node, nothing of the meta cluster's API."""
    return {
        "hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet", "automountServiceAccountToken": False,
        "enableServiceLinks": False, "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip


def _affinity(plane: Plane, component: str) -> Json:
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": _selector(plane, component)}}
    out: Json = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    front = standing(plane).front
    if component == APISERVER and front and plane.replicas == 1:
        here = {"key": "metadata.name", "operator": "In", "values": [front]}
        terms = {"nodeSelectorTerms": [{"matchFields": [here]}]}
        out["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    return out


def _tolerations(component: str) -> list[Json]:
    """Data stays with its node; the others leave a node that is away sooner than the default of five minutes."""
    until = {} if component == ETCD else {"tolerationSeconds": _AWAY_SECONDS}
    return [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", **until}
        for what in ("not-ready", "unreachable")
    ]


def _container(plane: Plane, component: str) -> Json:
    cpu, memory = _REQUESTS[component]
    mounts: list[Json] = [{"name": "files", "mountPath": str(_FILES), "readOnly": True}]
    if component in (ETCD, APISERVER):
        mounts.append({"name": "data", "mountPath": str(_DATA)})
    out: Json = {
        "name": component,
        "image": plane.components[component].image,
        "imagePullPolicy": "IfNotPresent",
        "command": command(plane, component),
        "env": [_field("HOST_IP", "status.hostIP"), _field("POD_NAME", "metadata.name")],
        "ports": _ports(plane, component),
        "resources": {"requests": {"cpu": cpu, "memory": memory}},
        "securityContext": security(hosting(plane).port if component == APISERVER else 0),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # so that its last words can be told
        "volumeMounts": mounts,
        **_probes(plane, component),
    }
    if component == ETCD:
        out["envFrom"] = [{"configMapRef": {"name": START}}]
    return out


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def security(port: int = 0) -> Json:
    """Nothing but to read its own files, and to listen."""
    capabilities: Json = {"drop": ["ALL"]} | ({"add": ["NET_BIND_SERVICE"]} if 0 < port < 1024 else {})
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": capabilities}


def _ports(plane: Plane, component: str) -> list[Json]:
    """Declared, so that the scheduler puts no two that need the same on one node."""
    port = hosting(plane).port
    named: Mapping[str, Sequence[tuple[str, int]]] = {
        APISERVER: [("https", port)], ETCD: [("client", port + 1), ("peer", port + 2), ("health", port + 5)],
        CONTROLLER_MANAGER: [("https", port + 3)], SCHEDULER: [("https", port + 4)],
    }  # fmt: skip
    return [
        {"name": name, "containerPort": number, "hostPort": number, "protocol": "TCP"}
        for name, number in named[component]
    ]


def _probes(plane: Plane, component: str) -> Json:
    """Asked on loopback of the node. It may take its time to start; it is restarted only when it answers no more."""
    port = hosting(plane).port + {APISERVER: 0, ETCD: 5, CONTROLLER_MANAGER: 3, SCHEDULER: 4}[component]
    live, ready = ("/healthz", "/healthz") if component in (CONTROLLER_MANAGER, SCHEDULER) else ("/livez", "/readyz")
    scheme = "HTTP" if component == ETCD else "HTTPS"

    def ask(path: str, period: int, failures: int, seconds: int) -> Json:
        get = {"host": "127.0.0.1", "path": path, "port": port, "scheme": scheme}
        return {"httpGet": get, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": seconds}

    # An API server needs ten seconds to leave a member of etcd whose node is gone, and says until then now and then that it is
    # not ready. So do all the others: who believes the third time takes them all away at once.
    believed = 6 if component == APISERVER else 3
    return {
        "startupProbe": ask(live, 2, 90, 10), "livenessProbe": ask(live, 10, 8, 15), "readinessProbe": ask(ready, 2, believed, 10),
    }  # fmt: skip


def difference(wanted: Any, live: Any, path: str = "") -> str:
    """The first field that is not as wanted, "" = all are. What is not wanted otherwise may be there: defaults, others' fields."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return path
        found = (difference(v, live.get(k), f"{path}.{k}" if path else k) for k, v in wanted.items())
        return next((p for p in found if p), "")
    if isinstance(wanted, list):
        if not isinstance(live, list) or len(live) != len(wanted):
            return path
        found = (difference(w, each, f"{path}[{i}]") for i, (w, each) in enumerate(zip(wanted, live, strict=True)))
        return next((p for p in found if p), "")
    return "" if wanted == live else path
