"""Detection on the whole of a batch: what is seen of these machines, what it means (`recovery.detect`), and what is stored of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, LiteralString, TypeVar

import orjson

from fleet.control.arrays import flags, numbers, texts
from fleet.control.db import Connection
from machines import packing
from machines.waking import wake
from recovery import blindness, detect_sql
from recovery.detect import Evidence, Finding, Known, Sight, look
from recovery.phases import fault_moves
from recovery.rules import Rule, rule_of
from recovery.types import CONFIRMED, RESOLVED

log = logging.getLogger("fleet.recovery")
T = TypeVar("T")
CHUNK: Final = 1_000
NODE_READY: Final = "NodeReady"
# Who speaks where a condition stands: the kubelet, another agent on the node, Fleet's own look at the host, a declared reporter.
KUBELET, AGENT, FLEET, REPORTER = "kubelet", "node-agent", "fleet", "reporter"


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch led to: faults that are confirmed now and may be repaired, and how many rows moved."""

    confirmed: tuple[int, ...] = ()
    moved: int = 0


@dataclass(slots=True)
class Ruleset:
    """The rules as one batch uses them. `numbers`: rows of the dictionary of conditions that any of them looks for."""

    rules: tuple[Rule, ...]
    numbers: list[int] = field(default_factory=list)


async def read_rules(conn: Connection) -> Ruleset:
    """Rules that are in force or on trial. A broken one is left out and logged: it spoils no other."""
    found = await (
        await conn.execute("SELECT name, spec FROM recovery_faultrule WHERE deleted_at IS NULL ORDER BY name")
    ).fetchall()
    rules = []
    for name, spec in found:
        try:
            rule = rule_of(name, orjson.loads(spec) if isinstance(spec, str | bytes) else spec)
        except (KeyError, ValueError, TypeError):
            log.exception("the fault rule %s cannot be read and finds nothing", name)
            continue
        if rule is not None:
            rules.append(rule)
    return Ruleset(tuple(rules))


async def look_up(conn: Connection, rules: Ruleset) -> None:
    """Which rows of the dictionary of conditions these rules look for, as it is now."""
    await packing.refresh(conn)
    rules.numbers = packing.numbers_where(
        lambda t, s, r: any(m.says(t, s, r) for rule in rules.rules for m in rule.when)
    )


async def detect(
    conn: Connection, machines: Iterable[int], rules: Ruleset | None = None, *, now: datetime | None = None
) -> Found:
    """Look at these machines and store what follows; chunks of a thousand, one writing statement each."""
    rules = rules or await read_rules(conn)
    await look_up(conn, rules)
    ids = sorted(set(machines))
    confirmed: list[int] = []
    moved = 0
    for at in range(0, len(ids), CHUNK):
        part = await _chunk(conn, ids[at : at + CHUNK], rules, now or datetime.now(UTC))
        confirmed += part.confirmed
        moved += part.moved
    return Found(tuple(confirmed), moved)


async def _chunk(conn: Connection, ids: list[int], rules: Ruleset, now: datetime) -> Found:
    known = await _by_machine(conn, detect_sql.FAULTS, ids, _known)
    said = await _by_machine(conn, detect_sql.EVIDENCE, ids, lambda v: Evidence(*v))
    cursor = conn.cursor(binary=True)
    values = {"machines": numbers(ids), "named": numbers({*known, *said}), "ids": numbers(rules.numbers)}
    await cursor.execute(detect_sql.SIGHTS, values, prepare=True)
    rows = await cursor.fetchall()
    if not rows:
        return Found()
    if not packing.known(array for row in rows for array in row[5:8]):
        await packing.refresh(conn)
    clusters = {row[2] for row in rows}
    names: dict[int, str] = dict(
        await (await conn.execute(detect_sql.CLUSTERS, [sorted(clusters)], prepare=True)).fetchall()
    )
    blind = await blindness.read(conn, clusters)
    findings: list[tuple[Sight, Finding]] = []
    for row in rows:
        sight = _sight(row, names, said.get(row[0], ()), blind)
        try:
            findings += [(sight, f) for f in look(rules.rules, sight, {k.type: k for k in known.get(row[0], ())}, now)]
        except Exception:
            log.exception("machine %s: its faults could not be judged", sight.name)
    return await _write(conn, findings)


