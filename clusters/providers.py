"""Providers by name, made at first use. Tests put others in their place."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

from django.conf import settings

from clusters.hosted import Hosted
from clusters.local import Local
from clusters.planes import Provider
from clusters.schema_cluster import HOSTED, LOCAL
from fleet.control.addresses import Network
from fleet.control.networks import allowed_networks

_LOOPBACK: Final = ipaddress.ip_network("127.0.0.0/8")
_made: dict[str, Callable[[], Provider]] = {
    HOSTED: lambda: Hosted(networks, settings.FLEET_TOOLS_IMAGE),
    LOCAL: lambda: Local(Path(settings.FLEET_CLUSTERS_DIR), Path(settings.FLEET_BINARIES or "/nonexistent")),
}


def provider(name: str) -> Provider:
    """The adapter of that name; KeyError for one that is not built."""
    return _made[name]()


def networks() -> tuple[Network, ...]:
    """Where API servers of Fleet's own making may stand: this host, and what is allowed."""
    return (_LOOPBACK, *allowed_networks())
