"""Keeps the processes of one Fleet running on this machine: starts them, restarts what dies, one readable log, ends all cleanly."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fleet.dev.services import ServiceError

_PR_SET_PDEATHSIG = 1
SERVICE_WAIT_SECONDS = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In the child, before exec: a `kill -9` of the supervisor must not leave processes behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class Child:
    """One process that shall run. Restarts wait 0.5 s, doubling to 10 s while it keeps dying young."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    started: float = 0.0
    wait: float = 0.5
    again_at: float = 0.0


class Service(Protocol):
    """A server with a start and stop of its own (PostgreSQL, Valkey)."""

    process: subprocess.Popen[bytes] | None

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Supervisor:
    """Children in the order of their start; ended in reverse."""

    def __init__(self, environment: Mapping[str, str], log_folder: Path, *, quiet: bool = False) -> None:
        self._environment = dict(environment)
        self._log_folder = log_folder
        self._quiet = quiet
        self._children: list[Child] = []
        self._services: list[Service] = []
        self._services_again_at = 0.0
        self._print = threading.Lock()
        self.stopping = threading.Event()

    def add(self, name: str, command: Sequence[str], **environment: str) -> None:
        """Start a child now and keep it running."""
        child = Child(name, command, environment)
        self._children.append(child)
        self._start(child)

    def watch(self, service: Service) -> None:
        """Keep a started service running; it ends after all children."""
        self._services.append(service)

    def say(self, name: str, text: str) -> None:
        """One line of the common log."""
        line = f"{time.strftime('%H:%M:%S')} {name:<9} {text}"
        with self._print:
            with (self._log_folder / "fleet.log").open("a") as file:
                file.write(line + "\n")
            if not self._quiet:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()

    def run(self) -> None:
        """Watch over everything until `stopping` is set."""
        while not self.stopping.wait(0.2):
            self.tick()

    def tick(self) -> None:
        """Start again whatever has ended."""
        for service in self._services:
            if service.process is not None and service.process.poll() is not None:
                self._start_again(service)
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._note_end(child)
            if child.process is None and time.monotonic() >= child.again_at and not self.stopping.is_set():
                self._start(child)

    def _start_again(self, service: Service) -> None:
        """One that does not come up (its disk is full) is tried again and again: nobody else would."""
        if time.monotonic() < self._services_again_at:
            return
        assert service.process is not None
        name = type(service).__name__
        self.say("up", f"{name} ended with code {service.process.returncode}; starting it again")
        try:
            service.start()
        except ServiceError as error:
            self._services_again_at = time.monotonic() + SERVICE_WAIT_SECONDS
            self.say("up", f"{name} does not start: {error}; trying again in {SERVICE_WAIT_SECONDS:.0f} s")

    def _note_end(self, child: Child) -> None:
        assert child.process is not None
        code = child.process.returncode
        child.wait = 0.5 if time.monotonic() - child.started > 30 else min(child.wait * 2, 10.0)
        child.again_at = time.monotonic() + child.wait
        child.process = None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self.say("up", f"{child.name} {how}; starting it again in {child.wait:.1f} s")

    def _start(self, child: Child) -> None:
        child.started = time.monotonic()
        child.process = subprocess.Popen(
            list(child.command),
            env={**os.environ, **self._environment, **child.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=_end_with_parent,
            start_new_session=True,
        )
        threading.Thread(target=self._copy, args=(child.name, child.process), daemon=True).start()

    def _copy(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.strip():
                    self.say(name, line.rstrip())

    def stop(self, timeout: float = 20) -> None:
        """SIGTERM in reverse order of start, SIGKILL for what is still there after `timeout`."""
        self.stopping.set()
        alive = [c.process for c in reversed(self._children) if c.process is not None and c.process.poll() is None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + timeout
        for process in alive:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for service in reversed(self._services):
            service.stop()
