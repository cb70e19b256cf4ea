"""A node is drained, on the simulated API server and on the real one alike. No kubelet runs here: the tests end pods in its place."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from clusters.kube import STRATEGIC, Kube
from fleet.control.endpoint import Endpoint
from machines.drain import HAND_OFF, MIRROR, RULE, Options
from machines.drainer import Drained, drain, pods_of, take_back
from tests.machines.pods import DAEMONS, Json, pod
from tests.machines.test_drain import NOW, later
from tests.simulator.api_servers import LOOPBACK, ApiServer, came_true
from tests.simulator.kube_objects import BUDGETS, MAPS, NODES, PODS, config, node

USUAL = Options()
FOREIGN = DAEMONS | {
    "apiVersion": "daemons.example.org/v1"
}  # of a kind that no garbage collector of these servers knows


@pytest.fixture
async def owner(kube: Kube) -> Json:
    """A controller that is there, as garbage collectors want it, and makes nothing anew."""
    found = await kube.find(f"{MAPS}/drained") or await kube.create(MAPS, config("drained"))
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": "drained", "uid": found["metadata"]["uid"], "controller": True}  # fmt: skip


async def closed(kube: Kube, name: str) -> str:
    await kube.create(NODES, node(name) | {"spec": {"unschedulable": True}})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
    await kube.patch(f"{NODES}/{name}/status", {"status": {"conditions": [ready]}}, content_type=STRATEGIC)
    return name


async def runs(kube: Kube, *pods: Json, phase: str = "Running") -> None:
    for each in pods:
        await kube.create(PODS, each)
        status = {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "True" if phase == "Running" else "False"}],
        }
        await kube.patch(f"{PODS}/{each['metadata']['name']}/status", {"status": status}, content_type=STRATEGIC)


async def guard(kube: Kube, name: str, least: int, app: str) -> None:
    """A budget, and its numbers counted."""
    spec = {"minAvailable": least, "selector": {"matchLabels": {"app": app}}}
    await kube.create(
        BUDGETS, {"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": name}, "spec": spec}
    )

    async def counted() -> bool:
        return bool((await kube.get(f"{BUDGETS}/{name}")).get("status", {}).get("expectedPods"))

    await came_true(counted)


async def going(kube: Kube, on: str) -> set[str]:
    """Pods of the node that were evicted."""
    return {p.metadata.name for p in await pods_of(kube, on) if p.metadata.deleted}


async def end(kube: Kube, *names: str) -> None:
    """What a kubelet does at the end of the grace period."""
    for name in names:
        await kube.delete(f"{PODS}/{name}", grace_seconds=0)


async def once(
    kube: Kube, on: str, before: Drained | None = None, options: Options = USUAL, now: datetime = NOW
) -> Drained:
    """One round."""
    return await drain(kube, on, options, before.progress if before else {}, now)


async def test_a_node_is_drained_when_all_that_must_go_is_gone(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-plain")
    await runs(kube, pod("plain-1", on, owner=owner), pod("plain-2", on, owner=owner))
    await runs(
        kube, pod("plain-daemon", on, owner=FOREIGN), pod("plain-mirror", on, owner=None, annotations={MIRROR: "x"})
    )
    await runs(kube, pod("plain-over", on, owner=None), phase="Succeeded")
    await runs(kube, pod("plain-elsewhere", await closed(kube, "drain-other"), owner=owner))
    one = await once(kube, on)
    assert (one.state, one.reason) == ("Waiting", "PodsLeft")
    assert one.message == "2 pods are left: 2 on their way out."
    assert await going(kube, on) == {"plain-1", "plain-2"} and await going(kube, "drain-other") == set()
    await end(kube, "plain-1")
    two = await once(kube, on, one)
    assert (two.state, two.message) == ("Waiting", "1 pod is left: 1 on their way out.")
    await end(kube, "plain-2")
    done = await once(kube, on, two)
    assert (done.state, done.message) == ("Done", "Nothing is left that must go: 2 evicted, 3 left alone.")
    assert await once(kube, on, done) == done
    await end(kube, "plain-daemon", "plain-mirror", "plain-over", "plain-elsewhere")


async def test_a_budget_that_keeps_a_pod_is_named_and_when_it_lets_go_the_drain_goes_on(
    kube: Kube, owner: Json
) -> None:
    on = await closed(kube, "drain-kept")
    await runs(kube, *(pod(f"kept-{n}", on, owner=owner, labels={"app": "kept"}) for n in range(3)))
    await guard(kube, "kept", 2, "kept")
    one = await once(kube, on)
    assert (one.state, one.reason) == ("Blocked", "DisruptionBudget")
    assert "The disruption budget kept needs 2 healthy pods and has 2 currently." in one.message
    gone = await going(kube, on)
    assert len(gone) == 1 and one.progress["evicted"] == 1
    assert {b["pod"] for b in one.progress["blockers"]} == {f"default/kept-{n}" for n in range(3)} - {f"default/{g}" for g in gone}  # fmt: skip
    await end(kube, *gone)
    two = await once(kube, on, one)
    assert (two.state, two.progress["evicted"]) == ("Blocked", 1)
    assert two.message.startswith("2 pods are left: 2 to be evicted. default/kept-")
    await kube.delete(f"{BUDGETS}/kept")

    async def let_go() -> bool:
        await once(kube, on, two)
        return len(await going(kube, on)) == 2

    await came_true(let_go, 30)
    await end(kube, *(f"kept-{n}" for n in range(3)))
    assert (await once(kube, on, two)).state == "Done"


async def test_a_budget_that_never_lets_go_ends_the_drain_in_bounded_time(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-forever")
    await runs(kube, pod("forever", on, owner=owner, labels={"app": "forever"}))
    await guard(kube, "forever", 1, "forever")
    found, kept = None, None
    for minute in range(30):
        found = await once(kube, on, found, now=later(60 * minute))
        assert (found.state, found.reason) == ("Blocked", "DisruptionBudget")
        kept = kept or found.progress
        assert found.progress == kept
    out = await once(kube, on, found, now=later(1_800))
    assert (out.state, out.reason) == ("TimedOut", "DisruptionBudget")
    assert out.message.startswith("Not drained in 1800 s. 1 pod is left: 1 to be evicted. default/forever: The disruption budget forever needs 1")  # fmt: skip
    assert await going(kube, on) == set()
    await kube.delete(f"{BUDGETS}/forever")
    assert (await once(kube, on, out, now=later(1_900))).state == "TimedOut"
    assert await going(kube, on) == set()
    await end(kube, "forever")


async def test_a_pod_with_two_budgets_blocks_and_says_so(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-two")
    await runs(kube, pod("two", on, owner=owner, labels={"app": "two"}))
    for name in ("two-a", "two-b"):
        await guard(kube, name, 1, "two")
    found = await once(kube, on)
    assert (found.state, found.reason) == ("Blocked", "TwoBudgets")
    assert "default/two: " in found.message and "more than one PodDisruptionBudget" in found.message
    await end(kube, "two")
    for name in ("two-a", "two-b"):
        await kube.delete(f"{BUDGETS}/{name}")


async def label(kube: Kube, name: str) -> str | None:
    found: str | None = (await kube.get(f"{PODS}/{name}"))["metadata"].get("labels", {}).get(HAND_OFF)
    return found


async def test_an_owner_who_moves_the_pod_is_told_and_waited_for(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-handed")
    await runs(
        kube, pod("handed", on, owner=owner, annotations={HAND_OFF: "owner"}), pod("not-handed", on, owner=owner)
    )
    one = await once(kube, on)
    assert (one.state, await label(kube, "handed"), await label(kube, "not-handed")) == ("Waiting", "requested", None)
    assert await going(kube, on) == {"not-handed"}
    two = await once(kube, on, one, now=later(299))
    assert await going(kube, on) == {"not-handed"}
    await once(kube, on, two, now=later(301))
    assert await going(kube, on) == {"not-handed", "handed"}
    await end(kube, "handed", "not-handed")


async def test_owners_are_told_when_the_drain_is_off(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-off")
    await runs(kube, pod("off", on, owner=owner, annotations={HAND_OFF: "owner"}, labels={"app": "off"}))
    one = await once(kube, on)
    assert await label(kube, "off") == "requested"
    assert await take_back(kube, on)
    assert await label(kube, "off") is None and await take_back(kube, on)
    two = await once(kube, on, None, Options(timeout_seconds=60))
    assert await label(kube, "off") == "requested" and two.progress["handOff"] == one.progress["handOff"]
    assert (await once(kube, on, two, Options(timeout_seconds=60), later(60))).state == "TimedOut"
    assert await label(kube, "off") is None and await going(kube, on) == set()
    await end(kube, "off")


@pytest.mark.parametrize(
    ("name", "allowed", "reason", "text"),
    [
        ("bare", Options(evict_unmanaged=True), "Unmanaged", "it has no controller that would make it anew"),
        (
            "scratch",
            Options(delete_empty_dir_data=True),
            "EmptyDirData",
            "its data in emptyDir (scratch) would be lost",
        ),
    ],
)
async def test_what_would_be_lost_blocks_and_is_named_unless_it_is_allowed(
    kube: Kube, owner: Json, name: str, allowed: Options, reason: str, text: str
) -> None:
    on = await closed(kube, f"drain-{name}")
    blocking = pod(name, on, owner=None if name == "bare" else owner, scratch=name == "scratch")
    for each in blocking["spec"].get("volumes", ()):
        each.get("configMap", {})["name"] = "drained"
    await runs(kube, blocking, pod(f"beside-{name}", on, owner=owner))
    found = await once(kube, on)
    assert (found.state, found.reason) == ("Blocked", reason)
    assert found.message == f"2 pods are left: 1 to be evicted, 1 in the way. default/{name}: {text}."
    assert await going(kube, on) == set()
    assert (await once(kube, on, found, allowed)).state == "Waiting"
    assert await going(kube, on) == {name, f"beside-{name}"}
    await end(kube, name, f"beside-{name}")


async def test_pods_go_in_their_order(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-order")
    await runs(kube, pod("order-last", on, owner=owner, labels={RULE: "9"}), pod("order-first", on, owner=owner))
    await runs(kube, pod("order-job", on, owner=None, annotations={RULE: "wait"}))
    one = await once(kube, on)
    assert await going(kube, on) == {"order-first"}
    await end(kube, "order-first")
    two = await once(kube, on, one)
    assert await going(kube, on) == {"order-last"}
    await end(kube, "order-last")
    three = await once(kube, on, two)
    assert (three.state, three.message) == ("Waiting", "1 pod is left: 1 to complete by themselves.")
    await kube.patch(f"{PODS}/order-job/status", {"status": {"phase": "Succeeded"}}, content_type=STRATEGIC)
    assert (await once(kube, on, three)).state == "Done"
    await end(kube, "order-job")


class Replaced(Kube):
    """Just before a pod is evicted or labelled, another one has taken its name."""

    def __init__(self, endpoint: Endpoint, other: Json) -> None:
        super().__init__(endpoint, networks=LOOPBACK)
        self.other = other

    async def send(self, method: str, path: str, *, params: Mapping[str, str] | None = None, **more: Any) -> bytes:
        name = self.other["metadata"]["name"]
        if method in ("POST", "PATCH") and path.startswith(f"{PODS}/{name}"):
            await super().send("DELETE", f"{PODS}/{name}", body={"gracePeriodSeconds": 0})
            await super().send("POST", PODS, body=self.other)
        return await super().send(method, path, params=params, **more)


@pytest.mark.parametrize("how", ["evicted", "labelled"])
async def test_another_pod_of_the_same_name_is_left_alone(
    kube: Kube, api_server: ApiServer, owner: Json, how: str
) -> None:
    on = await closed(kube, f"drain-{how}")
    notes: Json = {"annotations": {HAND_OFF: "owner"}} if how == "labelled" else {}
    one = pod(f"same-{how}", on, owner=owner, **notes)
    await runs(kube, one)
    async with Replaced(api_server.endpoint, one) as racing:
        found = await once(racing, on)
    assert (found.state, found.progress["evicted"], found.progress.get("handOff")) == ("Waiting", 0, None)
    assert await going(kube, on) == set() and await label(kube, f"same-{how}") is None
    again = await once(kube, on, found)
    assert again.progress["evicted"] == (1 if how == "evicted" else 0)
    await end(kube, f"same-{how}")


async def test_a_pod_whose_namespace_goes_needs_no_eviction(kube: Kube, owner: Json) -> None:
    on, path = await closed(kube, "drain-namespace"), "/api/v1/namespaces/drained/pods"
    await kube.create("/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "drained"}})
    kept = pod("ns", on, owner=None, finalizers=["example.org/kept"])

    async def taken() -> bool:
        return await kube.find("/api/v1/namespaces/drained/serviceaccounts/default") is not None

    if kube.endpoint.server.startswith("https:"):
        await came_true(taken)
    await kube.create(path, kept)
    await kube.delete("/api/v1/namespaces/drained")
    found = await once(kube, on, options=Options(evict_unmanaged=True))
    assert (found.state, found.reason) == ("Waiting", "PodsLeft")
    await kube.patch(f"{path}/ns", {"metadata": {"finalizers": None}})
    await kube.delete(f"{path}/ns", grace_seconds=0)


async def test_a_node_that_is_open_silent_or_not_there_is_not_drained(kube: Kube, owner: Json) -> None:
    on = await closed(kube, "drain-node")
    await runs(kube, pod("node-1", on, owner=owner))
    await kube.patch(f"{NODES}/{on}", {"spec": {"unschedulable": None}})
    assert ((await once(kube, on)).state, (await once(kube, on)).reason) == ("Blocked", "NodeOpen")
    silent = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": ""}
    await kube.patch(f"{NODES}/{on}/status", {"status": {"conditions": [silent]}}, content_type=STRATEGIC)
    await kube.patch(f"{NODES}/{on}", {"spec": {"unschedulable": True}})
    found = await once(kube, on)
    assert (found.state, found.reason) == ("Blocked", "NodeUnreachable")
    assert await going(kube, on) == set()
    assert (await once(kube, on, found, now=NOW + timedelta(minutes=30))).state == "TimedOut"
    await end(kube, "node-1")
    assert (await once(kube, on)).state == "Blocked"
    for name in ("", "nope", "a/b", "drain-node,spec.nodeName=other"):
        assert ((await once(kube, name)).state, (await once(kube, name)).reason) == ("Blocked", "NodeNotFound")
