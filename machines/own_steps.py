"""Steps that Fleet itself takes: the permit, the pre-check, drains, nodes that come and go, the post-check. Pure."""

from __future__ import annotations

from fleet.control.kinds import Json
from fleet.control.times import format_time
from machines.join import WAIT_SECONDS as JOIN_SECONDS
from machines.operation_moves import Effect, InventoryChange, Move, Scene, done, fail, halted, waited
from machines.plan import DELETE_NODE, POWER_CYCLE, PROVISION, REINSTALL, WAIT_FOR_NODE
from machines.power import BOOT_SECONDS, late, returned, touched
from machines.reinstall_steps import barred, provision, reinstall
from machines.releasing import told_of
from machines.rounds import opened
from machines.rows import OperationRow


def own_step(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    """A step that Fleet itself takes: nothing reaches the host. None = go on with the next."""
    if step["verb"] == "permit":
        if scene.halt[0]:
            return halted(status, step, scene, inventory)
        refused = barred(status, scene, inventory)
        if refused is not None:
            return refused
        if status.get("permit"):
            done(step, scene.now, "Granted", f"Permit {status['permit']}.")
            return None
        return Move(status, ask=status["verb"], wait=10, inventory=tuple(inventory))
    if step["verb"] == "pre-check":
        if scene.preflight[0]:
            step.update(reason=scene.preflight[0], message=scene.preflight[1])
            return Move(
                status | {"message": scene.preflight[1]}, reason=scene.preflight[0], wait=15, inventory=tuple(inventory)
            )
        done(step, scene.now, "Fit", "The host is fit for the change.")
        return None
    if step["verb"] == "isolate":
        return _isolate(status, step, scene, inventory)
    if step["verb"] == "drain":
        return _drain(operation, status, step, scene, inventory)
    if step["verb"] == POWER_CYCLE:
        return _power_cycle(status, step, scene, inventory)
    if step["verb"] == REINSTALL:
        return reinstall(status, step, scene, inventory)
    if step["verb"] == PROVISION:
        return provision(status, step, scene, inventory)
    if step["verb"] == WAIT_FOR_NODE:
        return _wait_for_node(status, step, scene, inventory)
    if step["verb"] == DELETE_NODE:
        return _delete_node(status, step, scene, inventory)
    left = sorted({f"{d.kind} {d.name}" for d in scene.diffs} & set(status.get("targets", [])))
    if left and "rollback" not in status:
        return fail(
            status,
            step,
            "StillDiffers",
            f"All steps were done, and yet there differs: {', '.join(left[:5])}.",
            scene,
            inventory,
        )
    done(step, scene.now, "Verified", "A new look at the host shows what was wanted.")
    return None


def _drain(
    operation: OperationRow, status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]
) -> Move | None:
    if scene.node is None:
        done(step, scene.now, "NotANode", "The machine is no node of a cluster: nothing is to be moved.")
        return None
    if not scene.facts.seen:
        done(
            step, scene.now, "HostSilent", "The host does not answer: nothing that runs there could end in good order."
        )
        return None
    if scene.halt[0]:
        return halted(status, step, scene, inventory)
    step.setdefault("startTime", format_time(scene.now))
    status.setdefault("startTime", format_time(scene.now))
    effect = Effect("drain", {"drain": operation.spec.get("drain")}, step.get("progress", {}))
    return Move(status | {"closesNode": True}, effect=effect, inventory=tuple(inventory))


def _isolate(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """The node takes no new pods; those that run there stay."""
    if scene.node is None:
        done(step, scene.now, "NotANode", "The machine is no node of a cluster: nobody sends it work through Fleet.")
        return None
    if scene.halt[0]:
        return halted(status, step, scene, inventory)
    step.setdefault("startTime", format_time(scene.now))
    status.setdefault("startTime", format_time(scene.now))
    return Move(status | {"closesNode": True}, effect=Effect("isolate"), inventory=tuple(inventory))


def _power_cycle(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    """Certainly off, then on, by the machine's controller; done when the host answers in another boot."""
    progress = step.get("progress", {})
    if (
        scene.facts.seen
        and touched(progress)
        and returned(progress, status.get("bootIdBefore", ""), scene.facts.boot_id)
    ):
        step.pop("progress", None)
        text = f"The host answers, in boot {scene.facts.boot_id}. {told_of(progress)}".strip()
        done(step, scene.now, "PowerCycled", text)
        return None
    if scene.facts.seen and step.get("silent") and not touched(progress):
        step.pop("progress", None)
        done(step, scene.now, "HostAnswers", "The host answers again by itself: its power was not touched.")
        return None
    limit = step.get("timeoutSeconds", BOOT_SECONDS)
    if late(progress, scene.now, limit):
        text = f"The power is on since {progress['isOn']}, and the host has not come back within {limit:.0f} s."
        return fail(status, step, "NotBack", text, scene, inventory)
    if scene.halt[0] and not touched(progress):
        return halted(status, step, scene, inventory)
    if "startTime" not in step:
        step["startTime"] = format_time(scene.now)
        step["silent"] = not scene.facts.seen
        status["bootIdBefore"] = scene.boot_id
    status.setdefault("startTime", format_time(scene.now))
    step["progress"] = opened(progress, scene.now)
    return Move(status, effect=Effect(POWER_CYCLE, progress=step["progress"]), inventory=tuple(inventory))


def _wait_for_node(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    if scene.node is not None:
        done(step, scene.now, "Joined", f"The cluster has the node {scene.node.name}.")
        return None
    step.setdefault("startTime", format_time(scene.now))
    seconds = waited(step, scene.now)
    if seconds > JOIN_SECONDS:
        message = (
            f"After {seconds:.0f} s the cluster still has no node of this machine; its kubelet's journal tells why."
        )
        return fail(status, step, "NodeNotJoined", message, scene, inventory)
    step.update(reason="Joining", message="The kubelet was started; the cluster has no node of it yet.")
    return Move(status | {"message": step["message"]}, wait=3, inventory=tuple(inventory))


def _delete_node(status: Json, step: Json, scene: Scene, inventory: list[InventoryChange]) -> Move | None:
    if scene.node is None:
        done(step, scene.now, "Gone", "The cluster has no node of this machine any more.")
        return None
    step.setdefault("startTime", format_time(scene.now))
    return Move(status | {"message": "The node is deleted."}, effect=Effect(DELETE_NODE), inventory=tuple(inventory))
