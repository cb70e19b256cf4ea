"""Events from outside in the log: each once, where it belongs, in whatever order and however often they come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.control import db
from fleet.control.db import Connection
from fleet.events import ingest, letters
from fleet.events.incoming import Incoming
from fleet.events.ingest import Forbidden, Full, Outcome, Publisher, store

FLEET = Publisher("ana")
NOW = datetime(2026, 1, 31, 18, 0, tzinfo=UTC)


def event(number: int = 1, **changes: Any) -> Incoming:
    return replace(Incoming(str(number), "/test", "com.example.test", {"n": number}), **changes)


def about(name: str, number: int = 1, **changes: Any) -> Incoming:
    return event(number, kind=1, name=name, **changes)


@pytest.fixture
async def machines(conn: Connection) -> AsyncIterator[dict[str, int]]:
    """Clusters a and b with a machine each, by their ids."""
    found = await conn.execute(
        "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) "
        "SELECT gen_random_uuid(), c, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now() FROM unnest(ARRAY['a', 'b']) c RETURNING name, id"
    )
    clusters = {str(name): int(i) for name, i in await found.fetchall()}
    for name, i in clusters.items():
        await declare(conn, f"{name}1", i)
    yield clusters


async def declare(conn: Connection, name: str, cluster: int) -> None:
    await conn.execute("INSERT INTO machine (name, cluster_id, spec) VALUES (%s, %s, '{}')", [name, cluster])


def vouched(id_: int) -> None:
    """A fleet-wide operator wants it tried again."""
    with db.connect_sync() as connection, connection.cursor() as cursor:
        assert letters.retry(cursor, letters.Reach(), [id_]) == [id_]


async def log(conn: Connection) -> list[tuple[Any, ...]]:
    rows = await conn.execute(
        "SELECT source_id, kind, cluster_id, data ->> 'name', data ->> 'by' FROM event ORDER BY pos"
    )
    return await rows.fetchall()


async def aside(conn: Connection) -> list[tuple[Any, ...]]:
    rows = await conn.execute("SELECT source_id, reason, subject, state, attempts FROM dead_letter ORDER BY id")
    return await rows.fetchall()


async def test_an_event_lies_where_its_machine_does(conn: Connection, machines: dict[str, int]) -> None:
    cluster = event(2, kind=2, name="b")
    assert await store(conn, [about("a1"), cluster, event(3)], FLEET) == Outcome(3, 0, 0)
    assert await log(conn) == [
        ("1", 1, machines["a"], "a1", "ana"),
        ("2", 2, machines["b"], "b", "ana"),
        ("3", 0, 0, "", "ana"),
    ]


async def test_what_came_already_is_stored_once(conn: Connection, machines: dict[str, int]) -> None:
    assert await store(conn, [about("a1"), about("a1"), about("a1", 2)], FLEET) == Outcome(2, 1, 0)
    assert await store(conn, [about("a1", 2), about("a1", 3)], FLEET) == Outcome(1, 1, 0)
    assert [row[0] for row in await log(conn)] == ["1", "2", "3"]
    elsewhere = about("a1", source="/other")
    assert await store(conn, [elsewhere], FLEET) == Outcome(1, 0, 0)


async def test_two_who_send_the_same_at_once_store_it_once(
    conn: Connection, other: Connection, machines: dict[str, int]
) -> None:
    batch = [about("a1", n) for n in range(500)]
    first, second = await asyncio.gather(
        store(conn, batch, FLEET), store(other, [*reversed(batch), about("a1", 999)], FLEET)
    )
    assert first.accepted + second.accepted == 501
    assert first.duplicates + second.duplicates == 500
    assert len(await log(conn)) == 501


@pytest.mark.parametrize("seed", range(5))
async def test_late_doubled_and_reordered_events_end_in_the_same_state(
    seed: int, conn: Connection, machines: dict[str, int]
) -> None:
    chance = random.Random(seed)
    sent = [about("a1", n, time=NOW - timedelta(hours=n)) for n in range(20)] + [about("nobody", 100)]
    mixed = sent + chance.choices(sent, k=30)
    chance.shuffle(mixed)
    while mixed:
        await store(conn, [mixed.pop() for _ in range(min(len(mixed), chance.randint(1, 9)))], FLEET, NOW)
    assert sorted(int(row[0]) for row in await log(conn)) == list(range(20))
    assert await aside(conn) == [("100", "UnknownSubject", "machine/nobody", 0, 1)]


async def test_an_event_about_a_machine_of_another_cluster_is_refused_with_its_whole_request(
    conn: Connection, machines: dict[str, int]
) -> None:
    by = Publisher("oper-a", {"a": machines["a"]})
    with pytest.raises(Forbidden, match=r"events\[1\]\.subject: machine/b1 lies in no cluster that oper-a may"):
        await store(conn, [about("a1"), about("b1", 2)], by)
    assert await log(conn) == []
    assert await store(conn, [about("a1")], by) == Outcome(1, 0, 0)  # the refused request has left no memory


async def test_an_event_about_nothing_belongs_to_the_one_cluster_of_its_publisher(
    conn: Connection, machines: dict[str, int]
) -> None:
    await store(conn, [event()], Publisher("oper-a", {"a": machines["a"]}))
    assert await log(conn) == [("1", 2, machines["a"], "a", "oper-a")]
    with pytest.raises(Forbidden, match=r"events\[0\]\.subject is missing"):
        await store(conn, [event(2)], Publisher("both", machines))


async def test_who_publishes_is_written_by_fleet_alone(conn: Connection, machines: dict[str, int]) -> None:
    await store(conn, [about("a1", data={"by": "someone else", "name": "b1"})], FLEET)
    assert await log(conn) == [("1", 1, machines["a"], "a1", "ana")]


@pytest.mark.parametrize(
    ("offset", "reason"),
    [(timedelta(minutes=4), ""), (timedelta(minutes=6), "FutureTime"), (-timedelta(days=6), ""), (-timedelta(days=8), "TooLate")],
    ids=["a clock a little ahead", "future", "days late", "weeks late"],
)  # fmt: skip
async def test_times_that_cannot_be_are_set_aside(
    offset: timedelta, reason: str, conn: Connection, machines: dict[str, int]
) -> None:
    await store(conn, [about("a1", time=NOW + offset)], FLEET, NOW)
    assert [row[1] for row in await aside(conn)] == [reason] * bool(reason)
    assert len(await log(conn)) == (not reason)


async def test_an_event_about_an_unknown_machine_comes_in_once_it_is_declared(
    conn: Connection, machines: dict[str, int]
) -> None:
    assert await store(conn, [about("new"), about("a1", 2)], FLEET) == Outcome(1, 0, 1)
    assert await letters.deliver_again(conn) == 0
    await declare(conn, "new", machines["b"])
    assert await letters.deliver_again(conn, unknown=False) == 0
    assert await letters.deliver_again(conn) == 1
    assert await aside(conn) == []
    assert (await log(conn))[1] == ("1", 1, machines["b"], "new", "ana")
    assert await store(conn, [about("new")], FLEET) == Outcome(0, 1, 0)


async def test_a_later_try_has_no_other_rights_than_the_first(conn: Connection, machines: dict[str, int]) -> None:
    await store(conn, [about("new")], Publisher("oper-a", {"a": machines["a"]}))
    await declare(conn, "new", machines["b"])
    await conn.execute("UPDATE dead_letter SET state = 1")
    assert await letters.deliver_again(conn) == 0
    assert await aside(conn) == [("1", "Forbidden", "machine/new", 0, 2)]
    assert await log(conn) == []


async def test_whoever_wants_another_try_vouches_for_it(conn: Connection, machines: dict[str, int]) -> None:
    await store(conn, [about("new")], Publisher("oper-a", {"a": machines["a"]}))
    await declare(conn, "new", machines["b"])
    await asyncio.to_thread(vouched, 1)
    assert await letters.deliver_again(conn, unknown=False) == 1
    assert await log(conn) == [("1", 1, machines["b"], "new", "oper-a")]


async def test_a_retry_of_what_is_still_unknown_says_so(conn: Connection, machines: dict[str, int]) -> None:
    await store(conn, [about("new")], FLEET)
    await conn.execute("UPDATE dead_letter SET state = 1")
    await letters.deliver_again(conn, unknown=False)
    assert await aside(conn) == [("1", "UnknownSubject", "machine/new", 0, 2)]


async def test_a_person_can_let_in_what_came_too_late(conn: Connection, machines: dict[str, int]) -> None:
    await store(conn, [about("a1", time=NOW - timedelta(days=30))], FLEET, NOW)
    await letters.deliver_again(conn)
    assert len(await aside(conn)) == 1
    await conn.execute("UPDATE dead_letter SET state = 1")
    assert await letters.deliver_again(conn, unknown=False) == 1
    assert len(await log(conn)) == 1


async def test_a_full_list_of_dead_letters_takes_nothing_more_and_stores_nothing(
    conn: Connection, machines: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MOST_LETTERS", 2)
    await store(conn, [about("x"), about("y", 2)], FLEET)
    with pytest.raises(Full):
        await store(conn, [about("a1", 3), about("z", 4)], FLEET)
    assert await log(conn) == []
    assert await store(conn, [about("a1", 3)], FLEET) == Outcome(1, 0, 0)  # what fits somewhere is taken


async def test_what_cannot_be_repeated_any_more_is_forgotten(conn: Connection, machines: dict[str, int]) -> None:
    await store(conn, [about("a1", n) for n in range(3)], FLEET)
    await conn.execute("UPDATE event_seen SET at = now() - interval '9 days'")
    await store(conn, [about("a1", 9)], FLEET)
    assert await ingest.forget_seen(conn) == 3
    assert await ingest.forget_seen(conn) == 0


async def test_a_batch_is_one_statement_however_many_it_holds(conn: Connection, machines: dict[str, int]) -> None:
    batch = [about("a1", n) for n in range(1_000)]
    assert await store(conn, batch, FLEET) == Outcome(1_000, 0, 0)
    positions = await (await conn.execute("SELECT min(pos), max(pos), count(*) FROM event")).fetchone()
    assert positions is not None and positions[1] - positions[0] == 999 and positions[2] == 1_000
