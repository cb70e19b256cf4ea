"""HTTP for every kind: one dispatcher, from path and method to a verb."""

from __future__ import annotations

import logging
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from fleet.api import actions, errors, listing, negotiation
from fleet.api.actions import Preconditions, Write
from fleet.api.answers import guarded, respond
from fleet.api.authentication import request_actor
from fleet.api.jsonbody import check_depth, loads
from fleet.api.patches import json_patch, merge_patch
from fleet.api.redact import redact
from fleet.api.rights import Actor
from fleet.api.storage import Storage, storage_for
from fleet.api.subresources import subresource as find_subresource
from fleet.control.kinds import GROUP, Json, Kind, kinds

log = logging.getLogger("fleet.api")


@csrf_exempt
async def group_view(request: HttpRequest, rest: str) -> HttpResponseBase:
    """Everything below /apis/fleet.dev/v1/. Watches stream on the event loop; the rest runs in a thread."""
    if wants_watch(request):
        from fleet.api.watch import watch_view

        return await watch_view(request, rest)
    return await sync_to_async(guarded(_dispatch), thread_sensitive=False)(request, rest)


def wants_watch(request: HttpRequest) -> bool:
    """Whether the request is a GET that asks for a stream."""
    return request.method == "GET" and request.GET.get("watch") in ("1", "t", "T", "true", "True", "TRUE")


def parse_path(rest: str) -> tuple[Kind, str | None, str | None]:
    """(kind, name, subresource) of a path; plain 404 for what no kind has."""
    parts = rest.strip("/").split("/")
    kind = kinds().get(parts[0])
    if kind is None or len(parts) > 3 or not all(parts) or "\x00" in rest:
        raise NoSuchPath
    return kind, parts[1] if len(parts) > 1 else None, parts[2] if len(parts) > 2 else None


class NoSuchPath(Exception):
    """kubectl wants `404 page not found` as text here."""


def page_not_found() -> HttpResponse:
    return HttpResponse("404 page not found\n", status=404, content_type="text/plain; charset=utf-8")


