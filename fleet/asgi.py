"""ASGI entry: Django for http, consumers for the two websockets. Foreign origins are refused."""

from __future__ import annotations

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
http = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - Django must be set up before
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from fleet.api.event_stream import EventsConsumer  # noqa: E402
from fleet.api.origins import OriginCheck  # noqa: E402
from fleet.console.live import LiveConsumer  # noqa: E402

CONSUMERS: list[tuple[str, Any]] = [("ws/live", LiveConsumer.as_asgi()), ("ws/events", EventsConsumer.as_asgi())]
# Consumers are ASGI applications, which Django's `path` takes at run time and its types do not know.
routes: list[Any] = [path(address, consumer) for address, consumer in CONSUMERS]
websockets = URLRouter(routes)
application = ProtocolTypeRouter({"http": http, "websocket": OriginCheck(AuthMiddlewareStack(websockets))})
