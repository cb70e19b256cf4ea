"""Lists: pages by keyset, or everything streamed in pages when the client asks for no limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from fleet.api import continuation, errors, long_lists, negotiation, table
from fleet.api.answers import respond, squeeze
from fleet.api.redact import redact
from fleet.api.rights import Actor
from fleet.api.selectors import FieldSelector, LabelSelector
from fleet.api.storage import ListQuery, Storage
from fleet.control.kinds import API_VERSION, Json

PAGE = 1_000
MAX_LIMIT = 5_000


def single(storage: Storage, obj: Json, accepted: negotiation.Accepted, include: str) -> Json:
    """One object in the accepted form."""
    if accepted.form == "table":
        return table.table(
            storage.kind,
            [obj],
            include=include,
            resource_version=obj["metadata"].get("resourceVersion", ""),
            now=timezone.now(),
        )
    return table.partial(obj) if accepted.form in ("partial", "partial-list") else obj


def read_query(request: HttpRequest, storage: Storage, actor: Actor) -> ListQuery:
    """Selectors and scope of a list or watch; 400 for what does not parse."""
    if "\x00" in request.GET.get("fieldSelector", ""):
        raise errors.bad_request("invalid field selector: it holds a NUL character")
    return ListQuery(
        labels=LabelSelector.parse(request.GET.get("labelSelector", "")),
        fields=FieldSelector.parse(request.GET.get("fieldSelector", ""), storage.kind),
        clusters=actor.clusters if storage.kind.cluster_field else None,
    )


def number(request: HttpRequest, name: str, default: int = 0) -> int:
    """A non-negative integer of the query."""
    text = request.GET.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise errors.bad_request(f"{name} must be a non-negative integer, not {text[:50]!r}")
    return int(text)


def resource_version(request: HttpRequest) -> int | None:
    """The resourceVersion asked for; None when absent."""
    text = request.GET.get("resourceVersion", "")
    if text == "":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise errors.bad_request(
            f"resourceVersion: Invalid value: {text[:50]!r}: must be a number that this server gave out"
        )
    return int(text)


def check_match(request: HttpRequest, version: int | None) -> None:
    """`resourceVersionMatch` of a list: NotOlderThan always holds here; Exact would need old states, which are not kept."""
    match = request.GET.get("resourceVersionMatch", "")
    if not match:
        return
    field = "resourceVersionMatch"
    if version is None:
        why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        raise errors.options_invalid("ListOptions", field, why, "FieldValueForbidden")
    if request.GET.get("continue"):
        why = "resourceVersionMatch is forbidden when continue is provided"
        raise errors.options_invalid("ListOptions", field, why, "FieldValueForbidden")
    if match not in ("Exact", "NotOlderThan"):
        why = f'"{match[:50]}": supported values: "Exact", "NotOlderThan", ""'
        raise errors.options_invalid("ListOptions", field, why, "FieldValueNotSupported")
    if match == "Exact":
        if version == 0:
            why = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            raise errors.options_invalid("ListOptions", field, why, "FieldValueForbidden")
        raise errors.expired("a list at an exact old resourceVersion is not kept; list again without it")


def every(storage: Storage, query: ListQuery) -> Iterator[Json]:
    """All objects of a query, page by page; each page a statement of its own."""
    while True:
        page = storage.page(replace(query, limit=PAGE))
        yield from page.objects
        if not page.next_name:
            return
        query = replace(query, after=page.next_name)


def list_view(request: HttpRequest, storage: Storage, actor: Actor) -> HttpResponseBase:
    """GET of a collection."""
    kind = storage.kind
    if not actor.may("list", kind, None):
        raise errors.forbidden(actor.name, "list", kind)
    accepted = negotiation.accept(request.headers.get("Accept", ""))
    query = read_query(request, storage, actor)
    limit = min(number(request, "limit"), MAX_LIMIT)
    filters = f"{kind.plural}|{request.GET.get('labelSelector', '')}|{request.GET.get('fieldSelector', '')}"
    check_match(request, resource_version(request))
    number(request, "timeoutSeconds")
    first = 0
    if token := request.GET.get("continue"):
        first, after = continuation.decode(settings.SECRET_KEY, token, filters)
        query = replace(query, after=after)
    page = long_lists.next_page(storage, replace(query, limit=limit or PAGE), accepted.form)
    rv, next_name = first or page.rv, page.next_name
    meta: Json = {"resourceVersion": str(rv)}
    if next_name and not limit and not accepted.is_yaml and request.method == "GET":
        return long_lists.streamed(request, storage, replace(query, limit=PAGE), page, meta, accepted.form)
    objects = page.objects
    if next_name and not limit:
        objects = objects + list(every(storage, replace(query, after=next_name)))
    elif next_name:
        meta["continue"] = continuation.encode(settings.SECRET_KEY, rv, next_name, filters)
        remaining = storage.count(replace(query, after=next_name))
        if remaining is not None:
            meta["remainingItemCount"] = remaining
    shown = [redact(kind, o) for o in objects]
    return squeeze(request, respond(_body(request, storage, shown, meta, accepted), accepted))


def _body(
    request: HttpRequest, storage: Storage, objects: list[Json], meta: Json, accepted: negotiation.Accepted
) -> Json:
    kind = storage.kind
    if accepted.form == "table":
        return table.table(
            kind,
            objects,
            include=request.GET.get("includeObject", "Metadata"),
            resource_version=meta["resourceVersion"],
            continue_=meta.get("continue", ""),
            remaining=meta.get("remainingItemCount"),
            now=timezone.now(),
        )
    if accepted.form in ("partial", "partial-list"):
        return table.partial_list(objects, meta)
    return {"apiVersion": API_VERSION, "kind": f"{kind.kind}List", "metadata": meta, "items": objects}
