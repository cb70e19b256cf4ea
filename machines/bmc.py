"""The port to a machine's controller (BMC): its power, and what it says of the machine's parts.

Plain data and one Protocol; no Django here. Adapters: `machines.redfish` (sushy) and `simulator.bmc` (behaves, with its box).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

PowerState = Literal["On", "Off", "Changing"]
PARTS: Final = ("Drives", "Memory", "Board", "Network", "Supply")
PORT: Final = 443


class BmcError(Exception):
    """The controller did not do or tell what it was asked. `reason` is a condition reason.

    `sent`: whether the request may have reached it; what came of it is then told by the next look at the power only.
    """

    def __init__(self, reason: str, message: str, *, sent: bool = False) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.sent = reason, message, sent


@dataclass(frozen=True, slots=True)
class BmcAccess:
    """Where the controller of a machine is and who enters it. `password` is opened from a Credential in the worker only, never logged."""

    uid: str  # of the machine
    name: str
    address: str
    port: int = PORT
    username: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""  # PEM: what signs its certificate; "" = what this host trusts
    insecure: bool = False  # its certificate is not looked at
    serial_number: str = ""  # of the machine as declared; a controller of another machine is refused


@dataclass(frozen=True, slots=True)
class Part:
    """What a sort of parts is like: `well` None = the controller does not say."""

    well: bool | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Power and parts, by name of PARTS."""

    power: PowerState
    parts: Mapping[str, Part] = field(default_factory=dict)


class Bmc(Protocol):
    """One controller. Every call raises BmcError when it cannot be done; none is tried again by itself.

    `power_off` is hard, and done when the request was taken: only `power_state` says whether the power is off.
    """

    async def power_state(self) -> PowerState: ...

    async def power_off(self) -> None: ...

    async def power_on(self) -> None: ...

    async def health(self) -> Health: ...


class Bmcs(Protocol):
    """Controllers of one kind."""

    def bmc(self, access: BmcAccess) -> Bmc: ...

    async def close(self) -> None: ...
