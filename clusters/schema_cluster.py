"""The kind Cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from clusters import exposure
from clusters.schema import CONDITIONS, DRIVER, NAME_PATTERN, VARIABLES, VERSIONS, condition, quote_versions
from clusters.schema_gates import DAEMON_SET_GATES, GATES, NAMESPACE, REPORTERS, check_reporters
from fleet.control.kinds import CLUSTER, Column, Json, Kind, Problem

HOSTED: Final = "Hosted"
LOCAL: Final = "Local"
IMPORTED: Final = "Imported"
SIMULATED: Final = "Simulated"
PROVIDERS: Final = (HOSTED, LOCAL, IMPORTED, SIMULATED)
MADE: Final = (HOSTED, LOCAL)  # providers whose control plane is Fleet's own work
OPERATED: Final = (*MADE, IMPORTED, SIMULATED)  # providers whose clusters are in the loop
BUILT: Final[tuple[str, ...]] = (HOSTED, LOCAL, IMPORTED, SIMULATED)  # those that this version has
POD_CIDR: Final = "10.244.0.0/16"
SERVICE_CIDR: Final = "10.96.0.0/12"
BACKUP_LEAST_SECONDS: Final = 60
_NAME: Json = {"type": "string", "maxLength": 253}

_CONTROL_PLANE: Json = {
    "type": "object",
    "description": "Shape of the control plane that Fleet makes.",
    "properties": {
        "replicas": {
            "type": "integer", "minimum": 1, "maximum": 7, "description": "API servers, controller managers, schedulers; 1 by default, 1 with Local.",
        },
        "etcdReplicas": {"type": "integer", "enum": [1, 3], "description": "Members of etcd, 1 by default."},
        "exposure": {
            "type": "object",
            "description": "Stable name of the API server in all certificates; never changes.",
            "properties": {
                "type": {"type": "string", "enum": ["HostPort", "NodePort", "ClusterIP", "LoadBalancer"]},
                "host": {**_NAME, "description": "Name or address that machines reach."},
                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            },
        },
        "metaCluster": {**_NAME, "description": "Hosted: the Cluster whose nodes carry the pods of this control plane."},
        "namespace": {"type": "string", "maxLength": 63, "pattern": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "description": "Hosted: namespace in the meta cluster, fleet-<name> by default."},
        "storageClass": {**_NAME, "description": "Hosted: class of etcd's volumes; without one a folder of the node that etcd is bound to."},
        "nodeSelector": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}, "description": "Hosted: nodes of the meta cluster that may carry it."},
    },
}  # fmt: skip


def provider_of(spec: Json) -> str:
    """The provider, "" for a group of plain hosts."""
    return str(spec.get("provider") or "")


def hosted_on(spec: Json) -> str:
    """The meta cluster of a Hosted control plane, "" for others."""
    return str(spec.get("controlPlane", {}).get("metaCluster", "")) if provider_of(spec) == HOSTED else ""


def _check_cidr(spec: Json, name: str) -> Sequence[Problem]:
    value = spec.get("network", {}).get(name)
    if value is None:
        return ()
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        return [Problem(f"spec.network.{name}", f'"{value}": must be a network such as 10.244.0.0/16: {error}')]
    return ()


def _required(spec: Json) -> list[Problem]:
    provider, plane = provider_of(spec), spec.get("controlPlane", {})
    if provider and provider not in BUILT:
        instead = f"use {' or '.join(BUILT)}, or leave it out"
        text = f"{provider} control planes are not built yet; {instead} for a group of plain hosts"
        return [Problem("spec.provider", text, "FieldValueForbidden")]
    problems = []
    if provider in MADE and not spec.get("packageVersion"):
        problems.append(
            Problem(
                "spec.packageVersion",
                f"a {provider} cluster needs the name of a ClusterPackageVersion",
                "FieldValueRequired",
            )
        )
    if provider == HOSTED and not plane.get("metaCluster"):
        problems.append(
            Problem(
                "spec.controlPlane.metaCluster",
                "a Hosted cluster needs the name of its meta cluster",
                "FieldValueRequired",
            )
        )
    if provider == HOSTED:
        problems += exposure.problems(plane)
    if provider == IMPORTED and not spec.get("kubeconfigCredential"):
        problems.append(
            Problem(
                "spec.kubeconfigCredential",
                "an Imported cluster needs a Credential of type kubeconfig",
                "FieldValueRequired",
            )
        )
    if provider == LOCAL and plane.get("replicas", 1) != 1:
        problems.append(Problem("spec.controlPlane.replicas", "Local control planes have one replica"))
    if not provider and spec.get("packageVersion"):
        problems.append(
            Problem(
                "spec.packageVersion",
                "needs a provider; a group of plain hosts has machineVersions",
                "FieldValueForbidden",
            )
        )
    return problems


_FIXED: Final = (
    "provider",
    "controlPlane.exposure",
    "controlPlane.metaCluster",
    "controlPlane.namespace",
    "controlPlane.etcdReplicas",
    "controlPlane.storageClass",
    "network",
    "restoreFrom",
)


def _at(spec: Json, path: str) -> object:
    found: object = spec
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _fixed(new: Json, old: Json) -> list[Problem]:
    """What a control plane is built on cannot change under it; a group of plain hosts may still get one."""
    if not provider_of(old):
        return []
    return [
        Problem(f"spec.{path}", "is fixed once the cluster is there", "FieldValueForbidden")
        for path in _FIXED
        if _at(new, path) != _at(old, path)
    ]


def _check_backups(spec: Json) -> list[Problem]:
    seconds = spec.get("backups", {}).get("intervalSeconds", 0)
    if 0 < seconds < BACKUP_LEAST_SECONDS:
        text = f"{seconds}: a snapshot at most every {BACKUP_LEAST_SECONDS} seconds; 0 for never"
        return [Problem("spec.backups.intervalSeconds", text)]
    return []


def _check_cluster(new: Json, old: Json | None) -> Sequence[Problem]:
    spec = new.get("spec", {})
    out = [*_required(spec), *_check_cidr(spec, "podCIDR"), *_check_cidr(spec, "serviceCIDR"), *check_reporters(spec)]
    out += _check_backups(spec)
    if old is not None:
        out += _fixed(spec, old.get("spec", {}))
    return out


def _nodes(obj: Json, now: datetime) -> str:
    nodes = obj.get("status", {}).get("nodes", {})
    return f"{nodes.get('ready', 0)}/{nodes['total']}" if nodes.get("total") else ""


CLUSTER_KIND = Kind(
    kind="Cluster",
    plural="clusters",
    singular="cluster",
    number=CLUSTER,
    short_names=("fcl",),
    description="A group of machines with common defaults; with a provider also a Kubernetes control plane.",
    cluster_field="metadata.name",
    spec={
        "type": "object",
        "description": "Its control plane, and defaults that its machines take.",
        "properties": {
            "idc": {
                "type": "string",
                "maxLength": 128,
                "description": "Data centre of its machines, unless they say otherwise.",
            },
            "provider": {
                "type": "string",
                "enum": list(PROVIDERS),
                "description": "Hosted: pods of a meta cluster. Local: processes on Fleet's host. Imported: a kubeconfig. Simulated: a simulated API server, its simulated machines are the nodes. None: plain hosts.",
            },
            "packageVersion": {**_NAME, "pattern": NAME_PATTERN, "description": "The one ClusterPackageVersion; changing it upgrades, pointing back rolls back."},
            "controlPlane": _CONTROL_PLANE,
            "network": {
                "type": "object",
                "description": "Address ranges of pods and services.",
                "properties": {"podCIDR": {"type": "string", "maxLength": 64}, "serviceCIDR": {"type": "string", "maxLength": 64}},
            },
            "kubeconfigCredential": {**_NAME, "description": "Imported: a Credential of type kubeconfig."},
            "machineVersions": VERSIONS,
            "variables": VARIABLES,
            "driver": DRIVER,
            "readinessGates": GATES,
            "conditionNamespaces": {
                "type": "array",
                "items": NAMESPACE,
                "maxItems": 20,
                "x-kubernetes-list-type": "set",
                "description": "Namespaces of the cluster in which Condition ConfigMaps are read.",
            },
            "reporters": REPORTERS,
            "daemonSetGates": DAEMON_SET_GATES,
            "enforceGates": {"type": "boolean", "description": "Imported clusters: gates only count until a person says true here. Others: true by default."},
            "backups": {
                "type": "object",
                "description": "Scheduled snapshots of etcd.",
                "properties": {
                    "intervalSeconds": {"type": "integer", "minimum": 0, "maximum": 2592000, "description": "A snapshot this often, at most once a minute; 6 hours by default, 0 never."},
                    "keep": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "How many are kept, 10 by default."},
                },
            },
            "restoreFrom": {"type": "string", "maxLength": 36, "description": "uid of a deleted Cluster whose data and PKI are taken up again, within 24 hours."},
            "rollout": {
                "type": "object",
                "description": "How a changed shared layer reaches running machines.",
                "properties": {
                    "mode": {
                        "type": "string",
                        "enum": ["Automatic", "Manual"],
                        "description": "Automatic (default): one canary, then within the budget. Manual: waits for a person.",
                    },
                    "soakSeconds": {
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 86400,
                        "description": "How long a canary must be well, 60 by default; also how long a minor upgrade emulates the old minor, during which pointing back is allowed.",
                    },
                },
            },
            "paused": {"type": "boolean", "description": "Hands off the cluster and all its machines."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {"type": "string", "description": "Pending, Provisioning, Running, Upgrading, Degraded, Deleting, Failed."},
            "observedGeneration": {"type": "integer"},
            "endpoint": {"type": "string", "description": "Address of the API server."},
            "componentVersions": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "The ClusterPackageVersion that each component stands at, and the addons.",
            },
            "snapshotFor": {"type": "string", "description": "The version before whose upgrade a snapshot was taken."},
            "packageVersion": {"type": "string", "description": "The ClusterPackageVersion that the whole control plane has reached."},
            "kubernetesVersion": {"type": "string", "description": "What the API server says it is."},
            "emulatedVersion": {"type": "string", "description": "Minor version emulated until the soak ends."},
            "soakUntil": {"type": "string", "format": "date-time"},
            "components": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"}, "wanted": {"type": "string"}, "seen": {"type": "string"}, "ready": {"type": "string"},
                        "replicas": {"type": "string"}, "message": {"type": "string"},
                    },
                },
            },
            "certificates": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}, "notAfter": {"type": "string", "format": "date-time"}}}},
            "steps": {
                "type": "array",
                "description": "What Fleet does to the control plane now, or did last.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"},
                        "digest": {"type": "string"}, "startTime": {"type": "string", "format": "date-time"}, "endTime": {"type": "string", "format": "date-time"},
                        "starts": {"type": "integer", "description": "How often it was started without having been ready, if more than once."},
                        "goodUntil": {"type": "string", "format": "date-time", "description": "The first end of the certificates that it was started with."},
                    },
                },
            },
            "addons": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "description": "Addons of the ClusterPackageVersion: applied, and whether they are rolled out.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"}, "hash": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"},
                        "since": {"type": "string", "format": "date-time", "description": "When it got further last."},
                        "progress": {"type": "integer", "description": "Grows while it rolls out."},
                    },
                },
            },
            "work": {"type": "object", "description": "The change that the steps belong to.", "x-kubernetes-preserve-unknown-fields": True},
            "stopped": {"type": "object", "description": "Why a change stopped.", "x-kubernetes-preserve-unknown-fields": True},
            "snapshots": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            "nodes": {"type": "object", "additionalProperties": {"type": "integer"}, "description": "Nodes as seen: total, ready, open, unknown, undeclared."},
            "podStarts": {
                "type": "object",
                "description": "Pods that nodes and control plane were to start lately, and how many of them they failed. Mistakes in the pods themselves do not count. Too many open the breaker of the cluster (SafetyPolicy: breaker.podSuccess).",
                "properties": {"tried": {"type": "integer"}, "failed": {"type": "integer"}, "windowSeconds": {"type": "integer"}},
            },
            "gates": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "description": "Per gate: machines held and released."},
            "scheduling": {"type": "object", "additionalProperties": {"type": "integer"}, "description": "Machines by the state of their node: Open, Closed, CordonedByPerson, Joining."},
            "machines": {"type": "integer", "description": "How many machines name this cluster."},
            "phases": {
                "type": "object",
                "additionalProperties": {"type": "integer"},
                "description": "Machines by phase.",
            },
            "conditions": CONDITIONS,
        },
    },
    columns=(
        Column("Phase", lambda o, now: o.get("status", {}).get("phase", "Pending"), description="Summary of the conditions."),
        Column("Version", lambda o, now: o.get("status", {}).get("kubernetesVersion", ""), description="Version of the API server."),
        Column("Nodes", _nodes, description="Ready of all nodes."),
        Column("Machines", lambda o, now: o.get("status", {}).get("machines", 0), "integer", "Machines of the cluster."),
        Column("Up-To-Date", lambda o, now: condition(o, "MachinesUpToDate"), description="Whether its machines have its layer."),
        Column("Provider", lambda o, now: provider_of(o["spec"]), priority=1, description="Who makes its control plane."),
        Column("Package", lambda o, now: o["spec"].get("packageVersion", ""), priority=1, description="ClusterPackageVersion asked for."),
        Column("IDC", lambda o, now: o["spec"].get("idc", ""), priority=1, description="Data centre."),
    ),
    selectable=("spec.idc", "spec.provider", "spec.packageVersion", "status.phase"),
    validate=_check_cluster,
    warn=lambda o: quote_versions(o.get("spec", {}).get("machineVersions", {}), "spec.machineVersions"),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Cluster",
        "metadata": {"name": "iad1-web"},
        "spec": {"idc": "iad1", "machineVersions": {"containerd": "2.1.4"}, "driver": {"credential": "fleet-ssh"}},
    },
)  # fmt: skip
