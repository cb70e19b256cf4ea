"""Asking the safety ledger: may this machine be taken away for a while? If it cannot answer, the answer is no."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from django.db import connection, transaction
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

Connection = AsyncConnection[Any]
log = logging.getLogger(__name__)

_BATCH: Final = 1_000  # machines a transaction: the one lock is held for tens of milliseconds at most
_PATIENCE_SECONDS: Final = 5.0
FOREIGN: Final = "(permit/"  # with a name and a bracket, the end of an owner that is no part of Fleet
# In a statement that begins an effect: the right must still hold at that moment (one parameter: the permit's id).
STILL_VALID: Final = "EXISTS (SELECT FROM permit WHERE id = %s AND released_at IS NULL AND expires_at > now())"


@dataclass(frozen=True, slots=True)
class Ask:
    """`verb`: None, Reload, Restart, Drain, Reboot, Cordon, Remove, ... (see `safety_class`); `owner`: the Operation's uid.

    `unplanned`: repairs may use the whole budget, planned changes leave a quarter of it. `ttl_seconds` ends the right, not the count.
    """

    machine_id: int
    verb: str
    unplanned: bool
    owner: str
    ttl_seconds: int = 600


@dataclass(frozen=True, slots=True)
class Answer:
    """`reason` is a condition reason and `message` a sentence when refused; `permit_id` is to be released by its owner."""

    ok: bool
    reason: str = ""
    message: str = ""
    permit_id: int | None = None


NO_ANSWER: Final = Answer(False, "SafetyUnavailable", "The safety ledger gave no answer.")


@dataclass(frozen=True, slots=True)
class HeldBy:
    """The hold that covers a machine; `until` is None when it has no readable end."""

    hold: str
    reason: str
    owner: str
    until: datetime | None


async def permits(conn: Connection, asks: Sequence[Ask]) -> dict[int, Answer]:
    """Answer a batch, every ask of it, at most one a machine, in the asker's order. `conn` is in autocommit and in no transaction.

    The same owner asking again renews its permit. Whatever goes wrong is a refusal `SafetyUnavailable`.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE or not conn.autocommit:
        raise ValueError("permits are asked for outside of a transaction, so that no lock outlives the statement")
    answers: dict[int, Answer] = {}
    for start in range(0, len(asks), _BATCH):
        part = asks[start : start + _BATCH]
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                answers.update(await _ask(conn, part))
        except (psycopg.Error, TimeoutError) as error:
            log.warning("the safety ledger did not answer: %s", str(error) or type(error).__name__)
            answers.update(unavailable(part, error))
    return answers


def unavailable(asks: Iterable[Ask], error: BaseException) -> dict[int, Answer]:
    """No answer means no."""
    cause = str(error).strip().splitlines()
    said = f"The safety ledger did not answer ({cause[0] if cause else type(error).__name__}): nothing starts until it does."
    return {ask.machine_id: Answer(False, "SafetyUnavailable", said) for ask in asks}


_ASK: Final = "SELECT machine_id, ok, reason, message, permit_id FROM permit_each(%s::bigint[], %s::text[], %s::boolean[], %s::text[], %s::int[])"


def _values(asks: Sequence[Ask]) -> tuple[list[Any], ...]:
    return (
        [ask.machine_id for ask in asks],
        [ask.verb for ask in asks],
        [ask.unplanned for ask in asks],
        [ask.owner for ask in asks],
        [ask.ttl_seconds for ask in asks],
    )


async def _ask(conn: Connection, asks: Sequence[Ask]) -> dict[int, Answer]:
    cursor = await conn.execute(_ASK, _values(asks))
    answered = {row[0]: Answer(row[1], row[2], row[3], row[4]) for row in await cursor.fetchall()}
    return {ask.machine_id: answered.get(ask.machine_id, NO_ANSWER) for ask in asks}


