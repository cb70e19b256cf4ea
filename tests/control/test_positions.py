"""Positions rise with commits and never exceed the horizon of a reader who may not see them yet."""

from __future__ import annotations

import pytest
from django.db import connection, transaction


@pytest.mark.usefixtures("fleet_db")
def test_positions_of_one_transaction_rise_and_stay_above_the_horizon_until_it_ends() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT fleet_pos(4), fleet_pos(4), fleet_horizon()")
        first, second, horizon = cursor.fetchone()
        assert second == first + 4
        assert horizon <= first
    with connection.cursor() as cursor:
        cursor.execute("SELECT fleet_horizon()")
        assert cursor.fetchone()[0] > second
