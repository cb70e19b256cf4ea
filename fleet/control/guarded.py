"""Names resolved for a connection, each address under Fleet's rules: at connect, so that DNS cannot change its mind."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from fleet.control.addresses import Network, refusal


class AddressRefused(OSError):
    """A name leads to an address that Fleet does not connect to."""


class GuardedResolver(AbstractResolver):
    """Names resolve as usual, then each address must be one that Fleet may connect to; the connection goes to what was looked at."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._inner = ThreadedResolver()
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a name, all of them allowed; AddressRefused says which is not."""
        found = await self._inner.resolve(host, port, family)
        if not found:
            raise OSError(None, f"{host} has no address")
        for each in found:
            why = refusal(each["host"], self._networks)
            if why:
                raise AddressRefused(None, why)
        return found

    async def close(self) -> None:
        await self._inner.close()
