"""A drain when a budget never lets go, when it is cancelled, and when the API server lies, refuses, breaks off or is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from aiohttp import web

from clusters.kube import Kube
from fleet.control.endpoint import Endpoint
from machines import drainer
from machines.drain import HAND_OFF, MIRROR, Options
from machines.drainer import Drained, drain, pods_of, take_back, unreached
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.faults import Fault
from simulator.kube.resources import PODS as POD_KIND
from simulator.kube.server import KubeServer
from tests.machines.pods import DAEMONS, Json, pod
from tests.simulator.api_servers import LOOPBACK, came_true
from tests.simulator.kube_objects import BUDGETS, NODES, PODS

ON = "n0"


@dataclass
class World:
    """One simulated cluster, its clock, and the drain of one node as a row in a database would keep it."""

    server: KubeServer
    kube: Kube
    clock: list[float]
    kept: bytes = b"{}"
    states: list[str] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock[0], UTC)

    def move(self, seconds: float) -> None:
        """Time passes, and kubelets and controllers do what is due."""
        for _ in range(2):  # a kubelet ends a pod in one tick, who wants it makes it anew in the next
            self.clock[0] += seconds / 2
            self.server.cluster.tick()

    async def round(self, options: Options = Options()) -> Drained:
        """What one pass does."""
        found = await drain(self.kube, ON, options, orjson.loads(self.kept), self.now)
        self.kept = orjson.dumps(found.progress)
        self.states.append(found.state)
        return found

    async def runs(self, *pods: Json) -> None:
        """Pods that have started."""
        await asyncio.gather(*(self.kube.create(PODS, each) for each in pods))
        self.move(4)

    def order(self, what: str, **more: Any) -> Fault:
        return self.server.cluster.order(Fault(what, **more))

    def there(self) -> dict[str, Json]:
        """Pods on the node, as they are and not as a server shows them."""
        store = self.server.cluster.store.of(POD_KIND)
        found = [store.get(key) for key in store.by_node.get(ON, ())]
        return {p["metadata"]["name"]: p for p in found if p is not None}

    def going(self) -> set[str]:
        return {name for name, p in self.there().items() if "deletionTimestamp" in p["metadata"]}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = [1_800_000_000.0]
    server = KubeServer(SimulatedCluster(clock=lambda: clock[0]), ticking=False)
    server.cluster.kubelets.add([ON, "n1", "n2"])
    await server.start()
    async with Kube(Endpoint(server.url), networks=LOOPBACK) as kube:
        await kube.patch(f"{NODES}/{ON}", {"spec": {"unschedulable": True}})
        yield World(server, kube, clock)
    await server.stop()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that gives no answer is waited for a moment only."""
    monkeypatch.setattr(drainer, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(drainer, "ACT_SECONDS", 0.3)


async def guard(world: World, **spec: Any) -> None:
    selector = {"matchLabels": {"app": "web"}}
    budget = {"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": "web"}}
    await world.kube.create(BUDGETS, budget | {"spec": {"selector": selector, **spec}})
    world.move(2)


# -- budgets ------------------------------------------------------------------------------------------------------------


async def test_a_workload_keeps_what_its_budget_promises_while_its_node_is_drained(world: World) -> None:
    await world.kube.patch(f"{NODES}/{ON}", {"spec": {"unschedulable": None}})
    world.server.cluster.workloads.add("default", "web", 18, grace_seconds=10, budget={"maxUnavailable": 1})
    world.move(10)
    count = len(world.there())
    assert count > 1
    await world.kube.patch(f"{NODES}/{ON}", {"spec": {"unschedulable": True}})
    found = await world.round()
    for _ in range(20 * count):
        if found.state == "Done":
            break
        assert len(world.going()) <= 1
        world.move(6)
        found = await world.round()
    assert found.state == "Done" and found.progress["evicted"] == count and not world.there()
    assert set(world.states) == {"Blocked", "Waiting", "Done"}


