"""The real Celery application with one more operator: of kind 99, which only notes that it was there."""

from __future__ import annotations

import asyncio
import os
import signal

from fleet.celery import app
from fleet.control import work
from fleet.control.operators import Operator, Seat, register_operator
from fleet.control.work import Claim, Settled

KIND = 99
POISON = 666  # an object that breaks its pass


def _break(how: str) -> None:
    if how == "killed":  # as by the kernel, when the host has no memory left
        os.kill(os.getpid(), signal.SIGKILL)
    bytearray(1 << 30)


async def _note(seat: Seat, claims: list[Claim]) -> None:
    """Each object is due again at once as long as its `tried` is negative: the tests steer by it."""
    if any(c.object_id == POISON for c in claims):
        _break(os.environ["TEST_POISON"])
    await asyncio.sleep(float(os.environ.get("TEST_PASS_SECONDS", "0")))
    await seat.conn.execute(
        "INSERT INTO tombstone (rv, kind, name, object) SELECT fleet_pos(), 99, 'pass', jsonb_build_object('id', i, 'me', %s::int) FROM unnest(%s::bigint[]) AS i",
        [seat.me, [c.object_id for c in claims]],
    )
    await work.settle(seat.conn, KIND, seat.me, [Settled(c.object_id, c.epoch, 3_600, resting=True) for c in claims])


register_operator(Operator(KIND, _note, batch=10))
__all__ = ["app"]
