"""`restored`: after a backup was put back, or a database copied, nothing may act on yesterday."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from fleet.cli.environment import CliError, out, start_django, who

HOLD: Final = "restored"
_LASTING: Final = timedelta(days=29)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(restored)


def restored(
    why: Annotated[str, typer.Option(help="What was restored, and from when.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Say that this database was restored: a new incarnation, no lease or permit of before, old cursors end, everything held."""
    if not yes and not typer.confirm("Raise the incarnation, void all leases and permits, and hold the whole fleet?"):
        raise CliError("nothing was done.")
    start_django()
    incarnation, installation = asyncio.run(_raise())
    _hold_everything(why)
    out.print(
        f"Incarnation {incarnation}. Hold {HOLD} covers everything: Fleet looks and compares only. When the differences\n"
        f"are understood, hold the clusters that are not, and release this one: fleetctl release {HOLD}\n"
        f"Start all processes with FLEET_INSTALLATION={installation}:{incarnation}",
        markup=False,
    )


async def _raise() -> tuple[int, str]:
    from fleet.control import db, position

    conn = await db.connect()
    try:
        await conn.execute("SET transaction_timeout = 0")
        incarnation = await position.raise_incarnation(conn)
        # The right to begin ends; what was begun may still be under way, so that the machines go on counting.
        await conn.execute("UPDATE permit SET expires_at = least(expires_at, now()) WHERE released_at IS NULL")
        return incarnation, (await position.identity(conn)).installation
    finally:
        await conn.close()


def _hold_everything(why: str) -> None:
    from fleet.api.actions import Write, create_object, delete_object
    from fleet.api.rights import Actor
    from fleet.api.storage import storage_for
    from fleet.control.kinds import API_VERSION

    write = Write(Actor(who(), is_system=True, address="fleetctl"), "fleetctl")
    if storage_for("holds").read(HOLD) is not None:
        delete_object("holds", HOLD, write=write)
    until = (datetime.now(UTC) + _LASTING).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"target": {"matchAll": True}, "reason": f"database restored: {why}", "owner": who(), "until": until}
    obj = {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"name": HOLD}, "spec": spec}
    create_object("holds", obj, write=write)