async def test_a_budget_that_refuses_for_ever_ends_the_drain_in_bounded_time_and_costs_no_pod(world: World) -> None:
    await world.runs(pod("web-1", ON, labels={"app": "web"}), pod("db", ON, annotations={HAND_OFF: "owner"}))
    await guard(world, minAvailable="100%")
    first = world.now
    async with asyncio.timeout(30):
        while (found := await world.round()).state != "TimedOut":
            assert found.state in ("Blocked", "Waiting")
            world.move(60)
    assert 1_800 <= (world.now - first).total_seconds() < 1_870
    assert "default/web-1: The disruption budget web needs 1 healthy pods and has 1 currently." in found.message
    assert set(world.there()) == {"web-1"} and world.going() == set()
    refused = world.order("refuse", verbs=("evict",), code=500)
    assert (await world.round()).state == "TimedOut" and refused.met == 0


async def test_a_drain_that_timed_out_does_not_leave_owners_told(world: World) -> None:
    await world.runs(pod("db", ON, annotations={HAND_OFF: "owner"}))
    await world.round(Options(timeout_seconds=60))
    assert world.there()["db"]["metadata"]["labels"][HAND_OFF] == "requested"
    world.move(60)
    world.order("refuse", verbs=("patch",), code=503, times=1)
    found = await world.round(Options(timeout_seconds=60))
    assert found.state == "TimedOut" and found.message.endswith("Owners could not be told that they need not move pods any more.")  # fmt: skip
    assert (await world.round(Options(timeout_seconds=60))).state == "TimedOut"
    assert HAND_OFF not in world.there()["db"]["metadata"].get("labels", {})


# -- cancelled ----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_drain_is_not_a_finished_one(world: World) -> None:
    await world.runs(*(pod(f"p{n}", ON) for n in range(3)), pod("db", ON, annotations={HAND_OFF: "owner"}))
    hangs = world.order("hang", verbs=("evict",))
    doing = asyncio.create_task(world.round())

    async def met() -> bool:
        return hangs.met > 0

    await came_true(met, 10)
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert world.states == [] and len(world.there()) == 4 and world.going() == set()
    world.server.cluster.faults.clear()
    assert await take_back(world.kube, ON)
    assert HAND_OFF not in world.there()["db"]["metadata"].get("labels", {})
    assert (await world.round()).state == "Waiting"


async def test_a_drain_that_was_cancelled_after_its_last_eviction_is_not_finished_while_pods_run(world: World) -> None:
    await world.runs(pod("slow", ON) | {"spec": pod("x", ON)["spec"] | {"terminationGracePeriodSeconds": 600}})
    await world.round()
    world.move(300)
    world.kept = b"{}"  # another Operation begins from what it sees
    again = await world.round()
    assert (again.state, again.message) == ("Waiting", "1 pod is left: 1 on their way out.")
    assert again.progress["evicted"] == 0
    world.move(400)
    assert (await world.round()).state == "Done"


# -- the API server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 503, 504, 429, 401, 403])
@pytest.mark.parametrize("verb", ["get", "list"])
async def test_a_refused_look_is_no_empty_node(world: World, verb: str, code: int) -> None:
    world.order("refuse", verbs=(verb,), code=code)
    found = await world.round()
    assert (found.state, found.reason) == ("Waiting", "NoAnswer") and str(found.message)
    world.move(1_800)
    assert (await world.round()).state == "TimedOut"
    world.server.cluster.faults.clear()
    assert (await world.round()).state == "Done"


@pytest.mark.parametrize("what", ["hang", "cut"])
@pytest.mark.parametrize("verb", ["get", "list"])
@pytest.mark.usefixtures("hurried")
async def test_a_look_without_an_end_is_no_empty_node_and_is_short(world: World, verb: str, what: str) -> None:
    world.order(what, verbs=(verb,))
    async with asyncio.timeout(3):
        found = await world.round()
    assert (found.state, found.reason) == ("Waiting", "NoAnswer")


async def test_a_list_that_lies_twice_is_not_believed(world: World) -> None:
    await world.runs(pod("web", ON))
    world.order("empty", verbs=("list",), times=2)
    assert (await world.round()).state == "Waiting"
    assert world.going() == {"web"}
    world.order("lacking", verbs=("list",), names=("web",), times=2)
    assert (await world.round()).state == "Waiting"


