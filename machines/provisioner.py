"""The port to what installs operating systems: asks that a machine gets its own anew, and tells how far that is.

Plain data and one Protocol; no Django here. Adapter: `simulator.provisioner` (behaves, with its box).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["Unknown", "Pending", "Running", "Done", "Failed"]


class ProvisionError(Exception):
    """The provisioner did not do or tell what it was asked. `reason` is a condition reason.

    `sent`: whether the request may have reached it; what came of it is then told by the next look at the installation only.
    """

    def __init__(self, reason: str, message: str, *, sent: bool = False) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.sent = reason, message, sent


@dataclass(frozen=True, slots=True)
class ProvisionerAccess:
    """Which machine is meant, by everything that a provisioner may know it by."""

    uid: str
    name: str
    idc: str = ""
    address: str = ""
    serial_number: str = ""
    hardware_model: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """How far an installation is. Unknown = the provisioner was never asked for it, as far as it knows.

    Done = the new system was started. `boot_id` and `host_keys` ("ssh-ed25519 AAAA...") of it stand there where the provisioner knows them.
    """

    state: State
    message: str = ""  # a sentence
    reason: str = ""  # of Failed: a condition reason
    boot_id: str = ""
    host_keys: tuple[str, ...] = ()


class Provisioner(Protocol):
    """The provisioner of one machine. Every call raises ProvisionError when it cannot be done; none is tried again by itself.

    `install` is done when the request was taken. It is one installation however often it is asked for under the same id, which is
    the uid of an Operation; that one wipes the machine's disks. `installation` tells of the one under that id, and changes nothing.
    """

    async def install(self, id_: str) -> None: ...

    async def installation(self, id_: str) -> Installation: ...


class Provisioners(Protocol):
    """Provisioners of one kind."""

    def provisioner(self, access: ProvisionerAccess) -> Provisioner: ...

    async def close(self) -> None: ...
