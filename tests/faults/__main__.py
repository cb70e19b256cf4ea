"""`make faults`: run the matrix, print it as a table with a score."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Tree
from pathlib import Path

from tests.faults.matrix import ROWS, Row

HERE = Path(__file__).parents[1]


def main() -> int:
    there = {test for row in ROWS for test in row.tests if (HERE / test.partition("::")[0]).exists()}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-m",
            "not lab and not browser and not kube",
            f"--junitxml={report}",
        ]
        ended = subprocess.run([*command, *(str(HERE / t) for t in sorted(_widest(there)))], check=False)
        results = _results(report)
    survived = built = 0
    width = max(len(r.fault) for r in ROWS)
    for row in ROWS:
        said = _of(row, results)
        built += said != "not built"
        survived += said == "survived"
        sys.stdout.write(f"{row.fault:{width}}  {'must' if row.must else '    '}  {said:9}  {row.oracle}\n")
    sys.stdout.write(f"\n{survived} of {len(ROWS)} rows survived; {len(ROWS) - built} are not built yet.\n")
    return ended.returncode


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


def _of(row: Row, results: dict[str, bool]) -> str:
    if not row.tests:
        return "not built"
    parts = [
        [ok for name, ok in results.items() if name == t or name.startswith((f"{t}::", f"{t}/"))] for t in row.tests
    ]
    if not all(parts):
        return "not built"
    return "survived" if all(ok for part in parts for ok in part) else "FAILED"


if __name__ == "__main__":
    sys.exit(main())
