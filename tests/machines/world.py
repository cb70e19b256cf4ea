"""A small fleet in the real database, for tests of the hot path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fleet.control import db, work
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from machines import hot
from machines.bulk import NewMachine, create_machines
from machines.hot import Record, Row

# What the design of the semantics lists; the declared FSM is held against it in test_hot_phases.py.
LEGAL: tuple[str, ...] = tuple(
    f"{source}>{target}"
    for source, targets in {
        "Pending": "Provisioning Running Decommissioning",
        "Provisioning": "Running Repairing Failed Decommissioning",
        "Running": "Updating Repairing Failed Decommissioning",
        "Updating": "Running Repairing Failed Decommissioning",
        "Repairing": "Probation Failed Decommissioning",
        "Probation": "Running Repairing Failed Decommissioning",
        "Failed": "Provisioning Updating Repairing Running Decommissioning",
        "Decommissioning": "Retired",
    }.items()
    for target in targets.split()
)
PHASES = (
    "Pending",
    "Provisioning",
    "Running",
    "Updating",
    "Repairing",
    "Probation",
    "Failed",
    "Decommissioning",
    "Retired",
)
HEALTHY = (
    Condition("HostHealthy", "True", "Healthy"),
    Condition("Reachable", "True", "Connected"),
    Condition("Ready", "True", "UpToDate"),
)
SICK = (
    Condition("HostHealthy", "False", "CheckFailed"),
    Condition("Reachable", "True", "Connected"),
    Condition("Ready", "False", "InstallFailed"),
)


def make(count: int, *, cluster_id: int = 0, prefix: str = "m", **spec: Any) -> list[int]:
    """Machines m-0000 ... of one cluster, due at once."""
    with db.connect_sync() as connection, connection.cursor() as cursor:
        rows = [
            NewMachine(
                f"{prefix}-{n:04}", {"idc": "a", "ip": f"10.{cluster_id}.{n // 250}.{n % 250}", **spec}, cluster_id
            )
            for n in range(count)
        ]
        return create_machines(cursor, rows)


def sql(statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of its own; its rows, if it gives any."""
    with db.connect_sync() as connection:
        cursor = connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []


def outcome(row: Row, **changed: Any) -> Record:
    """A pass that found the machine at its final state; `changed` says what differs."""
    plain = Record(
        id=row.id, epoch=row.epoch, generation=row.generation, want=row.desired_hash, observed=row.desired_hash, phase="Running", open=True,
        conditions=HEALTHY, next_seconds=600.0, resting=True, seen={}, in_service=True, before=row.packed,
    )  # fmt: skip
    return replace(plain, **changed)


async def claimed(conn: Connection, me: int, *, limit: int = 500) -> list[Row]:
    """Claim and load whatever is due."""
    return await hot.load(conn, await work.claim(conn, MACHINE, me, limit=limit))


async def write(conn: Connection, me: int, records: Iterable[Record]) -> list[hot.Recorded]:
    """Record under the legal moves of this module."""
    return await hot.record(conn, me, list(records), legal=LEGAL)


async def settle_all(conn: Connection, me: int = 1) -> None:
    """Bring every due machine to rest in Running."""
    while rows := await claimed(conn, me):
        await write(conn, me, [outcome(row) for row in rows])


async def one(conn: Connection, statement: str, *params: Any) -> Any:
    """The first value of the first row."""
    found = await (await conn.execute(statement.encode(), params)).fetchone()
    return None if found is None else found[0]


def states(ids: Sequence[int]) -> list[tuple[Any, ...]]:
    """(phase, generation, observed_generation, drift) by id."""
    return sql(
        "SELECT phase, generation, observed_generation, drift FROM machine_state WHERE id = ANY (%s) ORDER BY id",
        list(ids),
    )
