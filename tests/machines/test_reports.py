"""The one way reports are written: who may, what is kept, what a message costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.control.conditions import Condition
from fleet.control.db import Connection
from machines import packing, reports
from machines.reports import Report, write
from machines.watch.leases import Lease, LeaseLost
from tests.machines.test_reports_watched import believed
from tests.machines.test_watch import cluster
from tests.machines.world import make, sql
from tests.services import call_tables_empty

TYPE = "GPUHealthy"


def said(machine: int, status: Any = "True", reason: str = "Reported", message: str = "", **more: Any) -> Report:
    return Report(machine, TYPE, Condition(TYPE, status, reason, message), "gpu", **({"renew": True} | more))


def leased(c: int) -> Lease:
    sql("INSERT INTO shard (cluster_id, holder, epoch, lease_until) VALUES (%s, 7, 3, now() + interval '1 h')", c)
    return Lease(c, 7, 3)


async def test_a_watcher_that_lost_its_lease_writes_no_report(conn: Connection) -> None:
    c = cluster()
    (machine,) = make(1, cluster_id=c)
    lease = leased(c)
    for stale in (replace(lease, epoch=2), replace(lease, holder=8)):
        with pytest.raises(LeaseLost):
            await write(conn, [said(machine)], stale)
    assert sql("SELECT count(*) FROM report") == [(0,)]
    assert await write(conn, [said(machine)], lease) == {machine}


async def test_a_lease_is_for_the_machines_of_its_cluster_only(conn: Connection) -> None:
    c, other = cluster(), cluster("c2")
    (mine,), (foreign,) = make(1, cluster_id=c), make(1, cluster_id=other, prefix="o")
    assert await write(conn, [said(mine), said(foreign)], leased(c)) == {mine}
    assert sql("SELECT machine_id FROM report") == [(mine,)]


async def test_what_was_received_meanwhile_is_neither_lapsed_nor_taken_away(conn: Connection) -> None:
    (machine,) = make(1)
    await write(conn, [said(machine, ttl_seconds=60)])
    before = datetime.now(UTC) - timedelta(hours=1)  # as if somebody had looked an hour ago, and writes only now
    lapsed = Report(machine, TYPE, Condition(TYPE, "Unknown", "Expired", ""), "gpu", at=before)
    assert await write(conn, [lapsed, replace(lapsed, type="Other", condition=None)]) == set()
    assert await write(conn, [replace(lapsed, condition=None)]) == set()
    assert believed("m-0000") == ("True", "Reported")


async def test_a_status_that_does_not_change_keeps_its_time(conn: Connection) -> None:
    (machine,) = make(1)
    await write(conn, [said(machine)])
    sql("UPDATE machine_state SET x_cond = ARRAY[x_cond[1] - 1000]")
    since = "SELECT x_cond[1] & 4294967295 FROM machine_state"
    old = sql(since)
    assert await write(conn, [said(machine, reason="StillGood")]) == {machine}
    assert sql(since) == old
    await write(conn, [said(machine, "False")])
    assert sql(since)[0][0] >= old[0][0] + 1000


async def test_a_message_alone_is_shown_and_wakes_nobody(conn: Connection) -> None:
    (machine,) = make(1)  # the reason is this test's own: its first message stands in the dictionary
    await write(conn, [said(machine, reason="CountedHere", message="8 of 8")])
    before = sql("SELECT rv FROM machine_state")[0][0]
    assert await write(conn, [said(machine, reason="CountedHere", message="8 of 9")]) == set()
    ((rv, notes),) = sql("SELECT rv, notes FROM machine_state")
    assert (rv > before, notes) == (True, {TYPE: "8 of 9"})
    assert await write(conn, [said(machine, reason="CountedHere", message="8 of 8")]) == set()
    assert sql("SELECT notes FROM machine_state") == [(None,)]


async def test_other_conditions_of_the_machine_stay_as_they_are(conn: Connection) -> None:
    (machine,) = make(1)
    sql("UPDATE machine_state SET k_cond = '{1}', m_cond = '{2}', cond_true = 5, cond_false = 2, notes = '{\"NodeReady\": \"x\"}'")  # fmt: skip
    kept = "SELECT k_cond, m_cond, cond_true, cond_false, notes ->> 'NodeReady' FROM machine_state"
    before = sql(kept)
    other = Report(machine, "DiskHealthy", Condition("DiskHealthy", "False", "Worn", "disk 3"), "disk", renew=True)
    await write(conn, [other])
    await write(conn, [said(machine, message="m")])
    await write(conn, [replace(said(machine), condition=None)])
    assert sql(kept) == before
    assert (believed("m-0000", "DiskHealthy"), believed("m-0000")) == (("False", "Worn"), ("", ""))
    assert sql("SELECT notes ? 'GPUHealthy' FROM machine_state") == [(False,)]


async def test_reporters_own_words_do_not_fill_the_dictionary(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_REASONS", 3)
    (machine,) = make(1)
    words = [f"Word{n}" for n in range(6)]
    crowd = [Condition("Chatty", "True", word, "said") for word in words]
    for condition in crowd:
        await write(conn, [Report(machine, "Chatty", condition, "gpu", renew=True)])
    assert sql("SELECT count(*) FROM condition_kind WHERE type = 'Chatty' AND reason LIKE 'Word%%'") == [(3,)]
    assert believed("m-0000", "Chatty") == ("True", "Reported")
    assert sql("SELECT message FROM report") == [("Word5: said",)]
    assert packing.crowded(crowd[5], 3)


async def test_a_deleted_cluster_and_machines_that_are_gone_leave_nothing(conn: Connection) -> None:
    (machine,) = make(1)
    await write(conn, [said(machine)])
    sql("INSERT INTO condition_map (cluster_id, map) VALUES (99, 'n/m')")
    sql("DELETE FROM machine_state; DELETE FROM machine")
    await reports.drop_strayed(conn)
    assert sql("SELECT (SELECT count(*) FROM report), (SELECT count(*) FROM condition_map)") == [(0, 0)]


async def test_a_batch_is_written_by_keys_though_statistics_call_the_fleet_empty(conn: Connection) -> None:
    """Else each row reads all machines and all reports, and PostgreSQL ends the transaction."""
    c = cluster()
    ids, lease = make(20_000, cluster_id=c), leased(c)
    for status in ("True", "False", "Unknown"):
        call_tables_empty()
        batch = [said(machine, status) for machine in ids[: 5 * reports.BATCH]]
        assert len(await write(conn, batch, lease)) == len(batch)
    call_tables_empty()
    assert len(await write(conn, [replace(r, condition=None) for r in batch], lease)) == len(batch)
    assert sql("SELECT count(*) FROM report") == [(0,)]
