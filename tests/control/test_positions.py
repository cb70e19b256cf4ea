"""Positions rise with commits and never exceed the horizon of a reader who may not see them yet."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from fleet.control import position
from fleet.control.db import Connection


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


async def test_readers_wait_for_the_oldest_writer_and_see_how_long(conn: Connection, other: Connection) -> None:
    async with other.transaction():
        await other.execute("SELECT fleet_pos()")
        behind = await position.horizon(conn)
        assert await position.lag_seconds(conn) > 0
        await conn.execute("INSERT INTO tombstone (rv, kind, name, object) VALUES (fleet_pos(), 0, 'x', '{}')")
        assert await position.horizon(conn) == behind
    assert await position.horizon(conn) > behind
    assert await position.lag_seconds(conn) == 0


async def _floor(conn: Connection) -> int:
    found = await (await conn.execute("SELECT kept_from FROM installation")).fetchone()
    assert found is not None
    return int(found[0])


async def test_partitions_lie_ahead_and_go_once_they_are_old(conn: Connection) -> None:
    await position.make_partitions(conn)
    assert await position.partitions_ahead(conn, "change") >= position.AHEAD
    await conn.execute("CREATE TABLE change_9000 (LIKE change INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    span = position.SPANS["change"]
    low = 9_000 * span
    await conn.execute(
        f"ALTER TABLE change ATTACH PARTITION change_9000 FOR VALUES FROM ({low}) TO ({low + span})".encode()
    )
    await conn.execute(
        "INSERT INTO position_mark VALUES (now() - interval '2 hours', %s), (now(), %s)", [low + span - 1, 1 << 62]
    )
    present = f"change_{await position.horizon(conn) // span}"
    dropped = await position.drop_old(conn)
    assert "change_9000" not in dropped  # its last positions were not reached an hour ago
    assert present in dropped
    await conn.execute("INSERT INTO position_mark VALUES (now() - interval '90 min', %s)", [low + span])
    assert await position.drop_old(conn) == ["change_9000"]
    assert await _floor(conn) == low + span  # whoever comes with an older position is told to begin anew
    await conn.execute("TRUNCATE position_mark")
    assert await position.make_partitions(conn) == position.AHEAD + 1


async def test_a_restored_database_starts_above_everything_stored_and_voids_leases(conn: Connection) -> None:
    stored = 1 << 50
    await conn.execute("INSERT INTO tombstone (rv, kind, name, object) VALUES (%s, 0, 'x', '{}')", [stored])
    await conn.execute("INSERT INTO work_item (kind, object_id, holder, epoch) VALUES (99, 1, 5, 7)")
    assert await position.raise_incarnation(conn) == 2
    found = await (await conn.execute("SELECT fleet_pos()")).fetchone()
    assert found is not None and found[0] > stored
    assert await position.horizon(conn) > stored
    assert await (await conn.execute("SELECT holder, epoch FROM work_item")).fetchall() == [(None, 8)]
    await conn.execute(
        "INSERT INTO change (rv, object_id, kind, op) VALUES (fleet_pos(), 1, 0, 1)"
    )  # there is a partition for it
    assert (await position.identity(conn)).incarnation == 2
