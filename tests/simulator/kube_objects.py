"""Objects of the conformance tests, and refusals that both servers must word alike."""

from __future__ import annotations

from typing import Any

from clusters.kube import KubeError

Json = dict[str, Any]
NODES = "/api/v1/nodes"
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


def node(name: str, **meta: Any) -> Json:
    return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, **meta}}


def config(name: str, *, value: str = "b", **meta: Any) -> Json:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, **meta}, "data": {"a": value}}


def pod(name: str, on: str = "", **meta: Any) -> Json:
    spec = {"containers": [{"name": "c", "image": "x"}]} | ({"nodeName": on} if on else {})
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, **meta}, "spec": spec}


def lease(name: str, **spec: Any) -> Json:
    return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": name}, "spec": spec}


def event(name: str, about: str = "n") -> Json:
    return {
        "kind": "Event", "apiVersion": "v1", "metadata": {"name": name}, "involvedObject": {"kind": "Node", "name": about},
        "reason": "Tested", "message": "for a test", "type": "Warning",
    }  # fmt: skip


def told(error: KubeError) -> tuple[int, str, str, Json]:
    return error.code, error.reason, error.message, error.details


_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_NOT_FOUND: tuple[int, str, str, Json] = (404, "NotFound", 'nodes "nope" not found', {"name": "nope", "kind": "nodes"})
_BAD_NAME = {"reason": "FieldValueInvalid", "message": f'Invalid value: "A_b": {_NAME_RULE}', "field": "metadata.name"}
_NO_NAME = {
    "reason": "FieldValueRequired",
    "message": "Required value: name or generateName is required",
    "field": "metadata.name",
}
_NO_METHOD: tuple[int, str, str, Json] = (
    405,
    "MethodNotAllowed",
    "the server does not allow this method on the requested resource",
    {},
)
_NO_PATH: tuple[int, str, str, Json] = (404, "NotFound", "the server could not find the requested resource", {})
REFUSALS: dict[str, tuple[str, str, Any, str, tuple[int, str, str, Json]]] = {
    "get": ("GET", f"{NODES}/nope", None, "", _NOT_FOUND),
    "delete": ("DELETE", f"{NODES}/nope", None, "", _NOT_FOUND),
    "put": ("PUT", f"{NODES}/nope", node("nope"), "", _NOT_FOUND),
    "patch": ("PATCH", f"{NODES}/nope", {}, "application/merge-patch+json", _NOT_FOUND),
    "get-grouped": ("GET", f"{LEASES}/nope", None, "", (404, "NotFound", 'leases.coordination.k8s.io "nope" not found', {"name": "nope", "group": "coordination.k8s.io", "kind": "leases"})),
    "bad-name": ("POST", NODES, node("A_b"), "", (422, "Invalid", f'Node "A_b" is invalid: metadata.name: Invalid value: "A_b": {_NAME_RULE}', {"name": "A_b", "kind": "Node", "causes": [_BAD_NAME]})),
    "no-name": ("POST", NODES, {"kind": "Node", "apiVersion": "v1"}, "", (422, "Invalid", 'Node "" is invalid: metadata.name: Required value: name or generateName is required', {"kind": "Node", "causes": [_NO_NAME]})),
    "other-name": ("PUT", f"{NODES}/one", node("two"), "", (400, "BadRequest", "the name of the object (two) does not match the name on the URL (one)", {})),
    "no-namespace": ("POST", "/api/v1/namespaces/nope/configmaps", config("x"), "", (404, "NotFound", 'namespaces "nope" not found', {"name": "nope", "kind": "namespaces"})),
    "other-namespace": ("POST", MAPS, config("x", namespace="other"), "", (400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request", {})),
    "created-with-version": ("POST", MAPS, config("x", resourceVersion="12"), "", (500, "Http500", "resourceVersion should not be set on objects to be created", {})),
    "no-containers": ("POST", PODS, {**pod("x"), "spec": {}}, "", (422, "Invalid", 'Pod "x" is invalid: spec.containers: Required value', {"name": "x", "kind": "Pod", "causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"}]})),
    "lease-seconds": ("POST", LEASES, lease("x", leaseDurationSeconds=-1), "", (422, "Invalid", 'Lease.coordination.k8s.io "x" is invalid: spec.leaseDurationSeconds: Invalid value: -1: must be greater than 0', {"name": "x", "group": "coordination.k8s.io", "kind": "Lease", "causes": [{"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be greater than 0", "field": "spec.leaseDurationSeconds"}]})),
    "no-media-type": ("PATCH", f"{MAPS}/nope", {}, "text/plain", (415, "UnsupportedMediaType", "415: Unsupported Media Type", {})),
    "no-method": ("PUT", NODES, {}, "", _NO_METHOD),
    "no-resource": ("GET", "/api/v1/nope", None, "", _NO_PATH),
    "no-subresource": ("GET", f"{NODES}/one/nope", None, "", _NO_PATH),
    "field-of-node": ("GET", f"{NODES}?fieldSelector=foo%3Dbar", None, "", (400, "BadRequest", "field label not supported: foo", {})),
    "field-of-map": ("GET", f"{MAPS}?fieldSelector=foo%3Dbar", None, "", (400, "BadRequest", '"foo" is not a known field selector: only "metadata.name", "metadata.namespace"', {})),
    "limit": ("GET", f"{NODES}?limit=x", None, "", (400, "BadRequest", 'strconv.ParseInt: parsing "x": invalid syntax', {})),
    "version": ("GET", f"{NODES}?resourceVersion=x", None, "", (400, "BadRequest", 'invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax', {})),
    "match-without-version": ("GET", f"{NODES}?resourceVersionMatch=Exact", None, "", (422, "Invalid", 'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided', {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [{"reason": "FieldValueForbidden", "message": "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided", "field": "resourceVersionMatch"}]})),
    "apply-without-manager": ("PATCH", f"{MAPS}/x", config("x"), "application/apply-patch+yaml", (422, "Invalid", 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch', {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [{"reason": "FieldValueRequired", "message": "Required value: is required for apply patch", "field": "fieldManager"}]})),
    "evict-nobody": ("POST", f"{PODS}/nope/eviction", {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "nope"}}, "", (404, "NotFound", 'pods "nope" not found', {"name": "nope", "kind": "pods"})),
}  # fmt: skip
