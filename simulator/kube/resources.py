"""The resources that the simulated API server knows, and what is particular about each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


def _keyed(*keys: str, **properties: Json) -> Json:
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": list(keys),
        "items": _object(**properties),
    }


_SET: Final[Json] = {"type": "array", "x-kubernetes-list-type": "set"}
_ATOMIC: Final[Json] = {"type": "object", "x-kubernetes-map-type": "atomic"}
_TEXTS: Final[Json] = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA: Final[Json] = _object(labels=_TEXTS, annotations=_TEXTS, finalizers=_SET, ownerReferences=_keyed("uid"))
_CONTAINERS: Final[Json] = _keyed(
    "name", env=_keyed("name"), ports=_keyed("containerPort", "protocol"), volumeMounts=_keyed("mountPath")
)
_POD_SPEC: Final[Json] = _object(
    containers=_CONTAINERS,
    initContainers=_CONTAINERS,
    volumes=_keyed("name"),
    hostAliases=_keyed("ip"),
    imagePullSecrets=_keyed("name"),
    nodeSelector=_ATOMIC,
)


@dataclass(frozen=True, slots=True)
class Resource:
    """`selectable`: fields besides the name. `schema`: which lists are keyed or sets, all else is as JSON shows it.

    `unconditional`: PUT without a resourceVersion is taken. `upsert`: PUT creates. `graceful`: DELETE waits for a kubelet.
    `generation`: counts changes of spec. `keeps_status`: a write to the object itself leaves its status alone.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    selectable: tuple[str, ...] = ()
    schema: Json = field(default_factory=dict)
    status: bool = False
    unconditional: bool = True
    upsert: bool = False
    graceful: bool = False
    generation: bool = False
    zero: Json = field(default_factory=dict)  # what an empty object has all the same, so that nobody owns it
    storage: str = ""  # the name in etcd, where it is not the plural

    @property
    def api_version(self) -> str:
        """As it stands in objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def qualified(self) -> str:
        """As messages name it: `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """As messages about the kind name it: `Lease.coordination.k8s.io`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def tree(self) -> Json:
        """The schema of the whole object, for owners of fields."""
        properties: Mapping[str, Json] = self.schema.get("properties", {})
        return {"type": "object", "properties": {**properties, "metadata": METADATA}}


NODES: Final = Resource(
    "", "v1", "nodes", "Node", False, ("spec.unschedulable",), status=True, storage="minions",
    schema=_object(spec=_object(podCIDRs=_SET), status=_object(conditions=_keyed("type"), addresses=_keyed("type"))),
)  # fmt: skip
PODS: Final = Resource(
    "", "v1", "pods", "Pod", True,
    ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
     "status.phase", "status.podIP", "status.nominatedNodeName"),
    status=True, graceful=True, generation=True, zero={"spec": {"containers": None}},
    schema=_object(spec=_POD_SPEC, status=_object(conditions=_keyed("type"), podIPs=_keyed("ip"))),
)  # fmt: skip
EVENTS: Final = Resource(
    "", "v1", "events", "Event", True,
    (*(f"involvedObject.{f}" for f in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")),
     "reason", "reportingComponent", "source", "type"),
    schema=_object(involvedObject=_ATOMIC),
    zero={"involvedObject": {}, "source": {}, "reportingComponent": "", "reportingInstance": "", "firstTimestamp": None,
          "lastTimestamp": None, "eventTime": None},
)  # fmt: skip
CONFIGMAPS: Final = Resource("", "v1", "configmaps", "ConfigMap", True, schema=_object(data=_TEXTS, binaryData=_TEXTS))
NAMESPACES: Final = Resource(
    "", "v1", "namespaces", "Namespace", False, ("status.phase",), status=True, zero={"spec": {"finalizers": ["kubernetes"]}},
    schema=_object(spec=_object(finalizers=_SET), status=_object(conditions=_keyed("type"))),
)  # fmt: skip
LEASES: Final = Resource(
    "coordination.k8s.io", "v1", "leases", "Lease", True, unconditional=False, upsert=True, schema=_object(spec=_object())
)  # fmt: skip
DAEMONSETS: Final = Resource(
    "apps", "v1", "daemonsets", "DaemonSet", True, status=True, generation=True,
    zero={"spec": {"selector": None, "template": {"metadata": {}, "spec": {"containers": None}}}},
    schema=_object(spec=_object(selector=_ATOMIC, template=_object(metadata=METADATA, spec=_POD_SPEC)), status=_object(conditions=_keyed("type"))),
)  # fmt: skip
BUDGETS: Final = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, status=True, generation=True,
    schema=_object(spec=_object(selector=_ATOMIC), status=_object(conditions=_keyed("type"))),
)  # fmt: skip
SECRETS: Final = Resource("", "v1", "secrets", "Secret", True, ("type",), schema=_object(data=_TEXTS))
BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False)

RESOURCES: Final = (NODES, PODS, EVENTS, CONFIGMAPS, NAMESPACES, LEASES, DAEMONSETS, BUDGETS, SECRETS, BINDINGS)
BY_PATH: Final = {(r.group, r.version, r.plural): r for r in RESOURCES}
