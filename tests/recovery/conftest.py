"""What a process remembers is forgotten between tests of the recovery."""

from __future__ import annotations

import pytest

from recovery import blindness, reacting


@pytest.fixture(autouse=True)
def fresh_sight() -> None:
    """What a process remembers for a second outlives no test."""
    blindness._kept.clear()
    reacting._rules = None
