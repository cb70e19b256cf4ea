"""`events`: look for events, publish one, and see to those that were set aside."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from fleet.cli.environment import CliError, out, start_django, who

events = typer.Typer(help="The Event Center.", no_args_is_help=True)
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_STRETCHES: Final = 50  # of the log that one command reads at most


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(events, name="events")


def moment(text: str, now: datetime) -> datetime | None:
    """`90m`, `2h`, `3d` ago, or an RFC 3339 time; "" = none."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII)
    if match:
        return now - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    from fleet.control.times import parse_time

    found = parse_time(text)
    if found is None:
        raise CliError(f"{text!r} is no time: write 90m, 2h, 3d, or 2026-01-31T18:00:00Z.")
    return found


@events.command("list")
def events_list(
    machine: Annotated[str, typer.Option(help="About this machine.")] = "",
    cluster: Annotated[str, typer.Option(help="In this cluster.")] = "",
    type_: Annotated[str, typer.Option("--type", help="Types that begin so.")] = "",
    severity: Annotated[str, typer.Option(help="At least: normal, warning, error.")] = "normal",
    text: Annotated[str, typer.Option(help="In type, reason, message or name.")] = "",
    since: Annotated[str, typer.Option(help="90m, 2h, 3d, or a time.")] = "",
    until: Annotated[str, typer.Option(help="90m, 2h, 3d, or a time.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
) -> None:
    """The newest events that match, newest last."""
    start_django()
    from fleet.api.storage import cluster_ids
    from fleet.control.kinds import MACHINE
    from fleet.events.log import SEVERITIES
    from fleet.events.search import Search

    if severity not in SEVERITIES:
        raise CliError(f"{severity!r} is no severity; there are {', '.join(SEVERITIES)}.")
    if cluster and not cluster_ids([cluster]):
        raise CliError(f"there is no cluster {cluster!r}.")
    now = datetime.now(UTC)
    wanted = Search(
        kind=MACHINE if machine else None, name=machine, cluster=cluster_ids([cluster])[cluster] if cluster else None, type=type_,
        severity=SEVERITIES.index(severity), text=text, since=moment(since, now), until=moment(until, now), limit=limit,
    )  # fmt: skip
    rows, back_to = _found(wanted, limit)
    table = Table("time", "severity", "reason", "object", "message", box=None, pad_edge=False)
    for row in reversed(rows):
        reason = str(row.data.get("reason") or row.type.rpartition(".")[2])
        table.add_row(f"{row.at:%Y-%m-%d %H:%M:%S}", SEVERITIES[min(row.severity, 2)], reason, row.name, str(row.data.get("message") or row.type))  # fmt: skip
    out.print(table)
    if back_to is not None:
        out.print(f"Looked back to {back_to:%Y-%m-%d %H:%M:%S} UTC; go on with --until.", markup=False)


def _found(wanted: Any, limit: int) -> tuple[list[Any], datetime | None]:
    """Rows, and where it stopped though there may be more."""
    from dataclasses import replace

    from django.db import connection

    from fleet.events.search import search

    rows: list[Any] = []
    with connection.cursor() as cursor:
        for _ in range(_STRETCHES):
            found = search(cursor, replace(wanted, limit=limit - len(rows)))
            rows += found.rows
            if found.next is None or len(rows) >= limit:
                return rows, None
            wanted = replace(wanted, before=found.next)
    return rows, found.back_to


@events.command("publish")
def events_publish(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="com.example.disk.failing, dev.fleet.fault.declared")
    ] = "",
    about: Annotated[str, typer.Option(help="machine/NAME or cluster/NAME.")] = "",
    message: Annotated[str, typer.Option(help="A sentence for people.")] = "",
    reason: Annotated[str, typer.Option(help="One word.")] = "",
    severity: Annotated[str, typer.Option(help="normal, warning, error.")] = "normal",
    data: Annotated[list[str] | None, typer.Option(help="More data, as key=value; may be given again.")] = None,
    id_: Annotated[str, typer.Option("--id", help="What makes it the same event when it is sent again.")] = "",
    source: Annotated[str, typer.Option(help="Who tells.")] = "/fleetctl",
    file: Annotated[
        Path | None, typer.Option(help="CloudEvents in JSON, one or a list; - reads standard input.")
    ] = None,
) -> None:
    """Publish an event, or those of a file."""
    if bool(type_) == (file is not None):
        raise CliError("say the TYPE of an event, or --file with whole events.")
    start_django()
    from fleet.events.incoming import Unreadable, cloud_events

    found: Any = (
        _read(file) if file is not None else _event(type_, about, message, reason, severity, data or [], id_, source)
    )
    try:
        outcome = asyncio.run(_store(cloud_events(found)))
    except Unreadable as error:
        raise CliError("; ".join(f"{p.field} {p.message or 'is required'}" for p in error.problems)) from None
    said = f"{outcome.accepted} published, {outcome.duplicates} known already, {outcome.quarantined} set aside"
    out.print(said + (" (see: fleetctl events dead-letters)" if outcome.quarantined else "") + ".", markup=False)


