"""Etcd goes back to a snapshot, by the word of a person: API servers stop, the data is replaced, everything starts anew.

The stages stand in `status.work`, each written before its effect. A pass that dies begins its stage again: to stop what is
stopped and to load the same snapshot once more while nothing runs on it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection

from clusters import backups
from clusters.cases import Case
from clusters.lifecycle import Progress
from clusters.planes import COMPONENTS, Snapshot
from clusters.storage import RESTORE
from fleet.api.actions import Write, change_object
from fleet.api.rights import SYSTEM
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json

STOPPING, LOADING, STARTING = "Stopping", "Loading", "Starting"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A snapshot to go back to. `version`: the ClusterPackageVersion that the control plane stood at then, "" = not known."""

    name: str
    stage: str
    snapshot: Snapshot
    version: str


def wanted(case: Case) -> Wanted | None:
    """What is to be restored, or is being. PermanentError when there is no such snapshot (any more)."""
    work = case.status.get("work", {})
    name = str(work.get("restore") or case.annotations.get(RESTORE, ""))
    if not name:
        return None
    found = backups.find(case.uid, name)
    if found is None:
        raise PermanentError(
            "NoSnapshot", f'there is no snapshot "{name}"; status.snapshots lists those that are there'
        )
    snapshot, version = found
    return Wanted(name, str(work.get("stage", "")), snapshot, version)


def stage_field(name: str, stage: str) -> Json:
    """The field of the status."""
    return {"work": {"restore": name, "stage": stage} if stage else None}


def progress_after(case: Case, now: Progress, version: str) -> Progress:
    """All components stand where they stood when the snapshot was taken; they are started anew from there."""
    stand: Mapping[str, str] = dict.fromkeys(COMPONENTS, version) if version in case.versions else now.versions
    return Progress(versions=stand, reached=version if version in case.versions else now.reached)


def used_up(name: str) -> None:
    """The word is taken away, so that it restores once; views of the cluster are made anew."""

    def change(live: Json) -> Json:
        live["metadata"].get("annotations", {}).pop(RESTORE, None)
        return live

    change_object("clusters", name, change, write=Write(by=SYSTEM, manager="fleet"), verb="update")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE cluster_access SET updated_at = now() WHERE cluster_id = (SELECT id FROM clusters_cluster WHERE name = %s)",
            [name],
        )
