"""What the schemas of clusters and machines have in common, and the kind Idc."""

from __future__ import annotations

from fleet.control.conditions import conditions_schema
from fleet.control.kinds import IDC, Column, Json, Kind

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
CONDITIONS: Json = conditions_schema(
    "The truth about the object; one owner each; missing means Unknown.", reported=True
)


def condition(obj: Json, type_: str, part: str = "status") -> str:
    """A field of a condition of an object, "" when it is not there."""
    found: Json = next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == type_), {})
    return str(found.get(part, ""))


def quote_versions(versions: Json, path: str) -> list[str]:
    """Warnings for versions that reached the server as numbers."""
    numbers = [k for k, v in versions.items() if not isinstance(v, str)]
    return [f"{path}[{k}]: {versions[k]} arrived as a number; quote versions, or 1.10 becomes 1.1" for k in numbers]


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
