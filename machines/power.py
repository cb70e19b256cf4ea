"""A power cycle in rounds: certainly off, then on, then the host in a new boot. Pure: what the controller says and a clock in, what to ask of it out.

Of `progress` (see `machines.rounds`) the requests are `off` and `on`; `wasOff`, `isOn` say when that was seen. Between them
`machines.releasing` has its turn.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.bmc import PowerState
from machines.operation_moves import Told
from machines.rounds import seconds_since, waiting

Request = Literal["", "off", "on"]
TRIES: Final = 2
ANSWER_SECONDS: Final = 45.0  # until a request that was made must show in the power
BOOT_SECONDS: Final = 900.0  # from power on to a host that answers


def touched(progress: Json) -> bool:
    """Whether the power may have been changed already: then the cycle goes on to its end."""
    return bool(progress.get("off") or progress.get("wasOff") or progress.get("on"))


def round_of(progress: Json, power: PowerState, now: datetime, *, node: bool = False) -> tuple[Request, Told]:
    """(what to ask for now, what is told when that was taken). `progress` is the committed one; `node`: between off and on its cluster lets its pods go."""
    left = {k: v for k, v in progress.items() if k not in ("now", "troubleSince")}
    target: PowerState = "On" if progress.get("wasOff") else "Off"
    verb: Request = "on" if target == "On" else "off"
    if power == target:
        return "", _reached(left, target, now, node=node)
    if power == "Changing":
        return "", waiting("Changing", "The controller says that the power is changing.", left, 2.0)
    asked = progress.get(verb, [])
    if progress.get("now") == verb:
        text = f"Power {verb} was asked for; the controller says {power}."
        return verb, waiting("SwitchingOff" if verb == "off" else "SwitchingOn", text, left, 2.0)
    waited = seconds_since(asked[-1], now) if asked else ANSWER_SECONDS
    if waited < ANSWER_SECONDS:
        return "", waiting("Switching", f"Power {verb} was asked for {waited:.0f} s ago; it is {power}.", left, 2.0)
    if len(asked) >= TRIES:
        text = f"Power {verb} was asked for {len(asked)} times, and the controller still says {power}."
        return "", Told("Failed", "StayedOn" if verb == "off" else "StayedOff", text, left)
    return "", waiting("Seen", f"The controller says that the power is {power}.", left | {"next": verb}, 0.05)


def _reached(progress: Json, target: PowerState, now: datetime, *, node: bool) -> Told:
    if target == "Off":
        text = "The controller says that the power is off."
        then = {"wasOff": format_time(now)} | ({} if node else {"next": "on"})
        return waiting("Off", text, progress | then, 0.5)
    since = progress.get("isOn") or format_time(now)
    return waiting("Booting", "The power is on; the host has not answered yet.", progress | {"isOn": since}, 3.0)


def returned(progress: Json, before: str, boot_id: str) -> bool:
    """Whether a host that answers is the one after the cycle: another boot id, or power that was seen off and on."""
    if before:
        return boot_id != before
    return bool(progress.get("isOn"))


def late(progress: Json, now: datetime, limit: float = BOOT_SECONDS) -> bool:
    """Whether a host whose power is on should have answered by now."""
    since = progress.get("isOn", "")
    return bool(since) and seconds_since(since, now) > limit
