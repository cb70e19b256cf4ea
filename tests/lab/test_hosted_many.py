"""Several API servers behind a balancer: an upgrade and a power cut that their clients hardly notice, and leaders that follow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Final

import pytest

from clusters.hosted_manifests import COMPONENT
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.meta import is_ready
from clusters.planes import APISERVER, CONTROLLER_MANAGER, ETCD, SCHEDULER
from clusters.providers import networks
from fleet.api.storage import storage_for
from fleet.control.endpoint import Endpoint
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.control.times import parse_time
from lab import Lab
from lab.balancer import Balancer
from lab.host import Host
from tests.kube.test_cluster_operator import MAPS, NEW, OLD, change, point_at, stands_at, store, turn
from tests.lab.test_hosted import PORT, Meta, client, config, endpoint_of, hosted_spec, meta, node, say

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
__all__ = ["meta", "say"]  # fixtures

ANSWER_SECONDS: Final = 2.0  # that a client waits before it asks again
FAILOVER_SECONDS: Final = 10.0  # a single API server is away for two to five times as long when it is replaced
NODE_SECONDS: Final = 30.0  # and so long may it last until etcd's and the balancer's timers have found a node dead
PATIENCE_SECONDS: Final = 600.0
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
Say = Callable[[str], None]


@dataclass
class Asker:
    """Asks again and again for something; when it had its answers, seconds of the monotonic clock."""

    what: str
    kept: bool  # its connection, else each request makes one
    writes: bool
    answers: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def longest(self) -> float:
        """The longest time without an answer, seconds."""
        return max((b - a for a, b in pairwise(self.answers)), default=0.0)

    def text(self, begun: float) -> str:
        """For people."""
        gaps = [f"{b - a:.1f} s at {a - begun:.0f} s" for a, b in pairwise(self.answers) if b - a > 1.0]
        return (
            f"  {self.what}: {self.longest:.1f} s at most without an answer; {len(self.answers)} answers, "
            f"{len(self.failures)} failures {sorted(set(self.failures))[:4]}; gaps {gaps}"
        )

    async def ask(self, endpoint: Endpoint, end: threading.Event) -> None:
        """Five times a second until the end."""
        path = f"{MAPS}/{self.what}"
        kube = Kube(endpoint, networks=networks())
        self.answers.append(time.monotonic())
        while not end.is_set():
            begun = time.monotonic()
            try:
                if self.writes:
                    body = {"data": {"beat": str(len(self.answers))}}
                    await kube.send("PATCH", path, body=body, content_type="application/merge-patch+json", seconds=ANSWER_SECONDS)  # fmt: skip
                else:
                    await kube.send("GET", path, seconds=ANSWER_SECONDS)
                self.answers.append(time.monotonic())
            except (KubeError, KubeUnreachable) as error:  # that is what is measured
                self.failures.append(str(error)[-60:])
            if not self.kept:
                await kube.close()
            await asyncio.sleep(max(0.0, 0.2 - (time.monotonic() - begun)))
        self.answers.append(time.monotonic())
        await kube.close()


@contextmanager
def asked(endpoint: Endpoint, what: str, say: Say) -> Iterator[list[Asker]]:
    """Clients of every kind the whole time, in a thread of their own."""
    askers = [Asker(f"{verb}-{how}", how == "kept", verb == "write") for verb in ("read", "write") for how in ("new", "kept")]  # fmt: skip
    end = threading.Event()

    async def all_of_them() -> None:
        await asyncio.gather(*(a.ask(endpoint, end) for a in askers))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    begun = time.monotonic()
    thread.start()
    try:
        yield askers
    finally:
        end.set()
        thread.join()
        say("\n".join([f"{what}: {time.monotonic() - begun:.1f} s", *(a.text(begun) for a in askers)]))


def longest(askers: Sequence[Asker]) -> float:
    return max(a.longest for a in askers)


@dataclass
class Told:
    """What Fleet says of the cluster from one pass to the next."""

    begun: float = field(default_factory=time.monotonic)
    seen: list[tuple[float, str]] = field(default_factory=list)

    def note(self, status: Json) -> None:
        by_type = {c["type"]: c["status"] for c in status.get("conditions", [])}
        shown = [f"{type_}={by_type.get(type_, '')}" for type_ in ("Ready", "APIServerReachable", "EtcdHealthy")]
        shown += [c["message"] for c in status.get("conditions", []) if c["status"] == "Unknown"]
        text = " ".join([status.get("phase", ""), *replicas(status).values(), *shown])
        if not self.seen or self.seen[-1][1] != text:
            self.seen.append((time.monotonic() - self.begun, text))

    def never(self, words: str) -> bool:
        return not any(words in text for _, text in self.seen)

    def __str__(self) -> str:
        return "\n".join(f"  {at:5.1f} s {text}" for at, text in self.seen)


@contextmanager
def telling(say: Say) -> Iterator[Told]:
    told = Told()
    try:
        yield told
    finally:
        say(f"What Fleet says of it:\n{told}")


def replicas(status: Json) -> dict[str, str]:
    return {row["name"]: row["replicas"] for row in status.get("components", [])}


def whole(version: str, servers: int) -> Callable[[Json], bool]:
    """All pods of all components at this version are ready."""
    many = f"{servers}/{servers}"
    shall = {ETCD: "3/3", APISERVER: many, CONTROLLER_MANAGER: many, SCHEDULER: many}

    def done(status: Json) -> bool:
        return stands_at(version)(status) and replicas(status) == shall and status["phase"] == "Running"

    return done


async def comes(done: Callable[[Json], bool], told: Told) -> Json:
    """Turns of the loop until its status is so: a change of three of each takes its time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await turn()
            found = await in_thread(partial(storage_for("clusters").read, "web"))
            assert found is not None
            status = found.obj.get("status", {})
            told.note(status)
            if done(status):
                return found.obj
            await asyncio.sleep(0.3)


