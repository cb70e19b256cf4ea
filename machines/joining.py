"""What has to stand in the cluster before a machine may join: the right to ask, and a token for this one machine."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final, LiteralString

from clusters.kube import Kube, KubeError, KubeUnreachable
from fleet.control.db import Connection
from machines import join
from machines.hosts import Action
from machines.nodes import NO_ACCESS, Clusters, trouble
from machines.rows import Row

_REFUSES: Final = "takes no token"
# The row first: whose a token is must be known before anybody can show it. Older tokens of the machine end with it.
_NEW: Final[LiteralString] = """
WITH old AS (DELETE FROM join_token WHERE machine_id = %(machine)s OR expires_at < now() - interval '1 day' RETURNING id, machine_id),
new AS (INSERT INTO join_token (id, cluster_id, machine_id, node, expires_at) VALUES (%(id)s, %(cluster)s, %(machine)s, %(node)s, %(until)s))
SELECT id FROM old WHERE machine_id = %(machine)s
"""


async def ready(conn: Connection, clusters: Clusters, cluster_id: int) -> Kube | tuple[str, str]:
    """The cluster with the right to ask for a certificate in it, or (reason, sentence) why no machine can join now."""
    kube = await clusters.kube(conn, cluster_id)
    if kube is None:
        return NO_ACCESS
    try:
        await kube.apply(join.BINDING, join.binding())
    except (KubeError, KubeUnreachable) as error:
        return trouble(error, _REFUSES)
    return kube


async def equip(conn: Connection, kube: Kube, row: Row, action: Action, now: datetime) -> Action | tuple[str, str]:
    """The join step with its files, or (reason, sentence) why it cannot begin now."""
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
        for each in old:
            await kube.delete(join.secret_path(each))
        await kube.create(join.SECRETS, join.secret_of(token, row.name))
    except (KubeError, KubeUnreachable) as error:
        return trouble(error, _REFUSES)
    return replace(action, files=join.files(kube.endpoint.server, kube.endpoint.ca, token))
