"""Sends a probe's requests through Fleet's own dispatcher, storage and database, in the test's thread and transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from django.test import RequestFactory

from clusters.models import Cluster, Idc
from fleet.api import answers, storage, views
from fleet.api.rights import Actor
from fleet.control import kinds
from tests.api.recorder.kinds import BUNDLE, RACK
from tests.api.recorder.probe import BASE, Reply

ADMIN = Actor("recorder", bindings=(("admin", ""),))


def serve_recorded_kinds(patch: Any) -> None:
    """Serve the recorded kinds from tables of the shared shape, for one test (`patch`: pytest's monkeypatch)."""
    for kind, model in ((RACK, Cluster), (BUNDLE, Idc)):
        served = storage.Storage(kind, model)
        patch.setitem(kinds._kinds, kind.plural, kind)
        patch.setitem(storage._storages, kind.plural, served)
        patch.setitem(storage._by_number, kind.number, served)
    patch.setattr(views, "request_actor", lambda request: ADMIN)
    # Between requests a server gives up connections that went bad; a test's transaction must outlive that.
    patch.setattr(answers, "close_old_connections", lambda: None)


def send(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
    """One request. Watches are streams of the event loop and do not come this way."""
    where, _, query = path.partition("?")
    extra: dict[str, Any] = {"HTTP_ACCEPT": "application/json", "HTTP_USER_AGENT": "recorder/1", "QUERY_STRING": query}
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        extra[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    content_type = extra.pop("CONTENT_TYPE", "")
    request = RequestFactory().generic(method, unquote_plus(where), body, content_type, **extra)
    if not content_type:
        request.META.pop("CONTENT_TYPE", None)
    response = answers.guarded(views._dispatch)(request, where.removeprefix(f"{BASE}/"))
    kind = response.headers.get("Content-Type", "")
    data = getattr(response, "content", b"")
    parsed: Any = json.loads(data) if kind.startswith("application/json") else data.decode()
    return Reply(response.status_code, parsed, tuple(getattr(response, "warnings", ())), kind)
