"""Cursors of Fleet's own readers: nothing skipped, nothing lost, what cannot be handled set aside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleet.control.db import Connection
from fleet.events import consumers
from fleet.events.log import EventFilter, EventRow
from tests.events.conftest import tell

ALL = EventFilter()


async def _names(conn: Connection, wanted: EventFilter = ALL, limit: int = 1000) -> tuple[list[str], int]:
    rows, reached = await consumers.read(conn, "test", wanted, limit)
    return [row.name for row in rows], reached


async def _one(conn: Connection) -> tuple[EventRow, int]:
    rows, reached = await consumers.read(conn, "test", ALL)
    assert len(rows) == 1
    return rows[0], reached


async def _letters(conn: Connection) -> list[tuple[object, ...]]:
    found = await conn.execute("SELECT reason, subject, state, attempts FROM dead_letter ORDER BY id")
    return await found.fetchall()


async def test_a_new_consumer_begins_at_the_present(conn: Connection) -> None:
    await tell(conn, "before")
    assert (await _names(conn))[0] == []
    await tell(conn, "after")
    assert (await _names(conn))[0] == ["after"]


async def test_events_come_again_until_the_cursor_moves(conn: Connection) -> None:
    await _names(conn)
    for name in "abc":
        await tell(conn, name)
    first, reached = await _names(conn, limit=2)
    assert first == ["a", "b"]
    assert (await _names(conn, limit=2))[0] == ["a", "b"]
    await consumers.advance(conn, "test", reached)
    assert (await _names(conn, limit=2))[0] == ["c"]


async def test_a_cursor_never_moves_backwards(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "a")
    _, reached = await _names(conn)
    await consumers.advance(conn, "test", reached)
    await consumers.advance(conn, "test", reached - 1_000_000)
    assert (await _names(conn))[0] == []


async def test_an_event_of_a_transaction_that_is_still_open_is_not_passed(conn: Connection, other: Connection) -> None:
    await _names(conn)
    async with other.transaction():
        await tell(other, "slow")
        await tell(conn, "quick")
        names, reached = await _names(conn)
        assert names == []
        await consumers.advance(conn, "test", reached)
    assert (await _names(conn))[0] == ["slow", "quick"]


async def test_events_of_one_position_are_never_torn_apart(conn: Connection) -> None:
    await _names(conn)
    async with conn.transaction():
        found = await (await conn.execute("SELECT fleet_pos()")).fetchone()
        assert found is not None
        for n in range(5):
            await conn.execute(
                "INSERT INTO event (pos, n, object_id, kind, type, data) VALUES (%s, %s, 1, 1, 'x', jsonb_build_object('name', %s::text))",
                [found[0], n, str(n)],
            )
    names, reached = await _names(conn, limit=2)
    assert names == ["0", "1", "2", "3", "4"]
    await consumers.advance(conn, "test", reached)
    assert (await _names(conn))[0] == []


async def test_filters_of_several_types_and_clusters_move_the_cursor_over_the_rest(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "phase")
    await tell(conn, "fault", "dev.fleet.fault.declared")
    await tell(conn, "alert", "com.example.alert")
    names, reached = await _names(conn, EventFilter(types=("dev.fleet.fault", "com.example"), clusters=(1,)))
    assert names == ["fault", "alert"]
    await consumers.advance(conn, "test", reached)
    assert (await _names(conn))[0] == []
    await tell(conn, "elsewhere")
    assert (await _names(conn, EventFilter(clusters=(2,))))[0] == []


async def test_lag_is_the_age_of_the_oldest_unread_event(conn: Connection) -> None:
    _, reached = await _names(conn)
    await conn.execute(
        "INSERT INTO event (pos, at, object_id, kind, type) VALUES (fleet_pos(), now() - interval '90 seconds', 1, 1, 'x')"
    )
    [behind] = await consumers.lag(conn)
    assert (behind.name, behind.gaps, behind.dead_letters) == ("test", 0, 0)
    assert 90 <= behind.seconds < 120
    _, reached = await _names(conn)
    await consumers.advance(conn, "test", reached)
    [behind] = await consumers.lag(conn)
    assert behind.seconds == 0


async def test_what_retention_took_unread_is_told_as_a_gap(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "lost")
    await conn.execute("DELETE FROM event")
    await conn.execute("UPDATE installation SET events_from = fleet_horizon()")
    await tell(conn, "kept")
    assert (await _names(conn))[0] == ["kept"]
    [behind] = await consumers.lag(conn)
    assert behind.gaps == 1
    assert behind.gap is not None and behind.gap[0] < behind.gap[1]


async def test_what_retention_will_take_next_is_counted_while_it_is_there(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "old")
    await tell(conn, "older")
    assert await consumers.count_at_risk(conn) == 0
    await conn.execute(
        "INSERT INTO position_mark (at, pos) VALUES (now() - interval '89 days 12 hours', fleet_horizon())"
    )
    assert await consumers.count_at_risk(conn) == 1
    await conn.execute("UPDATE installation SET events_from = fleet_horizon()")
    await _names(conn)
    [behind] = await consumers.lag(conn)
    assert (behind.gaps, behind.lost) == (1, 2)


def test_the_order_of_things_is_that_of_their_observation() -> None:
    received = datetime(2026, 1, 31, 18, 0, tzinfo=UTC)

    def row(time: str) -> EventRow:
        return EventRow(1, 0, received, 1, 1, 1, 0, "t", "/s", {"time": time} if time else {})

    assert row("2026-01-31T17:00:00Z").observed_at == received - timedelta(hours=1)
    assert [row(t).observed_at for t in ("", "noon", "2026-01-31T17:00:00")] == [received] * 3


@pytest.mark.parametrize(
    "wanted",
    [EventFilter(types=("a.", "c")), EventFilter(clusters=(1, 3)), EventFilter(clusters=()), EventFilter(cluster=2, type="a"), ALL],
    ids=["types", "clusters", "no cluster", "one cluster and type", "all"],
)  # fmt: skip
async def test_a_filter_chooses_the_same_in_memory_and_in_sql(wanted: EventFilter, conn: Connection) -> None:
    await _names(conn)
    for type_ in ("a.b", "ab", "c.d"):
        for cluster in (1, 2, 3):
            await conn.execute(
                "INSERT INTO event (pos, object_id, cluster_id, kind, type) VALUES (fleet_pos(), 1, %s, 1, %s)",
                [cluster, type_],
            )
    everything, _ = await consumers.read(conn, "test", ALL)
    found, _ = await consumers.read(conn, "test", wanted)
    assert found == [row for row in everything if wanted.allows(row)]


async def test_a_handler_that_breaks_three_times_sets_the_event_aside_and_the_others_go_on(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "poison")
    row, reached = await _one(conn)
    error = RuntimeError("boom")
    assert [await consumers.stumbled(conn, "test", row, error) for _ in range(3)] == [False, False, True]
    assert await _letters(conn) == [("HandlerFailed", "poison", 0, 1)]
    await consumers.advance(conn, "test", reached)
    await tell(conn, "good")
    assert (await _names(conn))[0] == ["good"]


async def test_failures_of_another_event_are_counted_anew(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "a")
    await tell(conn, "b")
    rows, _ = await consumers.read(conn, "test", ALL)
    error = RuntimeError("boom")
    for row in (rows[0], rows[0], rows[1], rows[1]):
        assert not await consumers.stumbled(conn, "test", row, error)


async def test_a_dead_letter_that_is_tried_again_comes_first_and_goes_once_it_is_done(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "poison")
    row, reached = await _one(conn)
    await consumers.dead_letter(conn, "test", row, "Refused")
    await consumers.advance(conn, "test", reached)
    await tell(conn, "next")
    await conn.execute("UPDATE dead_letter SET state = 1")
    names, reached = await _names(conn)
    assert names == ["poison", "next"]
    await consumers.dead_letter(conn, "test", row, "RefusedAgain")
    await consumers.advance(conn, "test", reached)
    assert await _letters(conn) == [("RefusedAgain", "poison", 0, 2)]
    await conn.execute("UPDATE dead_letter SET state = 1")
    names, reached = await _names(conn)
    assert names == ["poison"]
    await consumers.advance(conn, "test", reached)
    assert await _letters(conn) == []


async def test_a_retry_that_is_asked_for_meanwhile_is_not_lost(conn: Connection) -> None:
    await _names(conn)
    await tell(conn, "poison")
    row, reached = await _one(conn)
    await consumers.dead_letter(conn, "test", row, "Refused")
    _, reached = await _names(conn)
    await conn.execute("UPDATE dead_letter SET state = 1")
    await consumers.advance(conn, "test", reached)
    assert (await _names(conn))[0] == ["poison"]
