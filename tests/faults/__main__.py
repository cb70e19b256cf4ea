"""`make faults`: run the matrix, print it as a table with a score."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Tree
from collections import Counter
from pathlib import Path
from typing import Final

from lab.faketime import preload
from lab.requirements import HOST_TOOLS, LabError, check
from tests.faults.matrix import ROWS, Row

HERE = Path(__file__).parents[1]


LAB: Final = "lab/"
NEEDS_ROOT: Final = "needs root"


def main() -> int:
    there = {test for row in ROWS for test in row.tests if (HERE / test.partition("::")[0]).exists()}
    lab = {test for test in there if test.startswith(LAB)}
    code, results = _run(there - lab, "-n", "2", "-m", "not lab and not browser and not kube")
    why = _no_lab()
    if not why:
        ended, found = _run(lab, "-p", "no:randomly", "-m", "lab and not kube")
        code, results = code or ended, results | found
    said = {row: _of(row, results, lab=not why) for row in ROWS}
    width = max(len(r.fault) for r in ROWS)
    for row in ROWS:
        sys.stdout.write(f"{row.fault:{width}}  {'must' if row.must else '    '}  {said[row]:10}  {row.oracle}\n")
    counted = Counter(said.values())
    sys.stdout.write(
        f"\n{counted['survived']} of {len(ROWS)} rows survived; {counted['not built']} are not built yet.\n"
    )
    if counted[NEEDS_ROOT]:
        sys.stdout.write(f"{counted[NEEDS_ROOT]} rows were not tried: {why}\n")
    return code


def _no_lab() -> str:
    """Why the rows of the lab cannot be tried here; empty when they can."""
    try:
        check((*HOST_TOOLS, "iptables", "nsenter"))
        preload("+0")
    except LabError as error:
        return str(error)
    return ""


def _run(tests: set[str], *options: str) -> tuple[int, dict[str, bool]]:
    """Pytest's code and what became of the tests, by node id."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *options, f"--junitxml={report}"]
        ended = subprocess.run([*command, *(str(HERE / t) for t in sorted(_widest(tests)))], check=False)
        return ended.returncode, _results(report)


def _widest(tests: set[str]) -> set[str]:
    """Without those that a folder or file among them brings along."""
    return {t for t in tests if not any(t != o and (t.startswith((f"{o}::", f"{o}/"))) for o in tests)}


def _results(report: Path) -> dict[str, bool]:
    """By node id without parameters: whether all of its cases passed."""
    found: dict[str, bool] = {}
    for case in Tree.parse(report).getroot().iter("testcase"):
        name = f"{(case.get('classname') or '').removeprefix('tests.').replace('.', '/')}.py::{(case.get('name') or '').partition('[')[0]}"
        failed = any(child.tag in ("failure", "error", "skipped") for child in case)
        found[name] = found.get(name, True) and not failed
    return found


def _of(row: Row, results: dict[str, bool], *, lab: bool = True) -> str:
    """How a row ended. `lab`: its tests in the lab were tried."""
    if not row.tests:
        return "not built"
    if not lab and any(t.startswith(LAB) for t in row.tests):
        return NEEDS_ROOT
    parts = [
        [ok for name, ok in results.items() if name == t or name.startswith((f"{t}::", f"{t}/"))] for t in row.tests
    ]
    if not all(parts):
        return "not built"
    return "survived" if all(ok for part in parts for ok in part) else "FAILED"


if __name__ == "__main__":
    sys.exit(main())