def test_a_cluster_that_cannot_be_reached_at_all_ends_the_drain_in_its_time() -> None:
    start, options = datetime(2026, 11, 25, 12, 0, tzinfo=UTC), Options(timeout_seconds=60)
    one = unreached(options, {}, start, "NoAccess", "No way to the API server is known.")
    assert (one.state, one.reason) == ("Waiting", "NoAccess")
    two = unreached(
        options, one.progress, start + timedelta(seconds=60), "NoAccess", "No way to the API server is known."
    )
    assert (two.state, two.message) == ("TimedOut", "Not drained in 60 s. No way to the API server is known.")


@dataclass
class Strange:
    """A server whose answer to every list is the same text."""

    shown: str
    evicted: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.evicted.append(request.path)
        node: Json = {"metadata": {"name": ON}, "spec": {"unschedulable": True}}
        return web.Response(text=self.shown if "pods" in request.path else orjson.dumps(node).decode())

    async def drained(self) -> Drained:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            async with Kube(Endpoint(f"http://{host}:{port}"), networks=LOOPBACK) as kube:
                return await drain(kube, ON, Options(), {}, datetime.now(UTC))
        finally:
            await runner.cleanup()


async def test_a_server_without_field_selectors_costs_no_pod_of_another_node() -> None:
    other = pod("other", "n1", namespace="default", uid="o")
    strange = Strange(orjson.dumps({"metadata": {}, "items": [other]}).decode())
    assert ((await strange.drained()).state, strange.evicted) == ("Done", [])


@pytest.mark.parametrize(
    "shown", ["", "{}", "<html></html>", '{"metadata": {}, "items": null}', '{"metadata": {}, "items": [{}]}']
)
async def test_an_answer_that_is_no_list_is_no_empty_node(shown: str) -> None:
    found = await Strange(shown).drained()
    assert (found.state, found.reason) == ("Waiting", "NoAnswer")


@pytest.mark.parametrize("code", [500, 503, 429])
async def test_a_burst_of_refused_evictions_is_waited_out(world: World, code: int) -> None:
    await world.runs(*(pod(f"p{n:02}", ON) for n in range(30)))
    burst = world.order("refuse", verbs=("evict",), code=code)
    found = await world.round()
    assert (found.state, found.reason) == ("Waiting", "NoAnswer") and f"The API server said {code}" in found.message
    assert burst.met <= drainer.AT_ONCE  # the rest is not sent into a burst
    assert world.going() == set() and found.progress["evicted"] == 0
    world.server.cluster.faults.clear()
    await world.round()
    assert len(world.going()) == 30
    world.move(40)
    done = await world.round()
    assert (done.state, done.progress["evicted"]) == ("Done", 30)


async def test_an_owner_who_was_told_by_an_earlier_drain_is_not_told_again(world: World) -> None:
    await world.runs(pod("db", ON, annotations={HAND_OFF: "owner"}, labels={HAND_OFF: "requested"}))
    told = world.order("slow", verbs=("patch",), seconds=0)
    assert list((await world.round()).progress["handOff"]) == [world.there()["db"]["metadata"]["uid"]]
    assert told.met == 0


async def test_while_owners_cannot_be_told_nothing_is_evicted(world: World) -> None:
    await world.runs(pod("web", ON), pod("db", ON, annotations={HAND_OFF: "owner"}))
    world.order("refuse", verbs=("patch",), code=503, times=1)
    found = await world.round()
    assert (found.state, found.reason, world.going()) == ("Waiting", "NoAnswer", set())
    world.move(301)
    assert "handOff" in (await world.round()).progress and world.going() == {"web"}


