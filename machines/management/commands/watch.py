"""`manage.py watch`: the watcher. Streams the nodes of clusters; any number of such processes share the clusters."""

from __future__ import annotations

import asyncio
import gc
import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Watch clusters."""

    help = "Stream the nodes of all clusters that have an API server, as far as no other watcher does."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--clusters", type=int, default=100, help="clusters that this process takes at most")

    def handle(self, *args: Any, **options: Any) -> None:
        import uvloop

        from machines.watch import memory
        from machines.watch.process import Watcher

        memory.set_apart()
        # What is loaded stays: a collection that looks at all of it stops every stream for tens of milliseconds.
        gc.collect()
        gc.freeze()

        async def serve() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            await Watcher(most=options["clusters"]).run(stop)

        uvloop.run(serve())
