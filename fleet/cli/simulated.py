"""`faults`: trouble for simulated machines."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from fleet.cli.environment import out, start_django

faults = typer.Typer(help="Trouble for simulated machines.", no_args_is_help=True)
Machines = Annotated[list[str] | None, typer.Option("--machine", help="A machine; may be given again.")]
Cluster = Annotated[str, typer.Option(help="All simulated machines of a cluster.")]
Everywhere = Annotated[bool, typer.Option("--all", help="All simulated machines.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(faults, name="faults")


@faults.command("kinds")
def kinds() -> None:
    """What can go wrong."""
    from simulator.faults import FAULTS

    table = Table("fault", "what it does", box=None, pad_edge=False)
    for name, meaning in FAULTS.items():
        table.add_row(name, meaning)
    out.print(table)


@faults.command("inject")
def inject(
    fault: str,
    machine: Machines = None,
    cluster: Cluster = "",
    everywhere: Everywhere = False,
    seconds: Annotated[float | None, typer.Option(help="How long; without it until cleared.")] = None,
    count: Annotated[int | None, typer.Option(help="How often, for faults that strike a number of times.")] = None,
) -> None:
    """Put a fault on simulated machines."""
    start_django()
    from simulator.faults import FAULTS, find_machines
    from simulator.faults import inject as put

    found = find_machines(_names(machine), cluster=cluster, everywhere=everywhere)
    number = put(fault, list(found), seconds=seconds, count=count)
    out.print(f"{fault}: {FAULTS[fault]}, on {number} machine{'s' if number != 1 else ''}.", markup=False)


@faults.command("clear")
def clear(
    fault: Annotated[str, typer.Argument(help="Without it all faults.")] = "",
    machine: Machines = None,
    cluster: Cluster = "",
    everywhere: Everywhere = False,
) -> None:
    """Take faults off."""
    start_django()
    from simulator.faults import clear as take_off
    from simulator.faults import find_machines

    found = find_machines(_names(machine), cluster=cluster, everywhere=everywhere)
    out.print(f"Cleared on {take_off(list(found), fault)} machines.", markup=False)


@faults.command("list")
def list_faults() -> None:
    """Faults that are on now."""
    start_django()
    from simulator.faults import active

    table = Table("machine", "fault", box=None, pad_edge=False)
    for name, fault in active():
        table.add_row(name, fault)
    out.print(table)


@faults.command("weather")
def weather(rate: Annotated[float, typer.Argument(help="Mishaps a machine and hour; 0 = none.")]) -> None:
    """How often machines get into trouble by themselves."""
    start_django()
    from simulator.faults import set_weather

    set_weather(rate)
    out.print(f"Mishaps by themselves: {rate:g} a machine and hour.", markup=False)


def _names(given: list[str] | None) -> list[str]:
    return [name.removeprefix("machine/") for name in given or []]
