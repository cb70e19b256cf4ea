"""Downloads at a time in one idc: capped over all workers, taken in turn, given back."""

from __future__ import annotations

import asyncio

import pytest

from fleet.control import db
from fleet.control.db import Connection
from machines import downloads
from tests.machines.loop import Loop, package


@pytest.fixture
def loop(conn: Connection) -> Loop:
    return Loop(conn)


async def rows(conn: Connection) -> list[int]:
    found = await (await conn.execute("SELECT machine_id FROM download ORDER BY 1")).fetchall()
    return [row[0] for row in found]


async def test_no_more_than_the_cap_of_an_idc_have_a_slot(conn: Connection) -> None:
    wanted = [(n, "a") for n in range(1, 6)] + [(n, "b") for n in range(6, 9)]
    assert await downloads.take(conn, wanted, {"a": 2}) == {1, 2, 6, 7, 8}
    assert await downloads.take(conn, [(9, "a")], {"a": 2}) == set()


async def test_who_has_a_slot_keeps_it_and_comes_before_others(conn: Connection) -> None:
    assert await downloads.take(conn, [(7, "a")], {"a": 1}) == {7}
    assert await downloads.take(conn, [(1, "a"), (7, "a")], {"a": 1}) == {7}


async def test_a_slot_that_is_given_back_or_forgotten_is_free(conn: Connection) -> None:
    await downloads.take(conn, [(1, "a"), (2, "a")], {"a": 2})
    await downloads.give_back(conn, [1])
    await conn.execute("UPDATE download SET expires_at = now() - interval '1 s'")
    assert await downloads.take(conn, [(3, "a"), (4, "a"), (5, "a")], {"a": 2}) == {3, 4}
    assert await rows(conn) == [3, 4]


async def test_two_workers_together_stay_below_the_cap(conn: Connection) -> None:
    others = [await db.connect() for _ in range(4)]
    try:
        asks = [[(100 * n + i, "a") for i in range(10)] for n in range(len(others))]
        granted = await asyncio.gather(*(downloads.take(c, a, {"a": 7}) for c, a in zip(others, asks, strict=True)))
    finally:
        for other in others:
            await other.close()
    assert sum(map(len, granted)) == 7


async def test_machines_of_an_idc_download_in_turn_and_all_get_their_package(loop: Loop) -> None:
    await loop.make(package(), {"kind": "Idc", "metadata": {"name": "a"}, "spec": {"downloads": 1}})
    for name in ("m1", "m2", "m3"):
        await loop.machine(name, versions={"pouch": "1.0"})
    most, said = 0, set[str]()
    for _ in range(60):
        await loop.step(0.5)
        most = max(most, len(await rows(loop.conn)))
        found = await loop.conn.execute("SELECT status ->> 'message' FROM machines_operation")
        said |= {str(row[0]) for row in await found.fetchall()}
    assert "Waits for its turn: idc a runs at most 1 downloads at a time." in said
    await loop.run(10)
    assert most == 1
    assert {await loop.phase(n) for n in ("m1", "m2", "m3")} == {"Running"}
    assert await rows(loop.conn) == []
