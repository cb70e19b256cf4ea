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
    ip = _meant(ip)
    if any(ip in network for network in networks if network.version == ip.version):
        return None
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return f"{ip} is a loopback, link-local, metadata or reserved address"
    if not ip.is_global:  # private ranges, and those of carriers (100.64.0.0/10), where clouds keep metadata too
        return f"{ip} is private and in none of FLEET_ALLOWED_NETWORKS"
    return None


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _meant(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one carries and that a gateway would connect to."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def literal_refusal(host: str, networks: Sequence[Network]) -> str | None:
    """The same for an address that is written out; None for a name, which is looked at when it is resolved."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return refusal(host, networks)