async def test_a_server_that_says_when_to_come_again_is_left_alone_until_then(world: World) -> None:
    await world.runs(pod("web", ON))
    world.order("refuse", verbs=("evict",), code=429, retry=20, times=1)
    assert (await world.round()).state == "Waiting"
    asked = world.order("slow", seconds=0)
    world.move(10)
    found = await world.round()
    assert (found.state, found.reason, asked.met) == ("Waiting", "Throttled", 0)
    world.move(12)
    await world.round()
    assert world.going() == {"web"}
    world.order("refuse", verbs=("list",), code=503, retry=30, times=1)
    assert (await world.round()).reason == "NoAnswer"
    assert (await world.round()).reason == "Throttled"


@pytest.mark.parametrize("what", ["hang", "cut"])
@pytest.mark.usefixtures("hurried")
async def test_an_eviction_without_an_answer_is_looked_at_not_counted(world: World, what: str) -> None:
    await world.runs(pod("web", ON))
    world.order(what, verbs=("evict",), times=1)
    async with asyncio.timeout(3):
        found = await world.round()
    assert (found.state, found.reason, found.progress["evicted"]) == ("Waiting", "NoAnswer", 0)
    for _ in range(2):
        world.move(40)
        found = await world.round()
    world.move(40)
    assert (await world.round()).state == "Done"


async def test_a_node_of_many_pods_is_read_in_pages_and_half_a_list_is_none(world: World) -> None:
    await world.runs(*(pod(f"d{n:03}", ON, owner=DAEMONS) for n in range(600)), pod("z", ON))
    assert len(await pods_of(world.kube, ON)) == 601
    world.order("expired", verbs=("page",), times=1)
    found = await world.round()
    assert (found.state, found.reason) == ("Waiting", "NoAnswer")
    await world.round()
    assert world.going() == {"z"}


async def test_an_eviction_that_nobody_may_ask_for_is_a_blocker_with_a_name(world: World) -> None:
    await world.runs(pod("web", ON))
    world.order("refuse", verbs=("evict",), code=403)
    found = await world.round()
    assert (found.state, found.reason) == ("Blocked", "EvictionRefused")
    assert "default/web: the API server said 403" in found.message


async def test_a_kubelet_that_died_leaves_a_node_that_is_not_drained(world: World) -> None:
    await world.runs(pod("web", ON))
    world.server.cluster.kubelets.fail(ON, "Dead")
    await world.round()
    for _ in range(20):
        world.move(60)
        assert (await world.round()).state in ("Waiting", "Blocked")
    assert world.states[-1] == "Blocked" and "web" in world.there()


WEATHER: tuple[Json, ...] = (
    {"what": "refuse", "code": 429, "retry": 5, "share": 0.5},
    {"what": "refuse", "code": 503, "share": 0.4},
    {"what": "refuse", "code": 500, "share": 0.3},
    {"what": "cut", "share": 0.3},
    {"what": "empty", "times": 2},
    {"what": "lacking", "part": 0.5, "times": 2},
    {"what": "expired", "times": 2},
)


@pytest.mark.parametrize("seed", range(6))
async def test_in_foul_weather_done_means_done_and_it_comes(world: World, seed: int) -> None:
    world.server.cluster.faults = type(world.server.cluster.faults)(seed)
    draw = world.server.cluster.faults.draw
    daemons = [pod(f"d{n}", ON, owner=DAEMONS) for n in range(2)]
    mirror = pod("mirror", ON, owner=None, annotations={MIRROR: "x"})
    await world.runs(*daemons, mirror, *(pod(f"p{n}", ON, labels={"app": "web"}) for n in range(6)))
    await world.runs(pod("db", ON, annotations={HAND_OFF: "owner"}))
    await guard(world, minAvailable=1)
    found = None
    for number in range(150):
        world.server.cluster.faults.clear()
        if number < 100:
            world.order(**WEATHER[int(draw(0, len(WEATHER)))])
        if number == 60:
            world.server.cluster.faults.clear()
            await world.kube.delete(f"{BUDGETS}/web")
        found = await world.round(Options(timeout_seconds=86_400))
        left = set(world.there()) - {"d0", "d1", "mirror"}
        assert (found.state == "Done") <= (not left), found
        assert {"d0", "d1", "mirror"} <= set(world.there()) - world.going()
        if found.state == "Done":
            break
        world.move(10)
    assert found is not None and found.state == "Done"
