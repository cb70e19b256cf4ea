"""Which Operation a machine gets, and what one pass does to it. Pure: between the judgement and the rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from clusters.schema_cluster import MADE, SIMULATED, provider_of
from fleet.control.conditions import Condition, is_true
from fleet.control.kinds import Json
from machines import operations, phases
from machines.accepting import wish_of
from machines.carriers import brake
from machines.catalog import Catalog
from machines.conditions import OPERATOR_TYPES
from machines.decommission import DECOMMISSION, abandoned, decommission_plan
from machines.desired import by_name
from machines.gates import opened_against
from machines.hosts import StepResult
from machines.judge import KUBELET, Judgement, doable, not_joined
from machines.models import OwnerClass
from machines.operation_moves import Move, Scene, Told, current
from machines.operation_rows import Opening
from machines.plan import RECOVER, Plan, converge, drain, reboot, repair, restart
from machines.reinstall import step_of
from machines.reinstall_steps import NODE_BEFORE
from machines.resolve import resolve
from machines.rows import OperationRow, Row

CONVERGING: Final = ("Reconcile", "Update")
REPAIR: Final = "Repair"
NOTHING: Final[Json] = {"packages": [], "files": [], "sysctls": {}, "modules": [], "bootParameters": []}


def opening(row: Row, judged: Judgement) -> Opening | None:
    """The Operation to store as Pending, if one is wanted and none is there."""
    if not judged.seen or row.operation is not None:
        return None
    if row.deleted_at is not None:
        if row.phase == phases.RETIRED or abandoned(row):
            return None
        plan = decommission_plan(row, judged.chosen)
        spec = _spec(row, DECOMMISSION, "deletion", "The machine was deleted.")
        return Opening(row.id, row.epoch, OwnerClass.PERSON, spec, plan.status(row.desired_hash, "decommission"))
    if judged.plan is None or judged.blocked[0] or judged.halt[0] or judged.brake[0]:
        return None
    owner = "drift" if judged.why == "repair" else "spec"
    reason = f"{len(judged.diffs)} differ: {judged.diffs[0].sentence}"[:1000]
    return Opening(
        row.id,
        row.epoch,
        OwnerClass.DRIFT,
        _spec(row, "Reconcile", owner, reason),
        judged.plan.status(judged.chosen.hash, judged.why),
    )


def _spec(row: Row, verb: str, owner: str, reason: str) -> Json:
    cluster = row.spec.get("clusterName")
    out: Json = {"machine": row.name, "verb": verb, "owner": owner, "reason": reason}
    return out | ({"clusterName": cluster} if cluster else {})


def plan_of(operation: OperationRow, row: Row, judged: Judgement) -> Plan | None:
    """The steps of an Operation that has none yet, by its verb; None = there is nothing to do."""
    spec = operation.spec
    verb = spec.get("again", {}).get("verb", spec["verb"])
    if verb == "Restart":
        return restart(spec.get("units") or spec.get("again", {}).get("units", []))
    if verb == "Reboot":
        return reboot()
    if verb == "Drain":
        return drain()
    if verb == DECOMMISSION:
        return decommission_plan(row, judged.chosen)
    if verb == REPAIR:
        return repair(spec.get("steps", ()), judged.diffs, judged.chosen.body or NOTHING, joined=_joined(row, judged))
    return judged.plan


def advance_one(
    row: Row, operation: OperationRow, judged: Judgement, known: Catalog, now: datetime, *, no_installer: str = ""
) -> Move:
    """The next move of the Operation after this look. `no_installer`: why nobody can install the machine's system, "" = somebody can."""
    fresh = _planned(operation, row, judged)
    if isinstance(fresh, Move):
        return fresh
    return operations.advance(fresh, scene_of(row, fresh, judged, known, now, no_installer))


