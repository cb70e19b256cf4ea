"""Condition ConfigMaps and pods of DaemonSets, from an API server through the watcher onto machines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import psycopg
import pytest

from fleet.api.storage import storage_for
from fleet.control.db import Connection
from fleet.control.threads import in_thread
from machines import reports, reports_sql
from machines.reporters import declared
from machines.watch import reporting
from machines.watch.leases import Lease
from machines.watch.reports import Reports
from machines.watch.seen import ConditionMap
from tests.machines.test_watch import cluster, provider_ids, watching
from tests.machines.watch_server import ApiServer, node, until
from tests.machines.world import make, sql

pytestmark = pytest.mark.usefixtures("fleet_db")
Json = dict[str, Any]
MAPS = "/api/v1/namespaces/fleet-reports/configmaps"
PODS = "/api/v1/namespaces/fleet-reports/pods"
SETS = "/apis/apps/v1/namespaces/fleet-reports/daemonsets"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("machines.watch.cluster.SETTLE_SECONDS", 0.1)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    made = ApiServer()
    await made.start()
    yield made
    await made.stop()


def declare(c: int, **spec: Any) -> None:
    """Set fields of the Cluster's spec."""
    sql("UPDATE clusters_cluster SET spec = spec || %s::jsonb WHERE id = %s", orjson.dumps(spec).decode(), c)


def reporter(name: str = "gpu", *types: str, **more: Any) -> Json:
    return {"name": name, "namespace": "fleet-reports", "conditionTypes": list(types or ("GPUHealthy",)), **more}


async def filled(server: ApiServer, count: int = 2, *reporters: Json, **spec: Any) -> int:
    """A cluster with machines, their nodes n0, n1 ..., and reporters."""
    c = cluster()
    make(count, cluster_id=c)
    for n, provider in enumerate(provider_ids().values()):
        await server.put(node(f"n{n}", provider=provider))
    declare(c, conditionNamespaces=["fleet-reports"], reporters=list(reporters) or [reporter()], **spec)
    return c


def entry(status: str = "True", type_: str = "GPUHealthy", **more: str) -> str:
    return orjson.dumps({"conditions": [{"type": type_, "status": status, **more}]}).decode()


def config(name: str = "gpus", said: dict[str, str] | None = None, of: str = "gpu") -> Json:
    labels = {"fleet.dev/conditions": "true"}
    return {"metadata": {"name": name, "namespace": "fleet-reports", "labels": labels, "annotations": {"fleet.dev/reporter": of}}, "data": said or {}}  # fmt: skip


def believed(machine: str, type_: str = "GPUHealthy") -> tuple[str, str]:
    """(status, reason) in the machine's packed conditions of reporters; ("", "") when there is none."""
    found = sql(
        "SELECT k.status, k.reason FROM machine_state s, unnest(s.x_cond) v JOIN condition_kind k ON k.id = v >> 32 WHERE s.name = %s AND k.type = %s",
        machine, type_,
    )  # fmt: skip
    return tuple(found[0]) if found else ("", "")


def status_of(machine: str, type_: str = "GPUHealthy") -> str:
    return believed(machine, type_)[0]


def refusals() -> list[tuple[str, str]]:
    found = sql("SELECT data ->> 'reason', data ->> 'message' FROM event WHERE type = 'dev.fleet.cluster.report-refused' ORDER BY pos, n")  # fmt: skip
    return [(reason, message) for reason, message in found]


def healthy() -> tuple[str, str]:
    """(status, reason) of ReportersHealthy."""
    found = sql("SELECT c ->> 'status', c ->> 'reason' FROM clusters_cluster, jsonb_array_elements(status -> 'conditions') c WHERE c ->> 'type' = 'ReportersHealthy'")  # fmt: skip
    return tuple(found[0]) if found else ("", "")


