"""Providers by name, made at first use. Tests put others in their place."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from django.conf import settings

from clusters.local import Local
from clusters.planes import Provider
from clusters.schema_cluster import LOCAL, MADE, SIMULATED
from fleet.control.addresses import Network
from fleet.control.networks import allowed_networks

OWN: Final = (*MADE, SIMULATED)  # providers whose API servers are of Fleet's own making
_LOOPBACK: Final = ipaddress.ip_network("127.0.0.0/8")
_made: dict[str, Callable[[], Provider]] = {
    LOCAL: lambda: Local(Path(settings.FLEET_CLUSTERS_DIR), Path(settings.FLEET_BINARIES or "/nonexistent"))
}


def provider(name: str) -> Provider:
    """The adapter of that name; KeyError for one that is not built."""
    return _made[name]()


def networks_of(provider: str) -> Sequence[Network]:
    """Where the API server of a cluster of that provider may stand: this host only where Fleet itself put it there."""
    return networks() if provider in OWN else allowed_networks()


def networks() -> tuple[Network, ...]:
    """Where API servers of Fleet's own making may stand: this host, and what is allowed."""
    return (_LOOPBACK, *allowed_networks())
