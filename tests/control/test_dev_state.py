"""What `make up` keeps: a database without its secrets, and secrets without their database, are told and not replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.dev.state import State


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """As of an ordinary user, whose database lies in `.fleet/`."""
    monkeypatch.setattr("os.getuid", lambda: 1000)
    return State.of(tmp_path)


def test_a_first_start_that_was_broken_off_is_begun_again(state: State) -> None:
    assert (state.orphan, state.is_bereft) == (None, False)
    assert state.environment() == state.environment()
    assert (state.orphan, state.is_bereft) == (None, False)


def test_a_database_without_its_secrets_is_told(state: State) -> None:
    state.database.mkdir()
    assert (state.orphan, state.is_bereft) == (state.home, False)


def test_secrets_without_the_database_that_they_open_are_told(state: State) -> None:
    state.environment()
    state.database.mkdir()
    (state.home / "kubeconfig").write_text("")
    assert (state.orphan, state.is_bereft) == (None, False)
    state.database.rmdir()
    assert (state.orphan, state.is_bereft) == (None, True)
