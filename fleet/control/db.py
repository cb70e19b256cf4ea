"""Connections of the hot paths: psycopg 3 itself, server-side binding, prepared statements, autocommit.

Django's own connection binds on the client and never prepares; it stays right everywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, LiteralString

import orjson
import psycopg
from django.conf import settings
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# A writer that dawdles holds back every reader of the log: these bound it (milliseconds).
TRANSACTION_TIMEOUT, LOCK_TIMEOUT, IDLE_TIMEOUT = 5_000, 2_000, 2_000
POOL_SIZE = 8

_pool: AsyncConnectionPool[Connection] | None = None


def parameters() -> dict[str, Any]:
    """Keyword arguments for psycopg, from the settings; also right while tests have renamed the database."""
    database = settings.DATABASES["default"]
    named = {
        "dbname": database.get("NAME"),
        "user": database.get("USER"),
        "password": database.get("PASSWORD"),
        "host": database.get("HOST"),
        "port": database.get("PORT"),
    }
    given = {k: v for k, v in named.items() if v}
    extra = {k: v for k, v in database.get("OPTIONS", {}).items() if isinstance(v, str | int)}
    limits = (
        f"-c transaction_timeout={TRANSACTION_TIMEOUT} -c lock_timeout={LOCK_TIMEOUT} "
        f"-c idle_in_transaction_session_timeout={IDLE_TIMEOUT}"
    )
    return {"application_name": "fleet", "connect_timeout": 10, **given, **extra, "options": limits}


async def _configure(connection: Connection) -> None:
    set_json_loads(orjson.loads, connection)
    set_json_dumps(orjson.dumps, connection)


async def connect() -> Connection:
    """A new connection in autocommit, with the time limits of Fleet's roles."""
    connection: Connection = await psycopg.AsyncConnection.connect(autocommit=True, **parameters())
    await _configure(connection)
    return connection


def connect_sync() -> psycopg.Connection[tuple[Any, ...]]:
    """The same for code without an event loop."""
    connection = psycopg.connect(autocommit=True, **parameters())
    set_json_loads(orjson.loads, connection)
    set_json_dumps(orjson.dumps, connection)
    return connection


class Long:
    """A statement with named parameters that psycopg would read anew at each call, because it keeps no text of over 4,096 characters: read once, here."""

    def __init__(self, text: LiteralString) -> None:
        self._names: dict[str, int] = {}
        self._text = re.sub(r"%\((\w+)\)s", self._number, text).replace("%%", "%").encode()

    def _number(self, found: re.Match[str]) -> str:
        return f"${self._names.setdefault(found[1], len(self._names) + 1)}"

    async def run(self, conn: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Its rows; prepared on the server."""
        cursor = psycopg.AsyncRawCursor(conn)
        await cursor.execute(self._text, [values[name] for name in self._names], prepare=True)
        return await cursor.fetchall()


async def pool() -> AsyncConnectionPool[Connection]:
    """The pool of this process, opened in the running loop at the first call; a web process has one loop."""
    global _pool
    if _pool is None or _pool.closed:
        _pool = AsyncConnectionPool(
            kwargs={"autocommit": True, **parameters()},
            min_size=1,
            max_size=POOL_SIZE,
            open=False,
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
        )
        await _pool.open()
    return _pool


async def close_pool() -> None:
    """End the pool; the next `pool()` opens a new one."""
    global _pool
    if _pool is not None:
        await _pool.close()
        _pool = None
