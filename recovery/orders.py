"""From confirmed faults to remediations: what stands against each, the ledger's answer for the whole batch, one statement that orders.

The Operation's uid follows from the fault and the try, so that a process that died between permit and order asks for the same permit again.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fleet.control import work
from fleet.control.arrays import flags, numbers, texts
from fleet.control.db import Connection
from fleet.control.kinds import REMEDIATION, Json
from fleet.safety import permits
from machines.waking import wake
from recovery import blindness, order_sql
from recovery.advance import ONLY_SILENCE, WORSE
from recovery.playbooks import Ladder, ladder_of, operation_spec, task_of

LIMIT: Final = 1_000
PERMIT_SECONDS: Final = 900
OUTRANKS: Final = "Outranks"  # the reason of a fault that is worse than the one under repair
MOST_IN_A_DAY: Final = 3  # remediations of one machine in 24 hours; then a person looks at it
_SPACE: Final = uuid.UUID("6f1c3c9e-6d0c-4f7e-9c7e-5a0e3f5b8a11")
_PLAYBOOKS: Final = "SELECT name, rv, spec FROM recovery_playbook WHERE name = ANY (%s) AND deleted_at IS NULL"
_MOST_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class Candidate:
    """A confirmed fault with what stands around it."""

    id: int
    uid: str
    name: str
    type: str
    severity: int
    sources: tuple[str, ...]
    message: str
    playbook: str
    evidence: tuple[Json, ...]
    machine_id: int
    cluster_id: int
    machine: str
    cluster: str
    rack_id: int
    cordoned: bool
    cordon: str
    in_a_day: int
    other: str
    serial: str
    outranks: bool  # the fault that `other` works on is a lesser one; pressure is less than all else
    long: bool  # confirmed more than ten minutes ago
    tries: int
    playbook_rv: int | None  # its version now; None: there is none of that name

    @property
    def operation(self) -> str:
        """Uid of the Operation of the first rung of the next try."""
        return operation_uid(self.uid, self.tries, 0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a fault is not repaired now. `person`: Fleet will not begin at all."""

    fault: int
    reason: str
    message: str
    person: bool = False
    wait: float = 15.0


@dataclass(frozen=True, slots=True)
class Ordered:
    """What became of a batch: machines whose remediation began, and refusals by reason."""

    machines: tuple[int, ...] = ()
    refused: int = 0


def operation_uid(of: str, attempt: int, rung: int) -> str:
    """The same for the same try."""
    return str(uuid.uuid5(_SPACE, f"{of}/{attempt}/{rung}"))


def standing(each: Candidate, ladder: Ladder | None, blind: str) -> Refusal | None:
    """What stands against a repair, apart from the ledger. Pure."""
    if not each.playbook:
        return Refusal(each.id, "NoPlaybook", f"No playbook repairs {each.type}: a person looks at it.", True)
    if ladder is None:
        return Refusal(each.id, "PlaybookMissing", f"There is no playbook {each.playbook}.", True)
    if blind:
        return Refusal(each.id, "ViewBroken", blind)
    if each.other and each.outranks:
        return Refusal(
            each.id,
            OUTRANKS,
            f"{each.other} works on a lesser fault of this machine and ends before its next step.",
            wait=2.0,
        )
    if each.other:
        return Refusal(each.id, "OtherRemediation", f"{each.other} works on this machine already.")
    if each.cordoned:
        return Refusal(each.id, "CordonedByPerson", each.cordon or "A person closed the node; Fleet leaves it to them.")
    if each.in_a_day >= MOST_IN_A_DAY:
        text = f"This machine was repaired {each.in_a_day} times within 24 hours: repeating that does not help, a person looks at it."
        return Refusal(each.id, "RepairedTooOften", text, True)
    first = ladder.rungs[0]
    if first.of_people:
        return Refusal(each.id, "PersonAsked", task_of(first), True)
    if first.only_silence(each.sources):
        return Refusal(each.id, *ONLY_SILENCE, person=each.long, wait=30.0)
    if len(each.sources) < first.sources:
        who = ", ".join(each.sources) or "nobody"
        text = f"{first.verb} asks for {first.sources} independent sources; only {who} says that there is a fault."
        return Refusal(each.id, "OneSource", text)
    return None


