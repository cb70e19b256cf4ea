"""Steps of Operations that act by another way than the host's: closing, draining, deleting its node, the token of a join, its power,
its system."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime
from typing import Final

from clusters.kube import Kube, KubeError, KubeUnreachable
from machines import decide, gates
from machines.catalog import Catalog
from machines.drainer import Drained, Options, drain, take_back, unreached
from machines.gates import NodeRow
from machines.join import JOIN
from machines.joining import equip, ready
from machines.nodes import NO_ACCESS, NODES, Change, change_all, trouble
from machines.operation_moves import Move, Told
from machines.passes import Context, Pass, guarded
from machines.plan import POWER_CYCLE, REINSTALL
from machines.powering import cycle
from machines.reinstalling import install
from machines.rows import OperationRow

log = logging.getLogger(__name__)
_NO_WAY: Final = Told("Waiting", *NO_ACCESS, wait=15)


async def affect(working: list[Pass], known: Catalog, context: Context, now: datetime) -> None:
    """Everything of the batch side by side; what was not begun has no effect any more and is left alone."""
    acting = [
        p for p in working if p.error is None and p.outcome.move is not None and p.outcome.move.effect is not None
    ]
    joining = [p for p in working if p.order is not None and p.order.action.verb == JOIN]
    await _equip_all(joining, context, now)
    told = await asyncio.gather(*(_one(p, known, context, now) for p in acting))
    await asyncio.gather(*(_take_back(p, context) for p in working if p.error is None and _is_off(p)))
    for each, said in zip(acting, told, strict=True):
        guarded(each, lambda each=each, said=said: _take(each, said, known, now))  # type: ignore[misc]


def _take(each: Pass, told: Told, known: Catalog, now: datetime) -> None:
    move, operation, judged = each.outcome.move, each.outcome.operation, each.judged
    if move is not None and operation is not None and judged is not None:
        taken = decide.take_effect(each.row, operation, judged, known, move, told, now)
        each.outcome = replace(each.outcome, move=taken)


async def _equip_all(joining: list[Pass], context: Context, now: datetime) -> None:
    """Side by side, as many at a time as each API server may get; what all of a cluster need is seen to once."""
    ids = sorted({p.row.cluster_id for p in joining})
    grounds = dict(zip(ids, [await ready(context.conn, context.clusters, c) for c in ids], strict=True))
    await asyncio.gather(*(_equip(p, grounds[p.row.cluster_id], context, now) for p in joining))


async def _equip(each: Pass, ground: Kube | tuple[str, str], context: Context, now: datetime) -> None:
    """The token and the files of a join; without them the step does not begin."""
    order, move = each.order, each.outcome.move
    if order is None or move is None:
        return
    made = ground if isinstance(ground, tuple) else await equip(context.conn, ground, each.row, order.action, now)
    if isinstance(made, tuple):
        status = decide.not_begun(move.status, *made)
        waiting = replace(move, status=status, start=None, reason=made[0], message=made[1], wait=10)
        each.order, each.outcome = None, replace(each.outcome, move=waiting)
        return
    each.order = replace(order, action=made)


async def _one(each: Pass, known: Catalog, context: Context, now: datetime) -> Told:
    """One effect. Never raises for the API server's, the controller's or the provisioner's sake."""
    move, operation, node = each.outcome.move, each.outcome.operation, each.row.node
    if move is not None and move.effect is not None and move.effect.verb == POWER_CYCLE:
        return await cycle(each, move.effect.progress, known, context)
    if move is not None and move.effect is not None and move.effect.verb == REINSTALL and operation is not None:
        return await install(each, operation.uid, move.effect.progress, context)
    if move is None or move.effect is None or operation is None or node is None:
        return Told("Waiting", "NodeGone", "The node is not there any more.")
    try:
        if move.effect.verb == "drain":
            return await _drain(each, move, operation, node, context, now)
        if move.effect.verb == "isolate":
            why = await _close(each, operation, node, context)
            return Told("Waiting", *why, wait=5) if why else Told("Done", "Closed", "The node takes no new pods.")
        return await _delete(each, node, context)
    except (KubeError, KubeUnreachable) as error:
        return Told("Waiting", *trouble(error), wait=10)


async def _drain(
    each: Pass, move: Move, operation: OperationRow, node: NodeRow, context: Context, now: datetime
) -> Told:
    """Close the node, then one round of evictions. What cannot be tried uses up the time of the drain all the same."""
    assert move.effect is not None
    options, progress = Options.of(move.effect.options), move.effect.progress
    try:
        why = await _close(each, operation, node, context)
        kube = await context.clusters.kube(context.conn, each.row.cluster_id)
        if why is None and kube is not None:
            return _drained(await drain(kube, node.name, options, progress, now))
        why = why or NO_ACCESS
    except (KubeError, KubeUnreachable) as error:
        why = trouble(error)
    return _drained(unreached(options, progress, now, *why))


def _drained(done: Drained) -> Told:
    state = {"Done": "Done", "TimedOut": "Failed"}.get(done.state, "Waiting")
    reason = "DrainTimedOut" if done.state == "TimedOut" else done.reason
    return Told(state, reason, done.message, done.progress)


async def _close(each: Pass, operation: OperationRow, node: NodeRow, context: Context) -> tuple[str, str] | None:
    """The node takes no new pods any more; (reason, sentence) when that could not be had. A person's cordon will do as well."""
    if node.unschedulable:
        return None
    cause = gates.operation_cause(operation.name)
    change = Change(each.row.cluster_id, node, "close", cause)
    result = (await change_all(context.conn, context.clusters, [change]))[0]
    if result.reason and result.reason != "CordonedByPerson":
        return result.reason, result.message
    if not result.reason:
        each.node_rv = result.rv
        each.node_after = replace(node, unschedulable=True, closed_by=cause)
    return None


async def _take_back(each: Pass, context: Context) -> None:
    """A drain that is off: owners need not move their pods any more. Nothing hangs on it: the label is asked for anew by the next drain."""
    node = each.row.node
    kube = await context.clusters.kube(context.conn, each.row.cluster_id)
    if node is None or kube is None or not await take_back(kube, node.name):
        log.warning("machine %s: owners of its pods could not be told that the drain is off", each.row.name)


def _is_off(each: Pass) -> bool:
    """An Operation that was cancelled while owners were asked to move pods."""
    move = each.outcome.move
    if move is None or move.ended != "Cancelled":
        return False
    return any(s["verb"] == "drain" and s.get("progress", {}).get("handOff") for s in move.status.get("steps", []))


async def _delete(each: Pass, node: NodeRow, context: Context) -> Told:
    kube = await context.clusters.kube(context.conn, each.row.cluster_id)
    if kube is None:
        return _NO_WAY
    await kube.delete(f"{NODES}/{node.name}", uid=node.uid)
    return Told("Done", "Deleted", f"The node {node.name} is deleted.")
