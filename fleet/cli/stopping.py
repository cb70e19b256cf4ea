"""`stop` and `resume`: the kill switch, straight on the database; `hold` and `release`: leave something alone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import psycopg
import typer
from psycopg.types.json import Jsonb

from fleet.cli.environment import CliError, database_url, out, start_django, who
from fleet.safety import switch

_SPANS = {"m": "minutes", "h": "hours", "d": "days"}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(stop)
    app.command()(resume)
    app.command()(hold)
    app.command()(release)


def stop(why: Annotated[str, typer.Option(help="What others shall read who find everything stopped.")]) -> None:
    """Nothing new starts anywhere, on no host, within seconds. What already runs on hosts is let end."""
    before = switch.state(dsn=database_url())
    now = switch.stop(who(), why, dsn=database_url())
    _note("stop", {"why": why})
    if before.stopped:
        out.print(f"It was stopped already, by {now.by}: {now.why}", markup=False)
    else:
        out.print("Stopped. Nothing new starts until: fleetctl resume", markup=False)


def resume() -> None:
    """Work goes on."""
    before = switch.state(dsn=database_url())
    switch.resume(who(), dsn=database_url())
    _note("resume", {"stoppedBy": before.by, "why": before.why})
    out.print("Work goes on." if before.stopped else "It was not stopped.", markup=False)


def _note(verb: str, detail: dict[str, Any]) -> None:
    """The audit row, after the act: the switch must not wait for it."""
    with psycopg.connect(database_url(), autocommit=True, connect_timeout=3) as conn:
        conn.execute(
            "INSERT INTO audit (pos, actor, address, verb, kind, name, after) VALUES (fleet_pos(), %s, 'fleetctl', %s, 'Ledger', 'ledger', %s)",
            (who(), verb, Jsonb(detail)),
        )


def hold(
    target: Annotated[str, typer.Argument(help="machine/NAME, cluster/NAME, KEY=VALUE[,KEY=VALUE] or everything")],
    why: Annotated[str, typer.Option(help="Why, for those who find it held.")],
    lasting: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 3d (at most 30d).")] = "2h",
    name: Annotated[str, typer.Option(help="Name of the Hold; by default made up.")] = "",
) -> None:
    """Leave something alone for a while: it is still looked at, nothing starts on it."""
    wanted = parse_target(target)
    until = datetime.now(UTC) + parse_span(lasting)
    start_django()
    from fleet.api.actions import Write, create_object
    from fleet.api.rights import Actor
    from fleet.control.kinds import API_VERSION

    meta = {"name": name} if name else {"generateName": "hold-"}
    spec = {"target": wanted, "reason": why, "owner": who(), "until": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
    obj = {"apiVersion": API_VERSION, "kind": "Hold", "metadata": meta, "spec": spec}
    made = create_object("holds", obj, write=Write(Actor(who(), is_system=True), "fleetctl"))
    out.print(f"hold/{made['metadata']['name']} until {made['spec']['until']}", markup=False)


def release(name: Annotated[str, typer.Argument(help="Name of the Hold.")]) -> None:
    """End a hold."""
    start_django()
    from fleet.api.actions import Write, delete_object
    from fleet.api.rights import Actor

    delete_object("holds", name.removeprefix("hold/"), write=Write(Actor(who(), is_system=True), "fleetctl"))
    out.print("Released.", markup=False)


def parse_target(text: str) -> dict[str, Any]:
    """The target of a Hold from a word; everything must be written out."""
    kind, slash, name = text.partition("/")
    if slash and kind in ("machine", "cluster") and name:
        return {kind: name}
    if text == "everything":
        return {"matchAll": True}
    pairs = [part.partition("=") for part in text.split(",")]
    if all(sign and key for key, sign, _ in pairs):
        return {"selector": {"matchLabels": {key: value for key, _, value in pairs}}}
    raise CliError(f"{text!r} is no target: write machine/NAME, cluster/NAME, KEY=VALUE or everything.")


def parse_span(text: str) -> timedelta:
    """A span of time such as 90m, 2h, 3d."""
    found = re.fullmatch(r"(\d{1,5})([mhd])", text)
    if found is None:
        raise CliError(f"{text!r} is no span of time: write 30m, 2h or 3d.")
    return timedelta(**{_SPANS[found[2]]: int(found[1])})
