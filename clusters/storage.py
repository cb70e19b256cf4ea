"""Storage of Clusters: deletion in two steps, refused while machines name the cluster."""

from __future__ import annotations

from django.db import connection

from clusters.models import Cluster, Idc
from clusters.schema import CLUSTER_KIND, IDC_KIND
from fleet.api import errors
from fleet.api.rights import Actor
from fleet.api.storage import Storage
from fleet.control.kinds import Json

CONFIRM = "fleet.dev/confirm-delete"


class ClusterStorage(Storage):
    """Clusters."""

    def __init__(self) -> None:
        super().__init__(CLUSTER_KIND, Cluster)

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """The annotation must name the cluster, and no machine may be left in it."""
        name = obj["metadata"]["name"]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM (SELECT 1 FROM machine JOIN clusters_cluster c ON c.id = machine.cluster_id WHERE c.name = %s LIMIT 100) q",
                [name],
            )
            left = int(cursor.fetchone()[0])
        if left:
            count = f"{left}" if left < 100 else "100 or more"
            raise errors.conflict(
                self.kind, name, f"{count} machines still name it; delete them or move them out first"
            )
        if obj["metadata"].get("annotations", {}).get(CONFIRM) != name:
            raise errors.conflict(
                self.kind, name, f"deleting a cluster takes two steps: first annotate it with {CONFIRM}={name}"
            )


def storages() -> list[Storage]:
    """One per kind of this app."""
    return [ClusterStorage(), Storage(IDC_KIND, Idc)]