async def _by_machine(
    conn: Connection, sql: LiteralString, ids: Sequence[int], make: Callable[[Sequence[Any]], T]
) -> dict[int, list[T]]:
    """Rows of these machines, by machine."""
    out: dict[int, list[T]] = {}
    for machine, *values in await (await conn.execute(sql, [numbers(ids)], prepare=True)).fetchall():
        out.setdefault(machine, []).append(make(values))
    return out


def _sight(row: Sequence[Any], names: Mapping[int, str], said: Sequence[Evidence], blind: blindness.Blind) -> Sight:
    id_, name, cluster_id, rack_id, labels, k_cond, m_cond, x_cond, notes, reinstalled = row
    told = orjson.loads(notes) if notes else None
    found = (
        *_evidence(k_cond, told, AGENT),
        *_evidence(m_cond, told, FLEET),
        *_evidence(x_cond, told, REPORTER),
        *said,
    )
    return Sight(
        id_, name, cluster_id, names.get(cluster_id, ""), orjson.loads(labels), found, blind.why(cluster_id, rack_id), reinstalled
    )  # fmt: skip


def _evidence(array: Sequence[int], notes: Mapping[str, str] | None, source: str) -> list[Evidence]:
    return [
        Evidence(
            c.type,
            c.status,
            c.reason,
            c.message,
            KUBELET if c.type == NODE_READY else source,
            c.since or datetime.now(UTC),
        )
        for c in packing.unpack([array], notes)
    ]


def _known(values: Sequence[Any]) -> Known:
    id_, type_, phase, rule, shadow, severity, count, held, cleared, sources, evidence, flips = values
    return Known(
        id_, type_, phase, rule, shadow, severity, count, held, cleared, tuple(sources), tuple((e["type"], e["reason"]) for e in evidence),
        tuple(datetime.fromtimestamp(float(f), UTC) for f in flips),
    )  # fmt: skip


async def _write(conn: Connection, findings: Sequence[tuple[Sight, Finding]]) -> Found:
    if not findings:
        return Found()
    ordered = sorted(findings, key=lambda pair: (pair[1].id, pair[1].machine_id, pair[1].type))
    columns: dict[str, Any] = {
        "id": numbers(f.id for _, f in ordered), "machine": numbers(f.machine_id for _, f in ordered), "name": texts(s.name for s, _ in ordered),
        "cluster": numbers(s.cluster_id for s, _ in ordered), "cluster_name": texts(s.cluster for s, _ in ordered), "type": texts(f.type for _, f in ordered),
        "category": texts(f.rule.category if f.rule else "" for _, f in ordered), "severity": numbers(f.rule.severity if f.rule else 1 for _, f in ordered),
        "phase": texts(f.phase for _, f in ordered), "rule": texts(f.rule.name if f.rule else "" for _, f in ordered),
        "shadow": flags(bool(f.rule and f.rule.shadow) for _, f in ordered), "sources": texts(_dump(f.sources) for _, f in ordered),
        "count": numbers(f.count for _, f in ordered), "held": [f.held_since for _, f in ordered], "cleared": [f.cleared_since for _, f in ordered],
        "due": [f.due_seconds for _, f in ordered], "evidence": texts(_dump([e.json() for e in f.evidence]) for _, f in ordered),
        "flips": texts(_dump([x.timestamp() for x in f.flips]) for _, f in ordered), "reason": texts(f.reason for _, f in ordered),
        "message": texts(f.message for _, f in ordered), "playbook": texts(f.rule.playbook if f.rule else "" for _, f in ordered),
    }  # fmt: skip
    values = columns | {"legal": list(fault_moves())}
    rows = await (await conn.execute(detect_sql.WRITE, values, prepare=True)).fetchall()
    wrong = [-row[0] for row in rows if row[0] < 0]
    if wrong:
        log.error("faults %s were to make a move that is not legal; they were left as they are", wrong[:10])
    moved = [row for row in rows if row[0] > 0]
    turned = {
        machine for _, machine, phase, shadow, turn in moved if turn and not shadow and phase in (CONFIRMED, RESOLVED)
    }
    if turned:  # a machine's gates ask whether it has a fault
        await wake(conn, turned)
    return Found(tuple(id_ for id_, _, phase, shadow, _ in moved if phase == CONFIRMED and not shadow), len(moved))


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()
