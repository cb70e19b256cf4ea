"""Django's entry for `recovery`."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from django.apps import AppConfig

if TYPE_CHECKING:
    from fleet.control.db import Connection


async def _hear(conn: Connection, machines: Set[int]) -> None:
    """Loaded with the first news only: most processes never have any."""
    from recovery.reacting import react

    await react(conn, machines)


class RecoveryConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "recovery"
    label = "recovery"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Models are loaded: kinds and storages can be known."""
        from fleet.api.storage import register_storage
        from fleet.api.subresources import register_subresource
        from fleet.control.kinds import register
        from machines.waking import listen
        from machines.why import more_ladders
        from recovery.storages import evidence_of, storages
        from recovery.why import ladders

        listen(_hear)
        more_ladders(ladders)
        register_subresource("remediations", "evidence", evidence_of)

        for storage in storages():
            register(storage.kind)
            register_storage(storage)
