"""The watcher against an API server and the real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clusters import access
from fleet.control.db import Connection
from fleet.control.endpoint import Endpoint
from fleet.control.threads import in_thread
from machines.watch.ingest_sql import LINKS
from machines.watch.process import Watcher
from machines.watch.reflect import Times
from tests.machines.watch_server import ApiServer, node, until
from tests.machines.world import make, sql

pytestmark = pytest.mark.usefixtures("fleet_db")
FAST = Times(silence=2.0, recheck=0.01, relist=0.3, jitter=0.01, first=0.01, most=0.1)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    made = ApiServer()
    await made.start()
    yield made
    await made.stop()


def cluster(name: str = "c1", provider: str = "Local") -> int:
    """A row of a cluster."""
    rows = sql(
        "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) "
        "VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', jsonb_build_object('provider', %s::text), '{}', now()) RETURNING id",
        name, provider,
    )  # fmt: skip
    return int(rows[0][0])


def provider_ids() -> dict[str, str]:
    """Provider ids by the machine's name."""
    return {name: f"fleet://{uid}" for name, uid in sql("SELECT name, uid::text FROM machine ORDER BY name")}


@asynccontextmanager
async def watching(server: ApiServer, *ids: int, **kept: Any) -> AsyncIterator[Watcher]:
    """A watcher at work on these clusters."""
    for each in ids:
        await in_thread(lambda each=each: access.store(each, Endpoint(server.url)))  # type: ignore[misc]
    stop = asyncio.Event()
    watcher = Watcher(times=FAST, tick_seconds=0.05, **kept)
    task = asyncio.create_task(watcher.run(stop))
    try:
        yield watcher
    finally:
        stop.set()
        await task


def ready_of(name: str) -> str:
    """What Fleet believes of NodeReady."""
    found = sql("SELECT cond_true & 1, cond_false & 1 FROM machine_state WHERE name = %s", name)
    return {(1, 0): "True", (0, 1): "False"}.get(tuple(found[0]), "Unknown")


def nodes() -> list[str]:
    return [row[0] for row in sql("SELECT name FROM node ORDER BY name")]


async def test_nodes_become_rows_and_their_conditions_the_machines(server: ApiServer) -> None:
    c = cluster()
    make(3, cluster_id=c)
    ids = provider_ids()
    for n, provider in enumerate(ids.values()):
        await server.put(node(f"node-{n}", provider=provider))
    async with watching(server, c):
        await until(lambda: len(nodes()) == 3 and all(ready_of(m) == "True" for m in ids))
        row = sql(
            "SELECT n.name, m.name, n.kubelet_version, n.boot_id, n.internal_ip, n.labels FROM node n JOIN machine m ON m.id = n.machine_id ORDER BY 1"
        )[0]
        assert row == ("node-0", "m-0000", "v1.37.2", "boot-node-0", "10.0.0.1", {"kubernetes.io/hostname": "node-0"})
        await server.put(node("node-1", provider=ids["m-0001"], ready="False"))
        await until(lambda: ready_of("m-0001") == "False")
        assert ready_of("m-0000") == "True"


async def test_an_unchanged_node_is_not_written_again(server: ApiServer) -> None:
    c = cluster()
    make(1, cluster_id=c)
    provider = provider_ids()["m-0000"]
    await server.put(node("n", provider=provider))
    async with watching(server, c) as watcher:
        await until(lambda: ready_of("m-0000") == "True")
        before = sql("SELECT n.rv, s.rv FROM node n, machine_state s")
        await server.put(node("n", provider=provider))
        await server.put(node("other"))  # comes after it on the same stream
        await until(lambda: "other" in nodes())
        assert sql("SELECT n.rv, s.rv FROM node n, machine_state s WHERE n.name = 'n'") == before
        assert sql("SELECT count(*) FROM change WHERE kind = 1 AND op = 2") == [(1,)]
        assert watcher.watch_of(c) is not None