def _planned(operation: OperationRow, row: Row, judged: Judgement) -> OperationRow | Move:
    """The Operation with steps that fit what was just seen. One that has begun keeps its steps."""
    status = operation.status
    if operation.started_at is not None and status.get("steps"):
        return operation
    converging = operation.spec["verb"] in CONVERGING or operation.spec.get("again", {}).get("verb") in CONVERGING
    if operation.spec.get("cancelledBy"):
        return Move(
            status | {"steps": status.get("steps", [])},
            "Cancelled",
            "Cancelled",
            f"Cancelled by {operation.spec['cancelledBy']}.",
        )
    asked = (
        operation.owner_class == OwnerClass.PERSON and judged.blocked[0] == "ReportOnly"
    )  # a person may repair by hand
    if converging and judged.blocked[0] and not asked:
        return Move(status | {"message": judged.blocked[1]}, "Failed", *judged.blocked)
    if operation.owner_class == OwnerClass.ROLLOUT and judged.chosen.problem is not None:
        return Move(status | {"message": judged.chosen.problem[1]}, "Failed", *judged.chosen.problem)
    plan = plan_of(operation, row, judged)
    if plan is None:
        return Move(status | {"message": "Nothing differs."}, "Succeeded", "NothingToDo", "Nothing differs.", wait=0)
    kept = {k: v for k, v in status.items() if k == "permit"}
    why = (judged.why or "change") if converging else status.get("why", _why(operation))
    wanted = plan.status(judged.chosen.hash, why)
    same = [(s["name"], s.get("items")) for s in status.get("steps", [])] == [
        (s["name"], s.get("items")) for s in wanted["steps"]
    ]
    if same and status.get("want") == wanted["want"]:
        return operation
    return replace(operation, status=wanted | kept)


def _why(operation: OperationRow) -> str:
    return RECOVER if operation.spec["verb"] == REPAIR else "person"


def scene_of(
    row: Row, operation: OperationRow, judged: Judgement, known: Catalog, now: datetime, no_installer: str = ""
) -> Scene:
    """What the move is decided from."""
    idc = known.idcs.get(row.spec.get("idc", ""))
    mirrors = tuple((m["from"], m["to"]) for m in idc.spec.get("mirrors", [])) if idc else ()
    return Scene(
        uid=row.uid,
        facts=judged.facts,
        body=judged.chosen.body or NOTHING,
        diffs=judged.diffs,
        now=now,
        want=judged.chosen.hash,
        preflight=judged.preflight if operation.spec["verb"] != DECOMMISSION else ("", ""),
        halt=judged.halt if judged.halt[0] else _brake(row, operation, known),
        superseded=_superseded(row, operation, judged),
        versions={r.package: r.version for r in row.inventory},
        previous=_previous(row, operation, judged, known),
        mirrors=mirrors,
        node=row.node,
        node_ready=is_true(row.conditions, "NodeReady"),
        boot_id=judged.facts.boot_id or str(row.last_facts.get("bootId", "")),
        barred=_barred(row, operation, judged, known, no_installer),
        again=_again(row, operation, judged, known),
    )


def _joined(row: Row, judged: Judgement) -> bool:
    """The machine is a node by a kubelet that Fleet put there."""
    return row.node is not None and KUBELET in by_name(judged.chosen.body or {})


def _barred(row: Row, operation: OperationRow, judged: Judgement, known: Catalog, no_installer: str) -> tuple[str, str]:
    """(reason, sentence) why the host's system may not be installed anew, where that is wanted, apart from holds and permits."""
    if step_of(operation.status) is None:
        return "", ""
    if judged.chosen.body is None:
        return "NothingAccepted", "No set has been accepted: nothing would be put on the empty host."
    if judged.memory.adopted:
        return (
            "Adopted",
            "The host was set up by somebody else: what is there is not Fleet's to wipe until a person accepts it.",
        )
    cluster = known.clusters.get(row.cluster_id)
    if cluster is not None and _joined(row, judged) and provider_of(cluster.spec) not in (*MADE, SIMULATED):
        return (
            "CannotRejoin",
            f"Cluster {cluster.name} was made by others: Fleet could not let the machine join it again.",
        )
    return ("NoProvisioner", no_installer) if no_installer else ("", "")


def _again(row: Row, operation: OperationRow, judged: Judgement, known: Catalog) -> Plan | None:
    """What would fill the host of an Operation that installs it anew. Where its node was deleted it joins again."""
    body = judged.chosen.body
    if body is None or step_of(operation.status) is None:
        return None
    diffs = doable(judged.diffs, body)
    cluster = known.clusters.get(row.cluster_id)
    made = cluster is not None and provider_of(cluster.spec) in MADE
    if made and row.node is None and NODE_BEFORE in operation.status and not any(d.kind == "node" for d in diffs):
        diffs.append(not_joined(row.name))
    return converge(diffs, body) if diffs else None


def _brake(row: Row, operation: OperationRow, known: Catalog) -> tuple[str, str]:
    """What keeps an Operation that nobody but Fleet wants from beginning; one that began goes on."""
    if operation.owner_class == OwnerClass.PERSON or operation.started_at is not None:
        return "", ""
    return brake(row, operation.status.get("disruption", "None"), known)