def _read(file: Path) -> Any:
    from fleet.api.jsonbody import loads

    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.") from None
    return loads(body)[0]


def _event(
    type_: str, about: str, message: str, reason: str, severity: str, more: list[str], id_: str, source: str
) -> dict[str, Any]:
    wrong = [each for each in more if "=" not in each]
    if wrong:
        raise CliError(f"{wrong[0]!r}: write --data key=value.")
    said = {"message": message, "reason": reason, **dict(each.split("=", 1) for each in more)}
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_ or secrets.token_hex(12),
        "source": source,
        "type": type_,
        "severity": severity,
    }
    event["data"] = {key: value for key, value in said.items() if value}
    if about:
        event["subject"] = about
    return event


async def _store(found: list[Any]) -> Any:
    from fleet.control.db import connect
    from fleet.events.ingest import Full, Publisher, store
    from fleet.events.publish import CHANNEL

    async with await connect() as conn:
        try:
            outcome = await store(conn, found, Publisher(who()))
        except Full as error:
            raise CliError(f"{error}.") from None
        await conn.execute(f"NOTIFY {CHANNEL}")
        return outcome


@events.command("dead-letters")
def dead_letters(
    reason: Annotated[str, typer.Option(help="Only these.")] = "",
    consumer: Annotated[str, typer.Option(help="Only of this reader; ingest = what came in and fits nowhere.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
) -> None:
    """What was set aside, and why."""
    start_django()
    from django.db import connection

    from fleet.events.letters import Reach, counted, listed

    chosen = "" if consumer == "ingest" else consumer or None
    with connection.cursor() as cursor:
        found = listed(cursor, Reach(), consumer=chosen, reason=reason, limit=limit)
        counts = counted(cursor, Reach())
    table = Table("id", "reader", "reason", "tries", "last", "type", "about", "why", box=None, pad_edge=False)
    for each in found:
        table.add_row(
            str(each.id), each.consumer or "ingest", each.reason, str(each.attempts), f"{each.last_at:%Y-%m-%d %H:%M}", each.type, each.subject,
            each.message,
        )  # fmt: skip
    out.print(table)
    for name, why, number in counts:
        out.print(f"{name or 'ingest'}: {number} {why}", markup=False)


@events.command("retry")
def retry_letters(ids: Annotated[list[int], typer.Argument(help="As dead-letters shows them.")]) -> None:
    """Try again what was set aside; a person's word also that its time is right."""
    _act("retry", ids)


@events.command("discard")
def discard_letters(ids: Annotated[list[int], typer.Argument(help="As dead-letters shows them.")]) -> None:
    """Give up on what was set aside."""
    _act("discard", ids)


def _act(verb: str, ids: list[int]) -> None:
    start_django()
    from django.db import connection, transaction

    from fleet.api.audit import note
    from fleet.api.rights import Actor
    from fleet.events import letters

    act = letters.retry if verb == "retry" else letters.discard
    with transaction.atomic(), connection.cursor() as cursor:
        done = act(cursor, letters.Reach(), ids)
        if not done:
            raise CliError("none of these waits; see: fleetctl events dead-letters")
        actor = Actor(who(), is_system=True, address="fleetctl")
        note(cursor, actor, verb, "DeadLetter", "", {"ids": [str(i) for i in done]})
    out.print(f"{len(done)} of {len(ids)} {'are tried again' if verb == 'retry' else 'are gone'}.", markup=False)
