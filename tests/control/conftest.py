"""Stand-in operators for tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fleet.control import operators


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registered operators and chores of this test only."""
    monkeypatch.setattr(operators, "_operators", {})
    monkeypatch.setattr(operators, "_chores", {})
    yield