async def test_what_a_map_says_stands_on_the_machines_with_its_source(server: ApiServer) -> None:
    c = await filled(server)
    await server.put(config(said={"n0": entry(message="8 of 8"), "n1": entry("False", reason="XidError", message="xid 79")}), MAPS)  # fmt: skip
    async with watching(server, c):
        await until(lambda: (status_of("m-0000"), status_of("m-0001")) == ("True", "False"))
        shown = await in_thread(lambda: storage_for("machines").read("m-0001"))
        assert shown is not None
        said = next(x for x in shown.obj["status"]["conditions"] if x["type"] == "GPUHealthy")
        assert {k: said[k] for k in ("status", "reason", "message", "source")} == {
            "status": "False",
            "reason": "XidError",
            "message": "xid 79",
            "source": "gpu",
        }
        await until(lambda: healthy() == ("True", "AllTaken"))
        assert server.seen.count("list /api/v1/nodes") == 1  # who reports is known before nodes are read
        await server.put(config(said={"n0": entry("False"), "n1": entry()}), MAPS)
        await until(lambda: (status_of("m-0000"), status_of("m-0001")) == ("False", "True"))
    assert refusals() == []


async def test_a_changed_report_wakes_its_machine_and_is_told(server: ApiServer) -> None:
    c = await filled(server)
    async with watching(server, c) as watcher:
        await until(lambda: sql("SELECT count(*) FROM work_item WHERE wake") == [(2,)])  # their nodes were new
        await until(lambda: (watch := watcher.watch_of(c)) is not None and watch.view.idle)
        sql("UPDATE work_item SET wake = false")
        await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
        await until(lambda: sql("SELECT count(*) FROM work_item WHERE wake") == [(2,)])
        sql("UPDATE work_item SET due_at = now() + interval '1 day'")
        rv = sql("SELECT name, rv FROM machine_state ORDER BY 1")
        await server.put(config(said={"n0": entry(), "n1": entry("False", message="lost")}), MAPS)
        due = "SELECT s.name FROM work_item w JOIN machine_state s ON s.id = w.object_id WHERE w.due_at <= now()"
        assert await until(lambda: sql(due)) == [("m-0001",)]
        after = sql("SELECT name, rv FROM machine_state ORDER BY 1")
        assert (after[0], after[1][1] > rv[1][1]) == (rv[0], True)
        assert sql("SELECT count(*) FROM change WHERE rv = %s AND kind = 1", after[1][1]) == [(1,)]
        said = sql("SELECT data ->> 'message' FROM event WHERE type = 'dev.fleet.machine.condition' ORDER BY pos DESC LIMIT 1")  # fmt: skip
        assert said == [("GPUHealthy went from True to False: lost",)]


