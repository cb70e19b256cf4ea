"""From what is seen of one machine to its faults. Pure: rules, evidence, the faults that are there and a clock in, moves out.

Unknown is not unhealthy, and not well either: a fault is taken back only by evidence that says so. Hold times run from the
moment at which Fleet itself first had the news, and begin anew after the view of the cluster was broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from fleet.control.times import format_time
from recovery.rules import EVENT, Match, Rule
from recovery.types import CONFIRMED, NEEDS_PERSON, OPEN, RECOVERING, RESOLVED, SUSPECTED

MOST_FLIPS: Final = 100
MOST_EVIDENCE: Final = 20
MOST_TEXT: Final = 900
# Fleet's look at a host and its probes go over the same network: together they are one source.
OWN_EYES: Final = {"prober": "fleet"}
BLIND: Final = "ViewBroken"
REINSTALLED: Final = (
    "BeingReinstalled"  # why nothing new is concluded of a machine whose host an Operation installs anew
)
REINSTALLED_TEXT: Final = (
    "Its host is being installed anew: what is missing or silent there is of Fleet's own making until that is over."
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that is said of a machine. `source`: who says it; `since`: when Fleet first had it."""

    type: str
    status: str
    reason: str
    message: str
    source: str
    since: datetime

    def json(self) -> dict[str, str]:
        """As it stands in `Fault.status.evidence[]`."""
        return {
            "type": self.type, "status": self.status, "reason": self.reason, "message": self.message[:400],
            "source": self.source, "since": format_time(self.since),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sight:
    """One machine as it is seen now. `blind`: why nothing may be concluded about its cluster now ("" = nothing stands against it).

    `reinstalled`: nothing may be concluded about the machine itself, and no fault begins, until its host is whole again.
    """

    machine_id: int
    name: str
    cluster_id: int
    cluster: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    blind: str = ""
    reinstalled: bool = False

    @property
    def barred(self) -> tuple[str, str]:
        """(reason, sentence) why nothing may be concluded now, or nothing."""
        if self.reinstalled:
            return REINSTALLED, REINSTALLED_TEXT
        return (BLIND, self.blind) if self.blind else ("", "")


@dataclass(frozen=True, slots=True)
class Known:
    """A live fault as stored."""

    id: int
    type: str
    phase: str
    rule: str
    shadow: bool
    severity: int
    count: int
    held_since: datetime
    cleared_since: datetime | None
    sources: tuple[str, ...] = ()
    seen: tuple[tuple[str, str], ...] = ()  # (type, reason) of its evidence
    flips: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault as it shall stand after this look. `id` 0 = a new one. `due_seconds` None = time alone changes nothing."""

    machine_id: int
    id: int
    rule: Rule | None
    type: str
    phase: str
    reason: str
    message: str
    evidence: tuple[Evidence, ...]
    sources: tuple[str, ...]
    count: int
    held_since: datetime
    cleared_since: datetime | None
    flips: tuple[datetime, ...]
    due_seconds: float | None


def look(rules: Sequence[Rule], sight: Sight, known: Mapping[str, Known], now: datetime) -> list[Finding]:
    """Every fault of one machine that is new or may have moved."""
    matched: dict[str, tuple[Rule, tuple[Evidence, ...]]] = {}
    by_name: dict[str, Rule] = {}
    said = _Said(sight.evidence)
    for rule in rules:
        if not rule.covers(sight.cluster, sight.labels):
            continue
        by_name[rule.name] = rule
        found = said.by(rule.when)
        if not found or said.by(rule.unless):
            continue
        found = _joined(found, said.by(rule.also))
        there = matched.get(rule.fault_type)
        if there is None:
            matched[rule.fault_type] = (rule, found)
        elif (there[0].shadow, -there[0].severity) > (rule.shadow, -rule.severity):
            matched[rule.fault_type] = (rule, _joined(found, there[1]) if not there[0].shadow else found)
        elif not rule.shadow:  # a rule on trial lends no evidence to one that acts
            matched[rule.fault_type] = (there[0], _joined(there[1], found))
    out = [
        _present(rule, found, sight, known.get(type_), now)
        for type_, (rule, found) in matched.items()
        if type_ in known or not sight.reinstalled
    ]
    for type_, fault in known.items():
        if type_ not in matched and fault.rule:  # what a person declared a person takes back
            out.append(_absent(by_name.get(fault.rule), fault, sight, now))
    return out


class _Said:
    """Evidence by its type: most rules look for what nobody says of a machine."""

    def __init__(self, evidence: Sequence[Evidence]) -> None:
        self._by_type: dict[str, list[Evidence]] = {}
        for each in evidence:
            key = EVENT if each.type.startswith(EVENT) else each.type
            self._by_type.setdefault(key, []).append(each)

    def by(self, matches: Sequence[Match]) -> tuple[Evidence, ...]:
        """What these matches mean, each once."""
        found = [
            e
            for m in matches
            for e in self._by_type.get(EVENT if m.is_event else m.type, ())
            if m.says(e.type, e.status, e.reason)
        ]
        return tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found)


def _joined(*groups: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    if not all(groups):
        return next((g for g in groups if g), ())
    return tuple(dict.fromkeys(e for group in groups for e in group))


def _present(rule: Rule, found: tuple[Evidence, ...], sight: Sight, fault: Known | None, now: datetime) -> Finding:
    """Something speaks for the fault now."""
    sources = tuple(sorted({OWN_EYES.get(e.source, e.source) for e in found}))
    first = min(e.since for e in found)
    began = fault is None or fault.cleared_since is not None
    flips = _recent((fault.flips if fault else ()) + ((now,) if began else ()), rule, now)
    count = 1 if fault is None else fault.count + (fault.cleared_since is not None)
    held = min(first, now) if fault is None else fault.held_since
    if fault is not None and fault.cleared_since is not None and fault.phase in (OPEN, SUSPECTED):
        held = now  # it was away: the hold time counts anew, unless it comes and goes all the time

    def seen(phase: str, reason: str, message: str, *, held: datetime = held, due: float | None = None) -> Finding:
        return Finding(
            machine_id=sight.machine_id, id=fault.id if fault else 0, rule=rule, type=fault.type if fault else rule.fault_type,
            phase=phase, reason=reason, message=message[:MOST_TEXT], evidence=found[:MOST_EVIDENCE], sources=sources, count=count,
            held_since=held, cleared_since=None, flips=flips, due_seconds=due,
        )  # fmt: skip

    barred = sight.barred
    if barred[0] and (fault is None or fault.phase in (OPEN, SUSPECTED, CONFIRMED)):
        return seen(OPEN, *barred, held=now, due=10.0)
    flapping = rule.flaps[0] > 0 and len(flips) >= rule.flaps[0]
    rest = 0.0 if flapping else rule.hold_seconds - (now - held).total_seconds()
    said = _sentence(found)
    if fault is not None and fault.phase in (RECOVERING, NEEDS_PERSON):
        return seen(fault.phase, "Seen", said)
    if rest > 0 and not (fault is not None and fault.phase == CONFIRMED):
        return seen(OPEN, "Holding", f"{said} It counts once it has held for {rule.hold_seconds} s.", due=rest)
    if len(sources) < rule.sources:
        text = f"{said} Only {', '.join(sources)} says so; {rule.sources} independent sources are asked for."
        return seen(SUSPECTED, "OneSource", text, due=15.0)
    return seen(CONFIRMED, "Flapping" if flapping else "Confirmed", said)


def _absent(rule: Rule | None, fault: Known, sight: Sight, now: datetime) -> Finding:
    """Nothing speaks for the fault now: it is over if that is known, and has been so for long enough."""

    def left(
        phase: str, reason: str, message: str, *, cleared: datetime | None, held: datetime = fault.held_since, due: float | None = None
    ) -> Finding:  # fmt: skip
        return Finding(
            machine_id=sight.machine_id, id=fault.id, rule=rule, type=fault.type, phase=phase, reason=reason, message=message[:MOST_TEXT],
            evidence=(), sources=fault.sources, count=fault.count, held_since=held, cleared_since=cleared, flips=fault.flips, due_seconds=due,
        )  # fmt: skip

    evidence = {e.type: e for e in sight.evidence}
    unknown = [
        t for t, _ in fault.seen if not t.startswith(EVENT) and (t not in evidence or evidence[t].status == "Unknown")
    ]
    barred = sight.barred
    if rule is not None and barred[0]:
        phase = OPEN if fault.phase in (SUSPECTED, CONFIRMED) else fault.phase
        return left(phase, *barred, cleared=None, held=now, due=30.0)
    if rule is not None and unknown:
        text = f"Nobody knows now whether {', '.join(sorted(unknown))} still says so."
        return left(fault.phase, "Unknown", text, cleared=None, due=30.0)
    since = fault.cleared_since or now
    if fault.phase == RECOVERING:  # its remediation watches over the rest
        return left(RECOVERING, "Cleared", "It is not seen any more.", cleared=since)
    if rule is None:
        return left(RESOLVED, "RuleGone", "The rule that found it is gone.", cleared=since)
    patience = float(rule.clear_seconds)
    if rule.flaps[0] > 0 and len(_recent(fault.flips, rule, now)) >= rule.flaps[0]:
        patience = float(rule.flaps[1])  # what comes and goes is over only after a long calm
    rest = patience - (now - since).total_seconds()
    if rest > 0:
        text = f"It is not seen any more; it is over once that has lasted {patience:.0f} s."
        return left(fault.phase, "Clearing", text, cleared=since, due=rest)
    return left(RESOLVED, "Cleared", "It went away by itself.", cleared=since)


def _recent(flips: tuple[datetime, ...], rule: Rule, now: datetime) -> tuple[datetime, ...]:
    """Beginnings within the rule's window, the newest of them."""
    if not rule.flaps[0]:
        return ()
    start = now - timedelta(seconds=rule.flaps[1])
    return tuple(f for f in flips if f >= start)[-MOST_FLIPS:]


def _sentence(found: Sequence[Evidence]) -> str:
    """What is said, in one line."""
    parts = [
        f"{e.type.removeprefix(EVENT)} is {e.status} ({e.reason}){': ' + e.message if e.message else '.'}"
        for e in found[:3]
    ]
    return " ".join(p if p.endswith((".", "!")) else p + "." for p in parts)
