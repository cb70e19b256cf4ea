"""A fleet of rows for the ledger: clusters, machines and their capacity, without the apps above."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, LiteralString

import psycopg
import pytest_asyncio

from fleet.safety.permits import Answer, Ask, permits, release
from tests.simulator.conftest import connect

Conn = psycopg.AsyncConnection[Any]
LATER: Final[LiteralString] = """WITH s AS (SELECT %s::interval AS by),
a AS (UPDATE breaker_strike SET at = at - s.by FROM s),
b AS (UPDATE breaker SET since = since - s.by, last_at = last_at - s.by, counted_from = counted_from - s.by, asked_at = asked_at - s.by FROM s)
UPDATE permit SET granted_at = granted_at - s.by, expires_at = expires_at - s.by, released_at = released_at - s.by FROM s"""


@dataclass
class Ledger:
    """Hands on the ledger's database. Machines have ids 1.. in order of creation."""

    conn: Conn

    async def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = await self.conn.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []

    async def cluster(self, name: str, machines: int, *, racks: int = 10, down: int = 0) -> list[int]:
        """A cluster of machines in service, the first `down` of them not well."""
        (cluster,) = (
            await self.sql(
                "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at)"
                " VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now()) RETURNING id",
                name,
            )
        )[0]
        rows = await self.sql(
            """WITH m AS (INSERT INTO machine (name, cluster_id, labels, spec) SELECT %s || '-' || i, %s, jsonb_build_object('n', (i %% 2)::text), '{}' FROM generate_series(1, %s) i RETURNING id, name),
            s AS (INSERT INTO machine_state (id, name, cluster_id) SELECT id, name, %s FROM m),
            c AS (INSERT INTO capacity (machine_id, cluster_id, rack_id, in_service, down)
              SELECT id, %s, row_number() OVER (ORDER BY id) %% %s + 1, true, row_number() OVER (ORDER BY id) <= %s FROM m)
            SELECT id FROM m ORDER BY id""",
            name,
            cluster,
            machines,
            cluster,
            cluster,
            racks,
            down,
        )
        return [row[0] for row in rows]

    async def hold(
        self, name: str, target: dict[str, Any], *, until: str = "2999-01-01T00:00:00Z", reason: str = "hands off"
    ) -> None:
        spec = {"target": target, "reason": reason, "owner": "olga", "until": until}
        await self._object("safety_hold", name, spec)

    async def policy(self, name: str, scope: dict[str, Any], **limits: float) -> None:
        await self._object("safety_safetypolicy", name, {"scope": scope, "maxUnavailable": limits})

    async def rule(self, name: str, scope: dict[str, Any], **spec: Any) -> None:
        """A policy that says something else than a budget."""
        await self._object("safety_safetypolicy", name, {"scope": scope, **spec})

    async def carries(self, ids: list[int], plane: str = "kube") -> None:
        """Label machines as those that carry a control plane."""
        await self.sql(
            "UPDATE machine SET labels = labels || jsonb_build_object('fleet.dev/control-plane', %s::text) WHERE id = ANY (%s)",
            plane,
            ids,
        )

    async def hosts(self, ids: list[int], cluster: str, *, member: bool = False) -> None:
        """What the Cluster-Operator found: these machines carry pods of that cluster's control plane, or members of its etcd."""
        await self.sql(
            "INSERT INTO carried SELECT c.id, m, %s FROM clusters_cluster c, unnest(%s::bigint[]) AS m WHERE c.name = %s",
            member,
            ids,
            cluster,
        )

    async def no_breaker(self) -> None:
        """Switch breakers off for every cluster and the fleet, for tests of other guards."""
        for (name,) in await self.sql("SELECT name FROM clusters_cluster"):
            await self.rule(f"off-{name}", {"cluster": name}, breaker={"disabled": True})
        await self.rule("off", {"matchAll": True}, breaker={"disabled": True})
        await self.sql("UPDATE capacity SET rack_id = 0, idc_id = 0")

    async def breaker(self, dim: str = "cluster", key: int = 1) -> str:
        """The state of a breaker as stored; closed when it never opened."""
        rows = await self.sql("SELECT state FROM breaker WHERE dim = %s AND key = %s", dim, key)
        return str(rows[0][0]) if rows else "closed"

    async def later(self, **span: float) -> None:
        """Time goes by: whatever the breakers measure lies that much further back."""
        await self.sql(LATER, timedelta(**span))

    async def give_back(self, *machines: int) -> None:
        """Their permits are released: they were seen well."""
        found = await self.sql(
            "SELECT id FROM permit WHERE machine_id = ANY (%s) AND released_at IS NULL", list(machines)
        )
        await release(self.conn, [row[0] for row in found])

    async def _object(self, table: str, name: str, spec: dict[str, Any]) -> None:
        await self.sql(
            f"INSERT INTO {table} (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at)"
            " VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', %s::jsonb, '{}', now())",
            name,
            json.dumps(spec),
        )

    async def ask(
        self, ids: list[int], verb: str = "Restart", *, unplanned: bool = True, owner: str = "", ttl: int = 600
    ) -> dict[int, Answer]:
        return await permits(self.conn, [Ask(i, verb, unplanned, owner or f"op-{i}", ttl) for i in ids])

    async def one(self, machine: int, verb: str = "Restart", **more: Any) -> Answer:
        return (await self.ask([machine], verb, **more))[machine]

    async def granted(self, ids: list[int], verb: str = "Restart", **more: Any) -> int:
        return sum(answer.ok for answer in (await self.ask(ids, verb, **more)).values())

    async def unavailable(self) -> int:
        """Counted by another way than the ledger's own: distinct machines in service that are down or under a drawing permit."""
        return int(
            (
                await self.sql(
                    "SELECT count(DISTINCT c.machine_id) FROM capacity c LEFT JOIN permit p ON p.machine_id = c.machine_id AND p.released_at IS NULL WHERE c.in_service AND (c.down OR p.draws)"
                )
            )[0][0]
        )


@pytest_asyncio.fixture
async def ledger(fleet_db: None) -> AsyncIterator[Ledger]:
    conn = await connect()
    yield Ledger(conn)
    await conn.close()
