"""Storages of Hold, SafetyPolicy and Permit, and what is done for them from time to time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from django.db import connection

from fleet.api.foreign_permits import ASK_SECONDS, settle_requests
from fleet.api.permit_storage import PermitStorage
from fleet.api.policy_now import policy_now
from fleet.api.rights import Actor
from fleet.api.safety_status import refresh_holds, refresh_policies, refresh_statuses
from fleet.api.storage import Storage, Stored, register_storage
from fleet.control.kinds import MACHINE, Json, register
from fleet.control.operators import Chore, register_chore
from fleet.control.work import wake
from fleet.safety import notices
from fleet.safety.breakers import TURN_SECONDS, turn
from fleet.safety.models import Hold, SafetyPolicy
from fleet.safety.permits import tidy
from fleet.safety.schema import HOLD_KIND
from fleet.safety.schema_permit import PERMIT_KIND
from fleet.safety.schema_policy import SAFETY_POLICY_KIND

_REFRESH_SECONDS: Final = 15.0
_TIDY_SECONDS: Final = 60.0
_WAKE_AT_MOST: Final = 5_000  # a wider hold binds at once all the same: every permit and every pass asks for it


class HoldStorage(Storage):
    """Holds are scoped by the cluster of what they cover; those of labels and of everything belong to the whole fleet."""

    def __init__(self) -> None:
        super().__init__(HOLD_KIND, Hold)

    def default(self, obj: Json, by: Actor) -> None:
        """Whoever makes a hold owns it unless another is named."""
        obj["spec"].setdefault("owner", by.name)

    def cluster_name(self, obj: Json) -> str:
        """The held cluster, or that of the held machine; "" for wider holds and for machines outside every cluster."""
        target = obj.get("spec", {}).get("target", {})
        if not isinstance(target, dict) or "machine" not in target:
            return super().cluster_name(obj)
        with connection.cursor() as cursor:
            cursor.execute("SELECT cluster FROM safety_target WHERE name = %s", [target["machine"]])
            row = cursor.fetchone()
        return str(row[0]) if row else ""

    def field_sql(self, path: str) -> tuple[str, list[Any]]:
        """As `cluster_name` when a list is cut to the clusters that somebody sees."""
        if path == HOLD_KIND.cluster_field:
            return (
                "coalesce(spec #>> '{target,cluster}', (SELECT t.cluster FROM safety_target t WHERE t.name = spec #>> '{target,machine}'), '')",
                [],
            )
        return super().field_sql(path)

    def after_commit(self, stored: Stored) -> None:
        """Its status, and a look at the machines that it covers or gives free."""
        refresh_holds([stored.id])
        wake(MACHINE, _covered(stored.obj["spec"]["target"]))


def _dump(value: Json) -> str:
    return orjson.dumps(value).decode()


def _covered(target: Json) -> list[int]:
    """Ids of the machines that a target means, at most as many as are woken at once."""
    if set(target) == {"machine"}:  # by the index of names: many are held one by one
        where, value = "t.name = %s", target["machine"]
    else:
        where, value = "safety_matches(%s::jsonb, t.name, t.cluster, t.labels)", _dump(target)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT machine_id FROM safety_target t WHERE {where} LIMIT %s", [value, _WAKE_AT_MOST])
        return [int(row[0]) for row in cursor.fetchall()]


class SafetyPolicyStorage(Storage):
    """Policies bind from their commit on: the ledger reads them when it is asked."""

    def __init__(self) -> None:
        super().__init__(SAFETY_POLICY_KIND, SafetyPolicy)

    def foresee(self, new: Json, old: Json | None) -> Sequence[str]:
        """What it would mean now; the dry run has it stored until its end."""
        return policy_now(new["metadata"]["name"])

    def after_commit(self, stored: Stored) -> None:
        """Show what it means in machines."""
        refresh_policies([stored.id])


def register_safety_kinds() -> None:
    """Called when the models are loaded."""
    register_chore(Chore("safety-status", _REFRESH_SECONDS, run_sync=refresh_statuses))
    register_chore(Chore("breakers", TURN_SECONDS, run=lambda seat: turn(seat.conn)))
    register_chore(Chore("foreign-permits", ASK_SECONDS, run_sync=settle_requests))
    register_chore(Chore("notices", notices.TURN_SECONDS, run=lambda seat: notices.turn(seat.conn)))
    register_chore(Chore("tidy-permits", _TIDY_SECONDS, run=lambda seat: tidy(seat.conn)))
    for kind in (HOLD_KIND, SAFETY_POLICY_KIND, PERMIT_KIND):
        register(kind)
    for storage in (HoldStorage(), SafetyPolicyStorage(), PermitStorage()):
        register_storage(storage)