def nodes_of(meta: Meta, component: str) -> set[str]:
    """Nodes with a pod of it that is ready and stays."""
    pods = [p for p in meta.pods() if p["metadata"]["labels"].get(COMPONENT) == component and is_ready(p)]
    return {p["spec"]["nodeName"] for p in pods if "deletionTimestamp" not in p["metadata"]}


def cut_power(host: Host) -> None:
    """As it is without power: nothing says goodbye. The kernel, which lives on, would close connections for it."""
    host.link_down()
    host.power_cut()
    host.link_up()


async def leader(name: str) -> tuple[str, float]:
    """The node that leads, and how long ago it last said so by the clock of this machine, which is that of all nodes."""
    async with client("web") as kube:
        spec = (await kube.get(f"{LEASES}/{name}"))["spec"]
    renewed = parse_time(spec["renewTime"])
    assert renewed is not None
    return str(spec["holderIdentity"]).partition("_")[0], time.time() - renewed.timestamp()


async def follows(name: str, lost: str, begun: float) -> float:
    """Seconds until another node than the lost one leads."""
    async with asyncio.timeout(120):
        while True:
            try:
                at, ago = await leader(name)
                if at != lost and ago < time.monotonic() - begun:
                    return time.monotonic() - begun
            except (KubeError, KubeUnreachable):
                pass  # asked again: how long nobody answers is measured elsewhere
            await asyncio.sleep(0.5)


async def leads(name: str) -> str:
    return (await leader(name))[0]


@asynccontextmanager
async def nodes(lab: Lab, meta: Meta, *names: str) -> AsyncIterator[dict[str, Host]]:
    """Nodes with all images; they have no power afterwards, so that the next test has the machine for itself."""
    async with AsyncExitStack() as stack:
        found: dict[str, Host] = {}
        for name in names:
            found[name] = await asyncio.to_thread(node, lab, meta, name, OLD, NEW)
            stack.push_async_callback(asyncio.to_thread, found[name].power_cut)
        yield found


async def test_several_api_servers_behind_a_balancer(meta: Meta, lab: Lab, say: Say) -> None:
    async with nodes(lab, meta, "b1", "b2", "b3") as hosts:
        with Balancer(lab, PORT, list(hosts.values())) as balancer:
            try:
                await _story(meta, hosts, balancer, say)
            finally:
                say(balancer.log)


async def _story(meta: Meta, hosts: Mapping[str, Host], balancer: Balancer, say: Say) -> None:
    spec = hosted_spec(next(iter(hosts.values())), replicas=3, etcdReplicas=3)
    spec["controlPlane"]["exposure"]["host"] = balancer.address
    begun = time.monotonic()
    await in_thread(lambda: store("clusters", "Cluster", "web", spec))
    await comes(whole(OLD, 3), Told())
    say(f"three of each are ready {time.monotonic() - begun:.1f} s after they were asked for")
    assert await asyncio.to_thread(nodes_of, meta, APISERVER) == set(hosts)
    async with client("web") as kube:
        for name in ("read-new", "read-kept", "write-new", "write-kept"):
            await kube.create(MAPS, config(name))
        slice_ = await kube.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
    assert [e["addresses"] for e in slice_["endpoints"]] == [[balancer.address]]  # where pods find the API server
    endpoint = await endpoint_of("web")
    assert endpoint.server == f"https://{balancer.address}:{PORT}"

    await _upgrade(endpoint, say)
    await _power_cut_where_nothing_can_move(meta, hosts, endpoint, say)
    await _power_cut_with_a_server_that_moves(meta, hosts, endpoint, say)


