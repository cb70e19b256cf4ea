"""The port to control planes: what a provider can do with the components of one cluster. Plain data, no Django."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import orjson

from clusters.versions import minor_of
from fleet.control.endpoint import Endpoint

ETCD: Final = "etcd"
APISERVER: Final = "kube-apiserver"
CONTROLLER_MANAGER: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
COMPONENTS: Final = (ETCD, APISERVER, CONTROLLER_MANAGER, SCHEDULER)  # in the order of an upgrade; down is the reverse

# The files that each component reads, by their names in `Plane.files`; Fleet's own client is admin.crt, admin.key.
FILES: Final[Mapping[str, tuple[str, ...]]] = {
    ETCD: ("etcd-ca.crt", "etcd-server.crt", "etcd-server.key", "etcd-peer.crt", "etcd-peer.key"),
    APISERVER: (
        "ca.crt", "apiserver.crt", "apiserver.key", "apiserver-kubelet-client.crt", "apiserver-kubelet-client.key",
        "etcd-ca.crt", "apiserver-etcd-client.crt", "apiserver-etcd-client.key", "sa.pub", "sa.key",
        "front-proxy-ca.crt", "front-proxy-client.crt", "front-proxy-client.key", "encryption.yaml", "audit-policy.yaml",
    ),
    CONTROLLER_MANAGER: ("ca.crt", "ca.key", "sa.key", "front-proxy-ca.crt", "controller-manager.kubeconfig"),
    SCHEDULER: ("ca.crt", "scheduler.kubeconfig"),
}  # fmt: skip


def good_until(component: str, ends: Mapping[str, datetime]) -> datetime | None:
    """The first end of the certificates that a component reads, in files or in a kubeconfig of the same name; None = it reads none."""
    names = (name.replace(".kubeconfig", ".crt") for name in FILES[component])
    return min((ends[name] for name in names if name in ends), default=None)


@dataclass(frozen=True, slots=True)
class Component:
    """One component at one version: `image` for Hosted, `binary` (a file name or path) for Local; `args` are flags without dashes."""

    name: str
    version: str
    image: str = ""
    binary: str = ""
    args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hosting:
    """Where the pods of a Hosted control plane run. `endpoint` None: the meta cluster was never reached.

    `port`: the first of those that the pods take on their nodes. `storage_class` "": etcd's data is a folder of a node.
    """

    name: str
    endpoint: Endpoint | None
    namespace: str
    port: int
    shared: bool = False  # the namespace was named by a person and may be there already
    exposure: str = "HostPort"
    storage_class: str = ""
    selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plane:
    """A control plane as it shall be. `files`: PKI and configuration by name ("ca.crt", "apiserver.key", "encryption.yaml", ...), PEM or text.

    `emulated`: minor version that a kube component emulates until the soak ends ("1.36"), "" = its own.
    """

    uid: str
    name: str
    components: Mapping[str, Component]
    files: Mapping[str, str]
    host: str  # stable name or address in all certificates
    port: int
    replicas: int = 1
    etcd_replicas: int = 1
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/12"
    emulated: str = ""
    meta: Hosting | None = None  # Hosted only
    paused: frozenset[str] = frozenset()  # components not to be touched now

    def digest(self, component: str) -> str:
        """What the component is started with, shortened: another digest = it has to be replaced."""
        made = self.components[component]
        text = orjson.dumps(
            [made.name, made.version, made.image, made.binary, dict(sorted(made.args.items())), self.files_of(component), self.host, self.port, self.replicas,
             self.etcd_replicas, self.pod_cidr, self.service_cidr, self.emulation(component)], option=orjson.OPT_SORT_KEYS,
        )  # fmt: skip
        return hashlib.sha256(text).hexdigest()[:16]

    def emulation(self, component: str) -> str:
        """The minor version that the component has to emulate, "" = its own: only who is newer emulates."""
        if component == ETCD or not self.emulated:
            return ""
        return self.emulated if minor_of(self.components[component].version) > minor_of(self.emulated) else ""

    def files_of(self, component: str) -> dict[str, str]:
        """The files that a component reads, by name, as digests."""
        return {n: hashlib.sha256(self.files[n].encode()).hexdigest() for n in FILES[component] if n in self.files}


@dataclass(frozen=True, slots=True)
class ComponentSeen:
    """One component as found. `digest` "" = not there; `ready` None = could not be asked (unknown, never down).

    `serves`: it does its work although it is not `ready`: its pods are being replaced one by one, or one of its objects was changed.
    `nodes`: nodes of the meta cluster that carry it, of etcd also those that hold its data; None = not known, or it has none.
    """

    name: str
    digest: str = ""
    version: str = ""
    ready: bool | None = None
    replicas_ready: int = 0
    replicas: int = 0
    message: str = ""
    serves: bool = False
    nodes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A backup of etcd in a folder of Fleet's: `path` the file, `sha256` of it, `revision` of its last write."""

    path: Path
    sha256: str
    size: int
    revision: int = 0


class Provider(Protocol):
    """Adapters: `local`, `hosted`; `imported` and `simulated` have no components. Each method is idempotent and may be cut off at any point.

    PermanentError or TemporaryError (fleet.control.errors) with a sentence for people, nothing else.
    """

    async def place(self, plane: Plane, *, restoring: bool = False) -> Mapping[str, str]:
        """Files that say where it stands, to be kept with the others before anything is made; {} = nothing is new.

        `restoring`: a person's snapshot is to be loaded, so data that is gone binds it no longer.
        """
        ...

    def etcd_names(self, plane: Plane) -> Sequence[str]:
        """Names and addresses that etcd's certificates speak for."""
        ...

    async def observe(self, plane: Plane) -> Sequence[ComponentSeen]:
        """All components that are there, wanted or not."""
        ...

    async def apply(self, plane: Plane, component: str) -> None:
        """Bring one component to the plane's wish and return (readiness is observed later). Several replicas: one at a time."""
        ...

    async def stop(self, plane: Plane, component: str) -> None:
        """Stop a component, data kept."""
        ...

    async def snapshot(self, plane: Plane, target: Path) -> Snapshot:
        """A consistent copy of etcd into the file `target`."""
        ...

    async def restore(self, plane: Plane, source: Snapshot) -> None:
        """Replace etcd's data by the snapshot (API servers are stopped before by the caller): --bump-revision 1000000000 --mark-compacted."""
        ...

    async def remove(self, plane: Plane) -> bool:
        """Take away all that this provider made for the plane; True once nothing of it is left."""
        ...

    def endpoint(self, plane: Plane) -> Endpoint:
        """How Fleet reaches the API server as cluster admin."""
        ...


@runtime_checkable
class Foresees(Protocol):
    """Adapters that know beforehand what they cannot run."""

    def lacking(self, plane: Plane) -> Sequence[str]:
        """Sentences, one for each component that cannot be started as it shall be; empty = nothing is known against it."""
        ...
