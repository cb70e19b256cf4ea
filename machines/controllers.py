"""Controllers of machines by driver: which adapter reaches them, and with what. A simulated machine has a simulated controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import orjson

from fleet.api.credentials import check_use, unseal
from fleet.control.addresses import refusal
from fleet.control.db import Connection
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.networks import allowed_networks
from fleet.control.operators import Seat
from machines.bmc import PORT, BmcAccess, BmcError, Bmcs
from machines.kept import Kept

SIMULATED: Final = "simulated"
_factories: dict[str, Callable[[], Bmcs]] = {}


def register_bmcs(driver: str, factory: Callable[[], Bmcs]) -> None:
    """Controllers of machines with that driver; the factory is called once a worker process."""
    _factories[driver] = factory


class KeptBmcs(Kept[Bmcs]):
    """Of controllers."""

    def make(self, name: str) -> Bmcs:
        return _factories[name]() if name in _factories else _redfish()


def kept_bmcs(seat: Seat) -> KeptBmcs:
    """Those of this process."""
    found: KeptBmcs = seat.kept.setdefault("bmcs", KeptBmcs())
    return found


def _redfish() -> Bmcs:
    from machines.redfish import RedfishBmcs

    networks = allowed_networks()
    return RedfishBmcs(lambda address: refusal(address, networks))


class BmcLogins:
    """Credentials of controllers, read once and opened when used; never logged, never kept."""

    def __init__(self, stored: Mapping[str, tuple[Json, bytes]]) -> None:
        self._stored = stored

    def access(
        self, *, uid: str, name: str, cluster: str, bmc: Json, serial: str = "", simulated: bool = False
    ) -> BmcAccess:
        """How to reach the controller of a machine; BmcError says why it cannot be."""
        address = str(bmc.get("address", ""))
        plain = BmcAccess(
            uid, name, address, int(bmc.get("port", PORT)), ca=bmc.get("ca", ""), insecure=bool(bmc.get("insecure")), serial_number=serial
        )  # fmt: skip
        if simulated:
            return plain
        credential = str(bmc.get("credential", ""))
        if credential not in self._stored:
            raise BmcError("NoCredential", f"There is no Credential {credential or 'named by spec.bmc'}.")
        spec, sealed = self._stored[credential]
        if spec.get("type") != "redfish":
            raise BmcError("NoCredential", f"Credential {credential} is of type {spec.get('type')}, not redfish.")
        try:
            check_use(credential, spec, cluster=cluster, address=address)
            data = unseal(credential, sealed)
        except PermanentError as error:
            raise BmcError(error.reason, error.message) from None
        return replace(plain, username=data.get("username", ""), password=data.get("password", ""))


async def read_bmc_logins(conn: Connection, names: Iterable[str]) -> BmcLogins:
    """The credentials of those names, one query; nothing is opened yet."""
    wanted: Sequence[str] = sorted({n for n in names if n})
    if not wanted:
        return BmcLogins({})
    found = await conn.execute(
        "SELECT name, spec::text, sealed FROM fleet_api_credential WHERE name = ANY (%s)", [wanted]
    )
    return BmcLogins({name: (orjson.loads(spec), bytes(sealed)) for name, spec, sealed in await found.fetchall()})
