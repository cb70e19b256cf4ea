"""Provisioners that behave, in memory: those of the boxes that fake hosts show. `asked` are the requests that reached one, in their order."""

from __future__ import annotations

from dataclasses import dataclass, field

from machines.provisioner import Installation, Provisioner, ProvisionerAccess, ProvisionError
from simulator import provisioner as simulated
from simulator.timeline import settle
from tests.fakes.hosts import FakeHosts


@dataclass
class FakeProvisioners:
    """The port to provisioners. `loses`: answers of requests that are done and never heard of; `refuses`: requests that are not done."""

    hosts: FakeHosts
    asked: list[tuple[str, str]] = field(default_factory=list)  # (machine, id)
    loses: int = 0
    refuses: int = 0

    def provisioner(self, access: ProvisionerAccess) -> Provisioner:
        return _FakeProvisioner(self, access)

    async def close(self) -> None:
        """Nothing is held."""


class _FakeProvisioner:
    def __init__(self, all_: FakeProvisioners, access: ProvisionerAccess) -> None:
        self._all, self._access = all_, access

    async def install(self, id_: str) -> None:
        if self._all.refuses:
            self._all.refuses -= 1
            raise ProvisionError("ProvisionerRefused", "It is busy.")
        self._all.asked.append((self._access.name, id_))
        box, now = self._all.hosts.box(self._access.uid), self._all.hosts.now
        simulated.request(box, id_, now)
        if self._all.loses:
            self._all.loses -= 1
            raise ProvisionError("ProvisionerTimeout", "It did not answer in time.", sent=True)

    async def installation(self, id_: str) -> Installation:
        box, now = self._all.hosts.box(self._access.uid), self._all.hosts.now
        settle(box, now)
        return simulated.installation(box, id_, now)