def _dispatch(request: HttpRequest, rest: str) -> HttpResponseBase:
    actor = request_actor(request)
    try:
        kind, name, sub = parse_path(rest)
    except NoSuchPath:
        return page_not_found()
    storage = storage_for(kind.plural)
    method = "GET" if request.method == "HEAD" else request.method or "GET"
    if name is None:
        return _collection(request, storage, actor, method)
    if sub not in (None, "status"):
        return _extra(request, storage, actor, method, name, sub or "")
    if method == "GET":
        return _get(request, storage, actor, name)
    if method not in ("PUT", "PATCH", "DELETE") or (method == "DELETE" and sub):
        raise errors.method_not_allowed(method)
    verb = {"PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]
    if not _may_write(storage, actor, verb, name, sub or ""):
        raise errors.forbidden(actor.name, verb, kind, name)
    write = _write(request, actor, "PatchOptions" if method == "PATCH" else "UpdateOptions")
    accepted = negotiation.accept(request.headers.get("Accept", ""))
    if method == "DELETE":
        return _delete(request, storage, write, accepted, name)
    if method == "PUT":
        content_type = negotiation.body_type(request.headers.get("Content-Type", ""), negotiation.BODIES)
        body, duplicates = loads(request.body, content_type)
        out = actions.put_object(
            kind.plural, name, _object(kind, body), write=write, subresource=sub, duplicates=duplicates
        )
        return _shown(request, storage, out, accepted, 200, write.warnings)
    return _patch(request, storage, write, accepted, name, sub)


def _may_write(storage: Storage, actor: Actor, verb: str, name: str, sub: str) -> bool:
    """Before the body is read: in the object's cluster, or anywhere when there is no such object (apply may create it).

    Whoever may approve may come in with a body: whether it holds their word and nothing else is seen then.
    """
    kind = storage.kind
    speaks = verb in ("update", "patch") and not sub and not kind.read_only
    if kind.cluster_field is None:
        return actor.may(verb, kind, None, sub) or (speaks and actor.may_approve(None))
    stored = storage.read(name)
    if stored is None:
        return actor.may_somewhere(verb, kind, sub)
    cluster = storage.cluster_name(stored.obj)
    return actor.may(verb, kind, cluster, sub) or (speaks and actor.may_approve(cluster))


def _object(kind: Kind, body: Any) -> Json:
    if not isinstance(body, dict):
        raise errors.bad_request(f"the body must be a {kind.kind} object")
    return body


def _write(request: HttpRequest, actor: Actor, options: str) -> Write:
    manager = request.GET.get("fieldManager", "")
    if len(manager.encode()) > 128:
        raise errors.options_invalid(options, "fieldManager", "may not be longer than 128 bytes", "FieldValueTooLong")
    if manager and not manager.isprintable():
        raise errors.options_invalid(options, "fieldManager", "should only contain printable characters")
    validation = request.GET.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise errors.options_invalid(
            options,
            "fieldValidation",
            f'"{validation[:50]}": supported values: "Ignore", "Strict", "Warn"',
            "FieldValueNotSupported",
        )
    if not manager:
        manager = (request.headers.get("User-Agent", "").split("/")[0] or "unknown")[:128]
    return Write(
        by=actor, manager=manager, dry_run=_dry_run(request.GET.getlist("dryRun"), options), validation=validation
    )


def _dry_run(values: list[str], options: str) -> bool:
    if any(v != "All" for v in values):
        raise errors.options_invalid(options, "dryRun", f'{values}: supported values: "All"', "FieldValueNotSupported")
    return bool(values)


def _shown(
    request: HttpRequest, storage: Storage, obj: Json, accepted: negotiation.Accepted, code: int, warnings: list[str]
) -> HttpResponse:
    """An object in the accepted form."""
    return respond(
        listing.single(storage, obj, accepted, request.GET.get("includeObject", "Metadata")), accepted, code, warnings
    )


def _get(request: HttpRequest, storage: Storage, actor: Actor, name: str) -> HttpResponse:
    accepted = negotiation.accept(request.headers.get("Accept", ""))
    stored = storage.read(name)
    kind = storage.kind
    if stored is None:
        raise errors.not_found(kind, name)
    if not actor.may("get", kind, storage.cluster_name(stored.obj) if kind.cluster_field else None):
        raise errors.forbidden(actor.name, "get", kind, name)
    return _shown(request, storage, redact(kind, stored.obj), accepted, 200, [])


def _extra(request: HttpRequest, storage: Storage, actor: Actor, method: str, name: str, sub: str) -> HttpResponse:
    kind = storage.kind
    stored = storage.read(name)
    answer = find_subresource(kind.plural, sub)
    if stored is None or answer is None:
        raise errors.not_found(kind, name)
    if method == "PUT" and answer.put is not None:
        write = _write(request, actor, "UpdateOptions")
        accepted = negotiation.accept(request.headers.get("Accept", ""))
        content_type = negotiation.body_type(request.headers.get("Content-Type", ""), negotiation.BODIES)
        return respond(answer.put(stored.obj, write, loads(request.body, content_type)[0]), accepted)
    if method != "GET":
        raise errors.method_not_allowed(method)
    if not actor.may("get", kind, storage.cluster_name(stored.obj) if kind.cluster_field else None):
        raise errors.forbidden(actor.name, "get", kind, name)
    accepted = negotiation.accept(request.headers.get("Accept", ""))
    return respond(answer.get(stored.obj, actor), accepted)


def _collection(request: HttpRequest, storage: Storage, actor: Actor, method: str) -> HttpResponseBase:
    kind = storage.kind
    if method == "GET":
        return listing.list_view(request, storage, actor)
    if method == "POST":
        if not actor.may_somewhere("create", kind):
            raise errors.forbidden(actor.name, "create", kind)
        write = _write(request, actor, "CreateOptions")
        accepted = negotiation.accept(request.headers.get("Accept", ""))
        content_type = negotiation.body_type(request.headers.get("Content-Type", ""), negotiation.BODIES)
        body, duplicates = loads(request.body, content_type)
        out = actions.create_object(kind.plural, _object(kind, body), write=write, duplicates=duplicates)
        return _shown(request, storage, out, accepted, 201, write.warnings)
    if method == "DELETE":
        return _delete_many(request, storage, actor)
    raise errors.method_not_allowed(method)


def _patch(
    request: HttpRequest, storage: Storage, write: Write, accepted: negotiation.Accepted, name: str, sub: str | None
) -> HttpResponse:
    plural = storage.kind.plural
    content_type = negotiation.body_type(request.headers.get("Content-Type", ""), negotiation.PATCHES)
    force = request.GET.get("force")
    is_apply = content_type == "application/apply-patch+yaml"
    if force is not None and not is_apply:
        raise errors.options_invalid(
            "PatchOptions", "force", "may not be specified for non-apply patch", "FieldValueForbidden"
        )
    if force not in (None, "true", "false", "1", "0"):
        raise errors.bad_request(f"force must be true or false, not {force[:50]}")
    body, duplicates = loads(request.body, content_type)
    if is_apply:
        if not request.GET.get("fieldManager"):
            raise errors.options_invalid(
                "PatchOptions", "fieldManager", "is required for apply patch", "FieldValueRequired"
            )
        out, created = actions.apply_object(
            plural,
            name,
            _object(storage.kind, body),
            write=write,
            force=force in ("true", "1"),
            subresource=sub,
            duplicates=duplicates,
        )
        return _shown(request, storage, out, accepted, 201 if created else 200, write.warnings)
    if content_type.startswith("application/merge") and not isinstance(body, dict):
        raise errors.bad_request("a merge patch must be an object")

    def patch(live: Json) -> Json:
        wished: Json = (
            merge_patch(live, body) if content_type.startswith("application/merge") else json_patch(live, body)
        )
        check_depth(wished)
        return wished

    out = actions.patch_object(plural, name, patch, write=write, subresource=sub, duplicates=duplicates)
    return _shown(request, storage, out, accepted, 200, write.warnings)


def _delete_options(request: HttpRequest) -> tuple[Preconditions, bool]:
    """(preconditions, dry run) from the body, which may be empty, and the query."""
    options: Any = {}
    if request.body:
        options, _ = loads(request.body)
    if not isinstance(options, dict):
        raise errors.bad_request("the body of a DELETE must be DeleteOptions")
    dry = options.get("dryRun") or []
    if not isinstance(dry, list):
        raise errors.bad_request("dryRun must be a list")
    conditions = options.get("preconditions") or {}
    if not isinstance(conditions, dict) or not all(isinstance(v, str) for v in conditions.values()):
        raise errors.bad_request("preconditions must hold uid and resourceVersion as strings")
    policy = options.get("propagationPolicy") or request.GET.get("propagationPolicy") or "Background"
    if policy not in ("Background", "Foreground", "Orphan"):
        raise errors.options_invalid(
            "DeleteOptions",
            "propagationPolicy",
            f'"{str(policy)[:50]}": supported values: "Background", "Foreground", "Orphan"',
            "FieldValueNotSupported",
        )
    asked = [str(v) for v in dry] + request.GET.getlist("dryRun")
    return Preconditions(conditions.get("uid"), conditions.get("resourceVersion")), _dry_run(asked, "DeleteOptions")


def _delete(
    request: HttpRequest, storage: Storage, write: Write, accepted: negotiation.Accepted, name: str
) -> HttpResponse:
    conditions, dry = _delete_options(request)
    write.dry_run = write.dry_run or dry
    obj, gone = actions.delete_object(storage.kind.plural, name, write=write, preconditions=conditions)
    if not gone:
        return _shown(request, storage, obj, accepted, 200, write.warnings)
    details = {"name": name, "group": GROUP, "kind": storage.kind.plural, "uid": obj["metadata"]["uid"]}
    return respond(
        {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details},
        negotiation.Accepted("json"),
    )


def _delete_many(request: HttpRequest, storage: Storage, actor: Actor) -> HttpResponse:
    """DELETE of a collection: role admin, and only with a selector that says which."""
    kind = storage.kind
    if not actor.may("deletecollection", kind, None if kind.cluster_field is None else ""):
        raise errors.forbidden(actor.name, "deletecollection", kind)
    query = listing.read_query(request, storage, actor)
    if not query.labels.requirements and not query.fields.terms:
        raise errors.bad_request(
            "deleting a collection needs a labelSelector or fieldSelector: an empty selection is never everything"
        )
    _, dry = _delete_options(request)
    names = [obj["metadata"]["name"] for obj in listing.every(storage, query)]
    storage.admit_deletes(len(names), actor)
    for name in names:
        actions.delete_object(kind.plural, name, write=Write(by=actor, dry_run=dry))
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"group": GROUP, "kind": kind.plural},
        "message": f"{len(names)} deleted",
    }
    return respond(body, negotiation.Accepted("json"))
