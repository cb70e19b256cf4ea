"""ASGI entry: Django for http, consumers for the two websockets. Foreign origins are refused."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
http = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - Django must be set up before
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402

from fleet.api.event_stream import EventsConsumer  # noqa: E402
from fleet.console.live import LiveConsumer  # noqa: E402

websockets = URLRouter([path("ws/live", LiveConsumer.as_asgi()), path("ws/events", EventsConsumer.as_asgi())])
application = ProtocolTypeRouter(
    {"http": http, "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(websockets))}
)
