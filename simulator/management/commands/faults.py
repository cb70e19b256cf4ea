"""`manage.py faults`: put faults on simulated machines and take them off."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from simulator.faults import FAULTS, FaultError, active, clear, find_machines, inject, set_weather


class Command(BaseCommand):
    """inject, clear, list, weather."""

    help = "Put faults on simulated machines, take them off, or set how often they come by themselves."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        for verb in ("inject", "clear"):
            sub = verbs.add_parser(verb)
            sub.add_argument("fault", choices=sorted(FAULTS), nargs=None if verb == "inject" else "?", default="")
            sub.add_argument("--machine", action="append", default=[])
            sub.add_argument("--cluster", default="")
            sub.add_argument("--all", action="store_true", dest="everywhere")
            sub.add_argument("--seconds", type=float)
            sub.add_argument("--count", type=int)
        verbs.add_parser("list")
        verbs.add_parser("weather").add_argument("rate", type=float)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(_run(options))
        except FaultError as error:
            raise CommandError(str(error)) from None


def _run(options: dict[str, Any]) -> str:
    if options["verb"] == "weather":
        set_weather(options["rate"])
        return f"Mishaps by themselves: {options['rate']} a machine and hour."
    if options["verb"] == "list":
        return "\n".join(f"{name}\t{fault}" for name, fault in active()) or "No faults."
    found = find_machines(options["machine"], cluster=options["cluster"], everywhere=options["everywhere"])
    if options["verb"] == "clear":
        return f"Cleared on {clear(list(found), options['fault'] or '')} machines."
    number = inject(options["fault"], list(found), seconds=options["seconds"], count=options["count"])
    return f"{options['fault']}: {FAULTS[options['fault']]}, on {number} machines."
