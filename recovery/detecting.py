"""Detection on the whole of a batch: what is seen of these machines, what it means (`recovery.detect`), and what is stored of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from fleet.control import clock
from fleet.control.arrays import flags, numbers, texts
from fleet.control.db import Connection, Long
from machines import packing
from machines.reporters import voices
from machines.waking import wake
from recovery import blindness, detect_sql
from recovery.detect import Evidence, Finding, Known, Sight, look
from recovery.phases import fault_moves
from recovery.rules import Rule, rule_of
from recovery.types import CONFIRMED, RESOLVED

log = logging.getLogger("fleet.recovery")
T = TypeVar("T")
CHUNK: Final = 1_000
FEW: Final = 20  # of so few machines all is read at once, before it is known who has something to say
NODE_READY: Final = "NodeReady"
_WRITE: Final = Long(detect_sql.WRITE)
# Who speaks where a condition stands: the kubelet, another agent on the node, Fleet's own look at the host, a declared reporter (with its name).
KUBELET, AGENT, FLEET, REPORTER = "kubelet", "node-agent", "fleet", "reporter"


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch led to: faults that are confirmed now and may be repaired, with their clusters; how many rows moved; machines whose gates ask anew."""

    confirmed: tuple[int, ...] = ()
    clusters: frozenset[int] = frozenset()
    moved: int = 0
    turned: frozenset[int] = frozenset()


class Place(NamedTuple):
    """A cluster: its name, and who speaks for a condition type that a declared reporter owns."""

    name: str
    voices: Mapping[str, str]


NOWHERE: Final = Place("", {})


class Judged(NamedTuple):
    """One machine's fault as it shall stand. Machines of which the same is said share the finding."""

    machine_id: int
    name: str
    cluster_id: int
    cluster: str
    finding: Finding


@dataclass(slots=True)
class Ruleset:
    """The rules as one batch uses them. `numbers`: rows of the dictionary of conditions that any of them looks for; `heard`: those, and what else any of them weighs."""

    rules: tuple[Rule, ...]
    numbers: list[int] = field(default_factory=list)
    heard: frozenset[int] = frozenset()
    entries: int = 0  # as long as the dictionary had when these were found

    @property
    def labelled(self) -> bool:
        """Whether any of them asks for labels."""
        return any(rule.labels for rule in self.rules)

    def find(self) -> None:
        """Look the numbers up in this process's copy of the dictionary, if that has grown."""
        if self.entries == packing.size():
            return
        when = [m for rule in self.rules for m in rule.when]
        beside = [m for rule in self.rules for m in (*rule.also, *rule.unless)]
        self.numbers = packing.numbers_where(lambda t, s, r: any(m.says(t, s, r) for m in when))
        others = packing.numbers_where(lambda t, s, r: any(m.says(t, s, r) for m in beside))
        self.heard = frozenset(self.numbers).union(others)
        self.entries = packing.size()


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
    rules.find()


async def detect(
    conn: Connection,
    machines: Iterable[int],
    rules: Ruleset | None = None,
    *,
    now: datetime | None = None,
    waking: bool = True,
) -> Found:
    """Look at these machines and store what follows; chunks of a thousand, one writing statement each.

    `waking` False: the caller wakes `turned`, together with whom it has to wake itself.
    """  # fmt: skip
    rules = rules or await read_rules(conn)
    ids = sorted(set(machines))
    if len(ids) > FEW:
        await look_up(conn, rules)
    parts = []
    for at in range(0, len(ids), CHUNK):
        part = await _chunk(conn, ids[at : at + CHUNK], rules, now or clock.now())
        if waking:
            await wake(conn, part.turned)
        parts.append(part)
    return Found(
        tuple(id_ for part in parts for id_ in part.confirmed), frozenset[int]().union(*(part.clusters for part in parts)),
        sum(part.moved for part in parts), frozenset[int]().union(*(part.turned for part in parts)),
    )  # fmt: skip


