"""The way to a simulated cluster: the address that the process which serves it has written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection

from fleet.control.endpoint import Endpoint
from fleet.control.errors import TemporaryError

if TYPE_CHECKING:
    from clusters.cases import Case


def way(case: Case) -> Endpoint:
    """Its API server; TemporaryError until one is there."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT url FROM simulated_cluster WHERE uid = %s", [case.uid])
        row = cursor.fetchone()
    if row is None:
        raise TemporaryError("NotSimulated", "no process simulates it yet: `python -m simulator.clusters` does")
    return Endpoint(row[0])
