"""Pods that do not start open the breaker of their cluster, and of no other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clusters import access
from fleet.control import db
from fleet.control.endpoint import Endpoint
from fleet.control.threads import in_thread
from fleet.safety.permits import Answer, Ask, permits
from machines.watch.process import Watcher
from machines.watch.view import STALE, View
from simulator.kube.cluster import SimulatedCluster
from simulator.kube.faults import Fault
from simulator.kube.journal import Journal
from simulator.kube.kubelets import Times
from simulator.kube.resources import PODS
from simulator.kube.server import KubeServer
from tests.machines.test_watch import cluster, provider_ids, watching
from tests.machines.watch_server import until
from tests.machines.world import make, sql

pytestmark = pytest.mark.usefixtures("fleet_db")
COUNT = 30
EVENTS = "/api/v1/events"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, looked at and shown without waiting."""
    monkeypatch.setattr("machines.watch.tripping.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("machines.watch.tripping.RULE_SECONDS", 0.0)
    monkeypatch.setattr("machines.watch.tripping.SHOW_SECONDS", 0.0)
    monkeypatch.setattr("machines.watch.starts.PATIENCE_SECONDS", 0.0)


async def serving() -> KubeServer:
    made = KubeServer(SimulatedCluster(times=Times(start=0.05, again=0.3)), bookmarks=0.5)
    await made.start()
    return made


@pytest.fixture
async def sick() -> AsyncIterator[KubeServer]:
    made = await serving()
    yield made
    await made.stop()


@pytest.fixture
async def well() -> AsyncIterator[KubeServer]:
    made = await serving()
    yield made
    await made.stop()


def filled(server: KubeServer, name: str) -> int:
    """A cluster with five machines in service and their nodes."""
    c = cluster(name)
    make(5, cluster_id=c, prefix=name)
    for machine, provider in provider_ids().items():
        if machine.startswith(f"{name}-"):
            server.cluster.kubelets.add([machine], provider=provider)
    sql("UPDATE capacity SET in_service = true WHERE cluster_id = %s", c)
    sql(
        "INSERT INTO capacity (machine_id, cluster_id, in_service, down) SELECT id, cluster_id, true, false FROM machine WHERE cluster_id = %s ON CONFLICT DO NOTHING",
        c,
    )
    return c


def fail_pods(server: KubeServer) -> None:
    """None of its kubelets can make sandboxes from now on."""
    for name in list(server.cluster.kubelets.names):
        server.cluster.kubelets.fail(name, "NoSandbox")


def complain(server: KubeServer, *reasons: tuple[str, str]) -> None:
    """Let kubelets say so of every pod."""
    journal = Journal(server.cluster.api)
    pods = server.cluster.store.of(PODS)
    for key in list(pods.keys):
        for reason, message in reasons:
            pod = pods.get(key)
            assert pod is not None
            journal.tell(pod, reason, message, type="Warning")


def breaker(c: int) -> tuple[str, str]:
    """(state, why) of a cluster's."""
    rows = sql("SELECT state, why FROM breaker WHERE dim = 'cluster' AND key = %s", c)
    return tuple(rows[0]) if rows else ("closed", "")


def pod_starts(c: int) -> Any:
    return sql("SELECT status -> 'podStarts' FROM clusters_cluster WHERE id = %s", c)[0][0]


async def ask(c: int) -> Answer:
    """A planned reboot of a cluster's first machine."""
    machine = sql("SELECT min(id) FROM machine WHERE cluster_id = %s", c)[0][0]
    conn = await db.connect()
    try:
        return (await permits(conn, [Ask(machine, "Reboot", False, f"op-{machine}")]))[machine]
    finally:
        await conn.close()


def policy(name: str, scope: dict[str, Any], **pods: Any) -> None:
    sql(
        "INSERT INTO safety_safetypolicy (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES "
        "(gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', jsonb_build_object('scope', %s::jsonb, 'breaker', jsonb_build_object('podSuccess', %s::jsonb)), '{}', now())",
        name, json.dumps(scope), json.dumps(pods),
    )  # fmt: skip


async def heard(watcher: Watcher, *ids: int) -> None:
    """Until the Events of these clusters are followed and their views are fresh."""
    await until(lambda: [sql("SELECT state FROM shard WHERE cluster_id = %s", c) for c in ids] == [[("Fresh",)]] * len(ids))  # fmt: skip


async def test_pods_that_do_not_start_open_the_breaker_and_a_healthy_cluster_goes_on(
    sick: KubeServer, well: KubeServer
) -> None:
    a, b = filled(sick, "a"), filled(well, "b")
    await in_thread(lambda: access.store(b, Endpoint(well.url)))
    async with watching(sick, a) as watcher:  # type: ignore[arg-type]
        await heard(watcher, a, b)
        await until(lambda: sick.streams >= 2 and well.streams >= 2)
        fail_pods(sick)
        for server in (sick, well):
            server.cluster.workloads.add("shop", "web", COUNT)
        await until(lambda: breaker(a)[0] == "open")
        await until(lambda: (pod_starts(b) or {}).get("tried") == COUNT)
        await until(lambda: (pod_starts(a) or {}).get("tried") == COUNT)
        await until(lambda: sql("SELECT 1 FROM event WHERE type = 'dev.fleet.cluster.pods-fail'"))
        assert pod_starts(a) == {"tried": COUNT, "failed": COUNT, "windowSeconds": 600}
        assert pod_starts(b) == {"tried": COUNT, "failed": 0, "windowSeconds": 600}
    why = breaker(a)[1]
    assert "pods tried within 10 min did not start, on" in why and why.endswith("0 % started, and at least 80 % must.")
    refused = await ask(a)
    assert refused.reason == "ClusterBreaker" and why in refused.message
    assert breaker(b) == ("closed", "") and (await ask(b)).ok
    told = sql("SELECT type, data ->> 'message' FROM event WHERE data ->> 'message' LIKE %s ORDER BY type", f"%{why}")
    assert [row[0] for row in told] == ["dev.fleet.breaker.opened", "dev.fleet.cluster.pods-fail"]


async def test_mistakes_in_the_pods_themselves_open_nothing(well: KubeServer) -> None:
    c = filled(well, "b")
    async with watching(well, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: well.streams >= 2)
        well.cluster.workloads.add("shop", "web", COUNT)
        await until(lambda: (pod_starts(c) or {}).get("tried") == COUNT)
        complain(well, ("Failed", "Error: ErrImagePull"), ("BackOff", "Back-off pulling image: ImagePullBackOff"))
        complain(well, ("CrashLoopBackOff", "Back-off restarting"), ("FailedMount", 'secret "s" not found'))
        well.cluster.workloads.add("shop", "more", 1)  # comes after them on the same stream
        await until(lambda: (pod_starts(c) or {}).get("tried") == COUNT + 1)
        assert pod_starts(c)["failed"] == 0 and breaker(c) == ("closed", "")


async def test_one_stream_of_events_serves_nodes_and_pods(well: KubeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    meeting = well._meeting

    def noted(verb: str, request: Any) -> list[Fault]:
        seen.append(f"{verb} {request.path}")
        return meeting(verb, request)

    monkeypatch.setattr(well, "_meeting", noted)
    c = filled(well, "b")
    async with watching(well, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: f"watch {EVENTS}" in seen)
        well.cluster.workloads.add("shop", "web", COUNT)
        await until(lambda: (pod_starts(c) or {}).get("tried") == COUNT)
    assert (seen.count(f"list {EVENTS}"), seen.count(f"watch {EVENTS}")) == (1, 1)
    assert not [request for request in seen if "pods" in request]


async def test_what_failed_before_the_watch_opens_nothing_however_often_it_is_said_again(sick: KubeServer) -> None:
    c = filled(sick, "a")
    fail_pods(sick)
    sick.cluster.workloads.add("shop", "web", COUNT)
    await until(lambda: events(sick) == COUNT)
    async with watching(sick, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: sick.streams >= 2)
        revision = sick.cluster.store.revision
        await until(lambda: sick.cluster.store.revision > revision + COUNT)  # each was tried again
        for name in list(sick.cluster.kubelets.names):
            sick.cluster.kubelets.fail(name, "")
        await until(lambda: (pod_starts(c) or {}).get("tried") == COUNT)
        assert pod_starts(c)["failed"] == 0 and breaker(c) == ("closed", "")


async def test_counting_begins_anew_with_a_new_list(sick: KubeServer) -> None:
    c = filled(sick, "a")
    async with watching(sick, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: sick.streams >= 2)
        fail_pods(sick)
        sick.cluster.workloads.add("shop", "web", 15)
        await until(lambda: (pod_starts(c) or {}).get("failed") == 15)
        again = sick.cluster.order(Fault("expired", path=EVENTS, verbs=("watch",), times=1))
        sick.cut()
        await until(lambda: again.met == 1 and pod_starts(c) is None)
        await until(lambda: sick.streams >= 2)
        sick.cluster.workloads.add("shop", "more", 15)
        await until(lambda: (pod_starts(c) or {}).get("failed") == 15)
        assert breaker(c) == ("closed", "")


def events(server: KubeServer) -> int:
    return len(server.cluster.store.collections["events"].entries)


async def test_a_stale_view_opens_nothing(sick: KubeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    c = filled(sick, "a")
    async with watching(sick, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: sick.streams >= 2)
        monkeypatch.setattr(View, "state", lambda self: STALE)
        fail_pods(sick)
        sick.cluster.workloads.add("shop", "web", COUNT)
        await until(lambda: (pod_starts(c) or {}).get("failed") == COUNT)
        assert breaker(c) == ("closed", "")
        monkeypatch.undo()


async def test_a_policy_says_when_and_the_cluster_s_own_comes_first(sick: KubeServer) -> None:
    c = filled(sick, "a")
    policy("everywhere", {"matchAll": True}, disabled=True)
    async with watching(sick, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: sick.streams >= 2)
        fail_pods(sick)
        sick.cluster.workloads.add("shop", "web", COUNT)
        await until(lambda: (pod_starts(c) or {}).get("failed") == COUNT)
        assert breaker(c) == ("closed", "")
        policy("mine", {"cluster": "a"}, percent=99.5, atLeast=5, windowSeconds=300)
        await until(lambda: breaker(c)[0] == "open")
        assert "within 5 min" in breaker(c)[1]
        assert breaker(c)[1].endswith("at least 99.5 % must (SafetyPolicy mine).")


async def test_it_opens_once_a_window_so_that_a_person_s_reset_holds(sick: KubeServer) -> None:
    c = filled(sick, "a")
    async with watching(sick, c) as watcher:  # type: ignore[arg-type]
        await heard(watcher, c)
        await until(lambda: sick.streams >= 2)
        fail_pods(sick)
        sick.cluster.workloads.add("shop", "web", COUNT)
        await until(lambda: breaker(c)[0] == "open")
        sql("SELECT breaker_reset('cluster', %s, 'olga', false)", c)
        sick.cluster.workloads.add("shop", "more", COUNT)
        await until(lambda: (pod_starts(c) or {}).get("failed") == 2 * COUNT)
        assert breaker(c)[0] == "half-open"
        assert sql("SELECT count(*) FROM event WHERE type = 'dev.fleet.cluster.pods-fail'") == [(1,)]
