"""Logins of one batch: each Credential is read once and opened once, and checked for each machine that it is used for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson

from fleet.api.credentials import check_use, unseal
from fleet.control.db import Connection
from fleet.control.errors import ReconcileError
from fleet.control.kinds import Json
from machines.hosts import Login


class Logins:
    """Opened credentials by name, for the length of one pass; never logged, never kept."""

    def __init__(self, stored: Mapping[str, tuple[Json, bytes]]) -> None:
        self._stored = stored
        self._opened: dict[str, Login] = {}

    def for_machine(self, name: str, *, cluster: str, address: str) -> Login:
        """The login; ReconcileError says why there is none for this machine."""
        if not name:
            raise ReconcileError(
                "NoCredential", "No driver.credential is named by the machine, its class or its cluster."
            )
        if name not in self._stored:
            raise ReconcileError("NoCredential", f"There is no Credential {name}.")
        spec, sealed = self._stored[name]
        check_use(name, spec, cluster=cluster, address=address)
        if name not in self._opened:
            data = unseal(name, sealed)
            self._opened[name] = Login(
                username=data.get("username") or "root",
                private_key=data.get("privateKey"),
                passphrase=data.get("passphrase"),
                password=data.get("password"),
            )
        return self._opened[name]


async def read_logins(conn: Connection, names: Iterable[str]) -> Logins:
    """The credentials of those names, one query; nothing is opened yet."""
    wanted = sorted({n for n in names if n})
    if not wanted:
        return Logins({})
    found = await conn.execute(
        "SELECT name, spec::text, sealed FROM fleet_api_credential WHERE name = ANY (%s)", [wanted]
    )
    return Logins({name: (orjson.loads(spec), bytes(sealed)) for name, spec, sealed in await found.fetchall()})
