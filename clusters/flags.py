"""Command lines of the components of a control plane. Pure.

What a ClusterPackageVersion says in `args` is added to these; where both name a flag, this one holds: safety hangs on them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clusters.planes import APISERVER, CONTROLLER_MANAGER, ETCD, SCHEDULER, Plane

KUBELET_CERTIFICATES: Final = "168h0m0s"  # a stolen one is worth a week; kubelets renew theirs by themselves
MEMBER: Final = "default"  # the name of a single etcd member


@dataclass(frozen=True, slots=True)
class Place:
    """Where a component finds its things: the folder of its files, its data, and the ports of its neighbours.

    `bind`: address at which all but the API server listen. `members`: hosts of etcd's members by name, of whom it is
    `member` itself. `api`: the API server's port where it runs, at `serve`; `advertise` "" = it finds its address itself.
    `health`: etcd's port without TLS on loopback, for probes only; 0 = none.
    """

    files: Path
    data: Path
    bind: str
    etcd: int
    peer: int
    controller_manager: int
    scheduler: int
    api: int
    members: Mapping[str, str]
    member: str = MEMBER
    host: str = ""  # own host in etcd's URLs, `bind` by default
    serve: str = "0.0.0.0"
    advertise: str = ""
    health: int = 0

    def file(self, name: str) -> str:
        """Path of one of the component's files."""
        return str(self.files / name)

    def peers(self) -> str:
        """The members of etcd as each is told them."""
        return ",".join(f"{name}=https://{host}:{self.peer}" for name, host in self.members.items())


LEAVE_SECONDS: Final = 15  # that one of several API servers still answers while it says that it is not ready

# What a ClusterPackageVersion may say otherwise. Network plugins are privileged pods, as every installer of Kubernetes has it.
# An API server that ends waits a minute for connections of clients that watch, with its port closed already; one that sends
# clients away (429 with Retry-After) until its requests are answered ends two seconds after that.
_USUAL: Final[Mapping[str, Mapping[str, str]]] = {
    APISERVER: {"allow-privileged": "true", "shutdown-send-retry-after": "true"}
}
# The same where a balancer stands in front of several: one that ends is left before it takes no more connections, and clients
# that keep theirs are asked now and then to open another, so that one that came back gets its share.
_USUAL_OF_SEVERAL: Final[Mapping[str, Mapping[str, str]]] = {
    APISERVER: {"shutdown-delay-duration": f"{LEAVE_SECONDS}s", "goaway-chance": "0.001"}
}


def arguments(plane: Plane, component: str, place: Place) -> list[str]:
    """The flags of a component, each as one word, in order of their names."""
    own = _OF[component](plane, place)
    emulated = plane.emulation(component)
    if emulated:
        own["emulated-version"] = emulated
    several = _USUAL_OF_SEVERAL.get(component, {}) if plane.replicas > 1 else {}
    said = {**_USUAL.get(component, {}), **several, **plane.components[component].args, **own}
    return [f"--{flag}={value}" for flag, value in sorted(said.items())]


def _etcd(plane: Plane, place: Place) -> dict[str, str]:
    own = place.host or place.bind
    health = {"listen-metrics-urls": f"http://127.0.0.1:{place.health}"} if place.health else {}
    return {
        **health,
        "name": place.member,
        "data-dir": str(place.data),
        "listen-client-urls": f"https://{place.bind}:{place.etcd}",
        "advertise-client-urls": f"https://{own}:{place.etcd}",
        "listen-peer-urls": f"https://{place.bind}:{place.peer}",
        "initial-advertise-peer-urls": f"https://{own}:{place.peer}",
        "initial-cluster": place.peers(),
        "cert-file": place.file("etcd-server.crt"),
        "key-file": place.file("etcd-server.key"),
        "trusted-ca-file": place.file("etcd-ca.crt"),
        "client-cert-auth": "true",
        "peer-cert-file": place.file("etcd-peer.crt"),
        "peer-key-file": place.file("etcd-peer.key"),
        "peer-trusted-ca-file": place.file("etcd-ca.crt"),
        "peer-client-cert-auth": "true",
    }


def _apiserver(plane: Plane, place: Place) -> dict[str, str]:
    own = {
        "bind-address": place.serve,
        "secure-port": str(place.api),
        "etcd-servers": ",".join(f"https://{host}:{place.etcd}" for host in place.members.values()),
        "etcd-cafile": place.file("etcd-ca.crt"),
        "etcd-certfile": place.file("apiserver-etcd-client.crt"),
        "etcd-keyfile": place.file("apiserver-etcd-client.key"),
        "client-ca-file": place.file("ca.crt"),
        "tls-cert-file": place.file("apiserver.crt"),
        "tls-private-key-file": place.file("apiserver.key"),
        "kubelet-client-certificate": place.file("apiserver-kubelet-client.crt"),
        "kubelet-client-key": place.file("apiserver-kubelet-client.key"),
        "kubelet-preferred-address-types": "InternalIP,Hostname",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": place.file("sa.pub"),
        "service-account-signing-key-file": place.file("sa.key"),
        "service-cluster-ip-range": plane.service_cidr,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "enable-bootstrap-token-auth": "true",
        "requestheader-client-ca-file": place.file("front-proxy-ca.crt"),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": place.file("front-proxy-client.crt"),
        "proxy-client-key-file": place.file("front-proxy-client.key"),
        "encryption-provider-config": place.file("encryption.yaml"),
        "audit-policy-file": place.file("audit-policy.yaml"),
        "audit-log-path": str(place.data / "audit.log"),
        "audit-log-maxsize": "50",
        "audit-log-maxbackup": "3",
    }
    if place.advertise:
        own["advertise-address"] = place.advertise
        if is_address(place.advertise) and ipaddress.ip_address(place.advertise).is_loopback:
            own["endpoint-reconciler-type"] = "none"  # Kubernetes takes no loopback address as an endpoint
    return own


def is_address(host: str) -> bool:
    """Whether it is written as an address, no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _client(plane: Plane, place: Place, name: str) -> dict[str, str]:
    config = place.file(f"{name}.kubeconfig")
    return {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": place.bind,
        "leader-elect": "true",
    }


def _controller_manager(plane: Plane, place: Place) -> dict[str, str]:
    return {
        **_client(plane, place, "controller-manager"),
        "secure-port": str(place.controller_manager),
        "client-ca-file": place.file("ca.crt"),
        "requestheader-client-ca-file": place.file("front-proxy-ca.crt"),
        "root-ca-file": place.file("ca.crt"),
        "service-account-private-key-file": place.file("sa.key"),
        "cluster-signing-cert-file": place.file("ca.crt"),
        "cluster-signing-key-file": place.file("ca.key"),
        "cluster-signing-duration": KUBELET_CERTIFICATES,
        "use-service-account-credentials": "true",
        # Fleet alone approves the certificates of kubelets.
        "controllers": "*,bootstrap-signer-controller,token-cleaner-controller,-certificatesigningrequest-approving-controller",
        "allocate-node-cidrs": "true",
        "cluster-cidr": plane.pod_cidr,
        "service-cluster-ip-range": plane.service_cidr,
    }


def _scheduler(plane: Plane, place: Place) -> dict[str, str]:
    return {**_client(plane, place, "scheduler"), "secure-port": str(place.scheduler)}


_OF: Final[Mapping[str, Callable[[Plane, Place], dict[str, str]]]] = {
    ETCD: _etcd,
    APISERVER: _apiserver,
    CONTROLLER_MANAGER: _controller_manager,
    SCHEDULER: _scheduler,
}
