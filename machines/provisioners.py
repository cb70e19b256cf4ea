"""Provisioners of machines by driver: which adapter installs the operating system of a machine anew. A driver may have none."""

from __future__ import annotations

from collections.abc import Callable

from fleet.control.operators import Seat
from machines.kept import Kept
from machines.provisioner import Provisioners

_factories: dict[str, Callable[[], Provisioners]] = {}


def register_provisioners(driver: str, factory: Callable[[], Provisioners]) -> None:
    """Provisioners of machines with that driver; the factory is called once a worker process."""
    _factories[driver] = factory


class KeptProvisioners(Kept[Provisioners]):
    """Of provisioners; KeyError names a driver that has none."""

    def __contains__(self, driver: object) -> bool:
        """Whether it has one, made already or not."""
        return driver in _factories

    def make(self, name: str) -> Provisioners:
        return _factories[name]()


def kept_provisioners(seat: Seat) -> KeptProvisioners:
    """Those of this process."""
    found: KeptProvisioners = seat.kept.setdefault("provisioners", KeptProvisioners())
    return found