async def order(
    conn: Connection, *, limit: int = LIMIT, clusters: Collection[int] | None = None, waking: bool = True
) -> Ordered:
    """Begin the repair of confirmed faults whose turn it is, as far as the ledger grants it. Whom an open breaker covers is passed over.

    `clusters`: of these only. `waking` False: the caller wakes the machines whose repair began.
    """
    candidates = await _candidates(conn, limit, clusters)
    if not candidates:
        return Ordered()
    ladders = await _ladders(conn, candidates)
    blind = await blindness.look(conn, {c.cluster_id for c in candidates})
    refusals: list[Refusal] = []
    asking: dict[int, Candidate] = {}  # the worst fault of each machine: they come in that order
    for each in candidates:
        ladder = ladders.get(each.playbook)
        refusal = standing(each, ladder[0] if ladder else None, blind.why(each.cluster_id, each.rack_id))
        if refusal is not None:
            refusals.append(refusal)
        elif each.machine_id in asking:
            first = asking[each.machine_id]
            refusals.append(Refusal(each.id, "OtherFault", f"{first.name} of the same machine is repaired first."))
        else:
            asking[each.machine_id] = each
    asks = [
        permits.Ask(c.machine_id, ladders[c.playbook][0].rungs[0].verb, True, c.operation, PERMIT_SECONDS)
        for c in asking.values()
    ]
    answers = await permits.permits(conn, asks) if asks else {}
    granted: list[tuple[Candidate, int]] = []
    for machine, each in asking.items():
        answer = answers[machine]
        if answer.ok and answer.permit_id is not None:
            granted.append((each, answer.permit_id))
        else:
            refusals.append(Refusal(each.id, answer.reason, answer.message))
    machines = await _begin(conn, granted, ladders)
    if waking:
        await wake(conn, machines)
    outranking = {r.fault for r in refusals if r.reason == OUTRANKS}
    worse = {c.machine_id: c.name for c in candidates if c.id in outranking}
    if worse:
        await _outrank(conn, worse)
    await _refuse(conn, refusals)
    return Ordered(tuple(machines), len(refusals))


async def _candidates(conn: Connection, limit: int, clusters: Collection[int] | None) -> list[Candidate]:
    values: dict[str, Any] = {"limit": limit}
    if clusters is None:
        found = await conn.execute(order_sql.CANDIDATES, values, prepare=True)
    else:
        found = await conn.execute(
            order_sql.CANDIDATES_IN, values | {"clusters": numbers(sorted(clusters))}, prepare=True
        )
    return [_candidate(row) for row in await found.fetchall()]


def _candidate(row: Sequence[Any]) -> Candidate:
    values = list(row)
    values[5], values[6], values[7], values[8] = tuple(row[5]), row[6] or "", row[7] or "", tuple(row[8])
    return Candidate(*values)


_kept: dict[tuple[str, int], tuple[Ladder, Json]] = {}  # of this process, by name and version


async def _ladders(conn: Connection, candidates: Iterable[Candidate]) -> dict[str, tuple[Ladder, Json]]:
    """Playbooks by name as they stood when the candidates were read, each with the spec that a remediation freezes."""
    wanted = {(c.playbook, c.playbook_rv) for c in candidates if c.playbook_rv is not None}
    out = {name: _kept[name, rv] for name, rv in wanted if (name, rv) in _kept}
    missing = sorted(name for name, _ in wanted if name not in out)
    if missing:
        if len(_kept) > _MOST_KEPT:
            _kept.clear()
        for name, rv, spec in await (await conn.execute(_PLAYBOOKS, [missing], prepare=True)).fetchall():
            spec = orjson.loads(spec) if isinstance(spec, str | bytes) else spec
            out[name] = _kept[name, rv] = (ladder_of(name, spec), spec)  # of a moment later, if it was just changed
    return out


async def _tripped(conn: Connection) -> dict[tuple[str, int], str]:
    """Open breakers of clusters and of the fleet: whom they cover the ledger need not be asked for one by one."""
    found = await conn.execute("SELECT dim, key, why FROM breaker WHERE state = 'open' AND dim IN ('cluster', 'fleet')")
    return {(dim, key): why for dim, key, why in await found.fetchall()}


