"""A small fleet to look at: two clusters, machines in both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from tests.servers import People

V1 = "fleet.dev/v1"


@pytest.fixture
def small_fleet(people: People) -> list[str]:
    """Names of machines: a1, a2 in cluster a, b1 in cluster b."""
    write = Write(by=SYSTEM)
    for cluster in ("a", "b"):
        create_object(
            "clusters",
            {"apiVersion": V1, "kind": "Cluster", "metadata": {"name": cluster}, "spec": {"idc": "iad1"}},
            write=write,
        )
    for number, (name, cluster) in enumerate((("a1", "a"), ("a2", "a"), ("b1", "b"))):
        spec = {
            "clusterName": cluster,
            "idc": "iad1",
            "ip": f"10.9.0.{number + 1}",
            "serialNumber": f"SN{number}",
            "versions": {"pouch": "1.0"},
        }
        create_object(
            "machines", {"apiVersion": V1, "kind": "Machine", "metadata": {"name": name}, "spec": spec}, write=write
        )
    return ["a1", "a2", "b1"]


@pytest.fixture
def browser_of(people: People) -> Callable[[str], Client]:
    """A logged-in browser of somebody."""
    from django.contrib.auth import get_user_model

    def log_in(who: str) -> Client:
        client = Client()
        client.force_login(get_user_model().objects.get(username=who))
        return client

    return log_in
