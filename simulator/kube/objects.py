"""What kube-apiserver does to an object before it stores it: defaults and validation, as far as Fleet can see them. Pure."""

from __future__ import annotations

import re
from typing import Final

from fleet.api.structure import same
from simulator.kube.refusals import Mistake, Refusal, bad_request, invalid
from simulator.kube.resources import BUDGETS, EVENTS, LEASES, NAMESPACES, NODES, PODS, Json, Resource

NOT_READY: Final = "node.kubernetes.io/not-ready"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_NODE_INFO: Final = (
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion", "kubeProxyVersion",
    "operatingSystem", "architecture",
)  # fmt: skip
_CONTAINER: Final[Json] = {
    "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "Always",
}  # fmt: skip
_POD: Final[Json] = {
    "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
    "schedulerName": "default-scheduler", "enableServiceLinks": True, "serviceAccountName": "default", "serviceAccount": "default",
}  # fmt: skip
_SECONDS: Final = 300  # DefaultTolerationSeconds
_TOLERATIONS: Final = tuple(
    {"key": f"node.kubernetes.io/{w}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _SECONDS}
    for w in ("not-ready", "unreachable")
)


def default(resource: Resource, obj: Json, *, created: bool) -> None:
    """Fill in what was left out; `created` also what only a new object gets. 400 where a value is of another shape."""
    _check_shape(obj)
    spec, status = obj.get("spec"), obj.get("status")
    if resource is NODES:
        _default_node(obj)
    elif resource is PODS:
        obj["spec"] = {**_POD, **(spec or {})}
        for each in obj["spec"].get("containers") or ():
            each.update({k: v for k, v in _CONTAINER.items() if k not in each})
        if created:
            obj["spec"].setdefault("tolerations", [dict(t) for t in _TOLERATIONS])
            obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource is NAMESPACES:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
        obj["spec"] = {"finalizers": ["kubernetes"], **(spec or {})} if created else (spec or {})
        obj["status"] = {"phase": "Active"} if created else (status or {"phase": "Active"})
    elif resource is EVENTS:
        given = dict(obj)
        for key in ("firstTimestamp", "lastTimestamp", "eventTime"):
            obj[key] = given.get(key)
        obj.setdefault("source", {})
        obj.setdefault("reportingComponent", "")
        obj.setdefault("reportingInstance", "")
    elif resource is BUDGETS and created:
        obj["status"] = {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}


def _check_shape(obj: Json) -> None:
    meta = obj["metadata"]
    for where, name in ((obj, "spec"), (obj, "status"), (meta, "labels"), (meta, "annotations")):
        if where.get(name) is not None and not isinstance(where[name], dict):
            raise bad_request(f"json: cannot unmarshal {type(where[name]).__name__} into {name}")
    for name in ("finalizers", "ownerReferences"):
        if meta.get(name) is not None and not isinstance(meta[name], list):
            raise bad_request(f"json: cannot unmarshal {type(meta[name]).__name__} into metadata.{name}")


def admit(resource: Resource, obj: Json) -> None:
    """What admission adds to a new object, which counts as nobody's writing: TaintNodesByCondition."""
    if resource is NODES:
        taints = obj["spec"].get("taints") or []
        if not any(t.get("key") == NOT_READY for t in taints):
            obj["spec"]["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]


def _default_node(obj: Json) -> None:
    spec = obj["spec"] = dict(obj.get("spec") or {})
    status = obj["status"] = dict(obj.get("status") or {})
    for key in ("unschedulable", "taints"):
        if not spec.get(key):
            spec.pop(key, None)
    status.setdefault("daemonEndpoints", {"kubeletEndpoint": {"Port": 0}})
    status["nodeInfo"] = {**dict.fromkeys(_NODE_INFO, ""), **(status.get("nodeInfo") or {})}
    status["conditions"] = [
        {"lastHeartbeatTime": None, "lastTransitionTime": None, **c} for c in status.get("conditions") or ()
    ] or None
    if status["conditions"] is None:
        del status["conditions"]


def check(resource: Resource, obj: Json, old: Json | None = None) -> None:
    """Raise the refusal of an object that may not be stored, or not in place of `old`."""
    name = str(obj["metadata"].get("name") or "")
    mistakes = _metadata(name, obj["metadata"], (old or {}).get("metadata"))
    if resource is NODES:
        mistakes += _node(obj, old)
    elif resource is PODS:
        mistakes += _pod(obj, old)
    elif (
        resource is LEASES
        and (seconds := (obj.get("spec") or {}).get("leaseDurationSeconds")) is not None
        and seconds <= 0
    ):
        mistakes.append(Mistake("spec.leaseDurationSeconds", f"{seconds}: must be greater than 0"))
    if mistakes:
        raise invalid(resource, name, mistakes)


def _metadata(name: str, meta: Json, old: Json | None) -> list[Mistake]:
    if not name:
        return [Mistake("metadata.name", "name or generateName is required", "FieldValueRequired")]
    out = []
    if old is None and (len(name) > 253 or not _NAME.fullmatch(name)):
        out.append(Mistake("metadata.name", f'"{name}": {_NAME_RULE}'))
    if old is not None and meta.get("uid") != old.get("uid"):
        out.append(Mistake("metadata.uid", f'"{meta.get("uid")}": field is immutable'))
    for what in ("labels", "annotations"):
        for key, value in (meta.get(what) or {}).items():
            if not isinstance(value, str):
                raise Refusal(400, "BadRequest", f"json: cannot unmarshal into string: metadata.{what}.{key}")
    return out


def _node(obj: Json, old: Json | None) -> list[Mistake]:
    out: list[Mistake] = []
    seen: set[tuple[object, object]] = set()
    for number, taint in enumerate((obj.get("spec") or {}).get("taints") or ()):
        place, pair = f"metadata.taints[{number}]", (taint.get("key"), taint.get("effect"))
        if not taint.get("key"):
            out.append(Mistake(f"{place}.key", "name part must be non-empty"))
        if taint.get("effect") not in _EFFECTS:
            shown = ", ".join(f'"{e}"' for e in _EFFECTS)
            text = f'"{taint.get("effect") or ""}": supported values: {shown}'
            out.append(Mistake(f"{place}.effect", text, "FieldValueNotSupported"))
        if pair in seen:
            shown = f'{{"Key":"{pair[0]}","Value":"{taint.get("value", "")}","Effect":"{pair[1]}","TimeAdded":null}}'
            text = f"{shown}: taints must be unique by key and effect pair"
            out.append(Mistake(place, text, "FieldValueDuplicate"))
        seen.add(pair)
    before, after = ((o or {}).get("spec", {}).get("providerID") or "" for o in (old, obj))
    if before and before != after:
        out.append(Mistake("spec.providerID", "null: field cannot be modified once set"))
    return out


_MAY_CHANGE: Final = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")


def _pod(obj: Json, old: Json | None) -> list[Mistake]:
    spec = obj.get("spec") or {}
    if not spec.get("containers"):
        return [Mistake("spec.containers", "", "FieldValueRequired")]
    if old is not None and not same(_fixed(spec), _fixed(old["spec"])):
        text = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        return [Mistake("spec", text, "FieldValueForbidden")]
    return []


def _fixed(spec: Json) -> Json:
    out = {k: v for k, v in spec.items() if k not in _MAY_CHANGE}
    for kind in ("containers", "initContainers"):
        if kind in spec:
            out[kind] = [{k: v for k, v in c.items() if k != "image"} for c in spec[kind] or ()]
    return out
