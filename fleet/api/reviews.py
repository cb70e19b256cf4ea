"""Who am I, what may I: the self reviews that `kubectl auth whoami` and `auth can-i` ask for."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse

from fleet.api import errors, negotiation
from fleet.api.answers import respond
from fleet.api.authentication import request_actor
from fleet.api.jsonbody import loads
from fleet.api.protobuf import MAGIC, decode_review
from fleet.api.rights import Actor
from fleet.control.kinds import GROUP, Json, kinds

_GROUPS = {
    "SelfSubjectReview": "authentication.k8s.io/v1",
    "SelfSubjectAccessReview": "authorization.k8s.io/v1",
    "SelfSubjectRulesReview": "authorization.k8s.io/v1",
}


def review_view(request: HttpRequest, kind: str) -> HttpResponse:
    """POST of a self review, as JSON or as kubectl's protobuf; answered in JSON with 201."""
    actor = request_actor(request)
    if request.method != "POST":
        raise errors.method_not_allowed(request.method or "")
    body: Any
    if request.body.startswith(MAGIC):
        body = decode_review(request.body[: 64 * 1024])
    else:
        body, _ = loads(request.body or b"{}")
    if not isinstance(body, dict) or body.get("kind") not in (None, "", kind):
        raise errors.bad_request(f"the body must be a {kind}")
    spec = body.get("spec") or {}
    if not isinstance(spec, dict):
        raise errors.bad_request("spec must be an object")
    status = {"SelfSubjectReview": _who, "SelfSubjectAccessReview": _access, "SelfSubjectRulesReview": _rules}[kind](
        actor, spec
    )
    answer: Json = {
        "kind": kind,
        "apiVersion": _GROUPS[kind],
        "metadata": {"creationTimestamp": None},
        "status": status,
    }
    if kind != "SelfSubjectReview":
        answer["spec"] = spec
    return respond(answer, negotiation.Accepted("json"), 201)


def _who(actor: Actor, spec: Json) -> Json:
    groups = sorted({f"fleet:{role}" + (f":{scope}" if scope else "") for role, scope in actor.bindings})
    return {
        "userInfo": {
            "username": actor.name,
            "uid": str(actor.user_id or ""),
            "groups": ["system:authenticated", *groups],
        }
    }


def _access(actor: Actor, spec: Json) -> Json:
    wanted = spec.get("resourceAttributes")
    if not isinstance(wanted, dict):
        other = spec.get("nonResourceAttributes")
        allowed = isinstance(other, dict) and other.get("verb") in ("get", "head")
        return {"allowed": allowed, "reason": "" if allowed else "only reading is possible outside resources"}
    verb, group, plural = (str(wanted.get(k) or "") for k in ("verb", "group", "resource"))
    if plural == "*" and verb == "*":
        return {"allowed": ("admin", "") in actor.bindings}
    kind = kinds().get(plural)
    if group in ("", "v1") and plural == "events":
        return {"allowed": verb in ("get", "list", "watch") and bool(actor.bindings)}
    if kind is None or group not in (GROUP, "*"):
        return {"allowed": False, "reason": f"there is no resource {plural} in group {group or 'core'}"}
    scope = _widest(actor, verb) if kind.cluster_field else None
    allowed = actor.may(verb, kind, scope, str(wanted.get("subresource") or ""))
    return (
        {"allowed": allowed}
        if allowed
        else {"allowed": False, "reason": f"no role of {actor.name} allows {verb} on {plural}"}
    )


def _widest(actor: Actor, verb: str) -> str | None:
    """`can-i` without an object asks: anywhere? So the answer is for the cluster where the actor may most."""
    if verb in ("get", "list", "watch") or actor.clusters is None:
        return None if verb in ("list", "watch") else ""
    order = ("admin", "operator", "approver", "viewer")
    return min(actor.bindings, key=lambda b: order.index(b[0]))[1] if actor.bindings else ""


def _rules(actor: Actor, spec: Json) -> Json:
    rules: list[Json] = []
    for kind in kinds().values():
        verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
        allowed = [v for v in verbs if actor.may(v, kind, _widest(actor, v) if kind.cluster_field else None)]
        if allowed:
            rules.append({"verbs": allowed, "apiGroups": [GROUP], "resources": [kind.plural]})
    rules.append({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["events"]})
    rules.append(
        {
            "verbs": ["create"],
            "apiGroups": ["authentication.k8s.io", "authorization.k8s.io"],
            "resources": ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        }
    )
    paths = {
        "verbs": ["get"],
        "nonResourceURLs": ["/api", "/apis", "/healthz", "/livez", "/openapi/*", "/readyz", "/version"],
    }
    return {"resourceRules": rules, "nonResourceRules": [paths], "incomplete": False}
