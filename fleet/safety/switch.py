"""The kill switch: one row in PostgreSQL that every effect looks at before it begins. Needs no Redis, no web process, no worker."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

NOT_STOPPED: Final = "(SELECT NOT stopped FROM ledger WHERE id = 1)"  # for the statement that begins an effect
_TRIES: Final = 3  # each waits a second at most for the ledger's lock: well within the five seconds promised


class SwitchError(Exception):
    """The switch could not be moved; the message says why."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Whether everything is stopped, by whom, why and since when."""

    stopped: bool
    by: str
    why: str
    since: datetime | None


def stop(by: str, why: str, *, dsn: str = "") -> Switch:
    """Nothing new starts anywhere from now on; what runs on hosts is let end. Stopping again keeps the first reason."""
    if not why.strip():
        raise SwitchError("Say why: the people who find everything stopped will read it.")
    return _move(
        "UPDATE ledger SET stopped_by = CASE WHEN stopped THEN stopped_by ELSE %s END, stopped_why = CASE WHEN stopped THEN stopped_why ELSE %s END,"
        " stopped_at = CASE WHEN stopped THEN stopped_at ELSE now() END, stopped = true WHERE id = 1",
        [by, why.strip()],
        dsn,
    )


def resume(by: str, *, dsn: str = "") -> Switch:
    """Work goes on. `by` is kept with the row until the next stop."""
    return _move(
        "UPDATE ledger SET stopped = false, stopped_by = %s, stopped_why = NULL, stopped_at = now() WHERE id = 1",
        [by],
        dsn,
    )


def state(*, dsn: str = "") -> Switch:
    """How the switch stands now."""
    with _connect(dsn) as conn:
        return _read(conn)


def _move(statement: str, values: list[str], dsn: str) -> Switch:
    last: psycopg.Error | None = None
    with _connect(dsn) as conn:
        for _ in range(_TRIES):
            try:
                if conn.execute(statement, values).rowcount != 1:
                    raise SwitchError("The ledger has no row: this database was not prepared by Fleet's migrations.")
                return _read(conn)
            except psycopg.errors.LockNotAvailable as error:
                last = error
    raise SwitchError(f"The ledger is locked by another session: {last}")


def _read(conn: psycopg.Connection[Any]) -> Switch:
    row = conn.execute("SELECT stopped, stopped_by, stopped_why, stopped_at FROM ledger WHERE id = 1").fetchone()
    if row is None:
        raise SwitchError("The ledger has no row: this database was not prepared by Fleet's migrations.")
    return Switch(row[0], row[1] or "", row[2] or "", row[3])


def _connect(dsn: str) -> psycopg.Connection[Any]:
    """A connection of its own, so that no open transaction of the caller holds the switch back."""
    return psycopg.connect(
        dsn or _django_dsn(), autocommit=True, connect_timeout=3, options="-c lock_timeout=1s -c statement_timeout=3s"
    )


def _django_dsn() -> str:
    from django.db import connection

    wanted = connection.get_connection_params()
    names = ("dbname", "host", "port", "user", "password")
    return psycopg.conninfo.make_conninfo(**{name: wanted[name] for name in names if wanted.get(name)})
