"""`safety`: how budgets, breakers and holds stand; `breaker reset`: people's word to a breaker."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from fleet.cli.environment import out, start_django, who

Json = dict[str, Any]
_BARS = " ▁▂▃▄▅▆▇█"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(safety)
    app.command()(acknowledge)
    breaker = typer.Typer(
        help="Breakers stop what takes machines away when too many are taken by faults.", no_args_is_help=True
    )
    breaker.command()(reset)
    app.add_typer(breaker, name="breaker")


def safety() -> None:
    """Breakers, budgets in use, what is refused and why, holds."""
    start_django()
    from fleet.api.rights import SYSTEM
    from fleet.api.safety_door import safety_now

    now = safety_now(SYSTEM)
    if now["switch"]["stopped"]:
        out.print(f"STOPPED by {now['switch']['by']}: {now['switch']['why']}", markup=False, style="bold red")
    out.print(_breakers(now["breakers"]))
    for each in now["breakers"]:
        if each["state"] in ("open", "half-open"):
            free = f" It lets one through after {each['triesAt']}." if each["triesAt"] else ""
            out.print(f"{each['place']} is {each['state']}: {each['message']}{free}", markup=False)
        if each["resetAskedBy"]:
            out.print(
                f"{each['place']}: {each['resetAskedBy']} asked for a reset; a second person must say the same before {each['resetLapsesAt']}.",
                markup=False,
            )
    out.print(_budgets(now["budgets"]))
    for each in now["refusals"]:
        out.print(
            f"refused, {each['reason']}: {each['machines']} since {each['since']}. {each['example']}", markup=False
        )
    for each in now["notices"]:
        taken = (
            f" (taken by {each['acknowledgedBy']})"
            if each["acknowledgedBy"]
            else f" Take it: fleetctl acknowledge {each['id']}"
        )
        out.print(f"{each['severity']}: {each['subject']}: {each['message']}{taken}", markup=False)
    for each in now["holds"]:
        out.print(
            f"hold/{each['name']} {each['phase']}, {each['machines']} machines, until {each['until']}: {each['reason']}",
            markup=False,
        )


def acknowledge(
    number: Annotated[int, typer.Argument(help="Number of the notice, as `fleetctl safety` shows it.")],
) -> None:
    """Take a notice: it is not repeated."""
    start_django()
    from fleet.api.rights import Actor
    from fleet.api.safety_door import acknowledge_notice

    out.print(f"Yours: {acknowledge_notice(number, Actor(who(), is_system=True))['subject']}", markup=False)


def _breakers(rows: list[Json]) -> Table:
    table = Table("breaker", "state", "counted", "opens at", "last hour", box=None, pad_edge=False)
    for each in rows:
        table.add_row(
            each["place"],
            each["state"],
            str(each["count"]),
            str(each["threshold"]),
            sparkline(each["machinesPerMinute"]),
        )
    return table


def _budgets(rows: list[Json]) -> Table:
    table = Table("budget", "in service", "unavailable", "at most", "planned", box=None, pad_edge=False)
    for each in rows:
        name = each["dim"] if each["dim"] == "fleet" else f"{each['dim']}/{each['name']}"
        table.add_row(name, *(str(each[key]) for key in ("total", "unavailable", "limit", "plannedLimit")))
    return table


def sparkline(counts: list[int]) -> str:
    """Sixty minutes in twenty characters; nothing counted, nothing drawn."""
    thirds = [sum(counts[i : i + 3]) for i in range(0, len(counts), 3)]
    top = max(thirds, default=0)
    return "".join(_BARS[-(-n * (len(_BARS) - 1) // top)] if top else "" for n in thirds)


def reset(place: Annotated[str, typer.Argument(help="fleet, cluster/NAME, idc/NAME or rack/IDC/NAME")]) -> None:
    """An open breaker lets one through at a time; a half-open one closes. Where approval is asked for, two people must say so."""
    start_django()
    from fleet.api.rights import Actor
    from fleet.api.safety_door import reset_breaker

    answer = reset_breaker(place, Actor(who(), is_system=True))
    out.print(f"{place}: {answer['state']}. {answer['message']}", markup=False)
