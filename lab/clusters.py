"""Fleet objects of the lab's clusters: a meta cluster beside Fleet, a business cluster in its pods, machines that join, a reporter, a workload.

Plain objects, as `kubectl apply` takes them. The same ones are shown by `make lab` and asserted by the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lab import control_plane_images, images, kubernetes, node_packages
from lab.host import Host
from lab.lab import Lab

Json = dict[str, Any]

V1: Final = "fleet.dev/v1"
META: Final = "meta"
BUSINESS: Final = "web"
BUSINESS_PORT: Final = 7443
CREDENTIAL: Final = "lab"
CONDITION: Final = "NetworkReady"
FOLDER: Final = "/var/lib/network"  # of a host; what the reporter looks for lies in it
READY: Final = f"{FOLDER}/ready"
_REPORTER: Final = "network-ready"


def _object(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": V1, "kind": kind, "metadata": {"name": name}, "spec": spec}


def ground(lab: Lab, clusters: Sequence[str]) -> list[Json]:
    """How hosts are entered, what may be taken away at a time, and everything that makes nodes of them."""
    login = {"username": "root", "privateKey": lab.private_key.read_text()}
    budget = {"count": 2, "percent": 100}
    return [
        _object("Credential", CREDENTIAL, {"type": "ssh", "data": login, "clusters": list(clusters)}),
        *(_object("SafetyPolicy", c, {"scope": {"cluster": c}, "maxUnavailable": budget}) for c in clusters),
        *node_packages.manifests(lab.store),
        *(package_version(v) for v in kubernetes.VERSIONS),
    ]


def package_version(version: str) -> Json:
    """Kubernetes at a version: programs for Local, images for Hosted, and the kubelet that goes with it."""
    components: list[Json] = [
        {"name": n, "binary": f"{version}/{n}", "image": control_plane_images.name_of(n, version)}
        for n in kubernetes.CONTROL_PLANE
    ]
    image = control_plane_images.name_of("etcd", kubernetes.ETCD)
    components.append({"name": "etcd", "version": kubernetes.ETCD, "binary": "etcd", "image": image})
    spec = {"kubernetesVersion": version, "components": components, "machineVersions": node_packages.versions(version)}
    return _object("ClusterPackageVersion", f"k8s-{version}", spec)


def _cluster(name: str, version: str, provider: str, plane: Json, **more: Any) -> Json:
    spec = {
        "provider": provider, "packageVersion": f"k8s-{version}", "idc": "lab", "driver": {"credential": CREDENTIAL},
        "rollout": {"soakSeconds": 10}, "controlPlane": plane, "variables": dict(node_packages.LAB_VARIABLES), **more,
    }  # fmt: skip
    return _object("Cluster", name, spec)


def meta(lab: Lab, port: int, version: str = kubernetes.VERSIONS[-1]) -> Json:
    """The cluster whose nodes carry other clusters' control planes; its own stands beside Fleet, on the lab's bridge."""
    exposure = {"type": "HostPort", "host": lab.gateway, "port": port}
    return _cluster(META, version, "Local", {"exposure": exposure})


def gated(name: str, version: str, provider: str, plane: Json) -> Json:
    """A cluster whose nodes open when their reporter says so, and its pod is well."""
    reporter = {
        "name": "network",
        "namespace": "default",
        "daemonSet": _REPORTER,
        "conditionTypes": [CONDITION],
    }
    return _cluster(
        name, version, provider, plane, readinessGates=[{"conditionType": CONDITION}], conditionNamespaces=["default"], reporters=[reporter],
        daemonSetGates=[{"namespace": "default", "name": _REPORTER}],
    )  # fmt: skip


def business(host: Host, version: str = kubernetes.VERSIONS[0]) -> Json:
    """The cluster in pods on that host of the meta cluster."""
    exposure = {"type": "HostPort", "host": host.address, "port": BUSINESS_PORT}
    return gated(BUSINESS, version, "Hosted", {"metaCluster": META, "exposure": exposure})


def machine(lab: Lab, host: Host, cluster: str) -> Json:
    """The Machine that stands for a host."""
    spec = {
        "clusterName": cluster, "idc": "lab", "ip": host.address, "driver": {"hostKeys": [host.host_key]}, "variables": {"podCIDR": lab.pod_range(host)},
    }  # fmt: skip
    return _object("Machine", host.name, spec)


def node_images() -> list[Any]:
    """What a registry would have for nodes that carry workloads."""
    return [images.pause(), images.busybox(), images.reporter()]


def reporter(server: str) -> list[Json]:
    """A DaemonSet that says whether the network of its node is ready, and the rights that it needs for that.

    `server`: URL of the API server; nothing in these clusters gives Services an address.
    """
    host, _, port = server.removeprefix("https://").partition(":")
    meta = {"metadata": {"name": _REPORTER, "namespace": "default"}}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", **meta}
    field = {"NODE_NAME": "spec.nodeName", "NAMESPACE": "metadata.namespace"}
    plain = {
        "CONFIGMAP": _REPORTER, "CONDITION_TYPE": CONDITION, "REPORTER": "network", "FILE": "/host/ready",
        "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port,
    }  # fmt: skip
    env = [{"name": k, "valueFrom": {"fieldRef": {"fieldPath": v}}} for k, v in field.items()]
    container: Json = {
        "name": "reporter", "image": images.REPORTER, "imagePullPolicy": "IfNotPresent",
        "env": [*env, *({"name": k, "value": v} for k, v in plain.items())],
        "volumeMounts": [{"name": "host", "mountPath": "/host", "readOnly": True}],
    }  # fmt: skip
    pod: Json = {
        "metadata": {"labels": {"app": _REPORTER}},
        "spec": {
            "serviceAccountName": _REPORTER, "containers": [container],
            "volumes": [{"name": "host", "hostPath": {"path": FOLDER, "type": "DirectoryOrCreate"}}],
        },
    }  # fmt: skip
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"], "resourceNames": [_REPORTER]},
    ]
    subject = {"kind": "ServiceAccount", "name": _REPORTER, "namespace": "default"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": _REPORTER}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", **meta},
        {"kind": "Role", **rbac, "rules": rules},
        {"kind": "RoleBinding", **rbac, "subjects": [subject], "roleRef": role},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", **meta, "spec": {"selector": {"matchLabels": {"app": _REPORTER}}, "template": pod}},
    ]  # fmt: skip


def workload(name: str = "hello", replicas: int = 2) -> Json:
    """Pods that answer "well" on port 8080."""
    command = ["sh", "-c", "mkdir /tmp/www && echo well >/tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"]
    container = {"name": "web", "image": images.BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": command}
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }  # fmt: skip
