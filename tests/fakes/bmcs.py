"""Controllers that behave, in memory: those of the boxes that fake hosts show. `asked` are the requests that reached one, in their order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from machines.bmc import Bmc, BmcAccess, BmcError, Health, PowerState
from simulator import bmc as simulated
from tests.fakes.hosts import FakeHosts


@dataclass
class FakeBmcs:
    """The port to controllers. `loses`: answers of requests that are done and never heard of; `refuses`: requests that are not done;
    `watched`: awaited before each request is done."""

    hosts: FakeHosts
    asked: list[tuple[str, str]] = field(default_factory=list)  # (machine, off or on)
    loses: int = 0
    refuses: int = 0
    watched: Callable[[], Awaitable[None]] | None = None

    def bmc(self, access: BmcAccess) -> Bmc:
        return _FakeBmc(self, access)

    async def close(self) -> None:
        """Nothing is held."""


class _FakeBmc:
    def __init__(self, all_: FakeBmcs, access: BmcAccess) -> None:
        self._all, self._access = all_, access

    async def power_state(self) -> PowerState:
        return simulated.power(self._all.hosts.box(self._access.uid), self._all.hosts.now)

    async def power_off(self) -> None:
        await self._switch("off")

    async def power_on(self) -> None:
        await self._switch("on")

    async def health(self) -> Health:
        return simulated.health(self._all.hosts.box(self._access.uid), self._all.hosts.now)

    async def _switch(self, what: str) -> None:
        hosts = self._all.hosts
        if self._all.watched is not None:
            await self._all.watched()
        if self._all.refuses:
            self._all.refuses -= 1
            raise BmcError("BmcRefused", "It is busy.")
        self._all.asked.append((self._access.name, what))
        simulated.switch(hosts.box(self._access.uid), "Off" if what == "off" else "On", hosts.now)
        if self._all.loses:
            self._all.loses -= 1
            raise BmcError("BmcTimeout", "It did not answer in time.", sent=True)
