"""Where this Fleet's own processes may connect to, by its settings."""

from __future__ import annotations

import ipaddress

from django.conf import settings

from fleet.control.addresses import Network


def allowed_networks() -> list[Network]:
    """Private ranges that are listed."""
    return [ipaddress.ip_network(n) for n in settings.FLEET_ALLOWED_NETWORKS]
