"""How much one person may do alone: what is asked for in small portions is no way around the second person."""

from __future__ import annotations

from django.conf import settings
from django.db import connection

from fleet.api import errors
from fleet.api.rights import Actor
from fleet.control.kinds import Kind
from machines.batches.schema import HARMLESS

# Those that another person approved, as a list, are not that person's alone.
_DELETED = """
SELECT count(*) FROM audit a WHERE actor = %s AND verb = 'delete' AND kind = 'Machine' AND at > now() - interval '1 hour' AND NOT EXISTS (
  SELECT FROM machines_operationbatch b JOIN operation_batch_target t ON t.batch_id = b.id
  WHERE b.created_at > now() - interval '3 days' AND b.spec ->> 'verb' = 'Decommission' AND b.status ->> 'approval' = 'Given' AND b.status ->> 'author' = a.actor AND t.name = a.name)
"""
# Machines of batches that nobody else approved. Those of a Decommission may be counted as deletions too: that is on the safe side.
_BATCHED = """
SELECT coalesce(sum((status ->> 'count')::int), 0) FROM machines_operationbatch
WHERE created_at > now() - interval '1 hour' AND status ->> 'author' = %s AND status ->> 'approval' = 'NotNeeded' AND spec ->> 'verb' <> ALL (%s)
"""


def _lately(sql: str, person: str, *values: list[str]) -> int:
    """A count of what that person did within the last hour. What one person asks for is judged one after the other: the lock holds until the commit."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7))", [person])
        cursor.execute(sql, [person, *values])
        return int(cursor.fetchone()[0])


def check_deletes(kind: Kind, name: str, more: int, by: Actor) -> None:
    """ApiError 403 when that person would have deleted more machines within an hour than one person may."""
    limit = settings.FLEET_APPROVAL_OVER
    if by.is_system or not settings.FLEET_REQUIRE_APPROVAL:
        return
    lately = _lately(_DELETED, by.name)
    if lately + more > limit:
        said = f"{lately} within the last hour, and {more} more" if lately else f"{more}"
        why = f"one person alone deletes at most {limit} machines in an hour, and this would be {said}; ask for an OperationBatch with the verb Decommission, which another person approves"
        raise errors.forbidden(by.name, "delete", kind, name, why)


def approval_needed(verb: str, count: int, person: str) -> bool:
    """Whether a batch takes a second person, with what the first one asked for alone within the last hour."""
    if verb in HARMLESS or not settings.FLEET_REQUIRE_APPROVAL:
        return False
    alone = count + _lately(_BATCHED, person, list(HARMLESS))
    if verb == "Decommission":
        alone += _lately(_DELETED, person)
    return bool(alone > settings.FLEET_APPROVAL_OVER)
