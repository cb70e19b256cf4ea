"""What gives Services of a cluster in the lab addresses and names, as plain objects."""

from __future__ import annotations

import json
from typing import Any, Final

from lab import images

Json = dict[str, Any]

DNS_ADDRESS: Final = "10.96.0.10"  # where kubelets tell pods to ask, in the service range that a Cluster has by default
_SYSTEM: Final = "kube-system"
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


def kube_proxy(server: str) -> list[Json]:
    """A DaemonSet that makes the addresses of Services lead somewhere. `server`: URL of the API server, which it needs before."""
    name = "kube-proxy"
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority": f"{_ACCOUNT}/ca.crt"}}],
        "users": [{"name": "it", "user": {"tokenFile": f"{_ACCOUNT}/token"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
        "clientConnection": {"kubeconfig": "/etc/kube-proxy/kubeconfig"},
        "detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "cni0"},
        "iptables": {"localhostNodePorts": False},  # would have to write into /proc/sys
        # The kernel's own limits are no business of a machine that shares the kernel.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }  # fmt: skip
    container = {
        "name": name, "image": images.KUBE_PROXY, "imagePullPolicy": "Never",
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},  # not privileged, which API servers refuse by default
        "args": ["--config=/etc/kube-proxy/config", "--hostname-override=$(NODE_NAME)"],
        "env": [_field("NODE_NAME", "spec.nodeName")],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/kube-proxy"}, {"name": "run", "mountPath": "/run"}],
    }  # fmt: skip
    pod = {
        "serviceAccountName": name, "hostNetwork": True, "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}], "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": name}}, {"name": "run", "emptyDir": {}}],
    }  # fmt: skip
    return [
        _object("v1", "ServiceAccount", name, _SYSTEM),
        _bound(name, "system:node-proxier"),
        _object("v1", "ConfigMap", name, _SYSTEM, data={"kubeconfig": json.dumps(kubeconfig), "config": json.dumps(config)}),
        _object("apps/v1", "DaemonSet", name, _SYSTEM, spec=_template(name, pod)),
    ]  # fmt: skip


def dns() -> list[Json]:
    """coredns behind the address that pods ask. It knows the names of the cluster and no others."""
    name = "coredns"
    corefile = (
        ".:53 {\n  errors\n  health\n  ready\n  kubernetes cluster.local in-addr.arpa {\n    pods insecure\n    ttl 5\n  }\n"
        "  cache 5\n  reload\n}\n"
    )
    probe = {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2}
    container = {
        "name": name, "image": images.DNS, "imagePullPolicy": "Never", "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"}],
        "readinessProbe": probe, "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }  # fmt: skip
    pod = {
        "serviceAccountName": name, "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
        "containers": [container], "volumes": [{"name": "config", "configMap": {"name": name}}],
    }  # fmt: skip
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    ports = [{"name": n, "port": 53, "protocol": p} for n, p in (("dns", "UDP"), ("dns-tcp", "TCP"))]
    return [
        _object("v1", "ServiceAccount", name, _SYSTEM),
        _object("rbac.authorization.k8s.io/v1", "ClusterRole", name, rules=rules),
        _bound(name, name),
        _object("v1", "ConfigMap", name, _SYSTEM, data={"Corefile": corefile}),
        _object("v1", "Service", "kube-dns", _SYSTEM, spec={"clusterIP": DNS_ADDRESS, "selector": {"app": name}, "ports": ports}),
        _object("apps/v1", "Deployment", name, _SYSTEM, spec={"replicas": 1, **_template(name, pod)}),
    ]  # fmt: skip


def _object(version: str, kind: str, name: str, namespace: str = "", **content: Any) -> Json:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _bound(account: str, role: str) -> Json:
    """A binding of an account of kube-system to a cluster role."""
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    return _object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", account, roleRef=reference, subjects=[_account(account, _SYSTEM)])  # fmt: skip


def _account(name: str, namespace: str) -> Json:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def _template(app: str, pod: Json) -> Json:
    labels = {"app": app}
    return {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
