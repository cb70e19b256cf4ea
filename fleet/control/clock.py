"""The clock of this process, set by PostgreSQL's: what workers write down and compare is one time, however far off a host's own clock is.

A host whose clock is hours ahead would otherwise find every condition old, every step too late and every host's clock wrong.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from fleet.control.db import Connection

log = logging.getLogger(__name__)
WARN_SECONDS = 5.0
CLOSE_SECONDS = 0.05  # a change this small is left alone

_ahead = 0.0  # PostgreSQL's minus this process's, seconds


def unix() -> float:
    """Seconds since 1970 by PostgreSQL's clock."""
    return time.time() + _ahead


def now() -> datetime:
    """The moment by PostgreSQL's clock, in UTC."""
    return datetime.fromtimestamp(unix(), UTC)


async def set_by(conn: Connection) -> None:
    """Ask PostgreSQL for the time; half of the way there and back is allowed for."""
    sent = time.monotonic()
    found = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8", prepare=True)).fetchone()
    half = (time.monotonic() - sent) / 2
    assert found is not None
    _set(float(found[0]) + half - time.time(), max(half, CLOSE_SECONDS))


def _set(ahead: float, unsure: float) -> None:
    """`unsure`: by so much the way of the answer alone may have moved it."""
    global _ahead
    if abs(ahead - _ahead) <= unsure:
        return
    if abs(ahead) > WARN_SECONDS and abs(ahead - _ahead) > WARN_SECONDS:
        log.warning("the clock of this host is off by %.0f s; PostgreSQL's counts", -ahead)
    _ahead = ahead
