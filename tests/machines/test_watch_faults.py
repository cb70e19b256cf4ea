"""The watcher when the API server lies, forgets, refuses, breaks off or is silent; and when another watcher takes over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fleet.control.db import Connection
from machines.watch import ingest
from machines.watch.leases import Lease, LeaseLost
from tests.machines.test_watch import cluster, nodes, provider_ids, ready_of, watching
from tests.machines.watch_server import ApiServer, node, until
from tests.machines.world import make, sql

pytestmark = pytest.mark.usefixtures("fleet_db")


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    made = ApiServer()
    await made.start()
    yield made
    await made.stop()


async def filled(server: ApiServer, count: int) -> int:
    """A cluster with so many machines and their nodes."""
    c = cluster()
    make(count, cluster_id=c)
    for name, provider in provider_ids().items():
        await server.put(node(name, provider=provider))
    return c


def all_ready() -> bool:
    return sql("SELECT count(*) FROM machine_state WHERE cond_true & 1 = 0") == [(0,)]


def view_fresh(c: int) -> tuple[str, str] | None:
    """Status and reason of ViewFresh."""
    found = sql(
        "SELECT v ->> 'status', v ->> 'reason' FROM clusters_cluster c, jsonb_array_elements(c.status -> 'conditions') v WHERE c.id = %s AND v ->> 'type' = 'ViewFresh'",
        c,
    )
    return (found[0][0], found[0][1]) if found else None


async def test_an_empty_list_takes_no_node_away(server: ApiServer) -> None:
    c = await filled(server, 20)
    async with watching(server, c):
        await until(all_ready)
        server.hide = set(provider_ids())
        await server.forget()
        await server.cut()
        await until(lambda: view_fresh(c) == ("False", "ListShrank"))
        assert len(nodes()) == 20
        await until(lambda: ready_of("m-0000") == "Unknown")
        assert sql("SELECT count(*) FROM machine_state WHERE cond_false & 1 = 1") == [(0,)]
        server.hide = set()
        await until(lambda: all_ready() and view_fresh(c) == ("True", "Streaming"))


async def test_a_lie_told_once_changes_nothing(server: ApiServer) -> None:
    c = await filled(server, 20)
    async with watching(server, c):
        await until(all_ready)
        rv = sql("SELECT sum(rv) FROM machine_state")
        seen = len(server.seen)
        server.hide = {"m-0003"}
        await server.forget()
        await server.cut()
        await until(lambda: "list /api/v1/nodes" in server.seen[seen:])
        server.hide = set()
        await until(
            lambda: "watch /api/v1/nodes" in server.seen[seen:][server.seen[seen:].index("list /api/v1/nodes") :]
        )
        await server.put(node("later"))
        await until(lambda: "later" in nodes())
        assert len(nodes()) == 21
        assert sql("SELECT sum(rv) FROM machine_state") == rv


async def test_a_node_that_three_lists_lack_is_gone(server: ApiServer) -> None:
    c = await filled(server, 20)
    async with watching(server, c):
        await until(all_ready)
    await server.delete("m-0003")
    async with watching(server, c):
        await until(lambda: len(nodes()) == 19)
        assert server.seen.count("list /api/v1/nodes") == 1 + 3
        assert ready_of("m-0003") == "Unknown"


async def test_410_leads_to_a_new_list(server: ApiServer) -> None:
    c = await filled(server, 3)
    async with watching(server, c):
        await until(all_ready)
        await server.forget()
        await server.cut()
        await until(lambda: server.seen.count("list /api/v1/nodes") == 2)
        await server.put(node("m-0000", provider=provider_ids()["m-0000"], ready="False"))
        await until(lambda: ready_of("m-0000") == "False")


async def test_a_stream_that_breaks_goes_on_where_it_was(server: ApiServer) -> None:
    c = await filled(server, 3)
    async with watching(server, c):
        await until(all_ready)
        await server.cut()
        await server.put(node("m-0000", provider=provider_ids()["m-0000"], ready="False"))
        await until(lambda: ready_of("m-0000") == "False")
        assert server.seen.count("list /api/v1/nodes") == 1


async def test_a_stream_that_says_nothing_is_opened_anew(server: ApiServer) -> None:
    c = await filled(server, 3)
    server.mute = True
    async with watching(server, c):
        await until(all_ready)
        await server.put(node("m-0000", provider=provider_ids()["m-0000"], ready="False"))
        await until(lambda: server.seen.count("watch /api/v1/nodes") >= 2)
        server.mute = False
        await until(lambda: ready_of("m-0000") == "False")


@pytest.mark.parametrize("code", [429, 500, 503, 403])
async def test_a_refusal_is_tried_again(server: ApiServer, code: int) -> None:
    c = await filled(server, 3)
    server.fail = [code] * 6
    async with watching(server, c):
        await until(all_ready)
        assert not server.fail


async def test_a_cluster_that_does_not_answer_makes_conditions_unknown_and_never_false(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machines.watch.view.FAILING_SECONDS", 0.2)
    monkeypatch.setattr("machines.watch.cluster.SETTLE_SECONDS", 0.05)
    c = await filled(server, 5)
    async with watching(server, c):
        await until(all_ready)
        port = int(server.url.rpartition(":")[2])
        await server.stop()
        await until(lambda: ready_of("m-0000") == "Unknown" and (view_fresh(c) or ("", ""))[0] == "False")
        assert sql("SELECT count(*) FROM machine_state WHERE (cond_true | cond_false) & 1 = 1") == [(0,)]
        assert len(nodes()) == 5
        await until(lambda: sql("SELECT state FROM shard") == [("Stale",)])
        await server.start(port)
        await until(lambda: all_ready() and view_fresh(c) == ("True", "Streaming"))


async def test_a_watcher_that_lost_its_lease_writes_nothing(conn: Connection) -> None:
    c = cluster()
    sql("INSERT INTO shard (cluster_id, holder, epoch, lease_until) VALUES (%s, 7, 3, now() + interval '1 min')", c)
    for stale in (Lease(c, 7, 2), Lease(c, 8, 3)):
        with pytest.raises(LeaseLost):
            await ingest.remove_nodes(conn, stale, ["n"])
    await ingest.remove_nodes(conn, Lease(c, 7, 3), ["n"])


async def test_two_watchers_share_a_cluster_by_turns(server: ApiServer) -> None:
    c = await filled(server, 3)
    async with watching(server, c) as first, watching(server, c) as second:
        await until(all_ready)
        assert (first.watch_of(c) is None) != (second.watch_of(c) is None)
    assert sql("SELECT holder FROM shard") == [(None,)]
    async with watching(server, c):
        await server.put(node("m-0000", provider=provider_ids()["m-0000"], ready="False"))
        await until(lambda: ready_of("m-0000") == "False")


async def test_a_lease_taken_away_moves_the_stream(server: ApiServer) -> None:
    c = await filled(server, 3)
    async with watching(server, c) as watcher:
        await until(all_ready)
        sql("UPDATE shard SET holder = 1, epoch = epoch + 1, lease_until = now() + interval '1 hour'")
        await until(lambda: watcher.watch_of(c) is None)
        sql("UPDATE shard SET lease_until = now() - interval '1 s'")
        await server.put(node("m-0000", provider=provider_ids()["m-0000"], ready="False"))
        await until(lambda: ready_of("m-0000") == "False")


async def test_what_is_seen_while_the_database_is_away_is_written_later(server: ApiServer) -> None:
    c = await filled(server, 3)
    async with watching(server, c):
        await until(all_ready)
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet' AND pid <> pg_backend_pid()"
        )
        await server.put(node("m-0000", provider=provider_ids()["m-0000"], ready="False"))
        await until(lambda: ready_of("m-0000") == "False")
