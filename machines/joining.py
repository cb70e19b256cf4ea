"""What has to stand in the cluster before a machine may join: the right to ask, and a token for this one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, LiteralString

from clusters.kube import Kube, KubeError, KubeUnreachable
from fleet.control.db import Connection
from machines import join
from machines.hosts import Action
from machines.nodes import Clusters
from machines.rows import Row

# The row first: whose a token is must be known before anybody can show it. Older tokens of the machine end with it.
_NEW: Final[LiteralString] = """
WITH old AS (DELETE FROM join_token WHERE machine_id = %(machine)s OR expires_at < now() - interval '1 day' RETURNING id, machine_id),
new AS (INSERT INTO join_token (id, cluster_id, machine_id, node, expires_at) VALUES (%(id)s, %(cluster)s, %(machine)s, %(node)s, %(until)s))
SELECT id FROM old WHERE machine_id = %(machine)s
"""


async def equip(
    conn: Connection, clusters: Clusters, row: Row, action: Action, now: datetime
) -> Action | tuple[str, str]:
    """The join step with its files, or (reason, sentence) why it cannot begin now."""
    kube = await clusters.kube(conn, row.cluster_id)
    if kube is None:
        return "NoAccess", "No way to the cluster's API server is known."
    token = join.new_token(now)
    values = {
        "id": token.id,
        "cluster": row.cluster_id,
        "machine": row.id,
        "node": row.name,
        "until": token.expires_at,
    }
    old = [r[0] for r in await (await conn.execute(_NEW, values)).fetchall()]
    try:
        await _in_cluster(kube, token, row.name, old)
    except KubeError as error:
        return "ApiRefused", f"The API server takes no token: {error.reason}: {error.message}"
    except KubeUnreachable as error:
        return "ApiUnreachable", str(error)
    return replace(action, files=join.files(kube.endpoint.server, kube.endpoint.ca, token))


async def _in_cluster(kube: Kube, token: join.Token, machine: str, old: Sequence[str]) -> None:
    for each in old:
        await kube.delete(join.secret_path(each))
    await kube.apply(join.BINDING, join.binding())
    await kube.create(join.SECRETS, join.secret_of(token, machine))
