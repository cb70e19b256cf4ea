"""Machines that carry what others hang on: Fleet itself, or control planes of other clusters. Pure."""

from __future__ import annotations

from typing import Final

from fleet.control.conditions import is_true
from machines.analyze import RANK
from machines.catalog import Catalog
from machines.hosts import Disruption
from machines.rows import Row

CARRIES_FLEET: Final = "fleet.dev/carries-fleet"  # label of machines that people alone disturb


def brake(row: Row, disruption: Disruption, known: Catalog) -> tuple[str, str]:
    """(reason, sentence) why nobody but a person may begin to disturb the machine now, or nothing.

    A machine whose own node is not Ready disturbs no one any more: its repair may be what the others wait for.
    """
    if RANK[disruption] >= RANK["Restart"] and row.labels.get(CARRIES_FLEET) == "true":
        return "CarriesFleet", f"The machine carries Fleet itself (label {CARRIES_FLEET}): people alone disturb it."
    if RANK[disruption] < RANK["Drain"] or not is_true(row.conditions, "NodeReady"):
        return "", ""
    mine = known.clusters.get(row.cluster_id)
    waiting = sorted(
        c.name for c in known.clusters.values() if mine is not None and c.carried_by == mine.name and not c.ready
    )
    if not waiting:
        return "", ""
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    text = f"Cluster {waiting[0]}{more} has its control plane on nodes of {mine.name if mine else ''} and is not ready, or lacks a replica: none of them is disturbed."
    return "CarriedPlaneNotReady", text