def _superseded(row: Row, operation: OperationRow, judged: Judgement) -> tuple[str, str]:
    """Why an Operation ends between two steps, if it does."""
    if operation.spec.get("cancelledBy"):
        return "Cancelled", f"Cancelled by {operation.spec['cancelledBy']}."
    if row.deleted_at is not None and operation.spec["verb"] != DECOMMISSION:
        return "MachineDeleted", "The machine was deleted."
    if operation.status.get("closesNode") and opened_against(row.node, row.scheduling):
        return "OpenedByPerson", "Somebody opened the node that this Operation had closed."
    stronger = max((owner for owner, _ in operation.waiting), default=-1)
    if stronger > operation.owner_class:
        return "Outranked", f"{OwnerClass(stronger).label} has another wish for this machine."
    converging = operation.status.get("why") in ("change", "repair")
    if converging and operation.status.get("want") != str(judged.chosen.hash) and "rollback" not in operation.status:
        return "SetMoved", "Another set was accepted meanwhile."
    return "", ""


def _previous(row: Row, operation: OperationRow, judged: Judgement, known: Catalog) -> Json | None:
    """The set with the version that a failing package had before, where it may be put back."""
    package = operations.failing_package(operation.status)
    entry = by_name(judged.chosen.body or {}).get(package)
    kept = next((r for r in row.inventory if r.package == package), None)
    if entry is None or not entry["rollback"] or kept is None:
        return None
    version = kept.previous if kept.version == entry["version"] else kept.version
    if not version or known.package(package, version) is None:
        return None
    wish = wish_of(row, judged.chosen.layers.get("shared", {}))
    versions: dict[str, Any] = {**wish.spec.get("versions", {}), package: version}
    found = resolve(replace(wish, spec={**wish.spec, "versions": versions}), known)
    return found.body if found.ok else None


def refused(status: Json, reason: str, message: str) -> Json:
    """The Operation's status with the refusal at the step that waits for it."""
    out = copy.deepcopy(status)
    step = current(out)
    if step is not None and not step.get("running"):
        step.update(reason=reason, message=message)
    return out | {"message": message}


def not_begun(status: Json, reason: str, message: str) -> Json:
    """The status of a move whose step was to begin and has to wait; what ended before it stays ended."""
    out = copy.deepcopy(status)
    step = current(out)
    if step is not None:
        step.pop("running", None)
        step.pop("startTime", None)
        step.update(reason=reason, message=message)
    return out | {"message": message}


def with_result(move: Move | None, result: StepResult) -> Move | None:
    """The move with the driver's answer, to be looked at in `take_result`."""
    return None if move is None else replace(move, result=result)


def take_result(
    row: Row, operation: OperationRow, judged: Judgement, known: Catalog, move: Move, now: datetime
) -> Move:
    """What an answer at once means. Nothing more starts in this pass: the next look comes first."""
    status = copy.deepcopy(move.status)
    step = current(status)
    if step is None or move.result is None:
        return move
    if step["verb"] == "reboot" and move.result.state in ("Succeeded", "Running", "Unknown", "Interrupted"):
        return replace(move, wait=3)  # the boot id tells, not the command
    inventory = list(move.inventory)
    scene = scene_of(row, replace(operation, status=status), judged, known, now)
    taken = operations.take(status, step, move.result, scene, inventory)
    if taken is not None:
        return taken
    # The last step of an Operation without a post-check ends it here; every other end takes a new look.
    if current(status) is None:
        return operations.finish(status, inventory)
    return Move(status, wait=0.05, inventory=tuple(inventory))


def take_effect(
    row: Row, operation: OperationRow, judged: Judgement, known: Catalog, move: Move, told: Told, now: datetime
) -> Move:
    """What an effect on the node came to. Nothing more starts in this pass."""
    status = copy.deepcopy(move.status)
    step = current(status)
    if step is None:
        return move
    inventory = list(move.inventory)
    scene = scene_of(row, replace(operation, status=status), judged, known, now)
    taken = operations.take_effect(status, step, told, scene, inventory)
    if taken is not None:
        return taken
    if current(status) is None:
        return operations.finish(status, inventory)
    return Move(status, wait=0.05, inventory=tuple(inventory))


def unplanned(operation: OperationRow) -> bool:
    """Only remediation may use the whole budget; a quarter is kept from all that is planned."""
    return operation.owner_class == OwnerClass.REMEDIATION


def own(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Those that the Machine-Operator writes."""
    return tuple(c for c in conditions if c.type in OPERATOR_TYPES)


def in_service(phase: str) -> bool:
    """Whether a machine of that phase counts."""
    return phase not in phases.NOT_IN_SERVICE
