"""What one Condition ConfigMap says, and what of it is refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fleet.control.conditions import Condition
from machines.reporters import MAP_BYTES, Declared, Refused, Reporter, read_entry
from machines.watch.seen import ConditionMap

Entries = dict[str, tuple[Condition, ...]]
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something was refused: one word, and sentences for people."""

    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"


@dataclass(slots=True)
class Held:
    """A ConfigMap as it was taken last. `entries`: by node, each the last good one; `doubled`: good by themselves, but another map was first."""

    under: Declared
    rv: str
    reporter: str = ""
    entries: Entries = field(default_factory=dict)
    doubled: Entries = field(default_factory=dict)
    prints: dict[str, int] = field(default_factory=dict)  # of values that were read, good or bad
    refused: dict[str, Refused] = field(default_factory=dict)  # by node; "" = the whole map
    problem: Problem | None = None


def reporter_of(found: ConditionMap, declared: Declared) -> Reporter:
    """Whose the map is, if it may be read at all."""
    reporter = declared.reporters.get(found.reporter)
    if not found.reporter:
        raise Refused("NoReporter", "it does not say whose it is: annotate it with fleet.dev/reporter")
    if reporter is None:
        raise Refused("UnknownReporter", f"{found.reporter[:60]} is no reporter of this cluster")
    if found.namespace not in declared.namespaces or reporter.namespace != found.namespace:
        raise Refused("WrongNamespace", f"the reporter {reporter.name} reports in {reporter.namespace or 'no namespace'}, not here")  # fmt: skip
    if not found.data:
        raise Refused("Empty", "it names no node")
    size = sum(len(k.encode()) + len(v.encode()) for k, v in found.data.items())
    if size > MAP_BYTES:
        raise Refused("TooLarge", f"it has {size} bytes; a ConfigMap holds {MAP_BYTES}")
    return reporter


def read(found: ConditionMap, declared: Declared, old: Held | None) -> Held:
    """The map as it is now. What is refused keeps its last good entry; a value that did not change is not read again."""
    before = old if old is not None else Held(declared, "")
    try:
        reporter = reporter_of(found, declared)
    except Refused as refused:
        return Held(declared, found.rv, before.reporter, before.entries, before.doubled, {}, {"": refused})
    now = Held(declared, found.rv, reporter.name)
    mine = before.reporter == reporter.name  # what it said for another reporter is nobody's last good word
    same = mine and before.under is declared
    for node, text in found.data.items():
        now.prints[node] = print_ = hash(text)
        if same and before.prints.get(node) == print_:
            _carry(now, before, node)
            continue
        try:
            now.entries[node] = read_entry(text, reporter)
        except Refused as refused:
            now.refused[node] = refused
            if mine and node in before.entries:
                now.entries[node] = before.entries[node]
    return now


def _carry(now: Held, before: Held, node: str) -> None:
    for part in ("entries", "doubled", "refused"):
        old: dict[str, object] = getattr(before, part)
        if node in old:
            getattr(now, part)[node] = old[node]


def problem_of(held: Held) -> Problem | None:
    """All that is refused of a map in one word and a few sentences, in order of node, so that it is the same at each receipt."""
    if not held.refused:
        return None
    nodes = sorted(held.refused)
    first = held.refused[nodes[0]]
    told = [f"{node}: {held.refused[node]}" if node else str(held.refused[node]) for node in nodes[:_SHOWN]]
    more = f"; and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return Problem(first.reason, ("; ".join(told) + more).replace("\x00", ""))  # names are what others write


def summary(problems: Mapping[str, Problem]) -> Condition:
    """`ReportersHealthy` of the Cluster: the first problems by name."""
    if not problems:
        return Condition("ReportersHealthy", "True", "AllTaken", "Everything that reporters say is taken.")
    names = sorted(problems)
    told = " ".join(f"{name}: {problems[name].text}." for name in names[:_SHOWN])
    more = f" And {len(names) - _SHOWN} more." if len(names) > _SHOWN else ""
    return Condition("ReportersHealthy", "False", problems[names[0]].reason, (told + more)[:1_000])
