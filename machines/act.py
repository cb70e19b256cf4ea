"""The acting half of a pass: permits for the whole batch, intents committed, one step a machine started, Operations settled."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import replace
from datetime import datetime

from fleet.safety import permits
from fleet.safety.breakers import strike
from machines import decide, downloads, hot
from machines.affect import affect
from machines.catalog import Catalog
from machines.conclude import Outcome
from machines.evidence import evidence_of, keep_evidence
from machines.hosts import Hosts, StepOrder, StepResult
from machines.judge import TAKE_OVER
from machines.operation_moves import Move
from machines.operation_rows import Settling, give_back, settle_operations
from machines.operations import blind, unseen
from machines.passes import Context, Pass, guarded
from machines.reinstalling import no_provisioner
from machines.rows import Begin

log = logging.getLogger(__name__)
PERMIT_SECONDS = 900
WORSE = frozenset({"StillDiffers", "HealthCheckFailed", "NodeNotBack", "NeverRebooted", "WrongKernel", "RolledBack"})
STOPPED = ("NotBegun", "The kill switch is on, or another worker took over: nothing was begun.")


async def act(passes: list[Pass], known: Catalog, context: Context) -> None:
    """Permits for the whole batch, intents committed, one step a machine started, Operations settled."""
    now = context.clock()
    for each in passes:
        _end_unseen(each, now)
    working = [p for p in passes if p.outcome.operation is not None and (_seen(p) or _goes_on(p))]
    for each in working:
        _advance(each, known, context, now)
    await _ask(working, known, context, now)
    await _take_turns(working, known, context)
    await context.point(4)
    await _begin(working, context)
    await context.point(5)
    await affect(working, known, context, now)
    await _send(working, context)
    await context.point(6)
    evidence = evidence_of(passes)  # before answers are taken: a move that took one has it no more
    for each in working:
        guarded(each, lambda each=each: _take(each, known, now))  # type: ignore[misc]
    await keep_evidence(context.conn, evidence)
    await settle_operations(context.conn, context.me, [s for p in passes if (s := _settling(p)) is not None])
    await strike(context.conn, _struck(passes))
    await downloads.give_back(context.conn, [p.row.id for p in passes if _downloaded(p)])
    well = [p.row.id for p in passes if p.judged is not None and p.judged.healthy]
    await give_back(context.conn, well)
    await context.point(7)


def _seen(each: Pass) -> bool:
    return each.judged is not None and each.judged.seen


def _goes_on(each: Pass) -> bool:
    """A power cycle needs no word of the host. Where another host answers in its place nothing is done."""
    judged, operation = each.judged, each.outcome.operation
    return judged is not None and operation is not None and not judged.facts.seen and blind(operation)


def _struck(passes: list[Pass]) -> list[tuple[int, str]]:
    """Machines that a change left worse than it found them: breakers count them."""
    out = []
    for each in passes:
        move = each.outcome.move
        if each.error is None and move is not None and move.ended == "Failed" and move.reason in WORSE:
            out.append((each.row.id, move.message[:400]))
    return out


def _end_unseen(each: Pass, now: datetime) -> None:
    """While the host does not answer nothing goes on but a power cycle; what was cancelled or is long overdue ends."""
    operation = each.outcome.operation
    if each.judged is None or each.judged.seen or operation is None or _goes_on(each):
        return
    move = guarded(each, lambda: unseen(operation, now))
    if move is not None:
        each.outcome = Outcome(operation, move)


def _advance(each: Pass, known: Catalog, context: Context, now: datetime) -> None:
    judged, operation = each.judged, each.outcome.operation
    if judged is None or operation is None:
        return
    missing = no_provisioner(each, context)
    move = guarded(each, lambda: decide.advance_one(each.row, operation, judged, known, now, no_installer=missing))
    each.outcome = replace(each.outcome, move=move)


async def _ask(working: list[Pass], known: Catalog, context: Context, now: datetime) -> None:
    """One question for the batch. A permit that is held is asked for again before each effect: the right must still hold."""
    asking: dict[int, Pass] = {}
    asks = []
    for each in working:
        move, operation = each.outcome.move, each.outcome.operation
        if move is None or operation is None:
            continue
        if not (move.ask or move.effect is not None or (move.start is not None and not move.start.free)):
            continue
        verb = move.ask or str(move.status["verb"])
        asking[each.row.id] = each
        asks.append(permits.Ask(each.row.id, verb, decide.unplanned(operation), operation.uid, PERMIT_SECONDS))
    answers = await permits.permits(context.conn, asks) if asks else {}
    for machine, each in asking.items():
        _answered(
            each,
            answers[machine],
            known,
            context,
            now,
        )


def _answered(each: Pass, answer: permits.Answer, known: Catalog, context: Context, now: datetime) -> None:
    move, operation = each.outcome.move, each.outcome.operation
    if move is None or operation is None:
        return
    if not answer.ok:
        status = decide.refused(operation.status, answer.reason, answer.message)
        each.outcome = Outcome(
            operation, replace(move, status=status, start=None, effect=None, ask=""), (answer.reason, answer.message)
        )
        return
    each.outcome = replace(each.outcome, granted=True)
    if move.ask:
        granted = replace(
            operation, status={**move.status, "permit": f"permit-{answer.permit_id}"}, permit_id=answer.permit_id
        )
        each.outcome = replace(each.outcome, operation=granted)
        earlier = move.inventory
        _advance(each, known, context, now)
        if each.outcome.move is not None and earlier:
            each.outcome = replace(
                each.outcome, move=replace(each.outcome.move, inventory=(*earlier, *each.outcome.move.inventory))
            )


async def _take_turns(working: list[Pass], known: Catalog, context: Context) -> None:
    """A download begins only with a slot of its idc; who gets none waits and says so."""
    wanting = {
        p.row.id: (p, move)
        for p in working
        if p.error is None and (move := p.outcome.move) is not None and move.start is not None and move.start.action.verb == downloads.STAGE
    }  # fmt: skip
    caps = {name: idc.spec.get("downloads", downloads.DOWNLOADS) for name, idc in known.idcs.items()}
    asked = [(machine, str(each.row.spec.get("idc", ""))) for machine, (each, _) in wanting.items()]
    granted = await downloads.take(context.conn, asked, caps)
    for machine, idc in asked:
        each, move = wanting[machine]
        if machine in granted:
            each.downloads = True
            continue
        text = f"Waits for its turn: idc {idc or '(none)'} runs at most {caps.get(idc, downloads.DOWNLOADS)} downloads at a time."
        status = decide.not_begun(move.status, "DownloadsBusy", text)
        waiting = replace(move, status=status, start=None, reason="DownloadsBusy", message=text, wait=5)
        each.outcome = replace(each.outcome, move=waiting)


def _downloaded(each: Pass) -> bool:
    """Whether a download that ran, or began in this pass, runs no more."""
    before, move = each.row.operation, each.outcome.move
    ran = each.downloads or (before is not None and downloads.downloading(before.status))
    return (
        ran and each.error is None and move is not None and (bool(move.ended) or not downloads.downloading(move.status))
    )


async def _begin(working: list[Pass], context: Context) -> None:
    """Intent before effect: what is not committed here reaches no host."""
    starting = {
        p.row.id: p
        for p in working
        if p.error is None
        and p.outcome.move is not None
        and (p.outcome.move.start is not None or p.outcome.move.effect is not None)
    }
    begins = []
    for machine, each in starting.items():
        move, operation = each.outcome.move, each.outcome.operation
        if move is not None and operation is not None:
            begins.append(Begin(machine, each.row.epoch, operation.id, move.status, operation.permit_id))
    begun = await hot.begin(context.conn, context.me, begins) if begins else {}
    for machine, each in starting.items():
        move, operation = each.outcome.move, each.outcome.operation
        if move is None or operation is None or (move.start is not None and each.target is None):
            continue
        if begun.get(machine) and move.start is None:
            continue  # an effect on the node
        if begun.get(machine) and move.start is not None and each.target is not None:
            each.order = StepOrder(
                each.target, move.start.ref, move.start.action, context.installation, context.incarnation, each.row.epoch,
                each.row.annotations.get(TAKE_OVER, ""),
            )  # fmt: skip
        else:
            each.outcome = Outcome(
                operation,
                replace(move, status=operation.status, start=None, effect=None, wait=10),
                STOPPED,
                each.outcome.granted,
            )


async def _send(working: list[Pass], context: Context) -> None:
    by_driver: defaultdict[str, list[StepOrder]] = defaultdict(list)
    for each in working:
        if each.order is not None:
            by_driver[each.driver].append(each.order)
    answers = await asyncio.gather(*(_start(context.hosts_by_driver[n], orders) for n, orders in by_driver.items()))
    results = {key: result for found in answers for key, result in found.items()}
    for each in working:
        if each.order is not None:
            each.outcome = replace(each.outcome, move=_with_result(each, results.get(each.row.id)))


async def _start(hosts: Hosts, orders: list[StepOrder]) -> dict[int, StepResult]:
    try:
        found = await hosts.act(orders)
    except Exception:
        log.exception("the driver failed to start %d steps: the next look tells what became of them", len(orders))
        return {}
    return {order.target.key: result for order, result in zip(orders, found, strict=True)}


def _with_result(each: Pass, result: StepResult | None) -> Move | None:
    return each.outcome.move if result is None else decide.with_result(each.outcome.move, result)


def _take(each: Pass, known: Catalog, now: datetime) -> None:
    """What the driver answered at once: a step that ended already needs no poll."""
    move, operation, judged = each.outcome.move, each.outcome.operation, each.judged
    if move is not None and move.result is not None and operation is not None and judged is not None:
        each.outcome = replace(each.outcome, move=decide.take_result(each.row, operation, judged, known, move, now))


def _settling(each: Pass) -> Settling | None:
    move, operation = each.outcome.move, each.outcome.operation
    if each.error is not None or move is None or operation is None:
        return None
    return Settling(
        each.row.id,
        each.row.epoch,
        operation.id,
        move.status,
        move.ended,
        move.reason,
        move.message,
        operation.permit_id,
        move.inventory,
    )