def permit_sync(conn: psycopg.Connection[Any], ask: Ask) -> Answer:
    """One ask from code without an event loop. `conn` is in autocommit and has Fleet's time limits."""
    try:
        row = conn.execute(_ASK, _values([ask])).fetchone()
    except psycopg.Error as error:
        return unavailable([ask], error)[ask.machine_id]
    return Answer(row[1], row[2], row[3], row[4]) if row else NO_ANSWER


def foresee(asks: Sequence[Ask]) -> list[tuple[int, str, str]]:
    """(how many, reason or "" where it would be granted, one sentence of those), the most first. Nothing of it stays: no permit, no refusal, no lock."""
    sql = f"SELECT count(*), CASE WHEN ok THEN '' ELSE reason END, min(message) FROM ({_ASK}) a GROUP BY 2 ORDER BY 1 DESC, 2"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql, _values(asks))
        found = cursor.fetchall()
        transaction.set_rollback(True)
    return [(int(n), str(reason), str(message or "")) for n, reason, message in found]


async def release(conn: Connection, permit_ids: Sequence[int]) -> int:
    """Give permits back: the targets were seen healthy and open, or are out of service. How many were still out."""
    cursor = await conn.execute(RELEASE, (sorted(permit_ids),))
    return cursor.rowcount


# The change rows make releases visible to watchers; a permit released twice is released once.
RELEASE: Final = """
WITH lk AS MATERIALIZED (SELECT id, rv, cluster_id FROM permit WHERE id = ANY (%s::bigint[]) AND released_at IS NULL ORDER BY id FOR NO KEY UPDATE),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM lk) + 4) AS base),
n AS MATERIALIZED (SELECT id, cluster_id, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), rv + 1) AS rv FROM lk),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 10, 2 FROM n)
UPDATE permit SET released_at = now(), rv = n.rv FROM n WHERE permit.id = n.id"""


_OF_NOBODY: Final = "SELECT p.id FROM permit p WHERE p.released_at IS NULL AND NOT EXISTS (SELECT FROM capacity c WHERE c.machine_id = p.machine_id) LIMIT 1000"
_FORGET: Final = """
WITH old AS MATERIALIZED (SELECT id, rv, uid, cluster_id, granted_at FROM permit WHERE released_at < now() - %s::interval ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED),
p AS MATERIALIZED (SELECT fleet_pos(4 * (SELECT count(*)::int FROM old) + 4) AS base),
n AS MATERIALIZED (SELECT id, uid, cluster_id, granted_at, greatest((SELECT base FROM p) + 4 * row_number() OVER (ORDER BY id), rv + 1) AS rv FROM old),
ch AS (INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 10, 3 FROM n),
tb AS (INSERT INTO tombstone (rv, kind, name, object) SELECT rv, 10, 'permit-' || id, jsonb_build_object('apiVersion', 'fleet.dev/v1', 'kind', 'Permit', 'spec', '{}'::jsonb,
  'metadata', jsonb_build_object('name', 'permit-' || id, 'uid', uid, 'resourceVersion', rv::text, 'creationTimestamp', to_char(granted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))) FROM n)
DELETE FROM permit USING n WHERE permit.id = n.id"""


async def tidy(conn: Connection, *, keep: str = "30 days") -> int:
    """Release permits of machines that are gone, forget those released long ago, at most 1,000 of each; how many."""
    gone = [row[0] for row in await (await conn.execute(_OF_NOBODY)).fetchall()]
    released = await release(conn, gone) if gone else 0
    return released + (await conn.execute(_FORGET, (keep,))).rowcount


async def held(conn: Connection, ids: Sequence[int]) -> dict[int, HeldBy]:
    """Which of these machines a hold covers now, and which hold (of several, the one that lasts longest)."""
    cursor = await conn.execute(
        "SELECT machine_id, hold, reason, owner, CASE WHEN isfinite(until) THEN until END FROM safety_held(%s::bigint[])",
        (list(ids),),
    )
    return {row[0]: HeldBy(row[1], row[2], row[3], row[4]) for row in await cursor.fetchall()}
