"""The kinds Cluster and Idc."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.control.kinds import CLUSTER, IDC, Column, Json, Kind, Problem

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._+~-]*"
VERSIONS: Json = {
    "type": "object",
    "description": "Package name to version. Quote versions: YAML makes 1.10 into 1.1.",
    "additionalProperties": {
        "anyOf": [{"type": "string"}, {"type": "number"}],
        "maxLength": 128,
        "pattern": r"[A-Za-z0-9][A-Za-z0-9.+:~_-]*",
    },
    "x-fleet-keys": NAME_PATTERN,
    "maxProperties": 200,
}
VARIABLES: Json = {
    "type": "object",
    "description": "Values for templates of configuration files.",
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}], "maxLength": 4096},
    "x-fleet-keys": r"[A-Za-z_][A-Za-z0-9_]*",
    "maxProperties": 200,
}
DRIVER: Json = {
    "type": "object",
    "description": "How Fleet reaches the host.",
    "properties": {
        "type": {"type": "string", "enum": ["ssh", "simulated"], "description": "ssh (default) or simulated."},
        "credential": {"type": "string", "maxLength": 253, "description": "Name of a Credential."},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "Port of sshd, 22 by default."},
        "hostKeys": {
            "type": "array",
            "items": {
                "type": "string",
                "maxLength": 4096,
                "pattern": r"(ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?",
                "x-fleet-pattern-means": "must be a public key line such as 'ssh-ed25519 AAAA...'",
            },
            "maxItems": 16,
            "x-kubernetes-list-type": "set",
            "description": "Public keys by which the host is known. Without one Fleet does not connect.",
        },
    },
}
CONDITIONS: Json = {
    "type": "array",
    "description": "The truth about the object; one owner each; missing means Unknown.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string", "description": "One CamelCase word."},
            "message": {"type": "string", "description": "A sentence for people."},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer"},
        },
    },
}


def condition(obj: Json, type_: str, part: str = "status") -> str:
    """A field of a condition of an object, "" when it is not there."""
    found: Json = next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == type_), {})
    return str(found.get(part, ""))


def quote_versions(versions: Json, path: str) -> list[str]:
    """Warnings for versions that reached the server as numbers."""
    numbers = [k for k, v in versions.items() if not isinstance(v, str)]
    return [f"{path}[{k}]: {versions[k]} arrived as a number; quote versions, or 1.10 becomes 1.1" for k in numbers]


def _check_cluster(new: Json, old: Json | None) -> Sequence[Problem]:
    provider = new.get("spec", {}).get("provider")
    if provider is not None:
        return [
            Problem(
                "spec.provider",
                "clusters with a control plane are not built yet; leave it out for a group of plain hosts",
                "FieldValueForbidden",
            )
        ]
    return ()


CLUSTER_KIND = Kind(
    kind="Cluster",
    plural="clusters",
    singular="cluster",
    number=CLUSTER,
    short_names=("fcl",),
    description="A group of machines with common defaults.",
    cluster_field="metadata.name",
    spec={
        "type": "object",
        "description": "Defaults that its machines take.",
        "properties": {
            "idc": {
                "type": "string",
                "maxLength": 128,
                "description": "Data centre of its machines, unless they say otherwise.",
            },
            "provider": {
                "type": "string",
                "maxLength": 64,
                "description": "Kind of control plane; without one a group of plain hosts.",
            },
            "machineVersions": VERSIONS,
            "variables": VARIABLES,
            "driver": DRIVER,
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
                        "description": "How long a canary must be well, 60 by default.",
                    },
                },
            },
            "paused": {"type": "boolean", "description": "Hands off all machines of the cluster."},
        },
    },
    status={
        "type": "object",
        "properties": {
            "phase": {"type": "string", "description": "Pending, Provisioning, Running, Degraded, Deleting."},
            "observedGeneration": {"type": "integer"},
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
        Column(
            "Phase",
            lambda o, now: o.get("status", {}).get("phase", "Pending"),
            description="Summary of the conditions.",
        ),
        Column(
            "Machines", lambda o, now: o.get("status", {}).get("machines", 0), "integer", "Machines of the cluster."
        ),
        Column(
            "Up-To-Date",
            lambda o, now: condition(o, "MachinesUpToDate"),
            description="Whether its machines have its layer.",
        ),
        Column("IDC", lambda o, now: o["spec"].get("idc", ""), priority=1, description="Data centre."),
    ),
    selectable=("spec.idc", "status.phase"),
    validate=_check_cluster,
    warn=lambda o: quote_versions(o.get("spec", {}).get("machineVersions", {}), "spec.machineVersions"),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Cluster",
        "metadata": {"name": "iad1-web"},
        "spec": {"idc": "iad1", "machineVersions": {"containerd": "2.1.4"}, "driver": {"credential": "fleet-ssh"}},
    },
)

IDC_KIND = Kind(
    kind="Idc",
    plural="idcs",
    singular="idc",
    number=IDC,
    description="A data centre: mirrors and limits. Optional: machines may name an idc that has no object.",
    spec={
        "type": "object",
        "description": "What is particular to this data centre.",
        "properties": {
            "mirrors": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["from"],
                "description": "Package URLs that begin with `from` are fetched from `to` instead.",
                "items": {
                    "type": "object",
                    "required": ["from", "to"],
                    "properties": {
                        "from": {"type": "string", "maxLength": 2048},
                        "to": {"type": "string", "maxLength": 2048},
                    },
                },
            },
            "sshConnections": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10000,
                "description": "SSH connections at a time, 50 by default.",
            },
            "downloads": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10000,
                "description": "Package downloads at a time, 20 by default.",
            },
        },
    },
    status={"type": "object", "properties": {"conditions": CONDITIONS}},
    columns=(
        Column(
            "Connections", lambda o, now: o["spec"].get("sshConnections", 50), "integer", "SSH connections at a time."
        ),
    ),
    example={
        "apiVersion": "fleet.dev/v1",
        "kind": "Idc",
        "metadata": {"name": "iad1"},
        "spec": {"sshConnections": 200},
    },
)
