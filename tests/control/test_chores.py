"""What a worker does from time to time is what the sources say: a chore that no process loads is never missed by anything else."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# As a worker starts: its modules, then what Celery's signals load.
_WORKER = """
import json
from fleet.celery import app
app.loader.import_default_modules()
app.finalize()
from fleet.control.operators import chores, operators
print(json.dumps([sorted(chores()), len(operators())]))
"""


def _written() -> set[str]:
    """Names of all chores in the sources."""
    found = set()
    for folder in ("fleet", "machines", "clusters", "recovery"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Chore":
                    name = node.args[0]
                    assert isinstance(name, ast.Constant), f"{path}: the name of a chore is not written out"
                    found.add(str(name.value))
    return found


def test_a_worker_knows_every_chore_that_is_written() -> None:
    done = subprocess.run([sys.executable, "-c", _WORKER], cwd=ROOT, capture_output=True, text=True, check=True)
    known, operators = json.loads(done.stdout)
    assert set(known) == _written()
    assert len(known) > 25
    assert operators >= 3
