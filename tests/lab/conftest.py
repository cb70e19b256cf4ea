"""Real machines for the tests of this folder: one lab a session, its machines shared by tests that leave them whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import Lab
from lab.host import Host
from lab.packages import SigningKey


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """An empty lab; a test adds the machines it means to break."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="session")
def deb_host(lab: Lab) -> Host:
    """A Debian host that many tests share: they give packages and units names of their own."""
    return lab.deb("shared-deb")


@pytest.fixture(scope="session")
def rpm_host(lab: Lab) -> Host:
    """An rpm host that many tests share."""
    return lab.rpm("shared-rpm")


@pytest.fixture(scope="session")
def signing_key() -> Iterator[SigningKey]:
    """A throw-away key that signs packages."""
    with SigningKey() as key:
        yield key
