"""`manage.py serve`: Fleet's web process. One event loop, http and https beside each other, one hub for all watchers."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from argparse import ArgumentParser
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandError

GRACE_SECONDS = 20  # for requests that are being answered when the process is asked to end
FAREWELL_SECONDS = 1.0  # for clients to answer the end of TLS, which idle ones of a connection pool never do


def bind(address: str) -> socket.socket:
    """A listening socket; CommandError with a sentence when the address cannot be had."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only for sockets that say TCP: else every second answer on a kept connection waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError) as error:
        listener.close()
        raise CommandError(f"cannot listen on {address}: {error}. Is another program using the port?") from None
    listener.listen(2048)
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: two servers share the process."""

    def install_signal_handlers(self) -> None:
        """Installed once, by the command."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests are finished; connections on which nothing is asked any more do not keep the process from ending."""
        ending = asyncio.create_task(super().shutdown(sockets))
        idle = 0.0
        while not (await asyncio.wait((ending,), timeout=0.1))[0]:
            idle = 0.0 if self.server_state.tasks else idle + 0.1
            if idle > FAREWELL_SECONDS:
                for connection in list(self.server_state.connections):
                    if connection.transport is not None:
                        connection.transport.abort()
        await ending


class Command(BaseCommand):
    """Serve the API and the console."""

    help = "Serve the API and the console on http and, with a certificate, https."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--http", default="127.0.0.1:8000", help="host:port; empty = no plain http")
        parser.add_argument("--https", default="", help="host:port; needs --certfile and --keyfile")
        parser.add_argument("--certfile", default="")
        parser.add_argument("--keyfile", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["https"] and not (options["certfile"] and options["keyfile"]):
            raise CommandError("--https needs --certfile and --keyfile: kubectl sends credentials only over TLS")
        listeners = [(bind(options[k]), k == "https") for k in ("http", "https") if options[k]]
        if not listeners:
            raise CommandError("nothing to listen on: give --http or --https")
        try:
            asyncio.run(self._serve(listeners, options))
        except KeyboardInterrupt:
            sys.exit(0)

    async def _serve(self, listeners: list[tuple[socket.socket, bool]], options: dict[str, Any]) -> None:
        from fleet.api.running import end_watches, stop_hubs

        servers = []
        for _, tls in listeners:
            files = {"ssl_certfile": options["certfile"], "ssl_keyfile": options["keyfile"]} if tls else {}
            config = uvicorn.Config(
                "fleet.asgi:application",  # by name: the composition root is imported by nobody
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACE_SECONDS,
                ws_max_size=64 * 1024,
                h11_max_incomplete_event_size=256 * 1024,
                **files,
            )
            servers.append(_Server(config))

        def stop() -> None:
            end_watches()
            for server in servers:
                server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await asyncio.gather(*(self._run(s, listener) for s, (listener, _) in zip(servers, listeners, strict=True)))
        await stop_hubs()

    async def _run(self, server: _Server, listener: socket.socket) -> None:
        await server._serve([listener])