async def _chunk(conn: Connection, ids: list[int], rules: Ruleset, now: datetime) -> Found:
    sights = conn.cursor(binary=True)
    values: dict[str, Any] = {"machines": numbers(ids), "ids": numbers(rules.numbers), "labelled": rules.labelled}
    async with conn.pipeline():  # one round trip; the connection is this task's alone
        faults = await conn.execute(detect_sql.FAULTS, [numbers(ids)], prepare=False)
        evidence = await conn.execute(detect_sql.EVIDENCE, [numbers(ids)], prepare=True)
        if len(ids) <= FEW:
            await sights.execute(detect_sql.SIGHTS, values | {"named": numbers(ids)}, prepare=True)
    known = _by_machine(await faults.fetchall(), _known)
    said = _by_machine(await evidence.fetchall(), lambda v: Evidence(*v))
    if len(ids) > FEW:
        await sights.execute(detect_sql.SIGHTS, values | {"named": numbers({*known, *said})}, prepare=True)
    rows = await sights.fetchall()
    if not rows:
        return Found()
    if not packing.known(array for row in rows for array in row[5:8]):
        await packing.refresh(conn)
    rules.find()
    clusters = {row[2] for row in rows}
    async with conn.pipeline():
        named = await conn.execute(detect_sql.CLUSTERS, [sorted(clusters)], prepare=True)
        asked = await blindness.ask(conn, clusters)
    places = {id_: Place(name, voices(reporters or ())) for id_, name, reporters in await named.fetchall()}
    blind = await blindness.answer(asked)
    return await _write(conn, _judge(rows, rules, places, known, said, blind, now))


def _judge(
    rows: Sequence[Sequence[Any]], rules: Ruleset, places: Mapping[int, Place], known: Mapping[int, list[Known]], said: Mapping[int, list[Evidence]],
    blind: blindness.Blind, now: datetime,
) -> list[Judged]:  # fmt: skip
    """What follows for each. Machines without a fault of which the same is said are judged once: in a storm that is nearly all of them."""
    out: list[Judged] = []
    alike: dict[tuple[Any, ...], list[Finding]] = {}
    for row in rows:
        id_, name, cluster_id, rack_id, labels, *arrays, notes, reinstalled = row
        place, why = places.get(cluster_id, NOWHERE), blind.why(cluster_id, rack_id)
        try:
            if id_ in known or id_ in said:
                faults = {k.type: k for k in known.get(id_, ())}
                sight = _sight(id_, name, cluster_id, place, labels, arrays, notes, said.get(id_, ()), why, reinstalled)
                findings = look(rules.rules, sight, faults, now)
            else:
                heard = tuple(tuple(p for p in array if p >> 32 in rules.heard) for array in arrays)
                key = (cluster_id, labels, heard, notes, why, reinstalled)
                found = alike.get(key)
                if found is None:
                    sight = _sight(id_, name, cluster_id, place, labels, heard, notes, (), why, reinstalled)
                    found = alike[key] = look(rules.rules, sight, {}, now)
                findings = found
        except Exception:
            log.exception("machine %s: its faults could not be judged", name)
            continue
        out += [Judged(id_, name, cluster_id, place.name, finding) for finding in findings]
    return out


def _by_machine(rows: Iterable[Sequence[Any]], make: Callable[[Sequence[Any]], T]) -> dict[int, list[T]]:
    """Rows by the machine that they begin with."""
    out: dict[int, list[T]] = {}
    for machine, *values in rows:
        out.setdefault(machine, []).append(make(values))
    return out


def _sight(
    id_: int, name: str, cluster_id: int, place: Place, labels: str, arrays: Sequence[Sequence[int]], notes: str | None, said: Sequence[Evidence], blind: str,
    reinstalled: bool,
) -> Sight:  # fmt: skip
    told = orjson.loads(notes) if notes else None
    found = (
        e
        for array, source in zip(arrays, (AGENT, FLEET, REPORTER), strict=True)
        for e in _evidence(array, told, source, place.voices if source == REPORTER else {})
    )
    return Sight(id_, name, cluster_id, place.name, orjson.loads(labels), (*found, *said), blind, reinstalled)


