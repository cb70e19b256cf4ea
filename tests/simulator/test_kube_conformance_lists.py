"""Lists and watches of both servers: pages, versions, selectors, events, bookmarks, and what is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson

from clusters.kube import Kube, KubeError
from tests.simulator.api_servers import ApiServer, first, lines, refusal
from tests.simulator.kube_objects import EVENTS, LEASES, MAPS, NODES, PODS, config, event, lease, node, pod

Json = dict[str, Any]


def names(listed: Json) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def filled(kube: Kube, namespace: str, count: int) -> str:
    """A namespace with so many leases, which no controller adds to; their path."""
    await kube.create("/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}})
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    for n in range(count):
        made = lease(f"l{n}", holderIdentity="x")
        made["metadata"]["labels"] = {"half": str(n % 2)}
        await kube.create(path, made)
    return path


# -- lists ----------------------------------------------------------------------------------------------------------------


async def test_a_list_comes_in_pages_of_one_version(kube: Kube) -> None:
    path = await filled(kube, "pages", 5)
    one = await kube.get(path, limit="2")
    assert (one["kind"], one["apiVersion"], names(one)) == ("LeaseList", "coordination.k8s.io/v1", ["l0", "l1"])
    assert one["metadata"]["remainingItemCount"] == 3 and "kind" not in one["items"][0]
    await kube.delete(f"{path}/l2")
    await kube.create(path, lease("l9"))
    await kube.patch(f"{path}/l3", {"spec": {"holderIdentity": "y"}})
    two = await kube.get(path, **{"limit": "2", "continue": one["metadata"]["continue"]})
    assert names(two) == ["l2", "l3"] and two["metadata"]["remainingItemCount"] == 1
    assert two["items"][1]["spec"]["holderIdentity"] == "x"
    assert two["metadata"]["resourceVersion"] == one["metadata"]["resourceVersion"]
    three = await kube.get(path, **{"limit": "2", "continue": two["metadata"]["continue"]})
    assert names(three) == ["l4"] and three["metadata"].keys() == {"resourceVersion"}
    assert names(await kube.get(path)) == ["l0", "l1", "l3", "l4", "l9"]


async def test_pages_of_a_selection_do_not_say_how_many_remain(kube: Kube) -> None:
    path = await filled(kube, "selected", 6)
    one = await kube.get(path, limit="2", labelSelector="half=0")
    assert names(one) == ["l0", "l2"] and "remainingItemCount" not in one["metadata"]
    two = await kube.get(path, **{"limit": "2", "labelSelector": "half=0", "continue": one["metadata"]["continue"]})
    assert names(two) == ["l4"] and "continue" not in two["metadata"]
    assert names(await kube.get(path, labelSelector="half!=0,half")) == ["l1", "l3", "l5"]
    assert names(await kube.get(path, labelSelector="half in (1, 2)")) == ["l1", "l3", "l5"]
    assert names(await kube.get(path, fieldSelector="metadata.name=l3")) == ["l3"]
    assert names(await kube.get(path, fieldSelector="metadata.name!=l3")) == ["l0", "l1", "l2", "l4", "l5"]


async def test_version_zero_is_the_cache_and_whole_and_an_exact_one_is_the_past(kube: Kube) -> None:
    path = await filled(kube, "versions", 3)
    then = await kube.get(path)
    version = then["metadata"]["resourceVersion"]
    await kube.delete(f"{path}/l1")
    await kube.create(path, lease("l7"))
    zero = await kube.get(path, limit="1", resourceVersion="0")
    assert "continue" not in zero["metadata"]
    exact = await kube.get(path, resourceVersion=version, resourceVersionMatch="Exact")
    assert names(exact) == ["l0", "l1", "l2"] and exact["metadata"]["resourceVersion"] == version
    newer = await kube.get(path, resourceVersion=version, resourceVersionMatch="NotOlderThan")
    assert names(newer) == ["l0", "l2", "l7"]


async def test_a_continue_token_goes_with_no_version_and_must_be_one(kube: Kube) -> None:
    path = await filled(kube, "tokens", 2)
    token = (await kube.get(path, limit="1"))["metadata"]["continue"]
    error = await refusal(kube.get(path, **{"continue": token, "resourceVersion": "5"}))
    assert (error.code, error.message) == (400, "specifying resource version is not allowed when using continue")
    error = await refusal(kube.get(path, **{"continue": "garbage"}))
    assert error.code == 400 and error.message.startswith("invalid continue token")


async def test_a_token_of_a_forgotten_version_expires_and_gives_one_that_goes_on(
    kube: Kube, api_server: ApiServer
) -> None:
    for n in range(4):
        await kube.create(EVENTS, event(f"expiring-{n}"))
    one = await kube.get(EVENTS, limit="2", labelSelector="!none")
    await kube.create(EVENTS, event("expiring-9"))
    await asyncio.to_thread(api_server.compact)
    error = await refusal(
        kube.get(EVENTS, **{"limit": "2", "labelSelector": "!none", "continue": one["metadata"]["continue"]})
    )
    assert (error.code, error.reason) == (410, "Expired")
    assert error.message.startswith("The provided continue parameter is too old to display a consistent list result.")
    version = one["metadata"]["resourceVersion"]
    error = await refusal(kube.get(EVENTS, resourceVersion=version, resourceVersionMatch="Exact"))
    assert (error.code, error.reason, error.message) == (
        410,
        "Expired",
        "The resourceVersion for the provided list is too old.",
    )


async def test_the_token_in_a_410_reads_on_in_the_present(kube: Kube, api_server: ApiServer) -> None:
    for n in range(4):
        await kube.create(EVENTS, event(f"zz-on-{n}"))
    query = {"limit": "500", "fieldSelector": "reason=Tested"}
    whole = names(await kube.get(EVENTS, **query))
    one = await kube.get(EVENTS, **query | {"limit": str(len(whole) - 2)})
    await kube.create(EVENTS, event("zz-on-8"))
    await asyncio.to_thread(api_server.compact)
    raw: Json = {}
    with contextlib.suppress(KubeError):
        await kube.get(EVENTS, **query | {"continue": one["metadata"]["continue"]})
    raw = await answer_of(kube, EVENTS, query | {"continue": one["metadata"]["continue"]})
    rest = await kube.get(EVENTS, **query | {"continue": raw["metadata"]["continue"]})
    assert names(rest) == ["zz-on-2", "zz-on-3", "zz-on-8"]


async def answer_of(kube: Kube, path: str, params: dict[str, str]) -> Json:
    """The body of any answer."""
    session = kube._open()
    async with session.get(kube.endpoint.server + path, params=params) as answer:
        found: Json = orjson.loads(await answer.read())
    return found


async def test_pods_are_found_by_node_and_events_by_what_they_are_about(kube: Kube) -> None:
    for n in range(4):
        await kube.create(PODS, pod(f"on-{n}", f"host-{n % 2}"))
        await kube.create(EVENTS, event(f"about-{n}", f"thing-{n % 2}"))
    assert names(await kube.get("/api/v1/pods", fieldSelector="spec.nodeName=host-1")) == ["on-1", "on-3"]
    assert names(await kube.get(PODS, fieldSelector="spec.nodeName=host-0,metadata.name=on-2")) == ["on-2"]
    assert names(await kube.get(PODS, fieldSelector="spec.nodeName=host-0,status.phase=Running")) == []
    selector = "involvedObject.kind=Node,type=Warning,involvedObject.name=thing-1"
    assert names(await kube.get("/api/v1/events", fieldSelector=selector)) == ["about-1", "about-3"]
    await kube.create(NODES, node("open"))
    await kube.create(NODES, {**node("closed"), "spec": {"unschedulable": True}})
    assert "closed" in names(await kube.get(NODES, fieldSelector="spec.unschedulable=true"))
    assert "open" in names(await kube.get(NODES, fieldSelector="spec.unschedulable=false"))
    for n in range(4):
        await kube.delete(f"{PODS}/on-{n}", grace_seconds=0)


async def test_daemonsets_are_listed_and_watched(kube: Kube) -> None:
    path = "/apis/apps/v1/namespaces/default/daemonsets"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    made = await kube.create(
        path, {"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": {"name": "agent"}, "spec": spec}
    )
    assert made["metadata"]["generation"] == 1
    listed = await kube.get("/apis/apps/v1/daemonsets")
    assert listed["kind"] == "DaemonSetList" and "agent" in names(listed)
    kind, found = (await first(kube, path, "0", 1, fieldSelector="metadata.name=agent"))[0]
    assert (kind, found["kind"], found["metadata"]["uid"]) == ("ADDED", "DaemonSet", made["metadata"]["uid"])


async def until_deleted(stream: AsyncIterator[tuple[str, Json]]) -> AsyncIterator[tuple[str, Json]]:
    """Events up to the end of the object; controllers of a real server may change it before."""
    async for each in stream:
        yield each
        if each[0] == "DELETED":
            return


# -- watches --------------------------------------------------------------------------------------------------------------


async def test_a_watch_tells_what_came_after_a_version_in_order(kube: Kube) -> None:
    version = (await kube.get(MAPS))["metadata"]["resourceVersion"]
    await kube.create(MAPS, config("watched"))
    await kube.patch(f"{MAPS}/watched", {"data": {"a": "c"}})
    await kube.delete(f"{MAPS}/watched")
    told = await first(kube, MAPS, version, 3, fieldSelector="metadata.name=watched")
    assert [(kind, obj["data"]["a"]) for kind, obj in told] == [("ADDED", "b"), ("MODIFIED", "c"), ("DELETED", "c")]
    assert {(obj["kind"], obj["apiVersion"]) for _, obj in told} == {("ConfigMap", "v1")}
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in told]
    assert int(version) < versions[0] < versions[1] < versions[2]
    rest = await first(kube, MAPS, str(versions[1]), 1, fieldSelector="metadata.name=watched")
    assert rest[0][0] == "DELETED"


async def test_a_watch_tells_what_happens_while_it_is_open(kube: Kube) -> None:
    version = (await kube.get(NODES))["metadata"]["resourceVersion"]
    stream = lines(kube, NODES, version, fieldSelector="metadata.name=later")
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.2)
    made = await kube.create(NODES, node("later"))
    kind, obj = await waiting
    assert (kind, obj["metadata"]["uid"]) == ("ADDED", made["metadata"]["uid"])
    await kube.delete(f"{NODES}/later")
    assert "DELETED" in [kind async for kind, _ in until_deleted(stream)]


async def test_a_watch_of_a_selection_tells_who_comes_and_who_leaves(kube: Kube) -> None:
    await kube.create(MAPS, config("mover", labels={"side": "left"}))
    version = (await kube.get(MAPS))["metadata"]["resourceVersion"]
    for side in ("right", "right", "left", None):
        await kube.patch(f"{MAPS}/mover", {"metadata": {"labels": {"side": side}}, "data": {"side": str(side)}})
    right = await first(kube, MAPS, version, 2, labelSelector="side=right")
    assert [kind for kind, _ in right] == ["ADDED", "DELETED"]
    left = await first(kube, MAPS, version, 3, labelSelector="side=left")
    assert [kind for kind, _ in left] == ["DELETED", "ADDED", "DELETED"]
    assert int(left[0][1]["metadata"]["resourceVersion"]) > int(version)


async def test_a_watch_of_a_nodes_pods_tells_of_no_others(kube: Kube) -> None:
    version = (await kube.get(PODS))["metadata"]["resourceVersion"]
    for name, on in (("here", "mine"), ("there", "other"), ("also", "mine")):
        await kube.create(PODS, pod(name, on))
    told = await first(kube, "/api/v1/pods", version, 2, fieldSelector="spec.nodeName=mine")
    assert [obj["metadata"]["name"] for _, obj in told] == ["here", "also"]
    for name in ("here", "there", "also"):
        await kube.delete(f"{PODS}/{name}", grace_seconds=0)


async def test_without_a_version_a_watch_begins_with_what_is_there(kube: Kube) -> None:
    path = await filled(kube, "present", 3)
    for version in ("", "0"):
        told = await first(kube, path, version, 3)
        assert sorted((kind, obj["metadata"]["name"]) for kind, obj in told) == [("ADDED", f"l{n}") for n in range(3)]


async def test_the_end_of_the_beginning_is_told_on_request(kube: Kube) -> None:
    path = await filled(kube, "initial", 2)
    wanted = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    told = await first(kube, path, "", 3, **wanted)
    assert [kind for kind, _ in told] == ["ADDED", "ADDED", "BOOKMARK"]
    meta = told[2][1]["metadata"]
    assert meta["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(meta["resourceVersion"]) >= max(int(obj["metadata"]["resourceVersion"]) for _, obj in told[:2])


async def test_bookmarks_tell_where_a_silent_stream_is(kube: Kube) -> None:
    """A real server sends one a minute, and begins with the first change of any object of the resource."""
    path = await filled(kube, "bookmarks", 1)
    version = (await kube.get(path))["metadata"]["resourceVersion"]
    wanted = first(kube, path, version, 1, fieldSelector="metadata.name=nobody")
    waiting = asyncio.ensure_future(wanted)
    while not waiting.done():
        await kube.patch(f"{path}/l0", {"spec": {"holderIdentity": f"{asyncio.get_running_loop().time()}"}})
        await asyncio.wait((waiting,), timeout=1.0)
    ((kind, obj),) = waiting.result()
    assert (kind, obj["kind"], obj["apiVersion"]) == ("BOOKMARK", "Lease", "coordination.k8s.io/v1")
    assert set(obj) - {"spec"} == {"kind", "apiVersion", "metadata"} and int(obj["metadata"]["resourceVersion"]) > int(
        version
    )


async def test_a_watch_ends_in_good_order_when_its_time_is_over(kube: Kube) -> None:
    version = (await kube.get(LEASES))["metadata"]["resourceVersion"]
    told = [e async for e in lines(kube, LEASES, version, timeoutSeconds="1", fieldSelector="metadata.name=nobody")]
    assert told == []


async def test_a_watch_from_a_forgotten_version_is_told_so(kube: Kube, api_server: ApiServer) -> None:
    version = (await kube.get(EVENTS))["metadata"]["resourceVersion"]
    for n in range(2):
        await kube.create(EVENTS, event(f"forgotten-{n}"))
    await asyncio.to_thread(api_server.compact)
    told = [e async for e in lines(kube, EVENTS, version)]
    ((kind, status),) = told
    assert kind == "ERROR" and status == {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
        "message": "The resourceVersion for the provided watch is too old.",
    }  # fmt: skip


async def test_a_watch_that_is_up_to_date_survives_a_compaction(kube: Kube, api_server: ApiServer) -> None:
    version = (await kube.get(EVENTS))["metadata"]["resourceVersion"]
    waiting = asyncio.ensure_future(first(kube, EVENTS, version, 1, fieldSelector="metadata.name=survivor"))
    await asyncio.sleep(0.2)
    await kube.create(MAPS, config("between"))  # so that the version moves on without the stream
    await asyncio.to_thread(api_server.compact)
    await kube.create(EVENTS, event("survivor"))
    ((kind, _),) = await waiting
    assert kind == "ADDED"
