"""`manage.py seed_demo`: the demo fleet of `make up`."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from simulator.demo import seed_demo


class Command(BaseCommand):
    """Makes what is missing of it."""

    help = "Make what is missing of a demo fleet of simulated machines."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--clusters", type=int, default=3)
        parser.add_argument("--machines", type=int, default=1000, help="per cluster")

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Made {seed_demo(options['clusters'], options['machines'])} machines.")
