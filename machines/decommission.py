"""Taking a machine out of service: drain, uninstall what Fleet installed, take Fleet's marker away, gone. Pure."""

from __future__ import annotations

from typing import Final

from machines.accepting import Chosen
from machines.plan import Plan, decommission
from machines.rows import Row

DECOMMISSION: Final = "Decommission"
FINALIZER: Final = "fleet.dev/machine"
ABANDON: Final = "fleet.dev/abandon"


def decommission_plan(row: Row, chosen: Chosen) -> Plan:
    """Packages that Fleet installed, those that require others first; files that Fleet wrote; the marker last."""
    order = [p["name"] for p in (chosen.body or {}).get("packages", [])]
    known = {r.package for r in row.inventory}
    packages = [p for p in reversed(order) if p in known] + sorted(known - set(order))
    files = {f["path"] for f in (chosen.body or {}).get("files", [])} | set(chosen.layers.get("stale", {}))
    return decommission(packages, sorted(files), chosen.body or {}, is_node=row.node is not None)


def abandoned(row: Row) -> bool:
    """An approver gave the host up: nothing more is done to it."""
    return row.annotations.get(ABANDON) == row.name


def untouched(row: Row) -> bool:
    """Fleet never reached the host and has nothing there: it goes without another word."""
    return not row.inventory and not row.last_facts and row.operation is None