async def refuse_tripped(conn: Connection, *, limit: int = LIMIT) -> int:
    """Tell the faults under an open breaker why they wait; how many were told. Apart from orders: those of others wait for no storm."""
    tripped = await _tripped(conn)
    if not tripped:
        return 0
    fleet = tripped.get(("fleet", 0))
    rows = await (await conn.execute(order_sql.TRIPPED, {"limit": limit}, prepare=True)).fetchall()
    refusals = []
    for fault, cluster in rows:
        if fleet is None and ("cluster", cluster) not in tripped:
            continue  # it opened a moment ago: the next turn tells
        reason, why = ("FleetBreaker", fleet) if fleet is not None else ("ClusterBreaker", tripped["cluster", cluster])
        place = "The fleet's breaker" if fleet is not None else "The cluster's breaker"
        refusals.append(Refusal(fault, reason, f"{place} is open: {why}", wait=30.0))
    await _refuse(conn, refusals)
    return len(refusals)


async def _outrank(conn: Connection, worse: dict[int, str]) -> None:
    values = {"machine": numbers(worse), "by": texts(WORSE + name for name in worse.values())}
    ended = await (await conn.execute(order_sql.OUTRANK, values)).fetchall()
    await work.wake_async(conn, REMEDIATION, [row[0] for row in ended])


async def _begin(
    conn: Connection, granted: Sequence[tuple[Candidate, int]], ladders: dict[str, tuple[Ladder, Json]]
) -> list[int]:
    """Remediation and Operation in one commit; a permit whose fault went away meanwhile is given back."""
    if not granted:
        return []
    ordered = sorted(granted, key=lambda pair: pair[0].id)
    specs = []
    for each, _ in ordered:
        rung = ladders[each.playbook][0].rungs[0]
        specs.append(
            operation_spec(rung, machine=each.machine, cluster=each.cluster, remediation="", reason=f"{each.name}: {each.message}", units=units_of(each.evidence))
        )  # fmt: skip
    values = {
        "fault": [c.id for c, _ in ordered], "playbook": [c.playbook for c, _ in ordered],
        "spec": [_dump(_remediation(c, ladders[c.playbook][1])) for c, _ in ordered], "op": [c.operation for c, _ in ordered],
        "op_spec": [_dump(s) for s in specs], "permit": [p for _, p in ordered], "serial": [c.serial for c, _ in ordered],
        "rung": [ladders[c.playbook][0].rungs[0].name for c, _ in ordered],
    }  # fmt: skip
    rows = await (await conn.execute(order_sql.ORDER, values, prepare=True)).fetchall()
    begun = {row[0]: row for row in rows}
    left = [permit for each, permit in ordered if each.id not in begun or not begun[each.id][3]]
    if left:
        await permits.release(conn, left)
    return [row[1] for row in rows if row[3]]


def _remediation(each: Candidate, playbook: Json) -> Json:
    out: Json = {"machine": each.machine, "fault": each.name, "playbook": each.playbook, "ladder": playbook}
    return out | ({"clusterName": each.cluster} if each.cluster else {})


def units_of(evidence: Sequence[Json]) -> list[str]:
    """Names of units in what was said, for rungs that name none."""
    words = [w.strip(",.;:()'\"") for e in evidence for w in str(e.get("message", "")).split()]
    return list(dict.fromkeys(w for w in words if w.endswith((".service", ".socket", ".timer", ".mount"))))[:8]


async def _refuse(conn: Connection, refusals: Sequence[Refusal]) -> None:
    if not refusals:
        return
    ordered = sorted(refusals, key=lambda r: r.fault)
    values: dict[str, Any] = {
        "fault": numbers(r.fault for r in ordered), "reason": texts(r.reason for r in ordered), "message": texts(r.message[:900] for r in ordered),
        "person": flags(r.person for r in ordered), "wait": [r.wait for r in ordered],
    }  # fmt: skip
    await conn.execute(order_sql.REFUSE, values, prepare=True)


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()
