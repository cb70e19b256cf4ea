"""Browsers that are logged in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from tests.servers import People


@pytest.fixture
def browser_of(people: People) -> Callable[[str], Client]:
    """A logged-in browser of somebody."""
    from django.contrib.auth import get_user_model

    def log_in(who: str) -> Client:
        client = Client()
        client.force_login(get_user_model().objects.get(username=who))
        return client

    return log_in
