"""Which ReadinessRules cover a machine. Pure: the rules come from the catalog, the gates are evaluated elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from machines.gates import CONTINUOUS, REQUIRE_TRUE

# Conditions that follow from gates, permits and orders: as gates they would wait for themselves.
NOT_GATES: Final[Mapping[str, str]] = {
    "Ready": "it follows from the gates themselves",
    "Reconciling": "it follows from the gates themselves",
    "Schedulable": "it follows from the gates themselves",
    "GatesHold": "it follows from the gates themselves",
    "Stalled": "it follows from the gates themselves",
    "Held": "a hold keeps Fleet's hands off; it says nothing about the machine",
    "ChangeAllowed": "it tells of the last permit, which opening does not need",
    "RemovalHeld": "it waits for a person, not for the machine",
    "Decommissioned": "it tells of the machine's end",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One ReadinessRule. Exactly one of `clusters`, `labels` and `match_all` says what it covers; none covers nothing."""

    name: str
    type: str
    polarity: str = REQUIRE_TRUE
    mode: str = CONTINUOUS
    ttl_seconds: int | None = None
    dry_run: bool = False
    clusters: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    match_all: bool = False

    def covers(self, cluster: str, labels: Mapping[str, str]) -> bool:
        """Whether a machine of that cluster ("" = of none) with these labels is meant."""
        if self.match_all:
            return True
        if self.clusters:
            return cluster in self.clusters
        return bool(self.labels) and all(labels.get(key) == value for key, value in self.labels)


def rule_of(name: str, spec: Mapping[str, Any]) -> Rule:
    """The rule that a stored spec says."""
    target = spec.get("target") or {}
    labels = (target.get("selector") or {}).get("matchLabels") or {}
    return Rule(
        name=name, type=str(spec.get("conditionType", "")), polarity=spec.get("polarity", REQUIRE_TRUE), mode=spec.get("mode", CONTINUOUS),
        ttl_seconds=spec.get("ttlSeconds"), dry_run=bool(spec.get("dryRun")), clusters=frozenset(target.get("clusters") or ()),
        labels=tuple(sorted(labels.items())), match_all=target.get("matchAll") is True,
    )  # fmt: skip


def matching(rules: Sequence[Rule], cluster: str, labels: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules that cover a machine, in order of name."""
    return tuple(sorted((r for r in rules if r.covers(cluster, labels)), key=lambda r: r.name))
