"""How many machines one person may delete alone: what is asked for one by one is no way around the second person."""

from __future__ import annotations

from django.conf import settings
from django.db import connection

from fleet.api import errors
from fleet.api.rights import Actor
from fleet.control.kinds import Kind

_LATELY = "SELECT count(*) FROM audit WHERE actor = %s AND verb = 'delete' AND kind = 'Machine' AND at > now() - interval '1 hour'"


def check_deletes(kind: Kind, name: str, more: int, by: Actor) -> None:
    """ApiError 403 when that person would have deleted more machines within an hour than one person may. Deletions of one person are judged one after the other."""
    limit = settings.FLEET_APPROVAL_OVER
    if by.is_system or not settings.FLEET_REQUIRE_APPROVAL:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7))", [by.name])
        cursor.execute(_LATELY, [by.name])
        lately = int(cursor.fetchone()[0])
    if lately + more > limit:
        said = f"{lately} within the last hour, and {more} more" if lately else f"{more}"
        why = f"one person alone deletes at most {limit} machines in an hour, and this would be {said}; ask for an OperationBatch with the verb Decommission, which another person approves"
        raise errors.forbidden(by.name, "delete", kind, name, why)
