"""Nodes of a cluster as the watcher saw them: what they report, which nobody declared, which a person cordoned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleet.console.queries import rows
from fleet.console.words import Part
from fleet.control.kinds import Json

FIRST: Final = 20  # of a kind of nodes that the page of a cluster lists
PAGE: Final = 100
WHICH: Final = {"undeclared": "Undeclared", "cordoned": "Cordoned by a person"}
_IS: Final = {"undeclared": "machine_id IS NULL", "cordoned": "unschedulable AND closed_by = ''"}

# What kubelets report, and whether True is the good news.
_GOOD: Final = {"NodeReady": True} | dict.fromkeys(
    ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"), False
)

# By the index of the cluster's nodes, then one look-up a machine: the planner must not read the fleet's states for one cluster.
_REPORTED: Final = """
WITH v AS MATERIALIZED (
  SELECT (u.packed >> 32)::int AS id, count(*) AS n FROM node d
  CROSS JOIN LATERAL (SELECT k_cond, x_cond FROM machine_state WHERE id = d.machine_id OFFSET 0) s
  CROSS JOIN LATERAL unnest(s.k_cond || s.x_cond) AS u(packed) WHERE d.cluster_id = %s GROUP BY 1)
SELECT k.type, k.status, sum(v.n)::bigint AS n FROM v JOIN condition_kind k ON k.id = v.id GROUP BY 1, 2 ORDER BY 1
"""
_LISTED: Final = """
SELECT '{which}' AS which, count(*) OVER () AS total, q.name, q.address, q.kubelet, q.created_at, q.machine_id
FROM (SELECT name, internal_ip AS address, kubelet_version AS kubelet, created_at, machine_id FROM node WHERE cluster_id = %s AND {what}) q ORDER BY q.name LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Reported:
    """One condition type over the declared nodes of a cluster. `unknown` counts also those that do not report it.

    `good`: whether True (or False) is the good news; None where nobody said so.
    """

    type: str
    true: int
    false: int
    unknown: int
    good: bool | None = None

    @property
    def ill(self) -> int:
        """Nodes of which it is known to be bad news."""
        return 0 if self.good is None else self.false if self.good else self.true

    @property
    def parts(self) -> list[Part]:
        """Its bar; colour only where it is known what is good."""
        swatches = {None: ("s-true", "s-false"), True: ("s-open", "s-repair"), False: ("s-repair", "s-open")}[self.good]
        found = [(swatches[0], "True", self.true), (swatches[1], "False", self.false)]
        found = found[::-1] if self.good is False else found
        return [Part(swatch, word, n, "") for swatch, word, n in (*found, ("s-unknown", "no news", self.unknown)) if n]


@dataclass(frozen=True, slots=True)
class NodesView:
    """`counts`: total, ready, open, unknown, undeclared, as the watcher counted them."""

    counts: Json
    reported: Sequence[Reported]
    undeclared: Sequence[Json]
    cordoned: Sequence[Json]

    @property
    def more(self) -> dict[str, int]:
        """How many of a list are not shown here."""
        lists = {"undeclared": self.undeclared, "cordoned": self.cordoned}
        return {which: found[0]["total"] - len(found) if found else 0 for which, found in lists.items()}


def view(obj: Json, cluster_id: int) -> NodesView | None:
    """None while no node was seen."""
    counts = obj.get("status", {}).get("nodes", {})
    if not counts.get("total"):
        return None
    listed = _first(cluster_id)
    declared = counts["total"] - counts.get("undeclared", 0)
    shown = reported(cluster_id, declared, _GOOD | _of_gates(obj))
    return NodesView(counts, shown, *([r for r in listed if r["which"] == which] for which in WHICH))


def _of_gates(obj: Json) -> dict[str, bool]:
    """What is good news by the gates of the cluster."""
    given = [*obj["spec"].get("readinessGates", []), *obj.get("status", {}).get("gates", [])]
    return {g.get("conditionType", ""): g.get("polarity") != "ForbidTrue" for g in given}


def reported(cluster_id: int, declared: int, good: Mapping[str, bool]) -> list[Reported]:
    """Types that nodes and reporters report, those first of which the most nodes are not well."""
    found: dict[str, dict[str, int]] = {}
    for row in rows(_REPORTED, [cluster_id]):
        found.setdefault(row["type"], {})[row["status"]] = row["n"]
    out = [_reported(type_, by_status, declared, good.get(type_)) for type_, by_status in found.items()]
    return sorted(out, key=lambda r: (-r.ill, r.type != "NodeReady", -r.unknown, r.type))


def _reported(type_: str, by_status: dict[str, int], declared: int, good: bool | None) -> Reported:
    true, false = by_status.get("True", 0), by_status.get("False", 0)
    return Reported(type_, true, false, max(by_status.get("Unknown", 0), declared - true - false), good)


def _first(cluster_id: int) -> list[dict[str, Any]]:
    lists = (f"({_LISTED.format(which=which, what=_IS[which])})" for which in WHICH)
    return rows(" UNION ALL ".join(lists), [cluster_id, FIRST] * len(WHICH))


def listed(cluster_id: int, which: str, after: str) -> list[dict[str, Any]]:
    """A page of nodes of a kind by name, and one more where there is a next page; with the machine of each."""
    return rows(
        f"""SELECT n.*, coalesce(m.name, '') AS machine FROM (SELECT name, internal_ip AS address, kubelet_version AS kubelet, created_at, machine_id, provider_id AS provider
        FROM node WHERE cluster_id = %s AND {_IS[which]} AND name > %s ORDER BY name LIMIT %s) n LEFT JOIN machine m ON m.id = n.machine_id ORDER BY n.name""",
        [cluster_id, after, PAGE + 1],
    )
