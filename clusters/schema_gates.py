"""What the schema of clusters says of conditions: gates, and who may report what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fleet.control.kinds import Json, Problem

DAEMON_SET_TYPE: Final = "daemonset/"  # types that Fleet itself reports: daemonset/<namespace>/<name>
FLEET: Final = "fleet"  # source of what Fleet itself reports
_LONGEST: Final = 128
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 253}
NAMESPACE: Json = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"}
_OBJECT: Json = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"}
_TYPE: Json = {
    "type": "string",
    "maxLength": _LONGEST,
    "pattern": r"[A-Za-z0-9]([A-Za-z0-9./_-]*[A-Za-z0-9])?",
    "x-fleet-pattern-means": "must be a condition type such as GPUHealthy or example.com/DiskReady",
}

GATES: Json = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["conditionType"],
    "maxItems": 40,
    "description": "What must be true of a node before it takes workloads.",
    "items": {
        "type": "object",
        "required": ["conditionType"],
        "properties": {
            "conditionType": {**_TYPE, "description": "Condition that answers."},
            "polarity": {
                "type": "string",
                "enum": ["RequireTrue", "ForbidTrue"],
                "description": "RequireTrue (default): holds while the condition is True. ForbidTrue: holds while it is False.",
            },
            "mode": {
                "type": "string",
                "enum": ["Continuous", "BootstrapOnly"],
                "description": "Continuous (default): also closes an open node. BootstrapOnly: counts until the node opens.",
            },
        },
    },
}

REPORTERS: Json = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "maxItems": 100,
    "description": "Who may report conditions of machines: each condition type has one reporter.",
    "items": {
        "type": "object",
        "required": ["name", "conditionTypes"],
        "properties": {
            "name": {**_NAME, "description": "How its Condition ConfigMaps name it, in the annotation fleet.dev/reporter."},
            "namespace": {**NAMESPACE, "description": "Where its Condition ConfigMaps lie; one of conditionNamespaces. Either this or user."},
            "daemonSet": {**_OBJECT, "description": "Its reports count while the pod of this DaemonSet, in the same namespace, on that node is Ready."},
            "user": {**_NAME, "description": "User that reports by the REST API."},
            "conditionTypes": {
                "type": "array",
                "items": _TYPE,
                "minItems": 1,
                "maxItems": 40,
                "x-kubernetes-list-type": "set",
                "description": "Conditions that are its own.",
            },
            "ttlSeconds": {
                "type": "integer",
                "minimum": 30,
                "maximum": 604800,
                "description": "A report older than this is Unknown. Off by default.",
            },
        },
    },
}  # fmt: skip
DAEMON_SET_GATES: Json = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["namespace", "name"],
    "maxItems": 40,
    "description": "DaemonSets whose pod on a node must be Ready before the node takes workloads. Each is the condition daemonset/<namespace>/<name> of the machines.",
    "items": {
        "type": "object",
        "required": ["namespace", "name"],
        "properties": {"namespace": NAMESPACE, "name": _OBJECT},
    },
}  # fmt: skip

# Types that nobody outside may set: the kubelet's own, and what the apps above say that they own.
_built_in: set[str] = {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"}


def reserve_types(types: Iterable[str]) -> None:
    """Condition types that Fleet's own parts report."""
    _built_in.update(types)


def built_in(type_: str) -> bool:
    """Whether Fleet or the kubelet owns the type."""
    return type_ in _built_in or type_.startswith(DAEMON_SET_TYPE)


def check_reporters(spec: Json) -> list[Problem]:
    """One owner a type, nothing built in, and a way for each to report."""
    out = []
    owner: dict[str, str] = {}
    for i, each in enumerate(spec.get("reporters", [])):
        path = f"spec.reporters[{i}]"
        if each["name"] == FLEET:
            out.append(Problem(f"{path}.name", f'"{FLEET}": is what Fleet calls itself', "FieldValueForbidden"))
        out += _check_way(each, path, spec.get("conditionNamespaces", []))
        for type_ in each.get("conditionTypes", []):
            if built_in(type_):
                text = f'"{type_}": is built in and cannot be set from outside'
                out.append(Problem(f"{path}.conditionTypes", text, "FieldValueForbidden"))
            if type_ in owner:
                text = f'"{type_}": belongs to reporter {owner[type_]} already'
                out.append(Problem(f"{path}.conditionTypes", text, "FieldValueDuplicate"))
            owner[type_] = each.get("name", "")
    for i, each in enumerate(spec.get("daemonSetGates", [])):
        if len(daemon_set_type(each["namespace"], each["name"])) > _LONGEST:
            out.append(Problem(f"spec.daemonSetGates[{i}]", "namespace and name are too long for a condition type"))
    return out


def _check_way(reporter: Json, path: str, allowed: list[str]) -> list[Problem]:
    namespace = reporter.get("namespace")
    if namespace and namespace not in allowed:
        return [Problem(f"{path}.namespace", f'"{namespace}": is not in spec.conditionNamespaces')]
    if bool(namespace) == bool(reporter.get("user")):
        text = "say either where its Condition ConfigMaps lie, or the user that reports by the API"
        return [Problem(f"{path}.namespace", text, "FieldValueRequired")]
    if reporter.get("daemonSet") and not namespace:
        text = "what a user reports does not hang on pods"
        return [Problem(f"{path}.daemonSet", text, "FieldValueForbidden")]
    return []


def daemon_set_type(namespace: str, name: str) -> str:
    """The condition that says whether a DaemonSet's pod is Ready on a node."""
    return f"{DAEMON_SET_TYPE}{namespace}/{name}"
