"""A database of its own for benchmarks, filled with machines in their final state."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fleet.dev.services import Postgres

T = TypeVar("T")
SIZES = {"S": (3, 1_000), "M": (10, 10_000), "L": (30, 20_000)}  # clusters, machines each
_SETTINGS = {
    "S": {"shared_buffers": "128MB"},
    "M": {"shared_buffers": "512MB", "max_wal_size": "4GB"},
    "L": {"shared_buffers": "1GB", "max_wal_size": "6GB"},
}


@dataclass(slots=True)
class World:
    """The filled database. `run` runs a coroutine on the benchmark's one event loop, with its one connection."""

    size: str
    clusters: int
    per_cluster: int
    postgres_pid: int
    loop: asyncio.AbstractEventLoop
    conn: Any
    kept: dict[str, Any] = field(default_factory=dict)  # whatever measures keep between runs

    @property
    def machines(self) -> int:
        return self.clusters * self.per_cluster

    def run(self, job: Callable[[Any], Awaitable[T]]) -> T:
        """`job` gets the connection."""

        async def call() -> T:
            return await job(self.conn)

        return self.loop.run_until_complete(call())

    def sql(self, statement: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Any statement, rows if it gives some; not subject to the short time limits of Fleet's connections."""
        with self.kept["admin"].cursor() as cursor:
            cursor.execute(statement.encode(), params)
            return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def world(size: str) -> Iterator[World]:
    """Start PostgreSQL with durable commits, migrate, fill; everything is removed afterwards."""
    clusters, per_cluster = SIZES[size]
    home = Path(tempfile.mkdtemp(prefix="fleet-bench-"))
    home.chmod(0o755)
    postgres = Postgres(data=home / "pg", sockets=home / "s", settings=_SETTINGS[size], log=home / "postgres.log")
    try:
        postgres.start()
        assert postgres.process is not None
        _django(postgres.url)
        from fleet.control import db

        loop = asyncio.new_event_loop()
        made = World(size, clusters, per_cluster, postgres.process.pid, loop, loop.run_until_complete(db.connect()))
        with _admin(postgres.url) as admin:
            made.kept["admin"] = admin
            fill(made)
            yield made
            loop.run_until_complete(made.conn.close())
        loop.close()
    finally:
        _close_django()
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


def _django(url: str) -> None:
    os.environ.update(
        DATABASE_URL=url,
        REDIS_URL="redis://127.0.0.1:1/0",  # nothing here talks to it
        FLEET_SECRET_KEY="benchmarks-only-" + "k" * 40,
        DJANGO_SETTINGS_MODULE="fleet.settings",
    )
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _close_django() -> None:
    from django.apps import apps

    if apps.ready:
        from django.db import connections

        connections.close_all()


@contextmanager
def _admin(url: str) -> Iterator[Any]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def machine_name(number: int) -> str:
    """Names that sort by number."""
    return f"node-{number:07}"


def fill(made: World) -> None:
    """Machines of every cluster, Running, at their final state, looked at a while ago; specs and labels of ordinary length."""
    from fleet.control import db
    from machines.bulk import NewMachine, create_machines

    ids = made.sql(
        "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) "
        "SELECT gen_random_uuid(), 'cluster-' || lpad(n::text, 2, '0'), 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now() FROM generate_series(1, %s) AS n RETURNING id",
        [made.clusters],
    )
    rows = (
        NewMachine(machine_name(c * made.per_cluster + n), _spec(c, n), cluster_id, _labels(c, n))
        for c, (cluster_id,) in enumerate(ids)
        for n in range(made.per_cluster)
    )
    with db.connect_sync() as connection, connection.cursor() as cursor:
        create_machines(cursor, rows)
    _bring_to_rest(made)


def _spec(cluster: int, number: int) -> dict[str, Any]:
    return {
        "clusterName": f"cluster-{cluster + 1:02}",
        "idc": f"idc-{cluster % 5}",
        "rack": f"r{number // 40:04}",
        "ip": f"10.{cluster + 1}.{number // 250}.{number % 250 + 1}",
        "serialNumber": f"SN{cluster:03}{number:06}",
        "hardwareModel": f"model-{number % 7}",
        "versions": {"pouch": "1.0.3", "kubelet": "1.33.4", "node-problem-detector": "0.8.19"},
        "driver": {"type": "simulated"},
        "variables": {"zone": f"z{number % 3}", "pool": "general", "logLevel": "info"},
    }


def _labels(cluster: int, number: int) -> dict[str, str]:
    return {
        "pool": "gpu" if number % 200 == 0 else "general",
        "zone": f"z{number % 3}",
        "team": f"team-{number % 50}",
        "rack": f"r{number // 40:04}",
    }


def more_machines(made: World, name: str, number: int, count: int, first: int) -> int:
    """One more cluster, with machines at rest whose names go on from `first`; its id. `number`: of no other cluster, at most 254."""
    from fleet.control import db
    from machines.bulk import NewMachine, create_machines

    ((cluster_id,),) = made.sql(_CLUSTER, [name])
    with db.connect_sync() as connection, connection.cursor() as cursor:
        rows = (
            NewMachine(machine_name(first + n), _spec(number, n), cluster_id, _labels(number, n)) for n in range(count)
        )
        ids = create_machines(cursor, rows)
    for at in range(0, count, 20_000):
        made.sql(_REST, [ids[at], ids[min(at + 20_000, count) - 1]])
    made.sql("UPDATE capacity SET in_service = true, down = false WHERE cluster_id = %s", [cluster_id])
    made.sql("INSERT INTO capacity_total VALUES (%s, %s)", [cluster_id, count])
    made.sql(
        "UPDATE work_item SET due_at = now() + interval '1 hour', resting = true WHERE cluster_id = %s", [cluster_id]
    )
    return int(cluster_id)


def drop_clusters(made: World, ids: Sequence[int]) -> None:
    """What `more_machines` made goes, so that the next measure finds the world as it was."""
    given = [list(ids)]
    made.sql("DELETE FROM machine_fact WHERE machine_id IN (SELECT id FROM machine WHERE cluster_id = ANY (%s))", given)
    for table in (
        "node",
        "work_item",
        "capacity",
        "capacity_total",
        "count_delta",
        "machine_state",
        "machine",
        "shard",
    ):
        made.sql(f"DELETE FROM {table} WHERE cluster_id = ANY (%s)", given)
    made.sql("DELETE FROM clusters_cluster WHERE id = ANY (%s)", given)


_CLUSTER = """
INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at)
VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now()) RETURNING id
"""
_CONDITIONS = """
INSERT INTO condition_kind (bit, type, status, reason, message)
SELECT b, t, 'True', 'AsWanted', 'Everything is as it shall be.' FROM (VALUES (1, 'HostHealthy'), (2, 'Reachable'), (3, 'VersionsResolved'), (4, 'PackagesUpToDate'), (5, 'ConfigUpToDate'), (7, 'UpToDate'), (8, 'Ready'), (15, 'Verifiable')) AS v(b, t)
ON CONFLICT DO NOTHING
"""
_REST = """
UPDATE machine_state SET phase = 'Running', observed_generation = 1, desired_hash = 1 + id %% 7, observed_hash = 1 + id %% 7, latest_hash = 1 + id %% 7, cond_true = (SELECT sum(1::bigint << bit) FROM condition_kind),
  m_cond = (SELECT array_agg(k.id::bigint << 32 | 1790000000 + machine_state.id %% 5000 ORDER BY k.bit) FROM condition_kind k), seen_id = (SELECT max(id) FROM seen_set) WHERE id BETWEEN %s AND %s
"""


def _bring_to_rest(made: World) -> None:
    made.sql(_CONDITIONS)
    made.sql(
        "INSERT INTO seen_set (digest, body) VALUES ('\\x01', %s)",
        [
            '{"versions": {"pouch": "1.0.3", "kubelet": "1.33.4"}, "packages": [{"name": "pouch", "state": "Installed"}, {"name": "kubelet", "state": "Installed"}]}'
        ],
    )
    ((first, last),) = made.sql("SELECT min(id), max(id) FROM machine_state")
    for low in range(first, last + 1, 20_000):
        made.sql(_REST, [low, low + 19_999])
    made.sql("INSERT INTO accepted_set (hash, body) SELECT n, '{}' FROM generate_series(1, 7) AS n")
    made.sql("INSERT INTO accepted (machine_id, hash, generation) SELECT id, desired_hash, 1 FROM machine_state")
    made.sql(
        "UPDATE work_item SET due_at = now() + interval '1 hour' + random() * interval '10 min', resting = true, tried = 0"
    )
    made.sql("UPDATE capacity SET in_service = true, down = false")
    made.sql("INSERT INTO capacity_total SELECT cluster_id, count(*) FROM capacity GROUP BY 1")
    made.sql("TRUNCATE count_delta")
    made.sql("INSERT INTO count_total SELECT cluster_id, phase, count(*) FROM machine_state GROUP BY 1, 2")
    for table in ("machine", "machine_state", "work_item", "capacity", "machine_fact", "change", "accepted"):
        made.sql(f"VACUUM (ANALYZE) {table}")
    made.sql("CHECKPOINT")
