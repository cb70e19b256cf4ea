"""Which machines carry a Hosted control plane, kept for the safety ledger: what is done to them is bound by the budget of that cluster
and by the quorum of its etcd as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, LiteralString

from django.db import connection

from clusters.planes import ETCD, ComponentSeen

# A node that is no machine of Fleet's (of a meta cluster that others made) is nothing that Fleet could take away.
_CARRIED: Final[LiteralString] = """
WITH now AS (
  SELECT n.machine_id, bool_or(x.member) AS member FROM unnest(%(nodes)s::text[], %(members)s::boolean[]) AS x(node, member)
  JOIN node n ON n.cluster_id = (SELECT id FROM clusters_cluster WHERE name = %(meta)s) AND n.name = x.node WHERE n.machine_id IS NOT NULL GROUP BY 1),
gone AS (DELETE FROM carried k WHERE k.plane_id = %(plane)s AND NOT EXISTS (SELECT FROM now WHERE now.machine_id = k.machine_id))
INSERT INTO carried AS k (plane_id, machine_id, member) SELECT %(plane)s, machine_id, member FROM now
ON CONFLICT (plane_id, machine_id) DO UPDATE SET member = excluded.member WHERE k.member <> excluded.member
"""


def note(cluster_id: int, meta: str, seen: Iterable[ComponentSeen]) -> None:
    """Keep where its components are now. While their meta cluster does not tell, what was known last stays."""
    known = [s for s in seen if s.nodes is not None]
    if not known:
        return
    members: dict[str, bool] = {}
    for each in known:
        for node in each.nodes or ():
            members[node] = members.get(node, False) or each.name == ETCD
    with connection.cursor() as cursor:
        cursor.execute(
            _CARRIED,
            {"plane": cluster_id, "meta": meta, "nodes": list(members), "members": list(members.values())},
        )


def forget(cluster_id: int) -> None:
    """Nothing of it runs any more."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM carried WHERE plane_id = %s", [cluster_id])
