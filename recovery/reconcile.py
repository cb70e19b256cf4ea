"""Remediations in the loop: what each has come to, permits and Operations for those whose next rung may begin, one statement that records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from fleet.control import clock, work
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.operators import Seat
from fleet.control.times import format_time
from fleet.control.work import Claim
from fleet.safety import permits
from machines.conditions import BIT
from machines.operation_rows import cancel_operations
from machines.waking import wake
from recovery import blindness, order_sql
from recovery.advance import Case, OperationSeen, Step, advance
from recovery.orders import PERMIT_SECONDS, operation_uid, units_of
from recovery.phases import fault_moves, remediation_moves
from recovery.playbooks import ladder_of, operation_spec

log = logging.getLogger("fleet.recovery")
_READY: Final = 1 << BIT["NodeReady"]
_HEALTHY: Final = 1 << BIT["HostHealthy"]


@dataclass(slots=True)
class Work:
    """One claimed remediation on its way through a pass."""

    id: int
    uid: str
    epoch: int
    name: str
    machine_id: int
    machine: str
    cluster: str
    fault: str
    message: str
    evidence: tuple[Json, ...]
    operation_id: int | None
    operation_uid: str
    case: Case
    step: Step


async def reconcile_remediations(seat: Seat, claims: list[Claim]) -> None:
    """One pass over a batch."""
    by_id = {c.object_id: c for c in claims}
    works = await load(seat.conn, by_id, clock.now())
    there = {w.id for w in works}
    await work.release(seat.conn, seat.me, [c for c in claims if c.object_id not in there], next_seconds=86_400)
    await _ask(seat.conn, seat.me, works)
    await _cancel(seat.conn, works)
    await _record(seat.conn, seat.me, works)


async def load(conn: Connection, claims: Mapping[int, Claim], now: datetime) -> list[Work]:
    """The claimed remediations that are open, each with its next move."""
    rows = await (await conn.execute(order_sql.LOAD, [sorted(claims)], prepare=True)).fetchall()
    blind = await blindness.look(conn, {row[10] for row in rows}) if rows else blindness.Blind()
    works = []
    for row in rows:
        try:
            works.append(_work(row, claims[row[0]].epoch, blind, now))
        except Exception:
            log.exception("the remediation %s could not be judged", row[2])
    return works


def _work(row: Sequence[Any], epoch: int, blind: blindness.Blind, now: datetime) -> Work:
    (
        id_, uid, name, phase, rung, playbook, spec, status, phase_at, machine_id, cluster_id, _, _, fault_type, fault_phase, cleared, sources, rule, evidence, message,
        machine, cluster, rack_id, is_node, cond_true, gone, cordoned, cordon, op_id, op_name, op_phase, started, op_message, cancelled_by, op_reason, op_uid, category,
    ) = row  # fmt: skip
    operation = None
    if op_name is not None:
        operation = OperationSeen(op_name, op_phase, started, op_message or "", op_reason or "", cancelled_by or "")
    # No look at a host tells that a part was replaced: of a hardware fault that somebody declared only a person says that it is over.
    well = category != "Hardware" and bool((cond_true or 0) & _HEALTHY) and (not is_node or bool(cond_true & _READY))
    case = Case(
        phase=phase, rung=rung, ladder=ladder_of(playbook, spec["ladder"]), status=status, phase_at=phase_at, fault_phase=fault_phase, fault_cleared_since=cleared,
        fault_message=message or "", declared=not rule, well=well, sources=tuple(sources), operation=operation, blind=blind.why(cluster_id, rack_id or 0),
        cordoned=(cordon or "A person closed the node.") if cordoned else "", machine_gone=gone, cancelled_by=spec.get("cancelledBy", ""),
    )  # fmt: skip
    return Work(
        id_, uid, epoch, name, machine_id, machine or spec["machine"], cluster, spec["fault"], f"{fault_type}: {message or ''}", tuple(evidence), op_id,
        op_uid or "", case, advance(case, now),
    )  # fmt: skip


async def _ask(conn: Connection, me: int, works: Sequence[Work]) -> None:
    """Permits for the next rungs of the whole batch, then their Operations."""
    asking = {w.machine_id: w for w in works if w.step.ask is not None}
    if not asking:
        return
    asks = []
    for machine, each in asking.items():
        assert each.step.ask is not None
        asks.append(permits.Ask(machine, each.step.ask.verb, True, _uid(each), PERMIT_SECONDS))
    answers = await permits.permits(conn, asks)
    granted: list[tuple[Work, int]] = []
    for machine, each in asking.items():
        answer = answers[machine]
        if answer.ok and answer.permit_id is not None:
            granted.append((each, answer.permit_id))
        else:
            each.step = Step(
                "Waiting", each.case.rung, each.case.status | {"reason": answer.reason, "message": answer.message}, 15.0
            )
    await _open(conn, me, granted)


def _uid(each: Work) -> str:
    return operation_uid(each.uid, 0, each.case.rung)


async def _open(conn: Connection, me: int, granted: Sequence[tuple[Work, int]]) -> None:
    if not granted:
        return
    ordered = sorted(granted, key=lambda pair: pair[0].id)
    specs = []
    for each, _ in ordered:
        assert each.step.ask is not None
        specs.append(
            operation_spec(each.step.ask, machine=each.machine, cluster=each.cluster, remediation=each.name, reason=f"{each.fault}: {each.message}", units=units_of(each.evidence))
        )  # fmt: skip
    values = {
        "me": me, "id": [w.id for w, _ in ordered], "epoch": [w.epoch for w, _ in ordered], "op": [_uid(w) for w, _ in ordered],
        "op_spec": [orjson.dumps(s).decode() for s in specs], "permit": [p for _, p in ordered], "rung": [w.case.rung for w, _ in ordered],
    }  # fmt: skip
    opened: dict[int, str] = dict(await (await conn.execute(order_sql.RUNG, values, prepare=True)).fetchall())
    for each, _ in ordered:
        name = opened.get(each.id)
        rung = each.step.ask
        assert rung is not None
        if name is None:  # the fault went away, or another Operation of recovery still waits: looked at again
            each.step = Step("Waiting", each.case.rung, each.case.status, 2.0)
            continue
        rungs = [
            *each.case.status.get("rungs", []),
            {"name": rung.name, "operation": name, "phase": "Pending", "startTime": format_time(clock.now())},
        ]
        text = f"Rung {each.case.rung + 1} begins: {rung.name}."
        each.operation_uid = _uid(each)
        each.step = Step(
            "Repairing",
            each.case.rung,
            each.case.status | {"reason": "RungBegins", "message": text, "rungs": rungs},
            1.0,
            told=("RungBegins", text),
        )
    left = [permit for each, permit in ordered if each.id not in opened]
    if left:
        await permits.release(conn, left)
    await wake(conn, [w.machine_id for w, _ in ordered])


async def _cancel(conn: Connection, works: Sequence[Work]) -> None:
    """Operations that are not wanted any more end between two steps."""
    wanted = {
        w.operation_id: w.step.cancel_operation for w in works if w.step.cancel_operation and w.operation_id is not None
    }
    await wake(conn, await cancel_operations(conn, wanted))


async def _record(conn: Connection, me: int, works: Sequence[Work]) -> None:
    if not works:
        return
    ordered = sorted(works, key=lambda w: w.id)
    values = {
        "me": me, "id": [w.id for w in ordered], "epoch": [w.epoch for w in ordered], "phase": [w.step.phase for w in ordered],
        "rung": [w.step.rung for w in ordered], "status": [orjson.dumps(w.step.status).decode() for w in ordered],
        "op": [w.operation_uid if w.operation_uid else None for w in ordered], "wait": [float(w.step.wait) for w in ordered],
        "fault": [w.step.fault for w in ordered], "fault_reason": [w.step.fault_reason for w in ordered], "fault_message": [w.step.fault_message[:900] for w in ordered],
        "told": [w.step.told[0] for w in ordered], "told_message": [w.step.told[1][:900] for w in ordered],
        "legal": list(remediation_moves()), "fault_legal": list(fault_moves()),
    }  # fmt: skip
    rows = await (await conn.execute(order_sql.RECORD, values, prepare=True)).fetchall()
    for id_, _, lawful, _ in rows:
        if not lawful:
            log.error("remediation %d was to make a move that is not legal; it was left as it is", id_)
    # A machine whose Operation waits is due: the wake of the one who ordered it may have been lost.
    waiting = {w.machine_id for w in works if w.case.operation is not None and w.case.operation.phase == "Pending"}
    await wake(conn, waiting | {row[1] for row in rows if row[3]})
