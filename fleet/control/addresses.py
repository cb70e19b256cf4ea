"""Which addresses Fleet's own processes connect to: no loopback, link-local or metadata address, private ranges only where listed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def refusal(address: str, networks: Sequence[Network]) -> str | None:
    """Why Fleet may not connect to an address, or None. Loopback, link-local and private ranges only where they are listed."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return f"{address} is no IP address"
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    if any(ip in network for network in networks if network.version == ip.version):
        return None
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return f"{ip} is a loopback, link-local, metadata or reserved address"
    if ip.is_private:
        return f"{ip} is private and in none of FLEET_ALLOWED_NETWORKS"
    return None


def literal_refusal(host: str, networks: Sequence[Network]) -> str | None:
    """The same for an address that is written out; None for a name, which is looked at when it is resolved."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return refusal(host, networks)