def _evidence(
    array: Sequence[int], notes: Mapping[str, str] | None, source: str, voices: Mapping[str, str]
) -> list[Evidence]:
    return [
        Evidence(
            c.type,
            c.status,
            c.reason,
            c.message,
            KUBELET if c.type == NODE_READY else f"{source}:{voices[c.type]}" if c.type in voices else source,
            c.since or clock.now(),
        )
        for c in packing.unpack([array], notes)
    ]


def _known(values: Sequence[Any]) -> Known:
    id_, type_, phase, rule, shadow, severity, count, held, cleared, sources, evidence, flips = values
    return Known(
        id_, type_, phase, rule, shadow, severity, count, held, cleared, tuple(sources), tuple((e["type"], e["reason"]) for e in evidence),
        tuple(datetime.fromtimestamp(float(f), UTC) for f in flips),
    )  # fmt: skip


async def _write(conn: Connection, judged: Sequence[Judged]) -> Found:
    if not judged:
        return Found()
    ordered = sorted(judged, key=lambda j: (j.finding.id, j.machine_id, j.finding.type))
    numbered: dict[tuple[Any, ...], tuple[int, Judged]] = {}
    shapes = [numbered.setdefault(_shape(each), (len(numbered) + 1, each))[0] for each in ordered]
    values = _columns([each for _, each in numbered.values()]) | {
        "id": numbers(j.finding.id for j in ordered), "machine": numbers(j.machine_id for j in ordered), "name": texts(j.name for j in ordered),
        "shapes": numbers(shapes), "legal": list(fault_moves()),
    }  # fmt: skip
    rows = await _WRITE.run(conn, values)
    wrong = [-row[0] for row in rows if row[0] < 0]
    if wrong:
        log.error("faults %s were to make a move that is not legal; they were left as they are", wrong[:10])
    moved = [row for row in rows if row[0] > 0]
    # a machine's gates ask whether it has a fault
    turned = (
        machine for _, machine, phase, shadow, turn in moved if turn and not shadow and phase in (CONFIRMED, RESOLVED)
    )
    confirmed = {id_: machine for id_, machine, phase, shadow, _ in moved if phase == CONFIRMED and not shadow}
    theirs = frozenset(confirmed.values())
    clusters = frozenset(j.cluster_id for j in ordered if j.machine_id in theirs)
    return Found(tuple(confirmed), clusters, len(moved), frozenset(turned))


def _shape(each: Judged) -> tuple[Any, ...]:
    """All that a row holds but whose it is. The rule by its identity: it lives as long as the batch."""
    f = each.finding
    return (
        each.cluster_id, f.type, id(f.rule), f.phase, f.reason, f.message, f.sources, f.count, f.held_since, f.cleared_since, f.due_seconds, f.evidence, f.flips,
    )  # fmt: skip


def _columns(shapes: Sequence[Judged]) -> dict[str, Any]:
    findings = [each.finding for each in shapes]
    return {
        "cluster": numbers(j.cluster_id for j in shapes), "cluster_name": texts(j.cluster for j in shapes), "type": texts(f.type for f in findings),
        "category": texts(f.rule.category if f.rule else "" for f in findings), "severity": numbers(f.rule.severity if f.rule else 1 for f in findings),
        "phase": texts(f.phase for f in findings), "rule": texts(f.rule.name if f.rule else "" for f in findings),
        "shadow": flags(bool(f.rule and f.rule.shadow) for f in findings), "sources": texts(_dump(f.sources) for f in findings),
        "count": numbers(f.count for f in findings), "held": [f.held_since for f in findings], "cleared": [f.cleared_since for f in findings],
        "due": [f.due_seconds for f in findings], "evidence": texts(_dump([e.json() for e in f.evidence]) for f in findings),
        "flips": texts(_dump([x.timestamp() for x in f.flips]) for f in findings), "reason": texts(f.reason for f in findings),
        "message": texts(f.message for f in findings), "playbook": texts(f.rule.playbook if f.rule else "" for f in findings),
    }  # fmt: skip


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()
