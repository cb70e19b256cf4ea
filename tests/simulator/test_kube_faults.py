"""The simulated API server misbehaves as it is told, and so again from the same seed."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from clusters.kube import Kube, KubeUnreachable
from fleet.control.endpoint import Endpoint
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.faults import Fault, FaultError, Faults, from_json, script
from simulator.kube.server import KubeServer
from tests.simulator.api_servers import LOOPBACK, came_true, first, lines, refusal

NODES = "/api/v1/nodes"
NOW = 1_800_000_000.0


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    made = KubeServer(SimulatedCluster(clock=lambda: NOW), ticking=False)
    made.cluster.kubelets.add([f"n{number}" for number in range(10)])
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def kube(server: KubeServer) -> AsyncIterator[Kube]:
    async with Kube(Endpoint(server.url), networks=LOOPBACK) as made:
        yield made


async def names(kube: Kube, **params: str) -> list[str]:
    return [n["metadata"]["name"] for n in (await kube.get(NODES, **params))["items"]]


ALL = [f"n{number}" for number in range(10)]


@pytest.mark.parametrize(("code", "retry"), [(429, 7), (500, 0), (503, 0), (401, 0)])
async def test_a_refusal_strikes_as_often_as_ordered(server: KubeServer, kube: Kube, code: int, retry: int) -> None:
    server.cluster.order(Fault("refuse", code=code, retry=retry, times=2))
    for _ in range(2):
        error = await refusal(kube.get(NODES))
        assert (error.code, error.retry_seconds) == (code, retry)
    assert await names(kube) == ALL


async def test_only_the_verbs_and_paths_ordered_are_met(server: KubeServer, kube: Kube) -> None:
    server.cluster.order(Fault("refuse", code=503, verbs=("list",), path=NODES))
    assert (await refusal(kube.get(NODES))).code == 503
    assert (await kube.get(f"{NODES}/n1"))["metadata"]["name"] == "n1"
    assert (await kube.get("/api/v1/pods"))["items"] == []


async def test_a_slow_answer_and_none_at_all(server: KubeServer, kube: Kube) -> None:
    server.cluster.order(Fault("slow", seconds=0.01, times=1))
    assert await names(kube) == ALL
    server.cluster.order(Fault("hang", path=f"{NODES}/n1"))
    with pytest.raises(KubeUnreachable):
        await kube.send("GET", f"{NODES}/n1", seconds=0.2)


async def test_a_cut_connection_is_no_answer(server: KubeServer, kube: Kube) -> None:
    server.cluster.order(Fault("cut", times=1, verbs=("list",)))
    with pytest.raises(KubeUnreachable):
        await kube.get(NODES)
    assert await names(kube) == ALL


async def test_an_empty_list_and_one_that_lacks_some_are_lies_of_the_list_alone(server: KubeServer, kube: Kube) -> None:
    server.cluster.order(Fault("empty", times=1))
    listed = await kube.get(NODES)
    assert listed["items"] == [] and int(listed["metadata"]["resourceVersion"]) == server.cluster.store.revision
    server.cluster.order(Fault("lacking", names=("n3", "n7"), times=2))
    assert await names(kube) == [n for n in ALL if n not in ("n3", "n7")]
    one = await kube.get(NODES, limit="3")
    assert [n["metadata"]["name"] for n in one["items"]] == ["n0", "n1", "n2"] and one["metadata"][
        "remainingItemCount"
    ] == 5
    assert (await kube.get(f"{NODES}/n3"))["metadata"]["name"] == "n3"
    assert await names(kube) == ALL


async def test_a_share_of_a_list_is_lacking_and_always_the_same(server: KubeServer, kube: Kube) -> None:
    server.cluster.order(Fault("lacking", part=0.5))
    once, again = await names(kube), await names(kube)
    assert once == again and 0 < len(once) < 10


async def test_a_stale_server_shows_the_past_at_its_old_version(server: KubeServer, kube: Kube) -> None:
    then = server.cluster.store.revision
    server.cluster.order(Fault("stale"))
    await kube.patch(f"{NODES}/n1", {"metadata": {"labels": {"new": "1"}}})
    await kube.delete(f"{NODES}/n2")
    listed = await kube.get(NODES)
    assert listed["metadata"]["resourceVersion"] == str(then) and len(listed["items"]) == 10
    assert "new" not in (await kube.get(f"{NODES}/n1"))["metadata"]["labels"]
    told = await first(kube, NODES, str(then), 2)
    assert [kind for kind, _ in told] == ["MODIFIED", "DELETED"]
    server.cluster.faults.clear()
    assert len(await names(kube)) == 9


async def test_a_half_open_stream_says_nothing(server: KubeServer, kube: Kube) -> None:
    version = (await kube.get(NODES))["metadata"]["resourceVersion"]
    server.cluster.order(Fault("mute", times=1))
    await kube.patch(f"{NODES}/n1", {"metadata": {"labels": {"new": "1"}}})
    with pytest.raises(KubeUnreachable):
        await first(kube, NODES, version, 1, silence_seconds=0.2)
    assert (await first(kube, NODES, version, 1, silence_seconds=20.0))[0][0] == "MODIFIED"


async def test_a_stream_is_cut_in_the_middle_of_a_line(server: KubeServer, kube: Kube) -> None:
    version = (await kube.get(NODES))["metadata"]["resourceVersion"]
    await kube.patch(f"{NODES}/n1", {"metadata": {"labels": {"new": "1"}}})
    server.cluster.order(Fault("cut", verbs=("watch",), times=1))
    with pytest.raises(KubeUnreachable):
        await first(kube, NODES, version, 1)
    waiting = asyncio.ensure_future(first(kube, NODES, str(server.cluster.store.revision), 1))

    async def opened() -> bool:
        return server.streams > 0

    await came_true(opened)
    server.cut()
    with pytest.raises(KubeUnreachable):
        await waiting


async def test_a_compaction_and_an_order_to_expire_answer_410(server: KubeServer, kube: Kube) -> None:
    version = (await kube.get(NODES))["metadata"]["resourceVersion"]
    token = (await kube.get(NODES, limit="3"))["metadata"]["continue"]
    await kube.patch(f"{NODES}/n1", {"metadata": {"labels": {"new": "1"}}})
    server.cluster.store.compact()
    assert (await refusal(kube.get(NODES, **{"continue": token}))).reason == "Expired"
    assert [(kind, status["code"]) async for kind, status in lines(kube, NODES, version)] == [("ERROR", 410)]
    now = str(server.cluster.store.revision)
    server.cluster.order(Fault("expired", times=2))
    token = (await kube.get(NODES, limit="3"))["metadata"]["continue"]
    assert (await refusal(kube.get(NODES, **{"continue": token}))).reason == "Expired"
    assert [(kind, status["code"]) async for kind, status in lines(kube, NODES, now)] == [("ERROR", 410)]


async def test_a_reader_that_is_too_slow_is_told_that_it_missed_something() -> None:
    cluster = SimulatedCluster(clock=lambda: NOW, history=5)
    cluster.kubelets.add(["n"])
    since = cluster.store.revision
    for number in range(12):
        cluster.kubelets.fail("n", ("NotReady", "")[number % 2])
    server = KubeServer(cluster, ticking=False)
    await server.start()
    async with Kube(Endpoint(server.url), networks=LOOPBACK) as kube:
        assert [(kind, status["code"]) async for kind, status in lines(kube, NODES, str(since))] == [("ERROR", 410)]
    await server.stop()


def test_the_same_seed_meets_the_same_requests() -> None:
    def met(seed: int) -> list[int]:
        faults = Faults(seed)
        faults.add(Fault("refuse", share=0.3))
        return [len(faults.meeting("get", "/x", 0.0)) for _ in range(200)]

    assert met(1) == met(1) != met(2)
    assert 30 < sum(met(1)) < 90
    assert script(3, 3600.0, 30.0) == script(3, 3600.0, 30.0) != script(4, 3600.0, 30.0)


def test_a_fault_has_a_time() -> None:
    faults = Faults()
    faults.add(Fault("refuse", begin=10.0, until=20.0))
    assert [bool(faults.meeting("get", "/", now)) for now in (9.9, 10.0, 19.9, 20.0)] == [False, True, True, False]


@pytest.mark.parametrize(
    "order",
    [{"what": "nonsense"}, {"what": "slow", "verbs": ["fly"]}, {"what": "slow", "share": 2}, {"what": "slow", "x": 1}],
)
def test_a_wrong_order_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(FaultError):
        from_json(order)


async def test_orders_come_over_http_too(server: KubeServer) -> None:
    async with aiohttp.ClientSession(server.url) as session:

        async def order(where: str, **body: Any) -> Any:
            async with session.post(f"/-/{where}", data=orjson.dumps(body)) as answer:
                return answer.status, await answer.json()

        assert await order("faults", what="refuse", code=500) == (200, {"id": 1})
        assert (await order("faults", what="nonsense"))[0] == 400
        async with session.get(NODES) as answer:
            assert answer.status == 500
        async with session.delete("/-/faults/1") as answer:
            assert await answer.json() == {"cleared": 1}
        assert await order("nodes", count=5, first=100, provider="fleet://{name}") == (200, {"added": 5})
        assert await order("kubelets", names=["n1"], mode="NotReady") == (200, {"changed": 1})
        assert (await order("kubelets", names=["n1"], mode="Gone"))[0] == 400
        async with session.get("/-/state") as answer:
            state = await answer.json()
        assert state["kubelets"] == {"Well": 14, "NotReady": 1, "Dead": 0, "Lying": 0, "NoSandbox": 0}
        assert state["collections"]["nodes"]["objects"] == 15 and state["faults"] == []
        async with session.get(f"{NODES}/node-0000100") as answer:
            assert (await answer.json())["spec"]["providerID"] == "fleet://node-0000100"
        assert (await order("script", seed=1, seconds=600, every=30))[1]["faults"] > 5


@pytest.mark.parametrize(
    "body", [{"metadata": "x"}, {"metadata": {"name": "x"}, "spec": []}, {"metadata": {"name": "x", "labels": []}}, 7]
)
async def test_an_object_of_another_shape_is_the_clients_mistake(kube: Kube, body: Any) -> None:
    assert (await refusal(kube.create(NODES, body))).code in (400, 422)


async def test_who_hangs_up_leaves_no_stream_behind(server: KubeServer, kube: Kube) -> None:
    version = (await kube.get(NODES))["metadata"]["resourceVersion"]
    server.cluster.order(Fault("mute"))
    with pytest.raises(KubeUnreachable):
        await first(kube, NODES, version, 1, silence_seconds=0.1)

    async def closed() -> bool:
        return server.streams == 0

    await came_true(closed)


async def test_a_body_of_more_than_three_mebibytes_is_too_large(server: KubeServer) -> None:
    body = io.BytesIO(b" " * (4 << 20))
    async with aiohttp.ClientSession(server.url) as session, session.post(NODES, data=body) as answer:
        status = await answer.json()
    assert (answer.status, status["reason"]) == (413, "RequestEntityTooLarge")
