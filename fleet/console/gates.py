"""Readiness gates as pages show them: of a cluster with how many nodes each holds, of a machine with what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.console.words import Part, closed, count
from fleet.control.kinds import Json

_MODES: Final = {
    "Continuous": "also closes an open node",
    "BootstrapOnly": "counts until the node opens",
    "WhileClosed": "counts whenever the node is to open",
}
# state of a node's scheduling: (tone, word)
SCHEDULING: Final = {
    "Open": ("ok", "Open for pods"),
    "Joining": ("busy", "Joins the cluster"),
    "Closed": ("warn", "Closed by Fleet"),
    "CordonedByPerson": ("held", "Cordoned by a person"),
    "NotANode": ("off", "No node"),
}


@dataclass(frozen=True, slots=True)
class ClusterGate:
    """One gate of a cluster."""

    type: str
    rule: str
    source: str
    held: int
    released: int
    unknown: int
    dry_run: bool

    @property
    def href(self) -> str:
        """The page of the rule that it comes from, "" = it comes from the cluster itself."""
        return rule_address(self.source)

    @property
    def parts(self) -> list[Part]:
        """Its bar."""
        found = (("s-open", "released", self.released), ("s-closed", "held", self.held), ("s-unknown", "no news", self.unknown))  # fmt: skip
        return [Part(swatch, word, n, "") for swatch, word, n in found if n]


@dataclass(frozen=True, slots=True)
class MachineGate:
    """One gate of a machine. `answer`: holds, no, unknown, as of a rung."""

    type: str
    rule: str
    answer: str
    said: str
    owner: str
    since: str
    dry_run: bool = False  # it only counts: nothing waits for it
    source: str = ""

    @property
    def href(self) -> str:
        """The page of the rule that it comes from, "" = it is the cluster's or the machine's own."""
        return rule_address(self.source)


def rule_address(source: str) -> str:
    """`ReadinessRule gpu` as the address of its page."""
    kind, _, name = source.partition(" ")
    return f"/gates/{name}" if kind == "ReadinessRule" and name else ""


@dataclass(frozen=True, slots=True)
class Waits:
    """What a machine's node waits for. `tone` and `word`: how its scheduling stands, "" = not told."""

    gates: Sequence[MachineGate]
    sentence: str
    tone: str = ""
    word: str = ""
    message: str = ""
    since: str = ""


def of_cluster(obj: Json) -> list[ClusterGate]:
    """Those that hold the most first."""
    found = [
        ClusterGate(
            g.get("conditionType", ""), _rule(g), g.get("source", ""), g.get("held", 0), g.get("released", 0), g.get("unknown", 0),
            bool(g.get("dryRun")),
        )
        for g in obj.get("status", {}).get("gates", [])
    ]  # fmt: skip
    return sorted(found, key=lambda g: (-g.held, -g.unknown, g.type))


def _rule(gate: Json) -> str:
    wants = "False" if gate.get("polarity") == "ForbidTrue" else "True"
    return f"must be {wants}, {_MODES.get(gate.get('mode', 'Continuous'), _MODES['Continuous'])}"


_ANSWERS: Final = {"True": "holds", "False": "no"}


def of_machine(obj: Json) -> Waits | None:
    """None where nothing is known of gates and scheduling. What does not hold comes first, the longest first."""
    status = obj.get("status", {})
    given, scheduling = status.get("readinessGates", []), status.get("scheduling", {})
    if not given and not scheduling:
        return None
    gates = [
        MachineGate(
            g.get("conditionType", ""), _rule(g), _ANSWERS.get(g.get("status", ""), "unknown"),
            closed(g.get("message") or g.get("reason", "")), g.get("owner") or g.get("source", ""), g.get("since", ""), bool(g.get("dryRun")), g.get("source", ""),
        )
        for g in given
    ]  # fmt: skip
    order = ("no", "unknown", "holds")
    gates.sort(key=lambda g: (g.dry_run, order.index(g.answer), g.since, g.type))
    tone, word = SCHEDULING.get(scheduling.get("state", ""), ("unknown", scheduling.get("state", "")))
    return Waits(
        gates,
        _sentence(gates, scheduling.get("state") == "Open"),
        tone if word else "",
        word,
        closed(scheduling.get("message") or ""),
        scheduling.get("since", ""),
    )


def _sentence(gates: Sequence[MachineGate], is_open: bool) -> str:
    dry = sum(g.dry_run for g in gates)
    count_only = f" {count(dry, 'more gate')} only {'counts' if dry == 1 else 'count'}." if dry else ""
    asked = [g for g in gates if not g.dry_run]
    waiting = [g for g in asked if g.answer != "holds"]
    if not asked:
        return f"No gate is asked.{count_only}" if gates else "No gate is declared for it."
    if not waiting:
        return f"{'Every one of ' if len(asked) > 1 else ''}{count(len(asked), 'gate')} holds.{count_only}"
    n = f"{len(waiting)} of {count(len(asked), 'gate')}"
    said = f"{n} {'does' if len(waiting) == 1 else 'do'} not hold now." if is_open else f"Waits for {n}."
    return said + count_only
