"""What beat sends, and by which broker: names alone, so that its process loads nothing else of Fleet."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.conf import settings

QUEUE: Final = "fleet.tick"
TICK: Final = "fleet.control.tick"
HOUSEKEEPING: Final = "fleet.control.housekeeping"


def broker_url(redis_url: str) -> str:
    """REDIS_URL in kombu's spelling: it calls unix sockets redis+socket:// and their database virtual_host."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


def schedule() -> dict[str, Any]:
    """Beat's table."""
    options = {"queue": QUEUE}
    return {
        "tick": {"task": TICK, "schedule": settings.FLEET_SWEEP_SECONDS, "options": options},
        "housekeeping": {"task": HOUSEKEEPING, "schedule": 1.0, "options": options},
    }
