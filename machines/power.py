"""A power cycle in rounds: certainly off, then on, then the host in a new boot. Pure: what the controller says and a clock in, what to ask of it out.

Each request is named in the Operation's committed status before it is made, and none is made again before a new look at the power.
`progress` lies at the step: `next` (what the next round is to ask for), `now` (what this round may ask for), `off`, `on` (when that was asked for,
each time), `wasOff`, `isOn` (when it was seen). A `now` that a round finds there was left by one that died: it may have been asked for.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.bmc import BmcError, PowerState
from machines.operation_moves import Told

Request = Literal["", "off", "on"]
TRIES: Final = 2
ANSWER_SECONDS: Final = 45.0  # until a request that was made must show in the power
TROUBLE_SECONDS: Final = 180.0  # of a controller that does not answer or refuses
BOOT_SECONDS: Final = 900.0  # from power on to a host that answers


def opened(progress: Json, now: datetime) -> Json:
    """The progress as it is committed before a round: with the request that the round may make."""
    left = {k: v for k, v in progress.items() if k not in ("next", "now")}
    wanted = progress.get("next")
    return left | {"now": wanted, wanted: [*left.get(wanted, ()), format_time(now)]} if wanted else left


def touched(progress: Json) -> bool:
    """Whether the power may have been changed already: then the cycle goes on to its end."""
    return bool(progress.get("off") or progress.get("wasOff") or progress.get("on"))


def round_of(progress: Json, power: PowerState, now: datetime) -> tuple[Request, Told]:
    """(what to ask for now, what is told when that was taken). `progress` is the committed one."""
    left = {k: v for k, v in progress.items() if k not in ("now", "troubleSince")}
    target: PowerState = "On" if progress.get("wasOff") else "Off"
    verb: Request = "on" if target == "On" else "off"
    if power == target:
        return "", _reached(left, target, now)
    if power == "Changing":
        return "", _told("Changing", "The controller says that the power is changing.", left, 2.0)
    asked = progress.get(verb, [])
    if progress.get("now") == verb:
        text = f"Power {verb} was asked for; the controller says {power}."
        return verb, _told("SwitchingOff" if verb == "off" else "SwitchingOn", text, left, 2.0)
    waited = (now - datetime.fromisoformat(asked[-1])).total_seconds() if asked else ANSWER_SECONDS
    if waited < ANSWER_SECONDS:
        return "", _told("Switching", f"Power {verb} was asked for {waited:.0f} s ago; it is {power}.", left, 2.0)
    if len(asked) >= TRIES:
        text = f"Power {verb} was asked for {len(asked)} times, and the controller still says {power}."
        return "", Told("Failed", "StayedOn" if verb == "off" else "StayedOff", text, left)
    return "", _told("Seen", f"The controller says that the power is {power}.", left | {"next": verb}, 0.05)


def _reached(progress: Json, target: PowerState, now: datetime) -> Told:
    if target == "Off":
        text = "The controller says that the power is off."
        return _told("Off", text, progress | {"wasOff": format_time(now), "next": "on"}, 0.5)
    since = progress.get("isOn") or format_time(now)
    return _told("Booting", "The power is on; the host has not answered yet.", progress | {"isOn": since}, 3.0)


def troubled(progress: Json, error: BmcError, now: datetime) -> Told:
    """What a controller's failure means: asked again for a while; a request that it may have got is not made again blindly."""
    left = {k: v for k, v in progress.items() if k != "now"}
    asked = progress.get("now")
    if asked and not error.sent:
        left |= {asked: progress[asked][:-1], "next": asked}
    since = progress.get("troubleSince") or format_time(now)
    if (now - datetime.fromisoformat(since)).total_seconds() > TROUBLE_SECONDS:
        return Told("Failed", error.reason, error.message, left)
    return _told(error.reason, error.message, left | {"troubleSince": since}, 5.0)


def _told(reason: str, message: str, progress: Json, wait: float) -> Told:
    return Told("Waiting", reason, message, progress, wait)


def returned(progress: Json, before: str, boot_id: str) -> bool:
    """Whether a host that answers is the one after the cycle: another boot id, or power that was seen off and on."""
    if before:
        return boot_id != before
    return bool(progress.get("isOn"))


def late(progress: Json, now: datetime) -> bool:
    """Whether a host whose power is on should have answered by now."""
    since = progress.get("isOn", "")
    return bool(since) and (now - datetime.fromisoformat(since)).total_seconds() > BOOT_SECONDS
