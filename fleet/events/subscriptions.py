"""Telling subscribers by webhook: each at its own position, in order, again until it is taken; one that lags delays no other.

The position is a consumer's cursor, so an event may be posted twice after a crash and never not at all; its id stays the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg

from fleet.control import clock, work
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.control.errors import PermanentError
from fleet.control.kinds import MACHINE, SUBSCRIPTION, Json
from fleet.control.times import format_time
from fleet.control.work import Claim, Settled
from fleet.events import consumers
from fleet.events.consumers import Batch, Lag
from fleet.events.log import SEVERITIES, EventFilter, EventRow, cloud_event
from fleet.events.webhooks import Answer, Poster

log = logging.getLogger("fleet.events")

PASS_SECONDS: Final = 5.0  # of delivering; other work of the process waits meanwhile
_BATCH: Final = 100
_REST_SECONDS: Final = 600.0
_SLOWEST: Final = 600.0  # seconds between two tries of a receiver that is away
# Tries of one event before it is set aside: one that is refused, and one over which the receiver stumbles.
_TRIES: Final = {"Refused": 3, "Failed": 8}

_LOAD = """
SELECT s.id, s.name, s.generation, s.spec, s.status, s.sealed,
  (SELECT t.id FROM event_target t WHERE t.kind = 2 AND t.name = s.spec ->> 'clusterName' LIMIT 1),
  (SELECT array_agg(t.id) FROM jsonb_array_elements_text(coalesce(s.spec #> '{filter,clusters}', '[]')) c(name),
     LATERAL (SELECT e.id FROM event_target e WHERE e.kind = 2 AND e.name = c.name LIMIT 1) t)
FROM events_subscription s WHERE s.id = ANY (%s) ORDER BY s.id
"""

# Those that rest and have something to read, or dead letters that somebody wants to be tried again.
_SWEEP = """
WITH lk AS MATERIALIZED (
  SELECT w.object_id FROM work_item w JOIN events_subscription s ON s.id = w.object_id JOIN event_consumer c ON c.name = 'subscription/' || s.name
  WHERE w.kind = %(kind)s AND w.holder IS NULL AND w.resting AND w.due_at > now() AND (s.spec ->> 'paused') IS DISTINCT FROM 'true'
    AND (EXISTS (SELECT FROM event e WHERE e.pos > c.pos AND e.pos < fleet_horizon()) OR EXISTS (SELECT FROM dead_letter d WHERE d.consumer = c.name AND d.state > 0))
    AND NOT coalesce(s.status @> '{"conditions": [{"type": "Stalled", "status": "True"}]}' AND (s.status ->> 'observedGeneration')::int = s.generation, false)
  ORDER BY w.object_id FOR NO KEY UPDATE OF w)
UPDATE work_item w SET due_at = now() FROM lk WHERE w.kind = %(kind)s AND w.object_id = lk.object_id
"""


def consumer_of(name: str) -> str:
    """Its cursor's name."""
    return f"subscription/{name}"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription as a pass sees it."""

    id: int
    name: str
    generation: int
    spec: Json
    status: Json
    sealed: bytes
    cluster_id: int | None
    cluster_ids: tuple[int, ...]

    @property
    def wanted(self) -> EventFilter:
        """Its filter. A cluster that is not there has no events."""
        asked = self.spec["filter"]
        own = self.spec.get("clusterName")
        machine = asked.get("machine", "")
        return EventFilter(
            kind=MACHINE if machine else None, name=machine, types=tuple(asked.get("types", ())),
            severity=SEVERITIES.index(asked.get("severity", "normal")),
            cluster=(self.cluster_id if self.cluster_id is not None else -1) if own else None,
            clusters=self.cluster_ids if asked.get("clusters") else None,
        )  # fmt: skip

    @property
    def stalled(self) -> bool:
        """Whether only an edit helps, and there was none."""
        return self.status.get("observedGeneration") == self.generation and any(
            c["type"] == "Stalled" and c["status"] == "True" for c in self.status.get("conditions", [])
        )


@dataclass(slots=True)
class Told:
    """The outcome of a pass over one subscription. `answer`: what ended it, None when there was nothing more to tell."""

    delivered: int = 0
    set_aside: int = 0
    answer: Answer | None = None
    more: bool = False


OpenSecret = Callable[[Subscriber], bytes]  # PermanentError when there is no key


async def load(conn: Connection, ids: Sequence[int]) -> list[Subscriber]:
    """Subscriptions by id, those that exist."""
    rows = await (await conn.execute(_LOAD, [list(ids)])).fetchall()
    return [
        Subscriber(r[0], r[1], r[2], r[3], r[4] or {}, bytes(r[5]), r[6], tuple(int(i) for i in r[7] or ()))
        for r in rows
    ]


async def sweep(conn: Connection) -> int:
    """Make those due that have something to be told; how many."""
    return (await conn.execute(_SWEEP, {"kind": SUBSCRIPTION})).rowcount


async def tell(
    conn: Connection, poster: Poster, subscriber: Subscriber, key: bytes, stopping: Callable[[], bool] = lambda: False
) -> Told:
    """Post what there is, in order, until nothing is left, the turn is over, or the receiver takes no more."""
    name, told, end = consumer_of(subscriber.name), Told(), time.monotonic() + PASS_SECONDS
    while True:
        batch = await consumers.read_apart(conn, name, subscriber.wanted, _BATCH)
        rows, done = [*batch.again, *batch.rows], 0
        for row in rows:
            if stopping() or time.monotonic() >= end or not await _tell_one(conn, poster, subscriber, key, row, told):
                break
            done += 1
        position = finished(batch, done)
        if position is not None:
            await consumers.advance(conn, name, position)
        if done < len(rows) or not rows:
            told.more = told.answer is None and done < len(rows)
            return told


def finished(batch: Batch, done: int) -> int | None:
    """Where the cursor may move after the first `done` events of a batch; None = nowhere: of those tried again some are left."""
    if done < len(batch.again):
        return None
    done -= len(batch.again)
    if done == len(batch.rows):
        return batch.reached
    before = [row.pos for row in batch.rows[:done] if row.pos < batch.rows[done].pos]  # positions are whole or not done
    return before[-1] if before else 0


async def _tell_one(
    conn: Connection, poster: Poster, subscriber: Subscriber, key: bytes, row: EventRow, told: Told
) -> bool:
    """Post one event; False when the pass ends here."""
    answer = await poster.post(subscriber.spec["url"], key, f"evt_{row.pos}-{row.n}", cloud_event(row))
    if answer.verdict == "Delivered":
        told.delivered += 1
        return True
    most = _TRIES.get(answer.verdict)
    name, reason = consumer_of(subscriber.name), "Refused" if answer.verdict == "Refused" else "DeliveryFailed"
    if most is not None and await consumers.stumbled(conn, name, row, answer.message, most=most, reason=reason):
        told.set_aside += 1
        return True
    told.answer = answer
    return False


def status_of(subscriber: Subscriber, told: Told, lag: Lag | None, now: datetime) -> Json:
    """What the subscription says of itself after a pass."""
    old, paused = subscriber.status, bool(subscriber.spec.get("paused"))
    out: Json = {
        "observedGeneration": subscriber.generation,
        "position": str(lag.position) if lag else "",
        "delivered": int(old.get("delivered", 0)) + told.delivered,
        "failures": 0 if told.answer is None else int(old.get("failures", 0)) * (not told.delivered) + 1,
        "deadLetters": lag.dead_letters if lag else 0,
        "lostEvents": lag.lost if lag else 0,
    }
    if told.delivered:
        out["lastDeliveryTime"] = format_time(now)
    elif "lastDeliveryTime" in old:
        out["lastDeliveryTime"] = old["lastDeliveryTime"]
    facts = [_ready(told.answer, paused), _stalled(told.answer), _gap(lag)]
    out["conditions"] = [fact.kept(old, subscriber.generation, now) for fact in facts]
    return out


_STALLING: Final = ("Gone", "NotAllowed")


def _ready(answer: Answer | None, paused: bool) -> Condition:
    if paused:
        return Condition("Ready", "False", "Paused", "spec.paused keeps it; its position stays.")
    if answer is None:
        return Condition("Ready", "True", "Delivering", "Events are delivered.")
    return Condition("Ready", "False", answer.verdict, answer.message)


def _stalled(answer: Answer | None) -> Condition:
    if answer is not None and answer.verdict in _STALLING:
        return Condition("Stalled", "True", answer.verdict, "Only an edit of the subscription helps.")
    return Condition("Stalled", "False", "Going", "")


def _gap(lag: Lag | None) -> Condition:
    if lag is None or not lag.gaps:
        return Condition("Gap", "False", "Gapless", "")
    times = "once" if lag.gaps == 1 else f"{lag.gaps} times"
    text = f"It lagged beyond the retention of the log {times}: {lag.lost} events were lost."
    return Condition("Gap", "True", "LaggedBeyondRetention", text)


def settled(claim: Claim, told: Told, *, rests: bool) -> Settled:
    """When it comes again: at once when there is more, later and later while its receiver is away, else when there is something to tell."""
    if rests:
        return Settled(claim.object_id, claim.epoch, _REST_SECONDS, resting=True)
    if told.answer is None:
        return Settled(claim.object_id, claim.epoch, 0.0 if told.more else _REST_SECONDS, resting=not told.more)
    attempts = 1 if told.delivered else min(claim.attempts + 1, 1_000)
    wait = max(work.backoff(attempts, most=_SLOWEST), told.answer.retry_seconds)
    return Settled(claim.object_id, claim.epoch, wait, attempts)


async def reconcile(
    conn: Connection,
    claims: list[Claim],
    poster: Poster,
    open_secret: OpenSecret,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[dict[int, Json], list[Settled]]:
    """One pass over claimed subscriptions, side by side; their statuses by id, and how their leases end."""
    by_id = {claim.object_id: claim for claim in claims}
    found = await load(conn, list(by_id))
    outcomes = await asyncio.gather(*(_pass(conn, each, poster, open_secret, stopping) for each in found))
    lags = {each.name: each for each in await consumers.lag(conn)}
    now = clock.now()
    statuses: dict[int, Json] = {}
    ends: list[Settled] = []
    for each, told in zip(found, outcomes, strict=True):
        claim = by_id.pop(each.id)
        if told is None:  # nothing was tried, and only an edit changes that
            ends.append(settled(claim, Told(), rests=True))
            continue
        statuses[each.id] = status_of(each, told, lags.get(consumer_of(each.name)), now)
        stalled = told.answer is not None and told.answer.verdict in _STALLING
        ends.append(settled(claim, told, rests=stalled or bool(each.spec.get("paused"))))
    ends += [
        Settled(claim.object_id, claim.epoch, _REST_SECONDS, resting=True) for claim in by_id.values()
    ]  # deleted meanwhile
    return statuses, ends


async def _pass(
    conn: Connection, subscriber: Subscriber, poster: Poster, open_secret: OpenSecret, stopping: Callable[[], bool]
) -> Told | None:
    """One subscription; whatever is wrong with one delays no other."""
    if subscriber.spec.get("paused"):
        return Told()
    if subscriber.stalled:
        return None
    try:
        key = open_secret(subscriber)
    except PermanentError as error:
        return Told(answer=Answer("NoSecret", error.message))
    try:
        return await tell(conn, poster, subscriber, key, stopping)
    except (psycopg.Error, OSError):
        raise
    except Exception as error:
        log.exception("telling the subscription %s stumbled", subscriber.name)
        return Told(answer=Answer("Failed", f"an error of Fleet's own: {type(error).__name__}"))
