"""What a pass does to an Operation: its move, what the move is decided from, and how steps end. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.analyze import Diff
from machines.desired import by_name
from machines.gates import NodeRow
from machines.hosts import Action, Facts, StepRef, StepResult
from machines.plan import Plan
from machines.plan import rollback as rollback_steps

Ended = Literal["", "Succeeded", "Failed", "Cancelled"]
POLL_SECONDS: Final = 1.5
# Failures that the same try will meet again: a new spec or a person is needed.
PERMANENT: Final = frozenset(
    [
        "ChecksumMismatch",
        "SignatureInvalid",
        "ForeignFormat",
        "ArtifactUnreadable",
        "ArtifactMismatch",
        "ArchitectureMismatch",
        "UnsafeArchive",
        "UnsafePath",
        "WouldOverwrite",
        "WouldChangeOthers",
        "OwnerUnknown",
        "ValidateFailed",
        "SysctlRefused",
        "ModuleMissing",
        "InvalidAction",
        "NoArtifact",
        "NotVerifiable",
        "NotInstalledByFleet",
        "NoBootLoader",
        "RolledBack",
        "PackageHeldOnHost",
        "NoVerifier",
    ]
)


@dataclass(frozen=True, slots=True)
class InventoryChange:
    """A package that Fleet put on the host, or took from it (`version` empty)."""

    package: str
    version: str = ""
    format: str = ""
    host_version: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """The step to begin and act on now."""

    ref: StepRef
    action: Action
    free: bool = False  # needs no permit


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to be done in this pass by another way than the host's: to its node through the API server (isolate, drain,
    delete-node), to its power through its controller (power-cycle), to its system through its provisioner (reinstall)."""

    verb: str
    options: Json = field(default_factory=dict)
    progress: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """What one pass does to the Operation. `ask` is the verb of the permit that must be had before anything else."""

    status: Json
    ended: Ended = ""
    reason: str = ""
    message: str = ""
    start: Start | None = None
    effect: Effect | None = None
    ask: str = ""
    wait: float = POLL_SECONDS
    inventory: tuple[InventoryChange, ...] = ()
    result: StepResult | None = None  # what the driver answered at once


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an effect: `state` Done, Waiting or Failed; `progress` is given to the next round."""

    state: str
    reason: str
    message: str = ""
    progress: Json = field(default_factory=dict)
    wait: float = 3.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What a move is decided from besides the Operation itself."""

    uid: str  # of the machine
    facts: Facts
    body: Json
    diffs: Sequence[Diff]
    now: datetime
    want: int
    preflight: tuple[str, str] = ("", "")  # (reason, sentence) why the host is not fit, or nothing
    halt: tuple[str, str] = ("", "")  # held, paused: nothing new begins
    superseded: tuple[str, str] = ("", "")  # cancelled, outranked, spec moved: ends between steps
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version that Fleet's inventory names
    previous: Json | None = None  # set with the previous version of the package that fails, to roll back to
    mirrors: tuple[tuple[str, str], ...] = ()
    node: NodeRow | None = None
    node_ready: bool = False
    boot_id: str = ""  # of the newest look at the host that was answered
    barred: tuple[str, str] = ("", "")  # why its system may not be installed anew
    again: Plan | None = None  # what would fill the host, once it was installed anew


def current(status: Json) -> Json | None:
    """The first step that is not done."""
    return next((s for s in status.get("steps", []) if s["status"] != "True"), None)


def end(
    status: Json, ended: Ended, reason: str, message: str, inventory: Sequence[InventoryChange], now: datetime
) -> Move:
    """The Operation ends here."""
    return Move(
        status | {"message": message, "endTime": format_time(now)},
        ended,
        reason,
        message,
        wait=0,
        inventory=tuple(inventory),
    )


def done(step: Json, now: datetime, reason: str = "Done", message: str = "") -> None:
    """The step is done."""
    step.update(status="True", reason=reason, message=message, endTime=format_time(now))
    step.pop("running", None)


def waited(step: Json, now: datetime) -> float:
    """Seconds since the step began."""
    return (now - datetime.fromisoformat(step["startTime"])).total_seconds()


def fail(
    status: Json, step: Json, reason: str, message: str, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    """The step failed: the package is rolled back where it may be, else the Operation ends."""
    step.update(status="False", reason=reason, message=message, endTime=format_time(scene.now))
    step.pop("running", None)
    entry = by_name(scene.body).get(step.get("subject", ""))
    old = by_name(scene.previous or {}).get(step.get("subject", ""))
    may = entry is not None and entry["rollback"] and old is not None and old["version"] != entry["version"]
    begun = any(
        s["verb"] == "install-package" and s.get("subject") == step.get("subject") and s.get("startTime")
        for s in status["steps"]
    )
    if may and begun and "rollback" not in status and scene.previous is not None and old is not None:
        kept = [s for s in status["steps"] if s["status"] == "True" or s is step]
        step.update(
            status="True", failed=True, message=f"Failed ({reason}): {message}"
        )  # done with; the cause stands in `rollback`
        more = [s.json(len(kept) + i) for i, s in enumerate(rollback_steps(old, scene.previous), 1)]
        status["steps"] = kept + more
        files = [f for f in scene.previous["files"] if f["package"] == old["name"]]
        status["rollback"] = {
            "package": old["name"], "version": old["version"], "from": step["name"], "cause": message,
            "body": {"packages": [old], "files": files, "sysctls": {}, "modules": [], "bootParameters": []},
        }  # fmt: skip
        return None
    return end(status, "Failed", reason, f"{step['name']}: {message}", inventory, scene.now)


def body_of(status: Json, scene: Scene) -> Json:
    """The set that steps take their values from: the previous one while rolling back."""
    body: Json = status["rollback"]["body"] if "rollback" in status else scene.body
    return body


def halted(status: Json, step: Json, scene: Scene, inventory: Sequence[InventoryChange]) -> Move:
    """Held or paused: nothing new begins."""
    step.update(reason=scene.halt[0], message=scene.halt[1])
    return Move(status | {"message": scene.halt[1]}, reason=scene.halt[0], wait=30, inventory=tuple(inventory))
