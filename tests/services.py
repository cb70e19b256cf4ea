"""Pytest plugin (loaded by `-p`, before Django): every test process has a PostgreSQL instance and a Valkey of its own (transaction ids order the positions of an instance)."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.dev.services import Postgres, Valkey

# Autovacuum would look at tables now and then between two tests, when they are empty, and plans would depend on that moment.
_FAST = {
    "autovacuum": "off",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "512MB",
    "shared_buffers": "64MB",
}


_stops: list[Callable[[], None]] = []


def _start_services() -> None:
    """Before Django reads its settings: it must find DATABASE_URL and REDIS_URL."""
    home = Path(tempfile.mkdtemp(prefix="fleet-test-"))
    home.chmod(0o755)
    postgres = Postgres(data=home / "pg", sockets=home / "s", settings=_FAST, log=home / "postgres.log")
    valkey = Valkey(socket=home / "valkey.sock")
    postgres.start()
    valkey.start()

    def stop() -> None:
        postgres.stop()
        valkey.stop()
        shutil.rmtree(home, ignore_errors=True)

    _stops.append(stop)
    os.environ.update(
        DATABASE_URL=postgres.url,
        REDIS_URL=valkey.url,
        FLEET_SECRET_KEY="tests-only-" + "k" * 40,
        FLEET_SECURE_COOKIES="false",
        FLEET_REQUIRE_APPROVAL="false",
        FLEET_ALLOWED_NETWORKS="127.0.0.0/8,10.0.0.0/8",
        DJANGO_SETTINGS_MODULE="fleet.settings",
    )
    from nacl.public import PrivateKey

    key = PrivateKey.generate()
    os.environ["FLEET_PRIVATE_KEY"] = base64.b64encode(bytes(key)).decode()
    os.environ["FLEET_PUBLIC_KEY"] = base64.b64encode(bytes(key.public_key)).decode()


_start_services()


def pytest_unconfigure() -> None:
    """End what this process started."""
    while _stops:
        _stops.pop()()


@pytest.fixture
def fleet_db(transactional_db: None) -> None:
    """The real database with real transactions, emptied afterwards (also the tables that Django does not manage)."""


def reset_database() -> None:
    """Empty every table, put the single rows back and let ids start anew; tables that a test has blown up shrink again.

    By DELETE, not TRUNCATE: a reader in another process (a server's hub) locks tables in the order of its own statement, and
    TRUNCATE's exclusive locks deadlock with it. Foreign keys and the guard of the audit trail are off meanwhile.
    """
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("""SELECT string_agg(format('DELETE FROM %I', relname), '; ') FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname NOT IN ('django_migrations', 'django_content_type', 'auth_permission', 'condition_kind')""")
        deletes = cursor.fetchone()[0]
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(deletes)
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
        cursor.execute("""SELECT setval(c.oid::regclass, 1, false) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'S' AND c.relname NOT IN
            ('django_migrations_id_seq', 'django_content_type_id_seq', 'auth_permission_id_seq', 'condition_kind_id_seq')""")
        cursor.execute(
            "INSERT INTO installation (id) VALUES (1); UPDATE installation SET kept_from = fleet_horizon(), events_from = fleet_horizon(); INSERT INTO ledger (id) VALUES (1); INSERT INTO seen_set (digest, body) VALUES ('\\x00', '{}')"
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 4 << 20"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f"VACUUM {table}")
        # As if nobody had looked at any table yet: a test that analyzes leaves nothing to the next one.
        cursor.execute("""WITH t AS (UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND reltuples <> -1 RETURNING oid)
            DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM t)""")


def call_tables_empty() -> None:
    """Make statistics say what they say of tables that were looked at while they were empty, and have been filled since."""
    from fleet.control.db import connect_sync

    with connect_sync() as connection:
        connection.execute(
            "UPDATE pg_class SET reltuples = 0, relpages = 1 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
