"""An effect in rounds, by somebody who is asked and answers later: a controller, a provisioner. Pure.

Each request is named in the Operation's committed status before it is made, and none is made again before a new look.
`progress` lies at the step: `next` (what the next round is to ask for), `now` (what this round may ask for), and under the name of
each request when it was made, each time. A `now` that a round finds there was left by one that died: it may have been made.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.operation_moves import Told

TROUBLE_SECONDS: Final = 180.0  # of one who does not answer or refuses


class Trouble(Protocol):
    """The error of a port. `sent`: whether the request may have reached the other side."""

    reason: str
    message: str
    sent: bool


def opened(progress: Json, now: datetime) -> Json:
    """The progress as it is committed before a round: with the request that the round may make."""
    left = {k: v for k, v in progress.items() if k not in ("next", "now")}
    wanted = progress.get("next")
    return left | {"now": wanted, wanted: [*left.get(wanted, ()), format_time(now)]} if wanted else left


def troubled(progress: Json, error: Trouble, now: datetime, *, patience: float = TROUBLE_SECONDS) -> Told:
    """What a failure of the other side means: asked again for a while; a request that it may have got is not made again blindly."""
    left = {k: v for k, v in progress.items() if k != "now"}
    asked = progress.get("now")
    if asked and not error.sent:
        left |= {asked: progress[asked][:-1], "next": asked}
    since = progress.get("troubleSince") or format_time(now)
    if seconds_since(since, now) > patience:
        return Told("Failed", error.reason, error.message, left)
    return waiting(error.reason, error.message, left | {"troubleSince": since}, 5.0)


def waiting(reason: str, message: str, progress: Json, wait: float) -> Told:
    """Looked at again after so many seconds."""
    return Told("Waiting", reason, message, progress, wait)


def seconds_since(moment: str, now: datetime) -> float:
    """Seconds since a time that stands in a progress."""
    return (now - datetime.fromisoformat(moment)).total_seconds()
