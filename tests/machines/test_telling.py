"""News are told beside the writing, a batch at a time; what could not be told is told again."""

from __future__ import annotations

import asyncio
from collections.abc import Set

import pytest

from fleet.control.db import Connection, connect
from machines import waking
from machines.watch import telling as module
from machines.watch.telling import Telling
from tests.machines.watch_server import until


def rests(telling: Telling) -> bool:
    return telling.idle


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What a listener heard, in the order in which it was told."""
    heard: list[list[int]] = []

    async def hear(conn: Connection, machines: Set[int]) -> None:
        heard.append(sorted(machines))
        await conn.execute("SELECT 1")

    monkeypatch.setattr(waking, "_listeners", [hear])
    monkeypatch.setattr(module, "MOST", 3)
    return heard


async def test_what_comes_while_others_are_told_of_comes_together(conn: Connection, told: list[list[int]]) -> None:
    telling = Telling()
    assert rests(telling)
    telling.add([])
    assert rests(telling)
    task = asyncio.create_task(telling.run(lambda job: job(conn)))
    telling.add([4, 2, 5, 1, 3])
    telling.add([1])
    assert not rests(telling)
    await until(lambda: rests(telling))
    assert told == [[1, 2, 3], [4, 5]]
    telling.add([1])
    assert not rests(telling)
    await until(lambda: rests(telling))
    assert told == [[1, 2, 3], [4, 5], [1]]
    task.cancel()


async def test_who_could_not_be_told_of_since_the_connection_broke_is_told_of_again(
    conn: Connection, told: list[list[int]]
) -> None:
    telling, broken = Telling(), await connect()
    await broken.close()
    telling.add([1, 2])
    with pytest.raises(Exception, match="closed"):
        await telling.tell(broken)
    assert not rests(telling)
    await telling.tell(conn)
    assert told == [[1, 2], [1, 2]] and rests(telling)


async def test_a_listener_that_stumbles_holds_up_nobody(conn: Connection, told: list[list[int]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    async def stumble(conn: Connection, machines: Set[int]) -> None:
        raise ValueError("no")

    monkeypatch.setattr(waking, "_listeners", [stumble, *waking._listeners])
    telling = Telling()
    telling.add([7])
    await telling.tell(conn)
    assert told == [[7]] and rests(telling)
    assert "a listener stumbled over the news of 1 machines" in caplog.text
