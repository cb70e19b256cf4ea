"""A machine's operating system installed anew, in rounds: asked for once, followed to its end, then the empty host in its new boot.

Pure: what the provisioner says, facts and a clock in, what to ask for out. Of `progress` (see `machines.rounds`) the request is
`install`; `isDone` says since when the provisioner calls the installation done.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, LiteralString

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.hosts import Facts
from machines.operation_moves import Told
from machines.plan import REINSTALL
from machines.provisioner import Installation, ProvisionError
from machines.rounds import TROUBLE_SECONDS, seconds_since, waiting

INSTALL: Final = "install"  # the request
REINSTALLED: Final = "Reinstalled"  # the reason of a step whose host came back empty
TRIES: Final = 2
ANSWER_SECONDS: Final = 45.0  # until a request that was made must be known to the provisioner
INSTALL_SECONDS: Final = 3_600.0  # from the request until it is done
BACK_SECONDS: Final = 900.0  # from then until the host answers
# Whether the host of an Operation `o` is being installed anew, or was by it: as `underway` says it.
UNDERWAY: Final[LiteralString] = (
    """jsonb_path_exists(o.status, '$.steps[*] ? (@.verb == "reinstall" && (@.reason == "Reinstalled" || exists(@.progress.install[0])))')"""
)


def touched(progress: Json) -> bool:
    """Whether the disks may have been wiped already: then the step goes on to its end."""
    return bool(progress.get(INSTALL))


def patience(progress: Json, error: ProvisionError) -> float:
    """For how many seconds a provisioner may fail. Once the disks may be wiped nobody else may begin: then only the whole time counts."""
    refused = progress.get("now") == INSTALL and not error.sent
    asked = progress.get(INSTALL, [])[: -1 if refused else None]
    return float("inf") if asked else TROUBLE_SECONDS


def round_of(progress: Json, seen: Installation, now: datetime) -> tuple[bool, Told]:
    """(whether to ask for the installation now, what is told when that was taken). `progress` is the committed one."""
    left = {k: v for k, v in progress.items() if k not in ("now", "troubleSince")}
    if seen.state == "Failed":
        return False, Told("Failed", seen.reason or "InstallFailed", seen.message or "The installation failed.", left)
    if seen.state == "Done":
        since = progress.get("isDone") or format_time(now)
        text = "The installation is done; the host has not answered from its new system yet."
        return False, waiting("Installed", text, left | {"isDone": since}, 3.0)
    if seen.state in ("Pending", "Running"):
        text = seen.message or "The installation goes on."
        return False, waiting("Queued" if seen.state == "Pending" else "Installing", text, left, 5.0)
    asked = progress.get(INSTALL, [])
    if progress.get("now") == INSTALL:
        return True, waiting("Requested", "The installation was asked for.", left, 2.0)
    waited = seconds_since(asked[-1], now) if asked else ANSWER_SECONDS
    if waited < ANSWER_SECONDS:
        text = f"The installation was asked for {waited:.0f} s ago; the provisioner does not know of it yet."
        return False, waiting("Requested", text, left, 2.0)
    if len(asked) >= TRIES:
        text = f"The installation was asked for {len(asked)} times, and the provisioner still does not know of it."
        return False, Told("Failed", "RequestLost", text, left)
    text = "The provisioner knows of no installation for this Operation."
    return False, waiting("Seen", text, left | {"next": INSTALL}, 0.05)


def renewed(progress: Json, before: str, facts: Facts) -> bool:
    """Whether the host that answers is the new system: the provisioner is done, and nothing of the old one is there."""
    return bool(progress.get("isDone")) and empty(before, facts)


def empty(before: str, facts: Facts) -> bool:
    """A host in another boot than `before` that does not know Fleet: its disk is a new one."""
    return facts.seen and not facts.marker and facts.boot_id != before


def late(progress: Json, facts: Facts, now: datetime) -> tuple[str, str]:
    """(reason, sentence) when what was asked for should have come to its end by now."""
    done, asked = progress.get("isDone", ""), progress.get(INSTALL, [])
    if done and seconds_since(done, now) > BACK_SECONDS:
        if facts.seen:
            return (
                "NotReinstalled",
                "The provisioner is done, and yet the host answers from the system that it had before.",
            )
        return (
            "NotBack",
            f"The installation is done since {done}, and the host has not answered within {BACK_SECONDS:.0f} s.",
        )
    if asked and not done and seconds_since(asked[0], now) > INSTALL_SECONDS:
        return (
            "InstallTimedOut",
            f"The installation that was asked for at {asked[0]} is not done after {INSTALL_SECONDS:.0f} s.",
        )
    return "", ""


def step_of(status: Json) -> Json | None:
    """The step of an Operation that installs the host anew, if it has one."""
    return next((s for s in status.get("steps", ()) if s["verb"] == REINSTALL), None)


def reinstalled(status: Json) -> bool:
    """The Operation's host came back empty."""
    step = step_of(status)
    return step is not None and step["reason"] == REINSTALLED


def underway(status: Json) -> bool:
    """The Operation's host is being installed anew, or was by it: silence and missing things are of its own making."""
    step = step_of(status)
    return step is not None and (step["reason"] == REINSTALLED or touched(step.get("progress", {})))
