"""Simulated API servers for benchmarks, each in a process of its own, so that its CPU counts for nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STILL = "86400"  # seconds between two words of a kubelet: nothing but the list is looked at


@contextmanager
def simulated(nodes: int, first: int) -> Iterator[str]:
    """Where a server with so many nodes listens; their names go on from `first`, as those of machines do."""
    command = [sys.executable, "-m", "simulator.kube", "--nodes", str(nodes), "--first", str(first)]
    command += ["--lease-seconds", _STILL, "--status-seconds", _STILL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
