"""Phase and counts of clusters, set-based: one read of the counters, one write of what moved."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping

from django.db import connection
from django_fsm import TransitionNotAllowed

from clusters.models import Cluster
from clusters.schema_cluster import OPERATED, provider_of
from clusters.status import Part, write_parts
from fleet.api.storage import storage_for
from fleet.control.conditions import Condition

log = logging.getLogger("fleet.clusters")

# The counters are named in SQL: their app lies above this one.
_TOTALS = """SELECT cluster_id, phase, sum(n)::bigint FROM (SELECT cluster_id, phase, n FROM count_total UNION ALL SELECT cluster_id, phase, n FROM count_delta) t
  WHERE cluster_id <> 0 GROUP BY 1, 2 HAVING sum(n) > 0"""


def phase_of(phases: Mapping[str, int], deleting: bool) -> str:
    """A cluster's phase from its machines' phases."""
    if deleting:
        return "Deleting"
    if not phases:
        return "Pending"
    if any(phases.get(p) for p in ("Failed", "Repairing")):
        return "Degraded"
    if any(phases.get(p) for p in ("Pending", "Provisioning")):
        return "Provisioning"
    return "Running"


def part_of(phases: Mapping[str, int], generation: int, deleting: bool, paused: bool) -> Part:
    """Everything that the Cluster-Operator says of a cluster without a control plane."""
    phase, total = phase_of(phases, deleting), sum(phases.values())
    calm = sum(phases.get(p, 0) for p in ("Running", "Updating"))
    shown = ", ".join(f"{n} {p}" for p, n in sorted(phases.items())) or "no machines"
    ready = phase in ("Running", "Pending")
    conditions = (
        Condition("Ready", "True" if ready else "False", phase, f"{calm} of {total} machines are in order: {shown}."),
        Condition("Held", "True" if paused else "False", "Paused" if paused else "NotHeld", "spec.paused keeps Fleet's hands off its machines." if paused else ""),
    )  # fmt: skip
    fields = {
        "phase": phase,
        "observedGeneration": generation,
        "machines": total,
        "phases": dict(sorted(phases.items())),
    }
    return Part(fields, conditions)


def counts_of(phases: Mapping[str, int]) -> Part:
    """Of a cluster with a control plane the counts only: its operator says the rest."""
    return Part({"machines": sum(phases.values()), "phases": dict(sorted(phases.items()))})


def reconcile() -> list[int]:
    """All clusters; ids of those whose status moved."""
    counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(_TOTALS)
        for cluster, phase, number in cursor.fetchall():
            counts[cluster][phase] = int(number)
    parts = {
        row.pk: counts_of(counts.get(row.pk, {}))
        if provider_of(row.spec) in OPERATED
        else part_of(counts.get(row.pk, {}), row.generation, row.deleted_at is not None, bool(row.spec.get("paused")))
        for row in Cluster.objects.only("id", "generation", "deleted_at", "spec")
    }
    return write_parts(storage_for("clusters"), parts, columns=phase_column) if parts else []


def phase_column(row: Cluster) -> dict[str, str]:
    """The phase beside the status, moved along the declared transitions; an illegal one is a bug that is logged, and the phase stays."""
    wanted = row.status.get("phase", row.phase)
    if row.phase == wanted:
        return {}
    try:
        row.move_to(wanted)
    except TransitionNotAllowed:
        log.exception("the phase of cluster %s cannot go from %s to %s", row.name, row.phase, wanted)
    return {"phase": row.phase}
