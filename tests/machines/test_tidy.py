"""Operations and batches that are long past go; what is open stays, and nothing is read that is not old."""

from __future__ import annotations

import pytest

from fleet.control.db import Connection
from fleet.control.threads import in_thread
from machines.batches.turns import turn
from machines.tidy import tidy
from tests.machines.loop import Loop
from tests.machines.test_batches import ask
from tests.machines.world import sql

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def ended(conn: Connection) -> Loop:
    """Two machines, each restarted once by a batch that ended."""
    loop = Loop(conn)
    for n in range(2):
        await loop.machine(f"m-{n}")
    await loop.run(4)
    await in_thread(lambda: ask())
    for _ in range(40):
        await turn(conn)
        await loop.step(10)
        if sql("SELECT 1 FROM machines_operationbatch WHERE status ? 'endTime'"):
            return loop
    raise AssertionError("the batch did not end")


async def test_what_ended_long_ago_goes_and_watchers_see_it_go(ended: Loop) -> None:
    assert await tidy(ended.conn) == 0
    sql("UPDATE machines_operation SET ended_at = now() - interval '181 days' WHERE name LIKE '%%m-0%%'")
    gone = sql("SELECT count(*) FROM machines_operation WHERE ended_at < now() - interval '180 days'")[0][0]
    kept = sql("SELECT count(*) FROM machines_operation")[0][0] - gone
    assert gone and kept
    assert await tidy(ended.conn) == gone
    assert sql("SELECT count(*) FROM machines_operation") == [(kept,)]
    sql('UPDATE machines_operationbatch SET status = status || \'{"endTime": "2020-01-01T00:00:00Z"}\'')
    assert await tidy(ended.conn) == 1
    assert sql("SELECT count(*) FROM operation_batch_target") == [(0,)]
    assert sql("SELECT kind, count(*) FROM change WHERE op = 3 AND kind IN (3, 19) GROUP BY 1 ORDER BY 1") == [
        (3, gone),
        (19, 1),
    ]


async def test_what_is_open_stays_however_old_it_is(ended: Loop) -> None:
    sql(
        "UPDATE machines_operation SET ended_at = NULL, created_at = now() - interval '2 years' WHERE name LIKE '%%m-0%%'"
    )
    sql("UPDATE machines_operationbatch SET status = status - 'endTime', created_at = now() - interval '2 years'")
    await tidy(ended.conn, keep_days=0)
    assert sql("SELECT DISTINCT ended_at IS NULL FROM machines_operation") == [(True,)]
    assert sql("SELECT count(*) FROM machines_operationbatch") == [(1,)]