async def test_only_a_change_wakes_the_machine(server: ApiServer) -> None:
    c = cluster()
    make(2, cluster_id=c)
    ids = provider_ids()
    for name, provider in ids.items():
        await server.put(node(name, provider=provider))
    async with watching(server, c) as watcher:
        await until(lambda: all(ready_of(m) == "True" for m in ids))
        await until(lambda: (watch := watcher.watch_of(c)) is not None and watch.view.idle)  # wakes come after the rows
        sql("UPDATE work_item SET due_at = now() + interval '1 day' WHERE kind = 1")
        await server.put(node("m-0000", provider=ids["m-0000"]))
        await server.put(node("m-0001", provider=ids["m-0001"], unschedulable=True))
        due = await until(
            lambda: sql(
                "SELECT m.name FROM work_item w JOIN machine m ON m.id = w.object_id WHERE w.kind = 1 AND w.due_at <= now()"
            )
        )
        assert due == [("m-0001",)]
        assert sql("SELECT name FROM node WHERE unschedulable") == [("m-0001",)]


async def test_a_node_that_nobody_declared_is_stored_and_counted(server: ApiServer) -> None:
    c = cluster()
    await server.put(node("stray"))
    async with watching(server, c):
        await until(lambda: nodes() == ["stray"])
        await until(lambda: sql("SELECT machine_id FROM node") == [(None,)])
        await until(lambda: sql("SELECT status -> 'nodes' ->> 'undeclared' FROM clusters_cluster") == [("1",)])


