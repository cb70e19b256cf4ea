"""The matrix itself: its rows name tests that are there, and the table says how they ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.__main__ import NEEDS_ROOT, _of, _results, _widest
from tests.faults.matrix import ROWS, Row

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("test", sorted({t for row in ROWS for t in row.tests}))
def test_each_named_test_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert (HERE / path).exists()
    assert not name or f"def {name}(" in (HERE / path).read_text()


def test_a_row_survives_only_if_all_of_its_tests_ran_and_passed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.a.test_b" name="test_x[1]"/><testcase classname="tests.a.test_b" name="test_x[2]"><failure/></testcase>'
        '<testcase classname="tests.a.test_b" name="test_y"/></testsuite></testsuites>'
    )
    results = _results(report)
    assert _of(Row("f", "o", ("a/test_b.py::test_y",)), results) == "survived"
    assert _of(Row("f", "o", ("a/test_b.py::test_x",)), results) == "FAILED"
    assert _of(Row("f", "o", ("a",)), results) == "FAILED"
    assert _of(Row("f", "o", ("a/test_b.py::test_z",)), results) == "not built"
    assert _of(Row("f", "o"), results) == "not built"


def test_a_row_of_the_lab_that_was_not_tried_says_what_it_needs() -> None:
    row = Row("f", "o", ("lab/test_b.py", "a/test_b.py::test_y"))
    assert _of(row, {"a/test_b.py::test_y": True}, lab=False) == NEEDS_ROOT
    assert _of(row, {"a/test_b.py::test_y": True}) == "not built"
    assert _of(row, {"a/test_b.py::test_y": True, "lab/test_b.py::test_x": True}) == "survived"


def test_a_folder_brings_its_files_along() -> None:
    assert _widest({"a", "a/test_b.py", "c/test_d.py::test_e", "c/test_d.py"}) == {"a", "c/test_d.py"}
