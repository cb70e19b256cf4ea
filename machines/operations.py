"""The state machine of an Operation: what its running step became, what comes next, how it ends. Pure: facts and a clock in, a move out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from fleet.control.kinds import Json
from machines.analyze import Diff, runs_kernel
from machines.desired import by_name, package_of
from machines.gates import NodeRow
from machines.hosts import Action, Facts, StepRef, StepResult, pick_artifact
from machines.join import WAIT_SECONDS as JOIN_SECONDS
from machines.plan import FREE, PSEUDO
from machines.plan import rollback as rollback_steps
from machines.rows import OperationRow
from machines.step_actions import SECONDS, action_of

Ended = Literal["", "Succeeded", "Failed", "Cancelled"]
ATTEMPTS: Final = 3  # of one step in one Operation, each after a new observation
POLL_SECONDS: Final = 1.5
REBOOT_SECONDS: Final = 900
SILENCE_SECONDS: Final = 900  # beyond a step's own limit, for a host that never tells its end
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
    """Something to be done to the machine's node through its API server, in this pass: drain or delete-node."""

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


def time_text(moment: datetime) -> str:
    """RFC 3339 in UTC, seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def polls(operation: OperationRow | None) -> tuple[StepRef, ...]:
    """The attempt to look at in the next observation."""
    if operation is None:
        return ()
    step = _running(operation.status)
    return (_ref(operation, step),) if step is not None else ()


def current(status: Json) -> Json | None:
    """The first step that is not done."""
    return next((s for s in status.get("steps", []) if s["status"] != "True"), None)


def failing_package(status: Json) -> str:
    """The package whose step runs now: what a rollback would put back."""
    step = current(status)
    return str(step.get("subject", "")) if step else ""


def _running(status: Json) -> Json | None:
    return next((s for s in status.get("steps", []) if s.get("running")), None)


def _ref(operation: OperationRow, step: Json) -> StepRef:
    return StepRef(operation.uid, step["name"], step["attempt"])


def advance(operation: OperationRow, scene: Scene) -> Move:
    """The next move. Only called with facts that were seen."""
    status = copy.deepcopy(operation.status)
    inventory: list[InventoryChange] = []
    for _ in range(500):  # each turn ends a step or returns; a rollback adds some
        step = current(status)
        if step is None:
            return finish(status, inventory)
        if step.get("running"):
            move = _poll(operation, status, step, scene, inventory)
        elif scene.superseded[0]:
            move = _end(status, "Cancelled", *scene.superseded, inventory, scene.now)
        elif step["verb"] in PSEUDO:
            move = _pseudo(operation, status, step, scene, inventory)
        else:
            move = _start(operation, status, step, scene, inventory)
        if move is not None:
            return move
    return Move(status, inventory=tuple(inventory))


def finish(status: Json, inventory: list[InventoryChange]) -> Move:
    if "rollback" in status:
        package, cause = status["rollback"]["package"], status["rollback"]["cause"]
        message = f"{package} was put back to {status['rollback']['version']}: {cause}"
        return Move(status | {"message": message}, "Failed", "RolledBack", message, wait=0, inventory=tuple(inventory))
    return Move(
        status | {"message": "All steps are done."}, "Succeeded", "Done", "", wait=0, inventory=tuple(inventory)
    )


def _end(
    status: Json, ended: Ended, reason: str, message: str, inventory: Sequence[InventoryChange], now: datetime
) -> Move:
    return Move(
        status | {"message": message, "endTime": time_text(now)},
        ended,
        reason,
        message,
        wait=0,
        inventory=tuple(inventory),
    )


def _done(step: Json, now: datetime, reason: str = "Done", message: str = "") -> None:
    step.update(status="True", reason=reason, message=message, endTime=time_text(now))
    step.pop("running", None)


# -- a step that runs ---------------------------------------------------------------------------------------------------


def _poll(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    result = scene.facts.steps.get(_ref(operation, step).folder)
    if step["verb"] == "reboot":
        return _reboot(operation, status, step, scene, result, inventory)
    if result is None or (result.state == "Unknown" and result.reason == "NoSuchStep"):
        step.pop("running")  # the intent was committed and never reached the host
        return None
    return take(status, step, result, scene, inventory)


def take(status: Json, step: Json, result: StepResult, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """What the answer about a step means; None = go on with the next. Changes `step` and `status` in place."""
    if result.state == "Succeeded":
        _done(step, scene.now, message=result.message)
        inventory += _inventory(step, status, scene, result)
        return None
    if result.state in ("Running", "Unknown") and _overdue(step, scene.now):
        return _fail(
            status, step, "StepTimeout", f"No end was seen for {_waited(step, scene.now):.0f} s.", scene, inventory
        )
    if result.state in ("Running", "Unknown"):
        step.update(reason=result.reason or "Running", message=result.message)
        return Move(status | {"message": f"{step['name']} runs."}, inventory=tuple(inventory))
    if result.state == "Refused" and result.reason in (
        "StepRunning",
        "FenceBusy",
        "StaleEpoch",
        "Truncated",
        "SystemdUnreachable",
    ):
        step.update(reason=result.reason, message=result.message)
        step.pop("running", None)
        return Move(status | {"message": result.message}, wait=5, inventory=tuple(inventory))
    if result.state == "Interrupted" and step["attempt"] < ATTEMPTS:
        step.update(
            reason="Interrupted",
            message=result.message or "The attempt ended without a result.",
            attempt=step["attempt"] + 1,
        )
        step.pop("running", None)
        return None
    return _fail(status, step, result.reason or result.state, result.message, scene, inventory)


def _waited(step: Json, now: datetime) -> float:
    return (now - datetime.fromisoformat(step["startTime"])).total_seconds()


def _overdue(step: Json, now: datetime) -> bool:
    """The unit of a step has a limit of its own on the host; this one is for a host that never tells its end."""
    return _waited(step, now) > SECONDS.get(step["verb"], 300) + SILENCE_SECONDS


def unseen(operation: OperationRow, now: datetime) -> Move | None:
    """The end of an Operation whose host does not answer: cancelled, or its step is long overdue. What became of the step stays unknown.

    Before it began it may be cancelled at once; later the step's own limit must have passed, so that nothing runs on unobserved.
    Its permit is given back by a healthy look only, and the fence on the host keeps a new Operation from a step that still runs.
    """
    who = operation.spec.get("cancelledBy")
    if operation.started_at is None:
        return Move(operation.status, "Cancelled", "Cancelled", f"Cancelled by {who}.") if who else None
    status = copy.deepcopy(operation.status)
    step = _running(status)
    since = now - datetime.fromisoformat(step["startTime"]) if step else now - operation.started_at
    limit = SECONDS.get(step["verb"], 300) if step else 0
    if since.total_seconds() <= limit + (0 if who else SILENCE_SECONDS):
        return None
    unknown = "The host does not answer"
    if step is not None:
        unknown += f"; whether {step['name']} was done is not known"
        step.update(status="Unknown", reason="HostSilent", message=f"{unknown}.")
        step.pop("running")
    if who:
        return _end(status, "Cancelled", "Cancelled", f"Cancelled by {who}. {unknown}.", (), now)
    return _end(status, "Failed", "HostSilent", f"{unknown}; the next look at the host will tell.", (), now)


def _fail(
    status: Json, step: Json, reason: str, message: str, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    step.update(status="False", reason=reason, message=message, endTime=time_text(scene.now))
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
    return _end(status, "Failed", reason, f"{step['name']}: {message}", inventory, scene.now)


def _inventory(step: Json, status: Json, scene: Scene, result: StepResult) -> list[InventoryChange]:
    name = step.get("subject", "")
    if step["verb"] == "remove-package":
        return [InventoryChange(name)]
    if step["verb"] != "install-package":
        return []
    entry = by_name(_body(status, scene)).get(name)
    if entry is None:
        return []
    artifact = pick_artifact(package_of(entry), scene.facts)
    host_version = result.facts.get("installedVersion", "")
    before = scene.versions.get(name, "")
    return [
        InventoryChange(
            name,
            entry["version"],
            artifact.format if artifact else "",
            host_version,
            before if before != entry["version"] else "",
        )
    ]


def _body(status: Json, scene: Scene) -> Json:
    """The set that steps take their values from: the previous one while rolling back."""
    body: Json = status["rollback"]["body"] if "rollback" in status else scene.body
    return body


def _reboot(
    operation: OperationRow,
    status: Json,
    step: Json,
    scene: Scene,
    result: StepResult | None,
    inventory: list[InventoryChange],
) -> Move | None:
    """Proof of a reboot: another boot id, the wanted kernel, systemd settled. What the command said proves nothing."""
    facts, before = scene.facts, status.get("bootIdBefore", "")
    waited = (scene.now - datetime.fromisoformat(step["startTime"])).total_seconds()
    if facts.boot_id != before:
        if facts.system_state in ("starting", "initializing") and waited < REBOOT_SECONDS:
            step.update(reason="Booting", message="The host is up and systemd still starts units.")
            return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))
        wrong = [
            p["name"] for p in scene.body["packages"] if p["kind"] == "KernelPatch" and not runs_kernel(p, facts.kernel)
        ]
        if wrong and any(s.get("subject") in wrong and s["verb"] == "install-package" for s in status["steps"]):
            message = f"The host came back with kernel {facts.kernel}, not with that of {', '.join(wrong)}."
            return _fail(status, step, "WrongKernel", message, scene, inventory)
        if scene.node is not None and not (scene.node.boot_id == facts.boot_id and scene.node_ready):
            if waited < REBOOT_SECONDS:
                step.update(
                    reason="NodeNotBack", message="The host is up; its node does not report Ready from this boot yet."
                )
                return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))
            message = f"The host is up, but its node was not Ready from this boot within {int(waited)} s."
            return _fail(status, step, "NodeNotBack", message, scene, inventory)
        _done(step, scene.now, "Rebooted", f"Boot id went from {before} to {facts.boot_id}.")
        return None
    if result is None or result.reason == "NoSuchStep":
        step.pop("running")
        return None
    if result.state == "Failed":
        return _fail(status, step, result.reason or "RebootFailed", result.message, scene, inventory)
    if waited > REBOOT_SECONDS:
        message = f"After {int(waited)} seconds the host still has boot id {before}: it never rebooted."
        return _fail(status, step, "NeverRebooted", message, scene, inventory)
    step.update(reason="Rebooting", message="The host has not gone down yet.")
    return Move(status | {"message": "Waits for the host to come back."}, wait=3, inventory=tuple(inventory))


# -- a step that has not begun --------------------------------------------------------------------------------------------


def _pseudo(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    if step["verb"] == "permit":
        if scene.halt[0]:
            return _halted(status, step, scene, inventory)
        if status.get("permit"):
            _done(step, scene.now, "Granted", f"Permit {status['permit']}.")
            return None
        return Move(status, ask=status["verb"], wait=10, inventory=tuple(inventory))
    if step["verb"] == "pre-check":
        if scene.preflight[0]:
            step.update(reason=scene.preflight[0], message=scene.preflight[1])
            return Move(
                status | {"message": scene.preflight[1]}, reason=scene.preflight[0], wait=15, inventory=tuple(inventory)
            )
        _done(step, scene.now, "Fit", "The host is fit for the change.")
        return None
    if step["verb"] == "drain":
        return _drain(operation, status, step, scene, inventory)
    if step["verb"] == "wait-for-node":
        return _wait_for_node(status, step, scene, inventory)
    if step["verb"] == "delete-node":
        return _delete_node(status, step, scene, inventory)
    left = sorted({f"{d.kind} {d.name}" for d in scene.diffs} & set(status.get("targets", [])))
    if left and "rollback" not in status:
        return _fail(
            status,
            step,
            "StillDiffers",
            f"All steps were done, and yet there differs: {', '.join(left[:5])}.",
            scene,
            inventory,
        )
    _done(step, scene.now, "Verified", "A new look at the host shows what was wanted.")
    return None


def _drain(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    if scene.node is None:
        _done(step, scene.now, "NotANode", "The machine is no node of a cluster: nothing is to be moved.")
        return None
    if scene.halt[0]:
        return _halted(status, step, scene, inventory)
    step.setdefault("startTime", time_text(scene.now))
    status.setdefault("startTime", time_text(scene.now))
    effect = Effect("drain", {"drain": operation.spec.get("drain")}, step.get("progress", {}))
    return Move(status | {"closesNode": True}, effect=effect, inventory=tuple(inventory))


def _wait_for_node(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    if scene.node is not None:
        _done(step, scene.now, "Joined", f"The cluster has the node {scene.node.name}.")
        return None
    step.setdefault("startTime", time_text(scene.now))
    waited = _waited(step, scene.now)
    if waited > JOIN_SECONDS:
        message = (
            f"After {waited:.0f} s the cluster still has no node of this machine; its kubelet's journal tells why."
        )
        return _fail(status, step, "NodeNotJoined", message, scene, inventory)
    step.update(reason="Joining", message="The kubelet was started; the cluster has no node of it yet.")
    return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))


def _delete_node(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    if scene.node is None:
        _done(step, scene.now, "Gone", "The cluster has no node of this machine any more.")
        return None
    step.setdefault("startTime", time_text(scene.now))
    return Move(status | {"message": "The node is deleted."}, effect=Effect("delete-node"), inventory=tuple(inventory))


def take_effect(status: Json, step: Json, told: Told, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """What an effect on the node came to; None = the step is done. Changes `step` and `status` in place."""
    step.update(reason=told.reason, message=told.message)
    if told.progress:
        step["progress"] = dict(told.progress)
    if told.state == "Done":
        step.pop("progress", None)
        _done(step, scene.now, told.reason, told.message)
        return None
    if told.state == "Failed":
        step.pop("progress", None)
        return _fail(status, step, told.reason, told.message, scene, inventory)
    return Move(status | {"message": told.message}, reason=told.reason, wait=told.wait, inventory=tuple(inventory))


def _halted(status: Json, step: Json, scene: Scene, inventory: Sequence[InventoryChange]) -> Move:
    step.update(reason=scene.halt[0], message=scene.halt[1])
    return Move(status | {"message": scene.halt[1]}, reason=scene.halt[0], wait=30, inventory=tuple(inventory))


def _start(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    if scene.halt[0]:
        return _halted(status, step, scene, inventory)
    action = action_of(step, _body(status, scene), scene.facts, scene.uid, scene.mirrors)
    if isinstance(action, tuple):
        return _fail(status, step, *action, scene, inventory)
    step.update(running=True, reason="Begun", message="", startTime=time_text(scene.now))
    status.setdefault("startTime", time_text(scene.now))
    if step["verb"] == "reboot":
        status["bootIdBefore"] = scene.facts.boot_id
    start = Start(_ref(operation, step), action, step["verb"] in FREE)
    return Move(status | {"message": f"{step['name']} runs."}, start=start, inventory=tuple(inventory))
