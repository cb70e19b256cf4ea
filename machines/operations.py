"""The state machine of an Operation: what its running step became, what comes next, how it ends. Pure: facts and a clock in, a move out."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Final

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines import power, reinstall
from machines.analyze import runs_kernel
from machines.desired import by_name, package_of
from machines.fence import EVIDENCE
from machines.hosts import StepRef, StepResult, pick_artifact
from machines.operation_moves import (
    InventoryChange,
    Move,
    Scene,
    Start,
    Told,
    body_of,
    current,
    done,
    end,
    fail,
    halted,
    waited,
)
from machines.own_steps import own_step
from machines.plan import BLIND_ACTIONS, DELETE_NODE, FREE, POWER_CYCLE, PSEUDO, REINSTALL, UNSEEN
from machines.reinstall_steps import plan_again
from machines.rows import OperationRow
from machines.step_actions import SECONDS, action_of

ATTEMPTS: Final = 3  # of one step in one Operation, each after a new observation
REBOOT_SECONDS: Final = 900
SILENCE_SECONDS: Final = 900  # beyond a step's own limit, for a host that never tells its end


def polls(operation: OperationRow | None) -> tuple[StepRef, ...]:
    """The attempt to look at in the next observation."""
    if operation is None:
        return ()
    step = _running(operation.status)
    return (_ref(operation, step),) if step is not None else ()


def failing_package(status: Json) -> str:
    """The package whose step runs now: what a rollback would put back."""
    step = current(status)
    return str(step.get("subject", "")) if step else ""


def _running(status: Json) -> Json | None:
    return next((s for s in status.get("steps", []) if s.get("running")), None)


def _ref(operation: OperationRow, step: Json) -> StepRef:
    return StepRef(operation.uid, step["name"], step["attempt"])


def advance(operation: OperationRow, scene: Scene) -> Move:
    """The next move. Only called with facts that were seen, or for steps that need none (`blind`)."""
    status = copy.deepcopy(operation.status)
    inventory: list[InventoryChange] = []
    plan_again(status, scene)
    for _ in range(500):  # each turn ends a step or returns; a rollback or an empty host adds some
        step = current(status)
        if step is None:
            return finish(status, inventory)
        if step.get("running"):
            move = _poll(operation, status, step, scene, inventory)
        elif scene.superseded[0] and not _irrevocable(status, step):
            move = end(status, "Cancelled", *scene.superseded, inventory, scene.now)
        elif not scene.facts.seen and step["verb"] == EVIDENCE:
            done(step, scene.now, "NotCollected", "The host does not answer.")
            move = None
        elif not scene.facts.seen and step["verb"] not in UNSEEN:
            step.update(reason="HostSilent", message="The host does not answer.")
            move = Move(status | {"message": step["message"]}, wait=10, inventory=tuple(inventory))
        elif step["verb"] in PSEUDO:
            move = own_step(operation, status, step, scene, inventory)
        else:
            move = _start(operation, status, step, scene, inventory)
        if move is not None:
            return move
    return Move(status, inventory=tuple(inventory))


def _irrevocable(status: Json, step: Json) -> bool:
    """A step that goes on to its end whoever cancels: power comes on again, a wiped host comes back and its old node goes."""
    progress = step.get("progress", {})
    if step["verb"] == POWER_CYCLE:
        return power.touched(progress)
    if step["verb"] == REINSTALL:
        return reinstall.touched(progress)
    return step["verb"] == DELETE_NODE and reinstall.reinstalled(status)


def finish(status: Json, inventory: list[InventoryChange]) -> Move:
    if "rollback" in status:
        package, cause = status["rollback"]["package"], status["rollback"]["cause"]
        message = f"{package} was put back to {status['rollback']['version']}: {cause}"
        return Move(status | {"message": message}, "Failed", "RolledBack", message, wait=0, inventory=tuple(inventory))
    return Move(
        status | {"message": "All steps are done."}, "Succeeded", "Done", "", wait=0, inventory=tuple(inventory)
    )


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
    gone = result.state in ("Running", "Unknown") and _overdue(step, scene.now)
    if step["verb"] == EVIDENCE and (gone or result.state in ("Failed", "Interrupted")):
        done(step, scene.now, "NotCollected", result.message or "The host did not tell.")
        return None  # a repair does not wait for what a sick host does not tell
    if result.state == "Succeeded":
        done(step, scene.now, message=result.message)
        inventory += _inventory(step, status, scene, result)
        return None
    if gone:
        return fail(
            status, step, "StepTimeout", f"No end was seen for {waited(step, scene.now):.0f} s.", scene, inventory
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
    return fail(status, step, result.reason or result.state, result.message, scene, inventory)


def _overdue(step: Json, now: datetime) -> bool:
    """The unit of a step has a limit of its own on the host; this one is for a host that never tells its end."""
    return waited(step, now) > SECONDS.get(step["verb"], 300) + SILENCE_SECONDS


def blind(operation: OperationRow) -> bool:
    """Whether the next step needs no word of the host: a power cycle, or an installation, goes on while nobody sees it, and so does
    what leads there."""
    wanted = operation.spec.get("steps") or ()
    if not any(s.get("action") in BLIND_ACTIONS for s in wanted):
        return False
    step = current(operation.status)
    return step is None and not operation.status.get("steps") or step is not None and step["verb"] in UNSEEN


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
    since = now - (datetime.fromisoformat(step["startTime"]) if step else _last_end(status, operation.started_at))
    limit = SECONDS.get(step["verb"], 300) if step else 0
    patience = step["timeoutSeconds"] if step and "timeoutSeconds" in step else limit + SILENCE_SECONDS
    if since.total_seconds() <= (limit if who else patience):
        return None
    unknown = "The host does not answer"
    if step is not None:
        unknown += f"; whether {step['name']} was done is not known"
        step.update(status="Unknown", reason="HostSilent", message=f"{unknown}.")
        step.pop("running")
    if who:
        return end(status, "Cancelled", "Cancelled", f"Cancelled by {who}. {unknown}.", (), now)
    return end(status, "Failed", "HostSilent", f"{unknown}; the next look at the host will tell.", (), now)


def _last_end(status: Json, started: datetime) -> datetime:
    """When the Operation came forward last: its silence counts from there."""
    ends = [datetime.fromisoformat(s["endTime"]) for s in status.get("steps", ()) if s.get("endTime")]
    return max([started, *ends])


def _inventory(step: Json, status: Json, scene: Scene, result: StepResult) -> list[InventoryChange]:
    name = step.get("subject", "")
    if step["verb"] == "remove-package":
        return [InventoryChange(name)]
    if step["verb"] != "install-package":
        return []
    entry = by_name(body_of(status, scene)).get(name)
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


def _reboot(
    operation: OperationRow,
    status: Json,
    step: Json,
    scene: Scene,
    result: StepResult | None,
    inventory: list[InventoryChange],
) -> Move | None:
    """Proof of a reboot: another boot id, the wanted kernel, systemd settled. What the command said proves nothing."""
    facts, before, limit = scene.facts, status.get("bootIdBefore", ""), step.get("timeoutSeconds", REBOOT_SECONDS)
    waited = (scene.now - datetime.fromisoformat(step["startTime"])).total_seconds()
    if facts.boot_id != before:
        if facts.system_state in ("starting", "initializing") and waited < limit:
            step.update(reason="Booting", message="The host is up and systemd still starts units.")
            return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))
        wrong = [
            p["name"] for p in scene.body["packages"] if p["kind"] == "KernelPatch" and not runs_kernel(p, facts.kernel)
        ]
        if wrong and any(s.get("subject") in wrong and s["verb"] == "install-package" for s in status["steps"]):
            message = f"The host came back with kernel {facts.kernel}, not with that of {', '.join(wrong)}."
            return fail(status, step, "WrongKernel", message, scene, inventory)
        if scene.node is not None and not (scene.node.boot_id == facts.boot_id and scene.node_ready):
            if waited < limit:
                step.update(
                    reason="NodeNotBack", message="The host is up; its node does not report Ready from this boot yet."
                )
                return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))
            message = f"The host is up, but its node was not Ready from this boot within {int(waited)} s."
            return fail(status, step, "NodeNotBack", message, scene, inventory)
        done(step, scene.now, "Rebooted", f"Boot id went from {before} to {facts.boot_id}.")
        return None
    if result is None or result.reason == "NoSuchStep":
        step.pop("running")
        return None
    if result.state == "Failed":
        return fail(status, step, result.reason or "RebootFailed", result.message, scene, inventory)
    if waited > limit:
        message = f"After {int(waited)} seconds the host still has boot id {before}: it never rebooted."
        return fail(status, step, "NeverRebooted", message, scene, inventory)
    step.update(reason="Rebooting", message="The host has not gone down yet.")
    return Move(status | {"message": "Waits for the host to come back."}, wait=3, inventory=tuple(inventory))


# -- a step that has not begun --------------------------------------------------------------------------------------------


def take_effect(status: Json, step: Json, told: Told, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """What an effect on the node came to; None = the step is done. Changes `step` and `status` in place."""
    step.update(reason=told.reason, message=told.message)
    if told.progress:
        step["progress"] = dict(told.progress)
    if told.state == "Done":
        step.pop("progress", None)
        done(step, scene.now, told.reason, told.message)
        return None
    if told.state == "Failed":
        step.pop("progress", None)
        return fail(status, step, told.reason, told.message, scene, inventory)
    return Move(status | {"message": told.message}, reason=told.reason, wait=told.wait, inventory=tuple(inventory))


def _start(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    if scene.halt[0]:
        return halted(status, step, scene, inventory)
    action = action_of(step, body_of(status, scene), scene.facts, scene.uid, scene.mirrors)
    if isinstance(action, tuple):
        return fail(status, step, *action, scene, inventory)
    step.update(running=True, reason="Begun", message="", startTime=format_time(scene.now))
    status.setdefault("startTime", format_time(scene.now))
    if step["verb"] == "reboot":
        status["bootIdBefore"] = scene.facts.boot_id
    start = Start(_ref(operation, step), action, step["verb"] in FREE)
    return Move(status | {"message": f"{step['name']} runs."}, start=start, inventory=tuple(inventory))