async def _upgrade(endpoint: Endpoint, say: Say) -> None:
    with telling(say) as told, asked(endpoint, f"upgrade {OLD} to {NEW}", say) as askers:
        await in_thread(lambda: point_at("web", NEW))
        await comes(whole(NEW, 3), told)
    assert longest(askers) < FAILOVER_SECONDS
    assert told.never("APIServerReachable=False") and told.never("EtcdHealthy=False")


async def _power_cut_where_nothing_can_move(
    meta: Meta, hosts: Mapping[str, Host], endpoint: Endpoint, say: Say
) -> None:
    """Three servers, three nodes, one of them lost: two go on, the third comes back with its node."""
    lost = await leads(CONTROLLER_MANAGER)
    what = f"{lost} loses power, with an API server, a member of etcd and a leader"
    with telling(say) as told, asked(endpoint, what, say) as askers:
        await asyncio.to_thread(cut_power, hosts[lost])
        followed = asyncio.create_task(follows(CONTROLLER_MANAGER, lost, told.begun))
        short = await comes(lambda s: stands_at(NEW)(s) and set(replicas(s).values()) == {"2/3"}, told)
        say(f"another controller manager leads after {await followed:.1f} s")
        assert await leads(SCHEDULER) != lost
        by_type = {c["type"]: c for c in short["status"]["conditions"]}
        assert short["status"]["phase"] == "Degraded"
        assert "2 of 3 pods are ready" in by_type["APIServerReachable"]["message"]
        # What cannot go elsewhere is left alone: no pod of it is made anew, no member replaced.
        steps = short["status"]["steps"]
        await _turns(15.0, told)
        back = time.monotonic()
        await asyncio.to_thread(hosts[lost].power_on)
        again = await comes(whole(NEW, 3), told)
        say(f"three of three are ready {time.monotonic() - back:.1f} s after its power was given back")
        assert again["status"]["steps"] == steps
    assert longest(askers) < NODE_SECONDS
    assert told.never("APIServerReachable=False") and told.never("EtcdHealthy=False")
    assert await asyncio.to_thread(nodes_of, meta, ETCD) == set(hosts)


async def _power_cut_with_a_server_that_moves(
    meta: Meta, hosts: Mapping[str, Host], endpoint: Endpoint, say: Say
) -> None:
    """Two servers on three nodes: the one whose node is lost is made again on the third."""
    with asked(endpoint, "from three to two", say) as askers:
        await in_thread(lambda: change("web", lambda live: live["spec"]["controlPlane"].update(replicas=2)))
        await comes(whole(NEW, 2), Told())
    assert longest(askers) < FAILOVER_SECONDS
    before = await asyncio.to_thread(nodes_of, meta, APISERVER)
    assert len(before) == 2
    lost, spare = sorted(before)[0], next(iter(set(hosts) - before))
    with telling(say) as told, asked(endpoint, f"{lost} loses power, {spare} has no API server yet", say) as askers:
        await asyncio.to_thread(cut_power, hosts[lost])
        async with asyncio.timeout(240):
            while await asyncio.to_thread(nodes_of, meta, APISERVER) != (before - {lost}) | {spare}:
                await _turns(0.5, told)
        moved = time.monotonic() - told.begun
        moved_there = {ETCD: "2/3", APISERVER: "2/2", CONTROLLER_MANAGER: "2/2", SCHEDULER: "2/2"}
        await comes(lambda s: stands_at(NEW)(s) and replicas(s) == moved_there, told)
        await asyncio.to_thread(hosts[lost].power_on)
        await comes(whole(NEW, 2), told)
        say(f"the API server runs on {spare} {moved:.1f} s after {lost} lost its power")
    assert longest(askers) < NODE_SECONDS
    assert told.never("APIServerReachable=False") and told.never("EtcdHealthy=False")


async def _turns(seconds: float, told: Told) -> None:
    """The loop goes on for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await turn()
        found = await in_thread(partial(storage_for("clusters").read, "web"))
        assert found is not None
        told.note(found.obj["status"])
        await asyncio.sleep(0.3)
