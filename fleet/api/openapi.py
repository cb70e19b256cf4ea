"""OpenAPI 3.0 of the API group: what kubectl validates and explains by, and what people read at /api/docs."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import fleet
from fleet.control.kinds import GROUP, VERSION, Json, Kind

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_REF = "#/components/schemas/"
_STRING: Json = {"type": "string"}
_STRINGS: Json = {"type": "object", "additionalProperties": _STRING}

_QUERY = {
    "fieldManager": "Name of the actor that owns the fields of this write.",
    "fieldValidation": "What to do with unknown and duplicate fields: Strict, Warn or Ignore.",
    "dryRun": "All: do everything but the write.",
}
_LIST_QUERY = {
    "labelSelector": "Restrict by labels, e.g. `rack=r1,env in (a, b)`.",
    "fieldSelector": "Restrict by fields, e.g. `spec.clusterName=a`.",
    "limit": "At most so many objects; the answer carries a continue token.",
    "continue": "Token of the page before.",
    "resourceVersion": "Where a watch begins.",
    "watch": "true: stream changes.",
    "timeoutSeconds": "Length of a watch.",
}


def document(
    kinds: Iterable[Kind],
    subresources: dict[str, list[str]] | None = None,
    writable: frozenset[tuple[str, str]] = frozenset(),
) -> Json:
    """The whole document for `/openapi/v3/apis/fleet.dev/v1`."""
    kinds = list(kinds)
    schemas: Json = _meta_schemas()
    paths: Json = {}
    for kind in kinds:
        schemas[_name(kind)] = _schema(kind)
        schemas[_name(kind) + "List"] = _list_schema(kind)
        paths |= _paths(kind, (subresources or {}).get(kind.plural, []), writable)
    description = (
        "Fleet follows the Kubernetes API conventions: kubectl and every Kubernetes client speak to it, and so does plain HTTP. "
        "Send `Authorization: Bearer <token>`; a token comes from `fleetctl token create`."
    )
    return {
        "openapi": "3.0.0",
        "info": {"title": "Fleet", "version": fleet.__version__, "description": description},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": {"type": "http", "scheme": "bearer"}}},
        "security": [{"BearerToken": []}],
    }


def _name(kind: Kind) -> str:
    return f"dev.fleet.{VERSION}.{kind.kind}"


def _schema(kind: Kind) -> Json:
    out: Json = _clean(kind.object_schema())
    if kind.example:
        out["example"] = kind.example
    return out


def _clean(schema: Any) -> Any:
    """Drop our private keywords; turn `null` handling and full-match patterns into what OpenAPI means."""
    if isinstance(schema, dict):
        out = {k: _clean(v) for k, v in schema.items() if not str(k).startswith("x-fleet-")}
        if isinstance(out.get("pattern"), str) and not out["pattern"].startswith("^"):
            out["pattern"] = f"^(?:{out['pattern']})$"
        return out
    return [_clean(v) for v in schema] if isinstance(schema, list) else schema


def _list_schema(kind: Kind) -> Json:
    return {
        "type": "object",
        "description": f"A list of {kind.kind} objects.",
        "required": ["items"],
        "properties": {
            "apiVersion": _STRING,
            "kind": _STRING,
            "metadata": {"$ref": f"{_REF}{_META}.ListMeta"},
            "items": {"type": "array", "items": {"$ref": _REF + _name(kind)}},
        },
        "x-kubernetes-group-version-kind": [{"group": GROUP, "kind": kind.kind + "List", "version": VERSION}],
    }


def _meta_schemas() -> Json:
    object_meta: Json = {
        "type": "object",
        "description": "Metadata that every object has.",
        "properties": {
            "name": {"type": "string", "description": "Unique among objects of its kind."},
            "generateName": {"type": "string", "description": "Prefix of a name that the server completes."},
            "labels": _STRINGS | {"description": "Labels to select by."},
            "annotations": _STRINGS | {"description": "Notes of tools and people."},
            "finalizers": {
                "type": "array",
                "items": _STRING,
                "description": "Who must finish before the object is gone.",
            },
            "uid": {"type": "string", "description": "Set by the server."},
            "resourceVersion": {"type": "string", "description": "Position of the last write; set by the server."},
            "generation": {"type": "integer", "format": "int64", "description": "Counts changes of spec."},
            "creationTimestamp": {"type": "string", "format": "date-time", "description": "Set by the server."},
            "deletionTimestamp": {
                "type": "string",
                "format": "date-time",
                "description": "Set when deletion was asked for.",
            },
            "managedFields": {"type": "array", "items": {"type": "object"}, "description": "Who owns which field."},
        },
    }
    list_meta = {
        "type": "object",
        "properties": {
            "resourceVersion": _STRING,
            "continue": _STRING,
            "remainingItemCount": {"type": "integer", "format": "int64"},
        },
    }
    return {f"{_META}.ObjectMeta": object_meta, f"{_META}.ListMeta": list_meta, f"{_META}.Status": status_schema()}


def status_schema() -> Json:
    """A Status, which every refusal is."""
    return {
        "type": "object",
        "description": "The answer to what was refused, and to some deletes.",
        "properties": {
            "status": _STRING,
            "message": _STRING,
            "reason": _STRING,
            "code": {"type": "integer"},
            "details": {"type": "object"},
        },
        "x-kubernetes-group-version-kind": [{"group": "", "kind": "Status", "version": "v1"}],
    }


def _parameters(names: dict[str, str]) -> list[Json]:
    return [{"name": n, "in": "query", "description": d, "schema": _STRING} for n, d in names.items()]


def _operation(kind: Kind, action: str, verb: str, answer: str, summary: str, **more: Any) -> Json:
    def response(text: str, ref: str) -> Json:
        return {"description": text, "content": {"application/json": {"schema": {"$ref": _REF + ref}}}}

    out: Json = {
        "operationId": f"{verb}FleetDevV1{kind.kind}",
        "summary": summary,
        "tags": [kind.kind],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": GROUP, "kind": kind.kind, "version": VERSION},
        "responses": {"200": response("OK", answer), "default": response("Refused, and why", f"{_META}.Status")},
    }
    return out | more


def _body(kind: Kind, *types: str) -> Json:
    content: Json = {}
    for media in types:
        schema: Json = {"$ref": _REF + _name(kind)}
        if media == "application/json-patch+json":
            schema = {"type": "array", "items": {"type": "object"}}
        content[media] = {"schema": schema} | (
            {"example": kind.example} if kind.example and media == "application/json" else {}
        )
    return {"requestBody": {"required": True, "content": content}}


def _put_beside(kind: Kind, sub: str) -> Json:
    """PUT of a subresource that is no part of the object."""
    plain: Json = {"application/json": {"schema": {"type": "object"}}}
    body = {"requestBody": {"required": True, "content": plain}}
    operation = _operation(
        kind,
        "put",
        "report",
        f"{_META}.Status",
        f"Put {sub} beside a {kind.kind}",
        parameters=_parameters({"dryRun": _QUERY["dryRun"]}),
        **body,
    )
    operation["responses"]["200"] = {"description": "OK", "content": plain}
    operation["operationId"] += sub.capitalize()
    return operation


def _paths(kind: Kind, subresources: list[str], writable: frozenset[tuple[str, str]]) -> Json:
    name, base = _name(kind), f"/apis/{GROUP}/{VERSION}/{kind.plural}"
    write = {"parameters": _parameters(_QUERY)}
    one = [
        {"name": "name", "in": "path", "required": True, "description": f"Name of the {kind.kind}.", "schema": _STRING}
    ]
    every: Json = {
        "get": _operation(
            kind, "list", "list", name + "List", f"List or watch {kind.plural}", parameters=_parameters(_LIST_QUERY)
        )
    }
    single: Json = {"parameters": one, "get": _operation(kind, "get", "read", name, f"Read one {kind.kind}")}
    if not kind.read_only:
        every["post"] = _operation(
            kind,
            "post",
            "create",
            name,
            f"Create a {kind.kind}",
            **write,
            **_body(kind, "application/json", "application/yaml"),
        )
        every["delete"] = _operation(
            kind,
            "deletecollection",
            "deletecollection",
            f"{_META}.Status",
            f"Delete many {kind.plural} (role admin)",
            parameters=_parameters(_LIST_QUERY),
        )
        single["put"] = _operation(
            kind,
            "put",
            "replace",
            name,
            f"Replace a {kind.kind}",
            **write,
            **_body(kind, "application/json", "application/yaml"),
        )
        patches = ("application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml")
        force = _parameters({"force": "true: take contested fields over (server-side apply only)."})
        single["patch"] = _operation(
            kind,
            "patch",
            "patch",
            name,
            f"Change a {kind.kind}",
            parameters=write["parameters"] + force,
            **_body(kind, *patches),
        )
        single["delete"] = _operation(
            kind,
            "delete",
            "delete",
            name,
            f"Delete a {kind.kind}",
            parameters=_parameters({"dryRun": _QUERY["dryRun"]}),
        )
    paths: Json = {base: every, f"{base}/{{name}}": single}
    status = copy.deepcopy({k: v for k, v in single.items() if k in ("parameters", "get", "put", "patch")})
    for verb in ("get", "put", "patch"):
        if verb in status:
            status[verb]["operationId"] += "Status"
            status[verb]["summary"] = f"Status of a {kind.kind} (written by its controller)"
    paths[f"{base}/{{name}}/status"] = status
    for sub in subresources:
        operation = _operation(kind, "get", "read", f"{_META}.Status", f"{sub} of a {kind.kind}")
        operation["operationId"] += sub.capitalize()
        operation["responses"]["200"] = {
            "description": "OK",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
        paths[f"{base}/{{name}}/{sub}"] = {"parameters": one, "get": operation}
        if (kind.plural, sub) in writable:
            paths[f"{base}/{{name}}/{sub}"]["put"] = _put_beside(kind, sub)
    return paths
