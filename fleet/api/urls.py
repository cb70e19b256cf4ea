"""Addresses of the API: discovery, OpenAPI, reviews, events, health, and everything below /apis/fleet.dev/v1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt

from fleet.api import discovery, errors, event_center, negotiation, openapi, openapi_doors, reviews, subresources
from fleet.api.answers import guarded, respond, squeeze
from fleet.api.authentication import request_actor
from fleet.api.core_events import events_view
from fleet.api.event_doors import door, publish, read_alerts, read_cloud_events, read_redfish
from fleet.api.event_watch import event_watch_view
from fleet.api.metrics import metrics_view
from fleet.api.safety_door import acknowledge_view, reset_view, safety_view
from fleet.api.views import group_view, page_not_found, wants_watch
from fleet.control.kinds import GROUP, VERSION, Json, kinds

View = Callable[..., HttpResponseBase]


def threaded(view: View) -> Callable[..., Any]:
    """A plain view, guarded, run beside the event loop."""
    inner = guarded(view)

    @csrf_exempt
    async def run(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return await sync_to_async(inner, thread_sensitive=False)(request, *args, **kwargs)

    return run


def _readable(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed(request.method or "")


def _known_reader(request: HttpRequest) -> None:
    """Discovery is for whoever has credentials, with or without a role."""
    request_actor(request)
    _readable(request)


def document(build: Callable[[], Json]) -> Callable[..., Any]:
    """A static answer that every authenticated client may read."""

    def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        _known_reader(request)
        return respond(build(**kwargs), negotiation.accept(request.headers.get("Accept", "")))

    return threaded(view)


def _discovery(request: HttpRequest, core: bool) -> HttpResponse:
    """/api and /apis: aggregated when the client can read that, with an ETag."""
    _known_reader(request)
    accepted = negotiation.accept(request.headers.get("Accept", ""), discovery=True)
    if accepted.form.startswith("discovery"):
        body = discovery.aggregated(
            kinds().values(),
            subresources.names(),
            core=core,
            api_version=accepted.form.removeprefix("discovery-"),
            writable=subresources.writable(),
        )
    else:
        body = discovery.api_versions() if core else discovery.group_list()
    tag = discovery.etag(body)
    if request.headers.get("If-None-Match") == tag:
        # Clients put the headers of a 304 over those that they cached: the type must be the same.
        response = HttpResponse(status=304, content_type=accepted.content_type)
    else:
        response = respond(body, accepted)
    response["ETag"], response["Vary"] = tag, "Accept"
    return response


def _openapi_root(request: HttpRequest) -> HttpResponse:
    """Which documents there are. Kubernetes clients take the keys that name a group and version, and pass over the others."""
    _known_reader(request)
    paths = {
        key: {"serverRelativeURL": f"/openapi/v3/{key}?hash={discovery.etag(build()).strip(chr(34))}"}
        for key, build in _DOCUMENTS.items()
    }
    return respond({"paths": paths}, negotiation.Accepted("json"))


def _openapi_document() -> Json:
    return openapi.document(kinds().values(), subresources.names(), subresources.writable())


_DOCUMENTS: dict[str, Callable[[], Json]] = {f"apis/{GROUP}/{VERSION}": _openapi_document, "doors": openapi_doors.document}  # fmt: skip


def _openapi(request: HttpRequest, key: str) -> HttpResponse:
    _known_reader(request)
    body = _DOCUMENTS[key]()
    response = squeeze(request, respond(body, negotiation.Accepted("json")))
    response["ETag"] = discovery.etag(body)
    if request.GET.get("hash"):
        response["Cache-Control"] = "public, immutable, max-age=31536000"
    return response


def _ok(request: HttpRequest) -> HttpResponse:
    _readable(request)
    return HttpResponse("ok", content_type="text/plain; charset=utf-8")


def _ready(request: HttpRequest) -> HttpResponse:
    """Ready = the database answers and is migrated."""
    _readable(request)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM installation")
    return HttpResponse("ok", content_type="text/plain; charset=utf-8")


def _version(request: HttpRequest) -> HttpResponse:
    _readable(request)
    return respond(discovery.version(), negotiation.Accepted("json"))


@csrf_exempt
async def _events(request: HttpRequest) -> HttpResponseBase:
    """Lists run in a thread, watches stream."""
    if wants_watch(request):
        return await event_watch_view(request)
    return await sync_to_async(guarded(events_view), thread_sensitive=False)(request)


@csrf_exempt
async def _center(request: HttpRequest) -> HttpResponseBase:
    """GET looks for events, POST publishes some."""
    if request.method in ("GET", "HEAD"):
        return await sync_to_async(guarded(event_center.search_view), thread_sensitive=False)(request)
    return await publish(request, read_cloud_events)


def _looking(view: View) -> Callable[..., Any]:
    """A view of the Event Center that only reads."""

    def inner(request: HttpRequest) -> HttpResponseBase:
        _readable(request)
        return view(request)

    return threaded(inner)


def _nothing(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return page_not_found()


def _docs(request: HttpRequest) -> HttpResponseBase:
    """The browsable OpenAPI page, for people who are logged in: it sends requests as they."""
    _readable(request)
    if not request.user.is_authenticated:
        return redirect_to_login(request.path)
    return render(request, "api/docs.html")


_reviews = [
    path(
        f"apis/{group}/v1/{plural}",
        threaded(lambda request, kind=kind: reviews.review_view(request, kind)),
        name=f"api-{plural}",
    )
    for group, rows in discovery.REVIEWS.items()
    for plural, kind in rows
]

urlpatterns = [
    re_path(r"^version/?$", threaded(_version), name="api-version"),
    re_path(r"^(?:livez|healthz)/?$", threaded(_ok), name="api-live"),
    re_path(r"^readyz/?$", threaded(_ready), name="api-ready"),
    path("api/docs", threaded(_docs), name="api-docs"),
    path("metrics", threaded(metrics_view), name="metrics"),
    path("api/safety", threaded(safety_view), name="api-safety"),
    re_path(r"^api/safety/breakers/(?P<place>[\s\S]+)/reset$", threaded(reset_view), name="api-breaker-reset"),
    re_path(
        r"^api/safety/notices/(?P<number>[\s\S]+)/acknowledge$",
        threaded(acknowledge_view),
        name="api-notice-acknowledge",
    ),
    re_path(r"^api/?$", threaded(lambda request: _discovery(request, core=True)), name="api-core"),
    re_path(r"^apis/?$", threaded(lambda request: _discovery(request, core=False)), name="api-groups"),
    re_path(r"^api/v1/?$", document(discovery.core_resources), name="api-core-v1"),
    re_path(r"^api/v1/(?:namespaces/[^/]+/)?events/?$", _events, name="api-events"),
    path("api/events", _center, name="api-event-center"),
    path("api/events/alertmanager", door(read_alerts), name="api-event-alertmanager"),
    path("api/events/redfish", door(read_redfish), name="api-event-redfish"),
    path("api/events/consumers", _looking(event_center.consumers_view), name="api-event-consumers"),
    path("api/events/dead-letters", _looking(event_center.letters_view), name="api-dead-letters"),
    path("api/events/dead-letters/retry", threaded(event_center.retry_view), name="api-dead-letters-retry"),
    path("api/events/dead-letters/discard", threaded(event_center.discard_view), name="api-dead-letters-discard"),
    path("openapi/v3", threaded(_openapi_root), name="openapi-root"),
    path(f"openapi/v3/apis/{GROUP}/{VERSION}", threaded(_openapi), {"key": f"apis/{GROUP}/{VERSION}"}, name="openapi"),
    path("openapi/v3/doors", threaded(_openapi), {"key": "doors"}, name="openapi-doors"),
    *_reviews,
    *[
        re_path(rf"^apis/{g}/?$", document(partial(discovery.group, g)), name=f"api-group-{g}")
        for g in (GROUP, *discovery.REVIEWS)
    ],
    *[
        re_path(rf"^apis/{g}/v1/?$", document(partial(discovery.review_resources, g)), name=f"api-resources-{g}")
        for g in discovery.REVIEWS
    ],
    re_path(
        rf"^apis/{GROUP}/{VERSION}/?$",
        document(lambda: discovery.resource_list(kinds().values(), subresources.names(), subresources.writable())),
        name="api-resources",
    ),
    re_path(rf"^apis/{GROUP}/{VERSION}/(?P<rest>[\s\S]+)$", group_view, name="api-objects"),
    re_path(r"^(?:apis|api|openapi)/[\s\S]*$", threaded(_nothing), name="api-nothing"),
]