async def test_a_machine_declared_after_its_node_gets_its_conditions(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machines.watch.cluster.RELINK_SECONDS", 0.1)
    c = cluster(provider="Imported")
    await server.put(node("m-0000"))
    async with watching(server, c):
        await until(lambda: nodes() == ["m-0000"])
        make(1, cluster_id=c)
        await until(lambda: ready_of("m-0000") == "True")
        assert sql("SELECT machine_id = (SELECT id FROM machine) FROM node") == [(True,)]


async def test_the_name_of_a_node_makes_no_machine_of_a_cluster_of_fleets_making(server: ApiServer) -> None:
    c = cluster(provider="Local")
    make(1, cluster_id=c)
    await server.put(node("m-0000"))
    async with watching(server, c):
        await until(lambda: nodes() == ["m-0000"])
        assert sql("SELECT machine_id FROM node") == [(None,)]


async def test_a_machine_of_another_cluster_is_not_linked(server: ApiServer) -> None:
    c, other = cluster(), cluster("c2")
    make(1, cluster_id=other)
    await server.put(node("n", provider=provider_ids()["m-0000"]))
    async with watching(server, c):
        await until(lambda: nodes() == ["n"])
        assert (sql("SELECT machine_id FROM node"), ready_of("m-0000")) == ([(None,)], "Unknown")


async def test_two_nodes_with_one_provider_id_are_one_machine_and_one_stray(server: ApiServer) -> None:
    c = cluster()
    make(1, cluster_id=c)
    provider = provider_ids()["m-0000"]
    await server.put(node("first", provider=provider))
    await server.put(node("second", provider=provider, ready="False"))
    async with watching(server, c):
        await until(lambda: nodes() == ["first", "second"] and ready_of("m-0000") == "True")
        assert sql("SELECT name FROM node WHERE machine_id IS NOT NULL") == [("first",)]


async def test_a_machine_that_leaves_the_cluster_is_no_node_any_more(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machines.watch.cluster.RELINK_SECONDS", 0.1)
    c = cluster()
    make(1, cluster_id=c)
    await server.put(node("n", provider=provider_ids()["m-0000"]))
    async with watching(server, c):
        await until(lambda: ready_of("m-0000") == "True")
        assert sql("SELECT is_node FROM machine_state") == [(True,)]
        sql("UPDATE machine SET cluster_id = 0")
        sql("UPDATE machine_state SET cluster_id = 0")
        await until(lambda: sql("SELECT is_node, k_cond FROM machine_state") == [(False, [])])
        await until(lambda: sql("SELECT machine_id FROM node") == [(None,)])


async def test_a_deleted_node_leaves_its_machine_unknown(server: ApiServer) -> None:
    c = cluster()
    make(2, cluster_id=c)
    ids = provider_ids()
    for name, provider in ids.items():
        await server.put(node(name, provider=provider))
    async with watching(server, c):
        await until(lambda: all(ready_of(m) == "True" for m in ids))
        await server.delete("m-0000")
        await until(lambda: nodes() == ["m-0001"])
        assert (ready_of("m-0000"), ready_of("m-0001")) == ("Unknown", "True")


async def test_a_node_that_comes_back_under_its_name_is_written_whole(server: ApiServer) -> None:
    c = cluster()
    make(1, cluster_id=c)
    provider = provider_ids()["m-0000"]
    await server.put(node("n", provider=provider))
    async with watching(server, c):
        await until(lambda: ready_of("m-0000") == "True")
        await server.delete("n")
        await server.put(node("n", provider=provider, uid="second"))
        await until(lambda: sql("SELECT uid FROM node") == [("second",)] and ready_of("m-0000") == "True")


async def test_types_that_others_own_are_not_taken_from_a_node(server: ApiServer) -> None:
    c = cluster()
    make(1, cluster_id=c)
    lying = node("n", provider=provider_ids()["m-0000"])
    lying["status"]["conditions"] += [
        {"type": t, "status": "True", "reason": "Lie"}
        for t in ("HostHealthy", "UpToDate", "NodeReady", "not a type", "GPUHealthy")
    ]
    lying["status"]["conditions"][1]["status"] = "False"
    await server.put(lying)
    async with watching(server, c):
        await until(lambda: ready_of("m-0000") == "False")
        kept = sql(
            "SELECT k.type FROM machine_state s, unnest(s.k_cond) v JOIN condition_kind k ON k.id = v >> 32 ORDER BY 1"
        )
        assert [row[0] for row in kept] == ["GPUHealthy", "MemoryPressure", "NodeReady"]
        assert sql("SELECT cond_true FROM machine_state") == [(0,)]


async def test_an_unreadable_node_stops_no_other(server: ApiServer) -> None:
    c = cluster()
    await server.put(node("good"))
    await server.put({**node("bad"), "status": {"conditions": "none"}})
    async with watching(server, c):
        await until(lambda: nodes() == ["good"])
        await server.say(b'{"type":"MODIFIED","object":{"metadata":{"name":7}}}')
        await server.put(node("later"))
        await until(lambda: nodes() == ["good", "later"])


async def test_lists_come_in_pages(server: ApiServer) -> None:
    server.page = 7
    c = cluster()
    for n in range(30):
        await server.put(node(f"n{n:02}"))
    async with watching(server, c):
        await until(lambda: len(nodes()) == 30)
        assert server.seen.count("list /api/v1/nodes") == 5


async def test_leases_are_not_watched(server: ApiServer) -> None:
    c = cluster()
    await server.put(node("n"))
    async with watching(server, c):
        await until(lambda: nodes() == ["n"])
        await until(lambda: "watch /api/v1/nodes" in server.seen and "watch /api/v1/events" in server.seen)
    assert not [s for s in server.seen if "leases" in s]


async def test_a_warning_about_a_node_is_told_of_its_machine_once(server: ApiServer) -> None:
    c = cluster()
    make(1, cluster_id=c)
    await server.put(node("n", provider=provider_ids()["m-0000"]))
    async with watching(server, c):
        await until(lambda: ready_of("m-0000") == "True" and "watch /api/v1/events" in server.seen)
        sql("INSERT INTO position_mark (at, pos) VALUES (now() - interval '11 min', 1)")
        for n in range(3):
            await server.put(
                {"metadata": {"name": f"e{n}"}, "involvedObject": {"kind": "Node", "name": "n"}, "type": "Warning", "reason": "OOM", "message": "killed"},
                "/api/v1/events",
            )  # fmt: skip
        await until(lambda: sql("SELECT data FROM event WHERE type = 'dev.fleet.machine.node-event'"))
        assert sql(
            "SELECT data ->> 'reason', data ->> 'name' FROM event WHERE type = 'dev.fleet.machine.node-event'"
        ) == [("OOM", "m-0000")]


async def test_machines_are_found_by_unique_indexes_though_nothing_is_known_of_their_cluster(conn: Connection) -> None:
    """Declared a moment ago, no statistics: a plan that reads the cluster's machines for each node never ends at 20,000."""
    c = cluster()
    make(2_000, cluster_id=c)
    values = {"names": [f"m-{n:04}" for n in range(1_000)], "uids": [None] * 1_000, "by_name": True, "c": c}
    found = await (
        await conn.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + LINKS.encode(), values, prepare=False)
    ).fetchall()
    used = [p for p in plans(found[0][0][0]["Plan"]) if p["Actual Loops"]]
    assert {p["Index Name"] for p in used if p.get("Index Name", "").startswith("machine_")} == {
        "machine_name_key",
        "machine_uid_key",
    }
    assert not [p for p in used if (p["Node Type"], p.get("Relation Name")) == ("Seq Scan", "machine")]


def plans(plan: Any) -> Iterator[Any]:
    """A plan and those in it."""
    yield plan
    for each in plan.get("Plans", ()):
        yield from plans(each)
