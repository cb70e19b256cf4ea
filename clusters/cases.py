"""What a pass of the Cluster-Operator reads and writes of one cluster: its row, the versions that it names, its holds, its progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from clusters.lifecycle import Progress, Step
from clusters.models import Cluster, ClusterPackageVersion
from clusters.reconcile import phase_column
from clusters.status import Part, write_parts
from fleet.api.storage import storage_for
from fleet.control import clock
from fleet.control.errors import TemporaryError
from fleet.control.kinds import CLUSTER, Json
from fleet.control.times import format_time, parse_time
from fleet.control.work import Claim
from fleet.safety.models import Hold

FINALIZER: Final = "fleet.dev/control-plane"


class LeaseLost(Exception):
    """Another worker has the cluster now: nothing more may be written or begun."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cluster in a pass. `uid` is that of its control plane: of the deleted cluster when it was restored from one.

    `guarded`: its object waits for
    the control plane to be stopped. `held`: why nothing new may start, "" = nothing holds it. `versions`: specs of the ClusterPackageVersions that it names.
    """

    id: int
    name: str
    uid: str
    generation: int
    spec: Json
    status: Json
    annotations: Mapping[str, str]
    deleted: bool
    guarded: bool
    held: str
    versions: Mapping[str, Json]
    known: tuple[tuple[str, str], ...]

    def condition(self, type_: str) -> Json:
        """A condition as it was stored; {} = it is missing."""
        return next((c for c in self.status.get("conditions", []) if c["type"] == type_), {})


def load(ids: Iterable[int]) -> list[Case]:
    """Cases by row id, those whose cluster is still there."""
    rows = list(Cluster.objects.filter(pk__in=list(ids)).order_by("pk"))
    known = list(ClusterPackageVersion.objects.values_list("name", "kubernetes_version"))
    named = {n for row in rows for n in _named(row)}
    specs = dict(ClusterPackageVersion.objects.filter(name__in=named).values_list("name", "spec"))
    holds = _holds()
    return [
        Case(
            row.pk, row.name, str(row.spec.get("restoreFrom") or row.uid), row.generation, row.spec, row.status, row.annotations, row.deleted_at is not None,
            FINALIZER in row.finalizers, _held(row, holds), {n: specs[n] for n in _named(row) if n in specs}, tuple(known),
        )
        for row in rows
    ]  # fmt: skip


def _named(row: Cluster) -> set[str]:
    names = {row.spec.get("packageVersion"), row.status.get("packageVersion")}
    return {str(n) for n in (*names, *row.status.get("componentVersions", {}).values()) if n}


def _holds() -> list[tuple[str, Json]]:
    """Holds that may cover a cluster, those that run."""
    now = clock.now()
    found = Hold.objects.filter(deleted_at=None, spec__target__has_any_keys=["cluster", "matchAll"])
    return [(h.name, h.spec) for h in found if (until := parse_time(h.spec["until"])) is not None and until > now]


def _held(row: Cluster, holds: Iterable[tuple[str, Json]]) -> str:
    if row.spec.get("paused"):
        return "spec.paused keeps Fleet's hands off"
    for name, spec in holds:
        target = spec["target"]
        if target.get("matchAll") or target.get("cluster") == row.name:
            return f"Hold {name}: {spec['reason']}"
    return ""


def progress_of(status: Json) -> Progress:
    """The progress that a status keeps."""
    return Progress(
        versions=status.get("componentVersions", {}),
        reached=status.get("packageVersion", ""),
        emulated=status.get("emulatedVersion", ""),
        soak_until=_time(status.get("soakUntil")),
        steps=tuple(_step(s) for s in status.get("steps", [])),
        stopped=status.get("stopped", {}),
        snapshot_for=status.get("snapshotFor", ""),
    )


def fields_of(progress: Progress) -> Json:
    """The other way round; what is empty is taken away."""
    whole: Json = {
        "componentVersions": dict(progress.versions),
        "packageVersion": progress.reached,
        "emulatedVersion": progress.emulated,
        "soakUntil": format_time(progress.soak_until) if progress.soak_until else None,
        "steps": [s.json() for s in progress.steps],
        "stopped": dict(progress.stopped),
        "snapshotFor": progress.snapshot_for,
    }
    return {k: v or None for k, v in whole.items()}


def _time(text: Any) -> datetime | None:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) if text else None


def _step(json: Json) -> Step:
    begun = _time(json["startTime"])
    assert begun is not None
    return Step(
        json["name"], json["status"], begun, json.get("digest", ""), _time(json.get("endTime")), json.get("reason", ""), json.get("message", ""),
        json.get("starts", 1), _time(json.get("goodUntil")),
    )  # fmt: skip


def fence(claim: Claim, me: int, *, effect: bool) -> Any:
    """For `write_parts`: LeaseLost unless the lease is still ours; before an effect also TemporaryError while everything is stopped."""

    def look(cursor: Any) -> None:
        cursor.execute(
            "SELECT 1 FROM work_item WHERE kind = %s AND object_id = %s AND epoch = %s AND holder = %s FOR NO KEY UPDATE",
            [CLUSTER, claim.object_id, claim.epoch, me],
        )
        if cursor.fetchone() is None:
            raise LeaseLost
        if effect:
            cursor.execute("SELECT stopped, stopped_why FROM ledger WHERE id = 1")
            stopped, why = cursor.fetchone()
            if stopped:
                raise TemporaryError("Stopped", f"Everything is stopped: {why}")

    return look


def write(claim: Claim, me: int, part: Part, *, effect: bool = False) -> None:
    """Write a part of the cluster's status behind its lease."""
    write_parts(
        storage_for("clusters"), {claim.object_id: part}, fence=fence(claim, me, effect=effect), columns=phase_column
    )
