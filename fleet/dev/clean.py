"""`make clean`: what outlives a checkout ends: control planes that run beside Fleet, and the database's folder."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import orjson

from fleet.dev.state import State


def main() -> int:
    """End Local control planes by the pids that were written when they started, and remove what lies outside the checkout."""
    home = Path.cwd() / ".fleet"
    if not home.exists():
        return 0
    for run in sorted((home / "clusters").glob("*/*/run.json")):
        _end(orjson.loads(run.read_bytes()))
    location = home / "location"
    if location.exists():
        shutil.rmtree(State.of(Path.cwd()).database.parent, ignore_errors=True)
    return 0


def _end(run: dict[str, object]) -> None:
    """That very process, not another one that got its pid later."""
    pid = int(str(run["pid"]))
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return
    if started == run["started"]:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
