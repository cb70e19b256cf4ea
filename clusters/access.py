"""How workers and watchers reach the API servers of clusters: the table `cluster_access`, its secrets sealed."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection as django_connection

from fleet.api.credentials import seal, unseal
from fleet.control.db import Connection
from fleet.control.endpoint import Endpoint

_SEALED = ("certificate", "key", "token")


def store(cluster_id: int, endpoint: Endpoint) -> None:
    """Keep the way to a cluster; the key and the token are sealed."""
    secret = {name: getattr(endpoint, name) for name in _SEALED if getattr(endpoint, name)}
    with django_connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO cluster_access (cluster_id, server, ca, server_name, sealed) VALUES (%s, %s, %s, %s, %s)
               ON CONFLICT (cluster_id) DO UPDATE SET server = excluded.server, ca = excluded.ca, server_name = excluded.server_name, sealed = excluded.sealed, updated_at = now()""",
            [cluster_id, endpoint.server, endpoint.ca, endpoint.server_name, seal(secret)],
        )


def store_if_new(cluster_id: int, endpoint: Endpoint) -> None:
    """As `store`, but what stands there already is left alone: sealing the same twice gives other bytes, and readers would start anew."""
    with django_connection.cursor() as cursor:
        cursor.execute("SELECT server, ca, server_name, sealed FROM cluster_access WHERE cluster_id = %s", [cluster_id])
        row = cursor.fetchone()
    if row is not None and _endpoint(cluster_id, *row) == endpoint:
        return
    store(cluster_id, endpoint)


def endpoint_named(name: str) -> Endpoint | None:
    """The way to a cluster by its name, opened: in a worker only. None = it is not there, or was never reached."""
    with django_connection.cursor() as cursor:
        cursor.execute(
            "SELECT cluster_id, server, ca, server_name, sealed FROM cluster_access JOIN clusters_cluster c ON c.id = cluster_id WHERE c.name = %s",
            [name],
        )
        row = cursor.fetchone()
    return _endpoint(*row) if row else None


def _endpoint(cluster_id: int, server: str, ca: str, server_name: str, sealed: bytes | None) -> Endpoint:
    opened = unseal(f"of cluster {cluster_id}", bytes(sealed)) if sealed else {}
    return Endpoint(server, ca=ca, server_name=server_name, **opened)


def forget(cluster_id: int) -> None:
    """The cluster is gone."""
    with django_connection.cursor() as cursor:
        cursor.execute("DELETE FROM cluster_access WHERE cluster_id = %s", [cluster_id])


async def endpoints(conn: Connection, ids: Sequence[int] | None = None) -> dict[int, Endpoint]:
    """Endpoints by cluster id, those that are known; in workers and watchers only, which alone hold the key."""
    found = await conn.execute(
        "SELECT cluster_id, server, ca, server_name, sealed FROM cluster_access WHERE %s::int[] IS NULL OR cluster_id = ANY (%s::int[])",
        [None if ids is None else list(ids)] * 2,
    )
    return {int(row[0]): _endpoint(*row) for row in await found.fetchall()}
