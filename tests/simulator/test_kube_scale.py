"""20,000 nodes in one simulated API server: lists in pages, a storm on a watch, little memory."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from clusters.kube import Kube
from fleet.control.endpoint import Endpoint
from machines.watch.seen import node_line, node_page
from tests.simulator.api_servers import LOOPBACK, order, refusal, simulated

COUNT = 20_000
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with simulated("--nodes", str(COUNT), "--status-seconds", "86400") as server:
        yield server.endpoint.server


@pytest.fixture
async def kube(url: str) -> AsyncIterator[Kube]:
    async with Kube(Endpoint(url), networks=LOOPBACK, compressed=False) as made:
        yield made


def state(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/-/state", timeout=60) as answer:
        return orjson.loads(answer.read())


async def test_all_nodes_come_in_pages_of_one_version(kube: Kube) -> None:
    names: list[str] = []
    versions = set()
    pages = 0
    async for body in kube.pages(NODES):
        page = node_page(body)
        names += [n.metadata.name for n in page.items or ()]
        versions.add(page.metadata.version)
        pages += 1
    assert names == [f"node-{n:07}" for n in range(COUNT)] and pages == 40 and len(versions) == 1


async def test_a_compressed_page_says_the_same(url: str, kube: Kube) -> None:
    async with Kube(Endpoint(url), networks=LOOPBACK, compressed=True) as other:
        wanted = {"limit": "100", "labelSelector": "topology.kubernetes.io/zone=zone-1"}
        plain, small = [await k.get(NODES, **wanted) for k in (kube, other)]
    assert plain["items"] == small["items"] and len(small["items"]) == 100


async def test_a_storm_is_told_whole_and_a_list_in_its_middle_is_of_one_moment(url: str, kube: Kube) -> None:
    first = await kube.get(NODES, limit="500")
    version = first["metadata"]["resourceVersion"]
    reading = asyncio.ensure_future(_sick(kube, version))
    ordering = asyncio.ensure_future(asyncio.to_thread(order, url, "storm", {"mode": "NotReady"}))
    params = {"limit": "500", "continue": first["metadata"]["continue"]}
    while params["continue"]:
        page = await kube.get(NODES, **params)
        assert page["metadata"]["resourceVersion"] == version
        assert all(
            c["status"] == "True" for n in page["items"] for c in n["status"]["conditions"] if c["type"] == "Ready"
        )
        params["continue"] = page["metadata"].get("continue", "")
    assert (await ordering)["changed"] == COUNT
    told = await reading
    assert sorted(told) == [f"node-{n:07}" for n in range(COUNT)]


async def _sick(kube: Kube, version: str) -> set[str]:
    """Names that the watch says are no longer Ready, until all have been; a kubelet may report again meanwhile."""
    out: set[str] = set()
    stream: Any = kube.watch(NODES, version)
    async with aclosing(stream) as lines:
        async for line in lines:
            event = node_line(line)
            assert int(event.object.metadata.version) > int(version)
            version = event.object.metadata.version
            if any(c.type == "Ready" and c.status == "False" for c in event.object.status.conditions):
                out.add(event.object.metadata.name)
                if len(out) == COUNT:
                    break
    return out


async def test_leases_are_renewed_and_listed(kube: Kube) -> None:
    name = f"{LEASES}/node-0000007"
    before = (await kube.get(name))["spec"]["renewTime"]
    stream: Any = kube.watch(
        LEASES,
        (await kube.get(LEASES, limit="1"))["metadata"]["resourceVersion"],
        fieldSelector="metadata.name=node-0000007",
    )
    async with aclosing(stream) as lines:
        event = orjson.loads(await anext(aiter(lines)))
    assert event["type"] == "MODIFIED" and event["object"]["spec"]["renewTime"] > before
    assert sum([len(orjson.loads(page)["items"]) async for page in kube.pages(LEASES)]) == COUNT


async def test_a_forgotten_token_leads_to_a_new_list(url: str, kube: Kube) -> None:
    first = await kube.get(NODES, limit="500")
    for mode in ("NotReady", ""):
        await asyncio.to_thread(order, url, "storm", {"mode": mode, "share": 0.01})
    await asyncio.to_thread(order, url, "compact")
    error = await refusal(kube.get(NODES, **{"limit": "500", "continue": first["metadata"]["continue"]}))
    assert (error.code, error.reason) == (410, "Expired")


def test_a_node_costs_little(url: str) -> None:
    """Packed: 9 kB of JSON in some 350 bytes; with its lease, keys and indexes 1.4 kB of the process, history apart."""
    found = state(url)
    nodes, leases = found["collections"]["nodes"], found["collections"]["leases"]
    assert nodes["objects"] == leases["objects"] == COUNT
    assert nodes["bytes"] < 500 * COUNT and leases["bytes"] < 500 * COUNT
    assert found["pssBytes"] < 250 << 20
