"""Two kinds of the shape of Fleet's Machine and MachinePackageVersion: every construct that ownership treats apart."""

from __future__ import annotations

import copy
from typing import Any

from fleet.control.kinds import GROUP, VERSION, Json, Kind

TEXT: Json = {"type": "string", "maxLength": 20}

_CONDITIONS: Json = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status"],
        "properties": {"type": {"type": "string"}, "status": {"type": "string"}, "message": {"type": "string"}},
    },
}
_CONFIG_MAPS: Json = {
    "type": "array",
    "maxItems": 4,
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "value": {"type": "string"},
            "count": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        },
    },
}

RACK = Kind(
    kind="Rack",
    number=90,
    plural="racks",
    singular="rack",
    spec={
        "type": "object",
        "required": ["ip"],
        "properties": {
            "ip": TEXT,
            "idc": TEXT,
            "code": {"type": "string", "pattern": "^[0-9a-f]{4}$", "minLength": 1},
            "count": {"type": "integer", "minimum": 0, "maximum": 10},
            "weight": {"type": "number"},
            "paused": {"type": "boolean"},
            "mode": {"type": "string", "enum": ["Repair", "Report"]},
            "when": {"type": "string", "format": "date-time"},
            "versions": {"type": "object", "additionalProperties": {"type": "string"}},
            "selector": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "x-kubernetes-map-type": "atomic",
            },
            "packages": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "configMaps": _CONFIG_MAPS,
            "args": {"type": "array", "items": {"type": "string"}},
            "driver": {
                "type": "object",
                "properties": {"type": {"type": "string"}, "port": {"type": "integer"}, "options": {
                    "type": "object", "properties": {"deep": {"type": "string"}, "more": {"type": "string"}}}},
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
        },
    },
    status={
        "type": "object",
        "properties": {"phase": {"type": "string"}, "conditions": _CONDITIONS, "seen": {
            "type": "object", "additionalProperties": {"type": "string"}}},
    },
    selectable=("spec.idc", "status.phase"),
)  # fmt: skip

BUNDLE = Kind(
    kind="Bundle",
    number=91,
    plural="bundles",
    singular="bundle",
    spec={
        "type": "object",
        "required": ["packageName"],
        "properties": {
            "packageName": TEXT,
            "config": {"type": "object", "properties": {"deb": {"type": "string"}, "rpm": {"type": "string"}}},
            "configMaps": _CONFIG_MAPS,
            "units": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name", "port"],
                "items": {
                    "type": "object",
                    "required": ["name", "port"],
                    "properties": {
                        "name": {"type": "string"},
                        "port": {"type": "integer"},
                        "enabled": {"type": "boolean"},
                        "artifacts": {"type": "array", "items": {"type": "object", "properties": {"url": {"type": "string"}}}},
                    },
                },
            },
            "requires": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        },
    },
    status={"type": "object", "properties": {"machines": {"type": "integer"}}},
)  # fmt: skip

KINDS = (RACK, BUNDLE)


def definition(kind: Kind) -> Json:
    """The CustomResourceDefinition by which a kube-apiserver serves the kind."""
    schema: Json = {
        "type": "object",
        "properties": {"spec": copy.deepcopy(kind.spec), "status": copy.deepcopy(kind.status)},
    }
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": f".{path}"} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {"kind": kind.kind, "plural": kind.plural, "singular": kind.singular, "categories": ["fleet"]},
            "versions": [version],
        },
    }
