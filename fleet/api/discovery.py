"""Answers by which clients learn what there is. Pure: from the registered kinds to JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import orjson

import fleet
from fleet.control.kinds import GROUP, VERSION, Json, Kind

READ = ["get", "list", "watch"]
WRITE = ["create", "delete", "deletecollection", "patch", "update"]
REVIEWS = {
    "authentication.k8s.io": [("selfsubjectreviews", "SelfSubjectReview")],
    "authorization.k8s.io": [
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ],
}


Subs = frozenset[tuple[str, str]]  # (plural, name) of subresources


def version() -> Json:
    """`/version`: the level of the Kubernetes API that Fleet speaks, and its own version behind the plus."""
    return {
        "major": "1", "minor": "37", "gitVersion": f"v1.37.0+fleet.{fleet.__version__}", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go0", "compiler": "cpython", "platform": "linux/amd64",
    }  # fmt: skip


def verbs(kind: Kind) -> list[str]:
    return READ if kind.read_only else sorted(READ + WRITE)


def _sub_verbs(kind: Kind, name: str, writable: Subs) -> list[str]:
    return ["get", "update"] if (kind.plural, name) in writable else ["get"]


def api_versions() -> Json:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group(name: str) -> Json:
    one = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [one], "preferredVersion": one}


def group_list() -> Json:
    groups = [{k: v for k, v in group(n).items() if k not in ("kind", "apiVersion")} for n in (GROUP, *REVIEWS)]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def resource_list(kinds: Iterable[Kind], subresources: dict[str, list[str]], writable: Subs = frozenset()) -> Json:
    """`/apis/fleet.dev/v1`."""
    rows: list[Json] = []
    for kind in kinds:
        row: Json = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": False,
            "kind": kind.kind,
            "verbs": verbs(kind),
            "categories": ["fleet"],
        }
        if kind.short_names:
            row["shortNames"] = list(kind.short_names)
        rows.append(row)
        rows.append(
            {
                "name": f"{kind.plural}/status",
                "singularName": "",
                "namespaced": False,
                "kind": kind.kind,
                "verbs": ["get", "patch", "update"],
            }
        )
        rows += [
            {
                "name": f"{kind.plural}/{sub}",
                "singularName": "",
                "namespaced": False,
                "kind": kind.kind,
                "verbs": _sub_verbs(kind, sub, writable),
            }
            for sub in subresources.get(kind.plural, [])
        ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": rows}


def core_resources() -> Json:
    row = {
        "name": "events",
        "singularName": "event",
        "namespaced": True,
        "kind": "Event",
        "verbs": READ,
        "shortNames": ["ev"],
    }
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [row]}


def review_resources(name: str) -> Json:
    rows = [
        {"name": p, "singularName": k.lower(), "namespaced": False, "kind": k, "verbs": ["create"]}
        for p, k in REVIEWS[name]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{name}/v1", "resources": rows}


def _aggregate(name: str, resources: list[Json]) -> Json:
    meta = {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None}
    return {"metadata": meta, "versions": [{"version": "v1", "freshness": "Current", "resources": resources}]}


def _resource(
    plural: str, singular: str, group_name: str, kind: str, scope: str, verbs_: list[str], **more: object
) -> Json:
    response = {"group": group_name, "version": "v1", "kind": kind}
    return {
        "resource": plural,
        "responseKind": response,
        "scope": scope,
        "singularResource": singular,
        "verbs": verbs_,
    } | more


def aggregated(
    kinds: Iterable[Kind],
    subresources: dict[str, list[str]],
    *,
    core: bool,
    api_version: str,
    writable: Subs = frozenset(),
) -> Json:
    """APIGroupDiscoveryList v2 or v2beta1: for `/api` (core) or `/apis`."""
    if core:
        items = [_aggregate("", [_resource("events", "event", "", "Event", "Namespaced", READ, shortNames=["ev"])])]
    else:
        own = []
        for kind in kinds:
            response = {"group": GROUP, "version": VERSION, "kind": kind.kind}
            subs = [{"subresource": "status", "responseKind": response, "verbs": ["get", "patch", "update"]}]
            subs += [
                {"subresource": s, "responseKind": response, "verbs": _sub_verbs(kind, s, writable)}
                for s in subresources.get(kind.plural, [])
            ]
            own.append(
                _resource(
                    kind.plural,
                    kind.singular,
                    GROUP,
                    kind.kind,
                    "Cluster",
                    verbs(kind),
                    shortNames=list(kind.short_names),
                    categories=["fleet"],
                    subresources=subs,
                )
            )
        items = [_aggregate(GROUP, own)]
        items += [
            _aggregate(n, [_resource(p, k.lower(), n, k, "Cluster", ["create"]) for p, k in rows])
            for n, rows in REVIEWS.items()
        ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{api_version}",
        "metadata": {},
        "items": items,
    }


def etag(document: Json) -> str:
    """Changes whenever a kind changes."""
    return '"' + hashlib.sha256(orjson.dumps(document)).hexdigest()[:32].upper() + '"'
