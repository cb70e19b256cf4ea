"""A FaultRule in the form that detection works with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fleet.control.kinds import Json
from recovery.types import SEVERITIES, TYPES

ACTIVE: Final = "Active"
SHADOW: Final = "Shadow"
DISABLED: Final = "Disabled"
HOLD_SECONDS: Final = 30
CLEAR_SECONDS: Final = 30
EVENT: Final = "event:"  # before the type of an event, where evidence says what it is


@dataclass(frozen=True, slots=True)
class Match:
    """One thing that speaks for a fault: a condition with a status, or an event by the beginning of its type."""

    type: str
    statuses: frozenset[str] = frozenset({"True"})
    reasons: frozenset[str] = frozenset()
    is_event: bool = False
    keep_seconds: int = 0  # of an event: how long it speaks; 0 = until another says that it is over

    def says(self, type_: str, status: str, reason: str) -> bool:
        """Whether evidence of that type, status and reason is meant."""
        if self.is_event != type_.startswith(EVENT):
            return False
        if self.is_event:
            named = type_[len(EVENT) :]
            return named.startswith(self.type) and (not self.reasons or reason in self.reasons)
        return type_ == self.type and status in self.statuses and (not self.reasons or reason in self.reasons)


@dataclass(frozen=True, slots=True)
class Rule:
    """When what is seen counts as which fault. `sources`: how many independent ones must say so."""

    name: str
    fault_type: str
    category: str
    severity: int
    when: tuple[Match, ...]
    also: tuple[Match, ...] = ()  # speaks for the fault too, and does not make one by itself
    unless: tuple[Match, ...] = ()
    hold_seconds: int = HOLD_SECONDS
    clear_seconds: int = CLEAR_SECONDS
    sources: int = 1
    flaps: tuple[int, int] = (0, 0)  # (how often it may begin, within how many seconds); 0 = never counted
    playbook: str = ""
    shadow: bool = False
    match_all: bool = False
    clusters: frozenset[str] = frozenset()
    labels: Mapping[str, str] | None = None

    def covers(self, cluster: str, labels: Mapping[str, str]) -> bool:
        """Whether it is about a machine of that cluster with those labels."""
        if self.match_all:
            return True
        if self.clusters:
            return cluster in self.clusters
        return bool(self.labels) and all(labels.get(k) == v for k, v in (self.labels or {}).items())


def rule_of(name: str, spec: Json) -> Rule | None:
    """From an object's spec; None when it is switched off."""
    mode = spec.get("mode", SHADOW)
    if mode == DISABLED:
        return None
    known = TYPES.get(spec["faultType"])
    target, flaps = spec.get("target", {}), spec.get("flaps", {})
    severity = spec.get("severity")
    return Rule(
        name=name, fault_type=spec["faultType"], category=spec.get("category") or (known.category if known else "Component"),
        severity=SEVERITIES.index(severity) if severity else (known.severity if known else 1),
        when=tuple(match_of(m) for m in spec["when"]), also=tuple(match_of(m) for m in spec.get("also", ())),
        unless=tuple(match_of(m) for m in spec.get("unless", ())),
        hold_seconds=spec.get("holdSeconds", HOLD_SECONDS), clear_seconds=spec.get("clearSeconds", CLEAR_SECONDS),
        sources=spec.get("sources", 1), flaps=(flaps.get("count", 0), flaps.get("withinSeconds", 0)),
        playbook=spec.get("playbook") or (known.playbook if known else ""), shadow=mode == SHADOW,
        match_all=bool(target.get("matchAll")), clusters=frozenset(target.get("clusters", ())),
        labels=target.get("selector", {}).get("matchLabels"),
    )  # fmt: skip


def match_of(spec: Json) -> Match:
    """One entry of `when` or `unless`."""
    reasons = frozenset(spec.get("reasons", ()))
    if "event" in spec:
        return Match(spec["event"], frozenset({"True"}), reasons, True, spec.get("keepSeconds", 0))
    return Match(spec["condition"], frozenset([spec.get("status", "True")]), reasons)


def event_matches(rules: Iterable[Rule]) -> tuple[Match, ...]:
    """Matches of events of all of them."""
    return tuple({m for rule in rules for m in (*rule.when, *rule.also) if m.is_event})
