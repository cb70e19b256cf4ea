"""What the server says of itself: version, health, and which resources there are (for kubectl). Pure."""

from __future__ import annotations

from typing import Final

import orjson

from simulator.kube.resources import PODS, RESOURCES, Json, Resource

_JSON: Final = "application/json"
_HEALTH: Final = ("/readyz", "/livez", "/healthz")
_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

_SHORT: Final = {
    "nodes": "no", "pods": "po", "events": "ev", "configmaps": "cm", "namespaces": "ns", "daemonsets": "ds", "poddisruptionbudgets": "pdb",
}  # fmt: skip


def answer(path: str, version: str) -> tuple[bytes, str] | None:
    """Body and content type of a path that is no resource's; None for all others."""
    if path in _HEALTH:
        return b"ok", "text/plain"
    if path == "/version":
        major, minor, _ = version.split(".")
        told = {
            "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor, "minCompatibilityMajor": major,
            "minCompatibilityMinor": str(int(minor) - 1), "gitVersion": f"v{version}", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "simulated", "compiler": "simulated", "platform": "linux/amd64",
        }  # fmt: skip
        return orjson.dumps(told, option=orjson.OPT_INDENT_2), _JSON
    found = _groups(path) or _resources(path)
    return None if found is None else (orjson.dumps(found), _JSON)


def _groups(path: str) -> Json | None:
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        groups = []
        for group, version in sorted({(r.group, r.version) for r in RESOURCES if r.group}):
            one = {"groupVersion": f"{group}/{version}", "version": version}
            groups.append({"name": group, "versions": [one], "preferredVersion": one})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return None


def _resources(path: str) -> Json | None:
    there = [r for r in RESOURCES if r.root == path]
    if not there:
        return None
    listed = [_one(r, r.plural, r.kind, _VERBS) for r in there]
    listed += [_one(r, f"{r.plural}/status", r.kind, ("get", "patch", "update")) for r in there if r.status]
    if PODS in there:
        evict = _one(PODS, "pods/eviction", "Eviction", ("create",))
        listed.append(evict | {"group": "policy", "version": "v1"})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": there[0].api_version, "resources": listed}


def _one(resource: Resource, name: str, kind: str, verbs: tuple[str, ...]) -> Json:
    short: Json = {"shortNames": [_SHORT[name]]} if name in _SHORT else {}
    told = {
        "name": name,
        "singularName": kind.lower(),
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": list(verbs),
    }
    return told | short