async def test_a_node_without_its_map_is_unknown(server: ApiServer) -> None:
    c = await filled(server, 3)
    await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
    await server.put(config("more", {"n2": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: [status_of(f"m-000{n}") for n in range(3)] == ["True"] * 3)
        await server.put(config(said={"n0": entry()}), MAPS)
        await until(lambda: believed("m-0001") == ("Unknown", "NotReported"))
        await server.delete("more", MAPS)
        await until(lambda: believed("m-0002") == ("Unknown", "NotReported"))
        assert status_of("m-0000") == "True"


async def test_a_map_that_went_while_nobody_watched_leaves_unknown(server: ApiServer) -> None:
    c = await filled(server)
    await server.put(config(said={"n0": entry()}), MAPS)
    await server.put(config("more", {"n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == status_of("m-0001") == "True")
    await server.delete("more", MAPS)
    async with watching(server, c):
        await until(lambda: believed("m-0001") == ("Unknown", "NotReported"))
        assert status_of("m-0000") == "True"
        await until(lambda: sql("SELECT map FROM condition_map") == [("fleet-reports/gpus",)])


BAD_ENTRIES = {
    "no JSON": ("{conditions", "Malformed"),
    "no list": ('{"conditions": {}}', "Malformed"),
    "no text": ('[{"type": "GPUHealthy", "status": true}]', "Malformed"),
    "nothing": ("[]", "Empty"),
    "bad type": (entry(type_="not a type"), "BadType"),
    "undeclared": (entry(type_="DiskHealthy"), "NotDeclared"),
    "built in": (entry(type_="NodeReady"), "NotDeclared"),
    "bad status": (entry("yes"), "BadStatus"),
    "bad reason": (entry(reason="two words"), "BadReason"),
    "twice": (f"[{entry()[15:-2]}, {entry('False')[15:-2]}]", "Doubled"),
}


@pytest.mark.parametrize(("text", "reason"), list(BAD_ENTRIES.values()), ids=list(BAD_ENTRIES))
async def test_b6_a_bad_entry_is_refused_and_the_last_good_one_kept(server: ApiServer, text: str, reason: str) -> None:
    c = await filled(server)
    await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == status_of("m-0001") == "True")
        for other in ("False", "Unknown", "False"):  # the neighbour goes on, and the alarm is raised once
            await server.put(config(said={"n0": text, "n1": entry(other)}), MAPS)
            await until(lambda other=other: status_of("m-0001") == other)
        await until(lambda: healthy() == ("False", reason))
        assert believed("m-0000") == ("True", "Reported")
        assert [r for r, _ in refusals()] == [reason]
        assert "ConfigMap fleet-reports/gpus: n0: " in refusals()[0][1]
        await server.put(config(said={"n0": entry("False"), "n1": entry()}), MAPS)
        await until(lambda: status_of("m-0000") == "False")
        await until(lambda: healthy() == ("True", "AllTaken"))


BIG = "x" * (1 << 20)
BAD_MAPS = {
    "empty": (config(), "Empty"),
    "too large": (config(said={"n0": entry("False"), "n1": entry("False", message=BIG)}), "TooLarge"),
    "nobody's": (config(said={"n0": entry("False")}, of=""), "NoReporter"),
    "unknown reporter": (config(said={"n0": entry("False")}, of="evil"), "UnknownReporter"),
    "another's place": (config(said={"n0": entry("False")}, of="elsewhere"), "WrongNamespace"),
}


@pytest.mark.parametrize(("bad", "reason"), list(BAD_MAPS.values()), ids=list(BAD_MAPS))
async def test_b6_a_bad_map_is_refused_and_what_it_said_before_kept(server: ApiServer, bad: Json, reason: str) -> None:
    elsewhere = {"name": "elsewhere", "namespace": "there", "conditionTypes": ["Other"]}
    c = await filled(server, 2, reporter(), elsewhere)
    await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == status_of("m-0001") == "True")
        for _ in range(3):
            await server.put(bad, MAPS)
        await until(lambda: healthy() == ("False", reason))
        await server.put(config("probe", {"n9": entry()}), MAPS)  # comes after it on the same stream
        await until(lambda: sql("SELECT 1 FROM condition_map WHERE map = 'fleet-reports/probe'"))
        assert status_of("m-0000") == status_of("m-0001") == "True"
        assert [r for r, _ in refusals()] == [reason]
    async with watching(server, c):  # another watcher neither believes it nor tells it again
        await until(lambda: sql("SELECT holder IS NOT NULL FROM shard") == [(True,)])
        await server.put(config("probe", {"n9": entry("False")}), MAPS)
        await until(lambda: sql("SELECT 1 FROM condition_map WHERE map = 'fleet-reports/probe' AND rv = %s", str(server.version)))  # fmt: skip
        assert status_of("m-0000") == status_of("m-0001") == "True"
    assert [r for r, _ in refusals()] == [reason]


async def test_b6_of_two_maps_that_name_one_node_the_first_counts_until_it_lets_go(server: ApiServer) -> None:
    c = await filled(server)
    await server.put(config("z-first", {"n0": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == "True")
        await server.put(config("a-second", {"n0": entry("False"), "n1": entry()}), MAPS)
        await until(lambda: status_of("m-0001") == "True" and healthy() == ("False", "Doubled"))
        assert status_of("m-0000") == "True"
    async with watching(server, c):  # the order of a list changes nothing
        await server.put(config("a-second", {"n0": entry("False"), "n1": entry("False")}), MAPS)
        await until(lambda: status_of("m-0001") == "False")
        assert status_of("m-0000") == "True"
        await server.put(config("z-first", {"n9": entry()}), MAPS)
        await until(lambda: status_of("m-0000") == "False" and healthy() == ("True", "AllTaken"))
    assert [r for r, _ in refusals()] == ["Doubled"]


async def test_a_map_is_read_only_where_the_cluster_says_so(server: ApiServer) -> None:
    c = await filled(server)
    await server.put(config(said={"n0": entry()}), "/api/v1/namespaces/elsewhere/configmaps")
    await server.put(config(said={"n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0001") == "True")
        assert believed("m-0000") == ("", "")
        declare(c, conditionNamespaces=["elsewhere"], reporters=[reporter() | {"namespace": "elsewhere"}])
        await until(lambda: believed("m-0001")[0] == "Unknown")
    assert not any("watch /api/v1/configmaps" in s for s in server.seen)


async def test_a_type_that_is_declared_later_is_taken_then_and_one_that_is_not_any_more_goes(
    server: ApiServer, conn: Connection
) -> None:
    c = await filled(server, 1)
    await server.put(config(said={"n0": entry()}), MAPS)
    await server.put(config("disks", {"n0": entry(type_="DiskHealthy")}, of="disk"), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == "True" and healthy() == ("False", "UnknownReporter"))
        declare(c, reporters=[reporter(), reporter("disk", "DiskHealthy")])
        await until(lambda: status_of("m-0000", "DiskHealthy") == "True" and healthy() == ("True", "AllTaken"))
        declare(c, reporters=[reporter("disk", "DiskHealthy")])
        await until(lambda: healthy() == ("False", "UnknownReporter"))
        assert await reports.drop_strayed(conn) == 1
        assert (believed("m-0000"), status_of("m-0000", "DiskHealthy")) == (("", ""), "True")
        assert sql("SELECT type FROM report") == [("DiskHealthy",)]


async def test_a_nodes_own_condition_of_a_declared_type_is_not_taken(server: ApiServer) -> None:
    c = await filled(server, 1)
    lying = node("n0", provider=provider_ids()["m-0000"])
    lying["status"]["conditions"].append({"type": "GPUHealthy", "status": "False", "reason": "Lie"})
    await server.put(lying)
    await server.put(config(said={"n0": entry()}), MAPS)
    own = "SELECT k.type FROM machine_state s, unnest(s.k_cond) v JOIN condition_kind k ON k.id = v >> 32 ORDER BY 1"
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == "True")
        await until(lambda: [row[0] for row in sql(own)] == ["MemoryPressure", "NodeReady"])
        declare(c, reporters=[])
        await until(lambda: [row[0] for row in sql(own)] == ["GPUHealthy", "MemoryPressure", "NodeReady"])


async def test_a_machine_that_comes_after_its_map_gets_what_it_says(server: ApiServer) -> None:
    c = cluster("c1", "Imported")
    declare(c, conditionNamespaces=["fleet-reports"], reporters=[reporter()])
    await server.put(config(said={"m-0000": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: sql("SELECT 1 FROM condition_map"))
        make(1, cluster_id=c)
        await server.put(node("m-0000"))
        await until(lambda: status_of("m-0000") == "True")


async def test_reports_of_a_machine_that_went_elsewhere_are_taken_away(server: ApiServer, conn: Connection) -> None:
    c = await filled(server, 1)
    await server.put(config(said={"n0": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == "True")
    sql("UPDATE machine SET cluster_id = 0; UPDATE machine_state SET cluster_id = 0")
    assert await reports.drop_strayed(conn) == 1
    assert (believed("m-0000"), sql("SELECT count(*) FROM report")) == (("", ""), [(0,)])


# -- age --------------------------------------------------------------------------------------------------------------


def age(seconds: int) -> None:
    """Let time pass for what was received."""
    sql("UPDATE report SET received_at = received_at - %s * interval '1 s', expires_at = expires_at - %s * interval '1 s'", seconds, seconds)  # fmt: skip
    sql("UPDATE condition_map SET received_at = received_at - %s * interval '1 s'", seconds)


async def test_a_report_lapses_and_only_a_new_version_of_its_map_renews_it(server: ApiServer, conn: Connection) -> None:
    c = await filled(server, 1, reporter(ttlSeconds=60))
    await server.put(config(said={"n0": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == "True")
        age(40)
        assert (await reports.lapse(conn), status_of("m-0000")) == (0, "True")
        age(21)
        sql("UPDATE work_item SET due_at = now() + interval '1 day'")
        assert await reports.lapse(conn) == 1
        assert (believed("m-0000"), await reports.lapse(conn)) == (("Unknown", "Expired"), 0)
        assert sql("SELECT due_at <= now() FROM work_item") == [(True,)]
    async with watching(server, c):  # the same version, listed again, is as old as it was
        await server.put(config("probe", {"n9": entry()}), MAPS)
        await until(lambda: sql("SELECT 1 FROM condition_map WHERE map = 'fleet-reports/probe'"))
        assert believed("m-0000") == ("Unknown", "Expired")
        await server.put(config(said={"n0": entry()}), MAPS)
        await until(lambda: status_of("m-0000") == "True")
        assert await reports.lapse(conn) == 0


async def test_each_version_of_a_map_renews_what_it_says_and_nothing_that_it_refuses(
    server: ApiServer, conn: Connection
) -> None:
    c = await filled(server, 2, reporter(ttlSeconds=60))
    await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0001") == "True")
        age(50)
        await server.put(config(said={"n0": entry(), "n1": "{"}), MAPS)
        young = "SELECT count(*) FROM report WHERE expires_at > now() + interval '55 s'"
        await until(lambda: sql(young) == [(1,)])
        age(20)
        assert await reports.lapse(conn) == 1
        assert (status_of("m-0000"), believed("m-0001")) == ("True", ("Unknown", "Expired"))


async def test_without_a_ttl_nothing_lapses_and_an_unchanged_value_is_not_written(
    server: ApiServer, conn: Connection
) -> None:
    c = await filled(server)
    await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0001") == "True")
        age(10_000_000)
        before = sql("SELECT xmin::text FROM report WHERE machine_id = (SELECT min(id) FROM machine)")
        await server.put(config(said={"n0": entry(), "n1": entry("False")}), MAPS)
        await until(lambda: status_of("m-0001") == "False")
        assert await reports.lapse(conn) == 0
        assert sql("SELECT xmin::text FROM report WHERE machine_id = (SELECT min(id) FROM machine)") == before


async def test_a_rules_ttl_counts_where_the_rule_does(server: ApiServer, conn: Connection) -> None:
    c = await filled(server)
    for name, target, more in (
        ("r", {"selector": {"matchLabels": {"pool": "gpu"}}}, {}),
        ("dry", {"matchAll": True}, {"dryRun": True}),
    ):
        spec = {"conditionType": "GPUHealthy", "target": target, "ttlSeconds": 60, **more}
        sql("INSERT INTO machines_readinessrule (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (gen_random_uuid(), %s, 1, 1, '{}', '{}', '[]', '[]', %s::jsonb, '{}', now())", name, orjson.dumps(spec).decode())  # fmt: skip
    sql("UPDATE machine SET labels = '{\"pool\": \"gpu\"}' WHERE name = 'm-0001'")
    await server.put(config(said={"n0": entry(), "n1": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0001") == "True")
        age(61)
        assert await reports.lapse(conn) == 1
        assert (status_of("m-0000"), believed("m-0001")) == ("True", ("Unknown", "Expired"))
        await server.put(config(said={"n0": entry(), "n1": entry(), "n9": entry()}), MAPS)
        await until(lambda: status_of("m-0001") == "True")


# -- pods -------------------------------------------------------------------------------------------------------------


def daemon_set(name: str = "agent") -> Json:
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": name}}}}


def pod(name: str, on: str, *, ready: str = "True", of: str = "agent", kind: str = "DaemonSet", **meta: Any) -> Json:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}} if ready == "False" else {}
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": of, "uid": "u", "controller": True}
    return {
        "metadata": {"name": name, "labels": {"app": of}, "ownerReferences": [owner], **meta},
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready, "reason": "ContainersNotReady"}], "containerStatuses": [{"state": waiting}]},
    }  # fmt: skip


async def test_a_reporter_lives_while_its_pod_on_the_node_is_ready(server: ApiServer) -> None:
    c = await filled(server, 3, reporter(daemonSet="agent"))
    await server.put(daemon_set(), SETS)
    for n in range(3):
        await server.put(pod(f"agent-{n}", f"n{n}"), PODS)
    await server.put(config(said={f"n{n}": entry() for n in range(3)}), MAPS)
    async with watching(server, c):
        await until(lambda: [status_of(f"m-000{n}") for n in range(3)] == ["True"] * 3)
        await server.put(pod("agent-0", "n0", ready="False"), PODS)
        await server.delete("agent-1", PODS)
        await until(lambda: believed("m-0000") == believed("m-0001") == ("Unknown", "ReporterNotReady"))
        assert status_of("m-0002") == "True"
        await server.put(pod("agent-0", "n0"), PODS)
        await server.put(pod("agent-x", "n1"), PODS)
        await until(lambda: status_of("m-0000") == status_of("m-0001") == "True")
    await server.delete("agent-x", PODS)
    async with watching(server, c):  # as it went while nobody watched
        await until(lambda: believed("m-0001") == ("Unknown", "ReporterNotReady"))


async def test_without_its_daemonset_a_reporter_says_nothing(server: ApiServer) -> None:
    c = await filled(server, 1, reporter(daemonSet="agent"))
    await server.put(config(said={"n0": entry()}), MAPS)
    await server.put(pod("agent-0", "n0"), PODS)
    async with watching(server, c):
        await until(lambda: believed("m-0000") == ("Unknown", "ReporterNotReady"))
        await until(lambda: healthy() == ("False", "NoDaemonSet"))
        await server.put(daemon_set(), SETS)
        await until(lambda: status_of("m-0000") == "True" and healthy() == ("True", "AllTaken"))


GATE = "daemonset/fleet-reports/agent"


async def test_the_pods_of_a_daemonset_are_a_condition_of_each_node(server: ApiServer) -> None:
    c = await filled(server, 4, daemonSetGates=[{"namespace": "fleet-reports", "name": "agent"}])
    await server.put(daemon_set(), SETS)
    await server.put(pod("agent-0", "n0"), PODS)
    await server.put(pod("agent-1", "n1", ready="False"), PODS)
    await server.put(pod("other", "n2", kind="ReplicaSet"), PODS)
    await server.put(pod("agent-3", "n3", ready="False", deletionTimestamp="2026-01-01T00:00:00Z"), PODS)
    async with watching(server, c):
        await until(lambda: believed("m-0000", GATE) == ("True", "PodReady"))
        await until(lambda: believed("m-0001", GATE) == ("False", "CrashLoopBackOff"))
        await until(lambda: believed("m-0003", GATE) == ("Unknown", "PodEnding"))
        assert believed("m-0002", GATE) == ("", "")  # nobody has said anything: which is Unknown
        await server.delete("agent-0", PODS)
        await server.put(pod("agent-1", "n1"), PODS)
        await until(lambda: believed("m-0000", GATE) == ("Unknown", "NoPod"))
        await until(lambda: believed("m-0001", GATE) == ("True", "PodReady"))
        assert sql("SELECT DISTINCT source FROM report") == [("fleet",)]
    await server.delete("agent-1", PODS)
    async with watching(server, c):
        await until(lambda: believed("m-0001", GATE) == ("Unknown", "NoPod"))


async def test_only_the_pods_of_the_daemonset_are_asked_for(server: ApiServer) -> None:
    c = await filled(server, 1, daemonSetGates=[{"namespace": "fleet-reports", "name": "agent"}])
    await server.put(daemon_set(), SETS)
    await server.put(pod("agent-0", "n0"), PODS)
    async with watching(server, c):
        await until(lambda: believed("m-0000", GATE) == ("True", "PodReady"))
    assert [q for q in server.queries if PODS in q and "labelSelector=app%3Dagent" not in q] == []


# -- the cluster as a whole ---------------------------------------------------------------------------------------------


async def test_while_the_cluster_does_not_answer_its_reports_are_unknown(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machines.watch.view.FAILING_SECONDS", 0.3)
    c = await filled(server, 1, daemonSetGates=[{"namespace": "fleet-reports", "name": "agent"}])
    await server.put(daemon_set(), SETS)
    await server.put(pod("agent-0", "n0"), PODS)
    await server.put(config(said={"n0": entry()}), MAPS)
    async with watching(server, c):
        await until(lambda: status_of("m-0000") == status_of("m-0000", GATE) == "True")
        port = int(server.url.rpartition(":")[2])
        await server.stop()
        await until(lambda: believed("m-0000") == believed("m-0000", GATE) == ("Unknown", "NoAnswer"))
        await server.start(port)
        await server.bookmark()
        await until(lambda: status_of("m-0000") == status_of("m-0000", GATE) == "True")


async def test_twenty_thousand_reports_are_written_by_the_batch(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, parts = 20_000, 4
    c = cluster()
    make(count, cluster_id=c)
    sql("INSERT INTO node (cluster_id, name, machine_id) SELECT cluster_id, name, id FROM machine")
    sql("INSERT INTO shard (cluster_id, holder, epoch, lease_until) VALUES (%s, 7, 1, now() + interval '1 h')", c)
    names = [row[0] for row in sql("SELECT name FROM machine ORDER BY name")]
    statements: list[Any] = []
    execute = psycopg.AsyncConnection.execute

    async def counted(self: Any, query: Any, *args: Any, **kept: Any) -> Any:
        statements.append(query)
        return await execute(self, query, *args, **kept)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    kept = Reports(Lease(c, 7, 1))
    kept.declare(declared({"conditionNamespaces": ["fleet-reports"], "reporters": [reporter()]}))

    def part(each: int, rv: str, first: str = "True") -> ConditionMap:
        mine = names[each::parts]
        data = {n: entry(first if n == mine[0] else "True") for n in mine}
        return ConditionMap(c, "fleet-reports", f"part-{each}", "gpu", rv, data)

    kept.listed("fleet-reports", [part(each, "1") for each in range(parts)])
    assert await kept.flush(conn) == count
    assert statements.count(reports_sql.APPLY) == count // reports.BATCH
    assert len(statements) < count / 100
    assert sql("SELECT count(*), count(DISTINCT map) FROM report") == [(count, parts)]
    assert sql("SELECT count(*) FROM machine_state WHERE x_cond <> '{}'") == [(count,)]
    statements.clear()
    kept.take(part(0, "2", "False"))  # one of five thousand differs
    assert await kept.flush(conn) == 1
    assert (len(statements) < 10, status_of(names[0]), status_of(names[4])) == (True, "False", "True")
