"""The pages: each a function from (actor, query) to a Page. Overview, clusters and machines have modules of their own."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from fleet.api.audit import verify
from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, storage_for
from fleet.console import queries, records
from fleet.console.batch_pages import batch, batches
from fleet.console.cluster_pages import cluster, clusters, nodes
from fleet.console.event_pages import events
from fleet.console.fault_pages import fault, faults, rule, rules
from fleet.console.gate_rules import gate_rule, gate_rules
from fleet.console.letter_pages import dead_letters, readers
from fleet.console.machine_list import machines
from fleet.console.machine_page import machine
from fleet.console.overview import overview
from fleet.console.page import NotAllowed, Page
from fleet.console.policies import policy
from fleet.console.remediation_pages import playbook, playbooks, remediation, remediations
from fleet.console.safety_page import safety
from machines.schema import package_version

__all__ = [
    "audit", "batch", "batches", "cluster", "clusters", "dead_letters", "events", "fault", "faults", "gate_rule", "gate_rules", "machine", "machines", "nodes", "overview", "packages", "playbook", "playbooks", "policy", "readers",
    "remediation", "remediations", "rule", "rules", "safety",
]  # fmt: skip


def packages(actor: Actor, query: QueryDict) -> Page:
    """Package versions and on how many machines each was seen."""
    page = storage_for("machinepackageversions").page(ListQuery(limit=500))
    used, counted_at = queries.versions_seen()
    found: dict[str, list[dict[str, Any]]] = {}
    for obj in page.objects:
        name, version = obj["spec"]["packageName"], package_version(obj)
        found.setdefault(name, []).append({"obj": obj, "version": version, "n": used.get((name, version), 0)})
    shown = []
    for name, versions in sorted(found.items()):
        most = max((v["n"] for v in versions), default=0) or 1
        for v in versions:
            v["width"] = round(v["n"] / most * 200)
        shown.append({"name": name, "versions": versions, "total": sum(v["n"] for v in versions)})
    context = {"packages": shown, "counted_at": counted_at}
    return Page("console/packages.html", "Packages", context, (), frozenset(), "packages")


def _before(query: QueryDict) -> int:
    text = query.get("before", "0")
    return int(text) if text.isdigit() and len(text) < 19 else 0


def audit(actor: Actor, query: QueryDict) -> Page:
    """Who wrote what; the chain verified on request."""
    if ("admin", "") not in actor.bindings and ("approver", "") not in actor.bindings:
        raise NotAllowed(
            f"{actor.name} may not read the audit trail. It takes the role approver or admin of the whole fleet."
        )
    shown = records.audit(_before(query))
    context = {
        "rows": shown,
        "more": urlencode({"before": shown[-1]["pos"]}) if len(shown) == 100 else "",
        "verdict": verify() if query.get("verify") else None,
    }
    return Page("console/audit.html", "Audit", context, (), frozenset(), "audit")
