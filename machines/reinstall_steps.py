"""Fleet's own steps around a host that is installed anew: the installation itself, and what has to be put on the empty host. Pure."""

from __future__ import annotations

from typing import Final

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.join import WAIT_SECONDS as JOIN_SECONDS
from machines.operation_moves import Effect, InventoryChange, Move, Scene, done, fail, halted, waited
from machines.plan import DELETE_NODE, OWN_BRAKES, POST_CHECK, PROVISION, REINSTALL, WAIT_FOR_NODE, Step
from machines.reinstall import REINSTALLED, late, reinstalled, renewed, step_of, touched
from machines.rounds import opened

UNFIT_SECONDS: Final = 300.0  # until a new system that is not fit for changes counts as a failed installation
NODE_BEFORE: Final = "nodeBefore"  # in the status: uid of the node that goes with the old system


def barred(status: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """An installation that may not be is refused before its node is closed and drained for it; None = nothing stands against it."""
    step = step_of(status)
    return fail(status, step, *scene.barred, scene, inventory) if step is not None and scene.barred[0] else None


def reinstall(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """Asked for once, followed to its end; done when the host answers empty, in another boot, and the provisioner calls it done."""
    progress = step.get("progress", {})
    if touched(progress):
        if renewed(progress, status.get("bootIdBefore", ""), scene.facts):
            step.pop("progress")
            inventory += [InventoryChange(package) for package in scene.versions]  # all of it lay on the old disk
            done(step, scene.now, REINSTALLED, f"The host answers empty, in boot {scene.facts.boot_id}.")
            return None
        overdue = late(progress, scene.facts, scene.now)
        if overdue[0]:
            return fail(status, step, *overdue, scene, inventory)
    elif _answers_again(status, step, scene):
        _leave_alone(status, scene)
        return None
    elif scene.halt[0]:
        return halted(status, step, scene, inventory)
    elif scene.barred[0]:
        return fail(status, step, *scene.barred, scene, inventory)
    if "startTime" not in step:
        step.update(startTime=format_time(scene.now), silent=not scene.facts.seen)
        status["bootIdBefore"] = scene.boot_id
        if scene.node is not None and any(s["verb"] == DELETE_NODE for s in status["steps"]):
            status[NODE_BEFORE] = scene.node.uid
    status.setdefault("startTime", format_time(scene.now))
    step["progress"] = opened(progress, scene.now)
    return Move(status, effect=Effect(REINSTALL, progress=step["progress"]), inventory=tuple(inventory))


def _answers_again(status: Json, step: Json, scene: Scene) -> bool:
    """A host that was silent, or was not drained for its silence: what runs there now would be lost without a word."""
    passed_over = any(s["verb"] == "drain" and s["reason"] == "HostSilent" for s in status["steps"])
    return scene.facts.seen and (bool(step.get("silent")) or passed_over)


def _leave_alone(status: Json, scene: Scene) -> None:
    for each in status["steps"]:
        if each["verb"] == REINSTALL:
            each.pop("progress", None)
            done(each, scene.now, "HostAnswers", "The host answers again by itself: it was not installed anew.")
        elif each["verb"] in (DELETE_NODE, PROVISION):
            done(each, scene.now, "NotNeeded", "The host was not installed anew.")


def provision(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """What the machine's set declares becomes the next steps of this Operation, from a look at the empty host."""
    step.setdefault("startTime", format_time(scene.now))
    seconds = waited(step, scene.now)
    if scene.node is not None and scene.node.uid == status.get(NODE_BEFORE):
        if seconds > JOIN_SECONDS:
            text = f"After {seconds:.0f} s the cluster still shows the node of the old system."
            return fail(status, step, "NodeNotGone", text, scene, inventory)
        step.update(reason="NodeNotGone", message="The node of the old system was deleted and is still seen.")
        return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))
    if scene.preflight[0]:
        if seconds > UNFIT_SECONDS:
            return fail(status, step, *scene.preflight, scene, inventory)
        step.update(reason=scene.preflight[0], message=scene.preflight[1])
        return Move(status | {"message": step["message"]}, reason=step["reason"], wait=15, inventory=tuple(inventory))
    steps = _to_put(status, scene)
    done(
        step,
        scene.now,
        "Planned",
        f"{len(steps)} steps put there what was accepted." if steps else "Nothing is missing.",
    )
    kept = [s for s in status["steps"] if s["status"] == "True"]
    status["steps"] = kept + [s.json(n) for n, s in enumerate((*steps, Step(POST_CHECK)), len(kept) + 1)]
    status.update(want=str(scene.want), targets=list(scene.again.targets) if scene.again is not None else [])
    return None


def _to_put(status: Json, scene: Scene) -> list[Step]:
    """The steps of a converge without its brakes, which this Operation has behind it."""
    steps = [s for s in scene.again.steps if s.verb not in OWN_BRAKES] if scene.again is not None else []
    if NODE_BEFORE in status and not any(s.verb == WAIT_FOR_NODE for s in steps):
        steps.append(Step(WAIT_FOR_NODE))
    return steps


def plan_again(status: Json, scene: Scene) -> None:
    """Another set was accepted while the empty host was filled: what is left to do follows from a new look. Changes `status` in place."""
    steps = status.get("steps", [])
    if not reinstalled(status) or status["want"] == str(scene.want) or any(s.get("running") for s in steps):
        return
    kept = [s for s in steps if s["status"] == "True"]
    if not any(s["verb"] == PROVISION for s in kept):
        return
    status["steps"] = kept + [s.json(n) for n, s in enumerate((Step(PROVISION), Step(POST_CHECK)), len(kept) + 1)]
