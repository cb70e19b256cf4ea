"""What several files of this folder stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulator.api_servers import ApiServer, simulated


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    """A simulated API server in a process of its own (`server` is Fleet's own: tests/servers.py)."""
    with simulated() as made:
        yield made
