"""Who may report which conditions of a cluster's machines, and how a report is read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from clusters.schema_gates import daemon_set_type
from fleet.control.conditions import Condition, Status
from fleet.control.kinds import Json

MAP_BYTES: Final = 1 << 20  # of one ConfigMap, keys and values
MOST_CONDITIONS: Final = 40  # of one node in one report
MESSAGE: Final = 400
DEFAULT_REASON: Final = "Reported"
_TYPE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9./_-]{0,126}[A-Za-z0-9])?")
_REASON: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_,:-]{0,126}[A-Za-z0-9_])?")
_STATUSES: Final[Mapping[str, Status]] = {"True": "True", "False": "False", "Unknown": "Unknown"}

Pods = tuple[str, str]  # namespace and name of a DaemonSet


class Refused(Exception):
    """A report that is not taken. `reason` is one CamelCase word, the text a sentence about what is wrong."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reporter:
    """One of a Cluster's `spec.reporters`."""

    name: str
    types: frozenset[str]
    namespace: str = ""
    daemon_set: str = ""
    user: str = ""
    ttl_seconds: int | None = None

    @property
    def pods(self) -> Pods | None:
        """The DaemonSet that it lives in."""
        return (self.namespace, self.daemon_set) if self.daemon_set else None


@dataclass(frozen=True, slots=True)
class Declared:
    """What a Cluster says of conditions. `aged`: types for which a rule sets a ttl, so that each receipt counts."""

    namespaces: tuple[str, ...] = ()
    reporters: Mapping[str, Reporter] = field(default_factory=dict)
    gates: Mapping[str, Pods] = field(default_factory=dict)  # DaemonSets by condition type
    aged: frozenset[str] = frozenset()
    owners: Mapping[str, Reporter] = field(default_factory=dict)  # by condition type

    def by_user(self, user: str) -> Reporter | None:
        """Who that user is: one reporter with the types of all that name the user."""
        mine = [r for r in self.reporters.values() if user and r.user == user]
        return replace(mine[0], types=frozenset(t for r in mine for t in r.types)) if mine else None

    def daemon_sets(self) -> frozenset[Pods]:
        """DaemonSets whose pods are of interest."""
        return frozenset(self.gates.values()) | {r.pods for r in self.reporters.values() if r.pods is not None}

    def types(self) -> frozenset[str]:
        """Types that nodes cannot report themselves."""
        return frozenset(self.owners) | frozenset(self.gates)


def declared(spec: Json, aged: Sequence[str] = ()) -> Declared:
    """What the stored spec of a Cluster says."""
    reporters = {
        r["name"]: Reporter(
            r["name"], frozenset(r["conditionTypes"]), r.get("namespace", ""), r.get("daemonSet", ""), r.get("user", ""), r.get("ttlSeconds"),
        )
        for r in spec.get("reporters") or ()
    }  # fmt: skip
    gates = {
        daemon_set_type(g["namespace"], g["name"]): (g["namespace"], g["name"])
        for g in spec.get("daemonSetGates") or ()
    }
    owners = {t: r for r in reporters.values() for t in r.types}
    return Declared(tuple(spec.get("conditionNamespaces") or ()), reporters, gates, frozenset(aged), owners)


def voices(reporters: Sequence[Json]) -> dict[str, str]:
    """Condition type to the reporter that speaks for it, as `spec.reporters` declares them.

    One that speaks under several names is one voice, that of its first name: two of a kind are independent only if one program,
    or one user, cannot say both. Who may write ConfigMaps in a namespace can speak for all that name no DaemonSet there.
    """
    first: dict[tuple[str, str, str], str] = {}
    out: dict[str, str] = {}
    for each in reporters:
        user = each.get("user", "")
        who = (user, "", "") if user else ("", each.get("namespace", ""), each.get("daemonSet", ""))
        name = first.setdefault(who, each["name"])
        out.update(dict.fromkeys(each["conditionTypes"], name))
    return out


def read_entry(text: str, reporter: Reporter) -> tuple[Condition, ...]:
    """The conditions in one value of a ConfigMap: `{"conditions": [...]}` or the list alone."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Refused("Malformed", "it is not JSON") from None
    return read_conditions(found.get("conditions") if isinstance(found, dict) else found, reporter)


def read_conditions(found: Any, reporter: Reporter) -> tuple[Condition, ...]:
    """The conditions of one machine, all of them or none: each of a type of the reporter, each once."""
    if not isinstance(found, list):
        raise Refused("Malformed", "it has no list of conditions")
    if not found:
        raise Refused("Empty", "its list of conditions is empty")
    if len(found) > MOST_CONDITIONS:
        raise Refused("TooMany", f"it has more than {MOST_CONDITIONS} conditions")
    read = [_condition(each, reporter) for each in found]
    once = {c.type for c in read}
    if len(once) < len(read):
        raise Refused("Doubled", "it has a condition twice")
    return tuple(sorted(read, key=lambda c: c.type))


def _condition(found: Any, reporter: Reporter) -> Condition:
    if not isinstance(found, dict):
        raise Refused("Malformed", "a condition is no object")
    fields = [found.get(name, "") for name in ("type", "status", "reason", "message")]
    if not all(isinstance(value, str) for value in fields):
        raise Refused("Malformed", "type, status, reason and message of a condition are text")
    type_, status, reason, message = fields
    if _TYPE.fullmatch(type_) is None:
        raise Refused("BadType", f"{_short(type_)} is no condition type")
    if type_ not in reporter.types:
        raise Refused("NotDeclared", f"{type_} is not declared for the reporter {reporter.name}")
    if status not in _STATUSES:
        raise Refused("BadStatus", f"{type_} has the status {_short(status)}; it is True, False or Unknown")
    if reason and _REASON.fullmatch(reason) is None:
        raise Refused("BadReason", f"{type_} has the reason {_short(reason)}; it is one CamelCase word")
    return Condition(type_, _STATUSES[status], reason or DEFAULT_REASON, message[:MESSAGE].replace("\x00", ""))


def _short(text: str) -> str:
    return f'"{text[:60]}"'.replace("\x00", "")
