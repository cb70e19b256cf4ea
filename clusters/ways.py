"""How clusters are reached whose control plane is not of Fleet's making: by provider, told by who makes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from clusters.cases import Case
from clusters.schema_cluster import HOSTED, LOCAL, SIMULATED
from fleet.control.addresses import Network
from fleet.control.endpoint import Endpoint
from fleet.control.networks import allowed_networks

# In a worker; TemporaryError or PermanentError with a sentence where there is no way.
Way = Callable[[Case], Endpoint]

_LOOPBACK: Final = ipaddress.ip_network("127.0.0.0/8")
_OF_THIS_HOST: Final = (LOCAL, HOSTED, SIMULATED)
_ways: dict[str, Way] = {}


def register_way(provider: str, way: Way) -> None:
    """Make known how clusters of a provider are reached."""
    _ways[provider] = way


def way_of(provider: str) -> Way | None:
    """The way to clusters of a provider; None where their control plane is Fleet's own work."""
    return _ways.get(provider)


def networks_of(provider: str) -> tuple[Network, ...]:
    """Where API servers of a provider may stand: what is allowed; this host too where no person wrote the address."""
    return (*((_LOOPBACK,) if provider in _OF_THIS_HOST else ()), *allowed_networks())
