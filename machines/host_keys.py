"""Host keys that Fleet itself changes: those of a host whose system it had installed anew, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

from django.db import connection

from fleet.api.actions import Write, change_object
from fleet.api.rights import SYSTEM
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from machines.actions import MANAGER
from machines.reinstall import UNDERWAY

_AUTHORITY: Final = "@cert-authority "  # as known_hosts marks the key of a host CA
# The Operation cannot end while the keys change.
_OPEN: Final[LiteralString] = (
    "SELECT 1 FROM machines_operation o WHERE o.uid = %s AND o.machine_uid = %s AND o.started_at IS NOT NULL AND o.ended_at IS NULL AND "
    + UNDERWAY
    + " FOR SHARE"
)


def keys_of_new_system(enrolled: Sequence[str], told: Sequence[str]) -> tuple[str, ...]:
    """What is trusted from now on: the new system's own keys; a host CA goes on signing, the old system's keys count no more. Pure."""
    return (*(k for k in enrolled if k.startswith(_AUTHORITY)), *dict.fromkeys(told))


def enrol_new_keys(machine: str, operation: str, keys: Sequence[str]) -> None:
    """`driver.hostKeys` of the machine become these, inside the open Operation (by uid) that installs its host anew; else PermanentError."""

    def change(live: Json) -> Json:
        with connection.cursor() as cursor:
            cursor.execute(_OPEN, [operation, live["metadata"]["uid"]])
            if cursor.fetchone() is None:
                text = f"No open Operation installs {machine} anew: its host keys are changed by people only."
                raise PermanentError("HostKeyRefused", text)
        live["spec"]["driver"] = {**live["spec"].get("driver", {}), "hostKeys": list(keys)}
        return live

    change_object("machines", machine, change, write=Write(by=SYSTEM, manager=MANAGER), verb="update")
