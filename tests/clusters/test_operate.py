"""The Cluster-Operator through the real loop on a provider that behaves: made, healed, upgraded, put back, held, stopped, deleted, taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from clusters import backups, keep, providers
from clusters import tasks as _tasks  # registers the operator
from clusters.models import Cluster
from clusters.planes import APISERVER, COMPONENTS, ETCD, SCHEDULER, ComponentSeen, Plane, Snapshot
from clusters.schema_cluster import LOCAL
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control import work, worker
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, TemporaryError
from fleet.control.kinds import API_VERSION, CLUSTER, Json
from fleet.control.operators import Seat
from fleet.control.threads import in_thread
from fleet.safety import switch

assert _tasks
BY = Write(by=SYSTEM)


@dataclass
class Fake:
    """Control planes by uid: name -> (digest, version). `broken`: versions of a component that never get ready."""

    planes: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)
    fail: Exception | None = None
    dies_before: int = 0  # the n-th start breaks off before its effect
    dies_after: int = 0  # or after it
    dies_loading: bool = False
    away: int = 0  # of three API servers
    log: list[str] = field(default_factory=list)

    async def place(self, plane: Plane, *, restoring: bool = False) -> Mapping[str, str]:
        return {}

    def etcd_names(self, plane: Plane) -> Sequence[str]:
        return ("127.0.0.1",)

    async def observe(self, plane: Plane) -> Sequence[ComponentSeen]:
        found = self.planes.get(plane.uid, {})
        if self.away and APISERVER in found:
            lacks = ComponentSeen(APISERVER, *found[APISERVER], True, 3 - self.away, 3, f"{3 - self.away} of 3 pods are ready", serves=True)  # fmt: skip
            return [lacks if n == APISERVER else ComponentSeen(n, *found[n], True, 3, 3) for n in found]
        return [
            ComponentSeen(n, digest, version, (n, version) not in self.broken, 1, 1, "" if (n, version) not in self.broken else f"{n} crashes")
            for n, (digest, version) in found.items()
        ]  # fmt: skip

    async def apply(self, plane: Plane, component: str) -> None:
        if self.fail:
            raise self.fail
        number = sum(e.startswith("apply") for e in self.log) + 1
        if number == self.dies_before:
            self.dies_before = 0
            raise RuntimeError("the worker died")
        self.log.append(f"apply {component} {plane.components[component].version}")
        made = plane.components[component]
        self.planes.setdefault(plane.uid, {})[component] = (plane.digest(component), made.version)
        if number == self.dies_after:
            self.dies_after = 0
            raise RuntimeError("the worker died")

    async def stop(self, plane: Plane, component: str) -> None:
        self.log.append(f"stop {component}")
        self.planes.get(plane.uid, {}).pop(component, None)

    async def snapshot(self, plane: Plane, target: Path) -> Snapshot:
        self.log.append("snapshot")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"etcd")  # noqa: ASYNC240 - a few bytes
        return Snapshot(target, "0" * 64, 4)

    async def restore(self, plane: Plane, source: Snapshot) -> None:
        self.log.append(f"restore {source.path.name}")
        if self.dies_loading:
            self.dies_loading = False
            raise RuntimeError("the worker died")

    async def remove(self, plane: Plane) -> bool:
        self.log.append(f"remove {plane.uid}")
        self.planes.pop(plane.uid, None)
        return True

    def endpoint(self, plane: Plane) -> Endpoint:
        return Endpoint(
            "https://127.0.0.1:1", plane.files["ca.crt"], plane.files["admin.crt"], plane.files["admin.key"]
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path, fleet_db: None) -> Iterator[Fake]:
    made = Fake()
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    monkeypatch.setitem(providers._made, LOCAL, lambda: made)
    yield made


def version(name: str, kubernetes: str, etcd: str = "3.7.3") -> None:
    components: list[Json] = [{"name": n, "binary": n} for n in COMPONENTS]
    components[0]["version"] = etcd
    spec = {"kubernetesVersion": kubernetes, "components": components}
    create_object(
        "clusterpackageversions",
        {"apiVersion": API_VERSION, "kind": "ClusterPackageVersion", "metadata": {"name": name}, "spec": spec},
        write=BY,
    )


def cluster(name: str = "c1", package: str = "v36", **spec: Any) -> None:
    wanted = {"provider": LOCAL, "packageVersion": package, **spec}
    create_object(
        "clusters", {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": name}, "spec": wanted}, write=BY
    )


def change(name: str = "c1", **spec: Any) -> None:
    def do(live: Json) -> Json:
        live["spec"] |= spec
        return live

    patch_object("clusters", name, do, write=BY)


async def turn() -> None:
    """Everything is due once, and worked off."""

    def wake() -> None:
        work.wake(CLUSTER, Cluster.objects.values_list("id", flat=True))

    await in_thread(wake)
    await worker.run_once(kinds=[CLUSTER])


async def shown(name: str = "c1") -> Json:
    found = await in_thread(lambda: storage_for("clusters").read(name))
    assert found is not None
    return found.obj


async def said(type_: str, name: str = "c1") -> tuple[str, str, str]:
    found = {c["type"]: c for c in (await shown(name))["status"]["conditions"]}[type_]
    return found["status"], found["reason"], found["message"]


async def up(**spec: Any) -> None:
    await in_thread(lambda: version("v36", "1.36.3"))
    await in_thread(lambda: version("v37", "1.37.2"))
    await in_thread(lambda: cluster(**spec))
    await turn()


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


async def test_a_cluster_gets_its_control_plane_etcd_first(fake: Fake) -> None:
    await up()
    assert fake.log == [*(f"apply {n} {'3.7.3' if n == ETCD else '1.36.3'}" for n in COMPONENTS), "snapshot"]
    obj = await shown()
    assert (obj["status"]["phase"], obj["status"]["packageVersion"]) == ("Running", "v36")
    assert [s["status"] for s in obj["status"]["steps"]] == ["True"] * 4
    for type_ in ("Ready", "EtcdHealthy", "APIServerReachable", "ControlPlaneUpToDate", "CertificatesValid"):
        assert (await said(type_))[0] == "True", type_
    assert await in_thread(lambda: Cluster.objects.get().phase) == "Running"
    assert [(s["why"], s["packageVersion"]) for s in obj["status"]["snapshots"]] == [("schedule", "v36")]
    assert await in_thread(
        lambda: rows("SELECT count(*) FROM cluster_secret WHERE sealed IS NOT NULL AND public <> ''")
    ) == [(0,)]


async def test_a_pass_over_what_is_in_order_changes_nothing(fake: Fake) -> None:
    await up()
    before = (await shown())["metadata"]["resourceVersion"]
    await turn()
    await turn()
    assert (await shown())["metadata"]["resourceVersion"] == before


async def test_a_component_that_ended_is_started_again(fake: Fake) -> None:
    await up()
    fake.log.clear()
    (plane,) = fake.planes.values()
    del plane[SCHEDULER]
    await turn()
    assert fake.log == [f"apply {SCHEDULER} 1.36.3"]
    assert (await shown())["status"]["phase"] == "Running"


async def test_a_minor_upgrade_saves_etcd_first_and_emulates_the_old_minor_until_its_soak_ends(fake: Fake) -> None:
    await up(rollout={"soakSeconds": 3600})
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert fake.log == ["snapshot", *(f"apply {n} 1.37.2" for n in COMPONENTS[1:])]
    status = (await shown())["status"]
    assert (status["packageVersion"], status["emulatedVersion"], status["phase"]) == ("v37", "1.36", "Running")
    assert "soakUntil" in status
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v36"))
    await turn()
    assert [e.split()[1] for e in fake.log if e.startswith("apply")] == list(reversed(COMPONENTS[1:]))
    assert "emulatedVersion" not in (await shown())["status"]


async def test_after_the_soak_there_is_no_way_back(fake: Fake) -> None:
    await up(rollout={"soakSeconds": 0})
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert "emulatedVersion" not in (await shown())["status"]
    with pytest.raises(ApiError) as refused:
        await in_thread(lambda: change(packageVersion="v36"))
    assert "only a snapshot restored by a person" in str(refused.value)


async def test_a_component_that_does_not_come_up_is_put_back_and_the_upgrade_stops(fake: Fake) -> None:
    await up()
    fake.broken.add((APISERVER, "1.37.2"))
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert (await said("Reconciling"))[:2] == ("True", "Starting")

    def long_ago() -> None:
        row = Cluster.objects.get()
        for step in row.status["steps"]:
            step["startTime"] = "2020-01-01T00:00:00Z"
        Cluster.objects.filter(pk=row.pk).update(status=row.status)

    await in_thread(long_ago)
    await turn()
    (plane,) = fake.planes.values()
    assert plane[APISERVER][1] == "1.36.3"
    status, reason, message = await said("Stalled")
    assert (status, reason) == ("True", "ComponentNotReady")
    assert "kube-apiserver, which was put back: kube-apiserver crashes" in message
    assert (await shown())["status"]["phase"] == "Failed"


async def test_an_upgrade_of_an_unhealthy_cluster_does_not_begin_and_says_why(fake: Fake) -> None:
    await up()
    fake.broken.add((ETCD, "3.7.3"))
    await turn()
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert fake.log == []
    assert (await said("EtcdHealthy"))[:2] == ("False", "NotReady")


async def test_a_lost_replica_is_told_and_a_change_waits_until_it_is_back(fake: Fake) -> None:
    await up()
    fake.away = 1
    await turn()
    assert (await said("APIServerReachable"))[:2] == ("True", "Ready")
    assert "2 of 3 pods are ready" in (await said("APIServerReachable"))[2]
    assert (await said("Ready"))[0] == "True"
    assert (await shown())["status"]["phase"] == "Degraded"
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert fake.log == []
    assert "kube-apiserver lacks replicas" in (await said("Stalled"))[2]
    fake.away = 0
    await turn()
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v37"


async def test_a_held_cluster_is_looked_at_and_not_touched(fake: Fake) -> None:
    await up(paused=True)
    assert fake.log == []
    assert (await said("Held"))[:2] == ("True", "Held")
    assert "spec.paused" in (await said("Ready"))[2]
    await in_thread(lambda: change(paused=False))
    await turn()
    assert (await shown())["status"]["phase"] == "Running"


async def test_nothing_begins_while_everything_is_stopped(fake: Fake) -> None:
    await in_thread(lambda: switch.stop("ann", "an incident"))
    try:
        await up()
        assert fake.log == []
        assert (await said("Ready"))[1:] == ("Stopped", "Everything is stopped: an incident")
    finally:
        await in_thread(lambda: switch.resume("ann"))
    await turn()
    assert (await shown())["status"]["phase"] == "Running"


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        pytest.param(PermanentError("NoBinary", "/x is no program"), "Failed", id="permanent"),
        pytest.param(TemporaryError("Busy", "the port is taken"), "Provisioning", id="temporary"),
    ],
)
async def test_trouble_stands_in_the_conditions_with_its_sentence(
    fake: Fake, error: PermanentError, phase: str
) -> None:
    fake.fail = error
    await up()
    assert (await said("Ready"))[1:] == (error.reason, error.message)
    assert (await shown())["status"]["phase"] == phase
    fake.fail = None
    await turn()
    assert (await shown())["status"]["phase"] == "Running"


async def delete(name: str = "c1") -> str:
    def confirm(live: Json) -> Json:
        live["metadata"]["annotations"] = {"fleet.dev/confirm-delete": name}
        return live

    uid = str((await shown(name))["metadata"]["uid"])
    await in_thread(lambda: patch_object("clusters", name, confirm, write=BY))
    await in_thread(lambda: delete_object("clusters", name, write=BY))
    return uid


async def test_a_deleted_cluster_is_stopped_its_data_stays_a_day_and_is_taken_up_again(fake: Fake) -> None:
    await up()
    fake.log.clear()
    uid = await delete()
    await turn()
    assert fake.log == [f"stop {n}" for n in reversed(COMPONENTS)]
    assert await in_thread(lambda: storage_for("clusters").read("c1")) is None
    assert await in_thread(lambda: rows("SELECT cluster_id FROM cluster_access")) == []
    ca = await in_thread(lambda: keep.files(uid)["ca.crt"])
    await in_thread(lambda: cluster("c2", restoreFrom=uid))
    await turn()
    assert (await shown("c2"))["status"]["phase"] == "Running"
    assert list(fake.planes) == [uid]
    assert await in_thread(lambda: keep.files(uid)["ca.crt"]) == ca
    assert await in_thread(lambda: rows("SELECT uid FROM deleted_cluster")) == []
    with pytest.raises(ApiError) as refused:
        await in_thread(lambda: cluster("c3", restoreFrom=uid))
    assert "spec.restoreFrom" in str(refused.value)


async def test_after_a_day_nothing_is_left(fake: Fake) -> None:
    await up()
    uid = await delete()
    await turn()
    await in_thread(lambda: rows("UPDATE deleted_cluster SET purge_at = now() RETURNING 1"))
    await _tasks.purge(Seat(None, 1))  # type: ignore[arg-type]
    assert fake.log[-1] == f"remove {uid}"
    for table in ("cluster_secret", "cluster_snapshot", "deleted_cluster"):
        assert await in_thread(partial(rows, f"SELECT 1 FROM {table}")) == [], table


async def test_an_interval_of_zero_takes_no_scheduled_snapshot_and_an_upgrade_still_does(fake: Fake) -> None:
    await up(backups={"intervalSeconds": 0})
    await turn()
    assert "snapshot" not in fake.log and (await shown())["status"]["phase"] == "Running"
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert [s["why"] for s in (await shown())["status"]["snapshots"]] == ["upgrade"]
    await in_thread(lambda: change(backups={"intervalSeconds": 60}))
    await in_thread(lambda: rows("UPDATE cluster_snapshot SET taken_at = now() - interval '61 s' RETURNING 1"))
    await turn()
    assert [s["why"] for s in (await shown())["status"]["snapshots"]] == ["schedule", "upgrade"]


async def test_snapshots_more_often_than_once_a_minute_are_refused(fake: Fake) -> None:
    await in_thread(lambda: version("v36", "1.36.3"))
    with pytest.raises(ApiError, match="at most every 60 seconds; 0 for never"):
        await in_thread(lambda: cluster(backups={"intervalSeconds": 59}))


def unused(name: str) -> None:
    delete_object("clusterpackageversions", name, write=BY)


async def test_a_package_version_in_use_is_not_deleted_and_its_clusters_are_named(fake: Fake) -> None:
    await up()
    await in_thread(lambda: cluster("c2"))
    with pytest.raises(ApiError, match="it is in use by cluster c1, cluster c2") as refused:
        await in_thread(lambda: unused("v36"))
    assert refused.value.code == 409
    await in_thread(lambda: unused("v37"))


async def test_a_version_that_a_cluster_still_stands_on_is_not_deleted(fake: Fake) -> None:
    await up()
    fake.fail = TemporaryError("Busy", "not now")
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    with pytest.raises(ApiError, match="it is in use by cluster c1"):
        await in_thread(lambda: unused("v36"))
    with pytest.raises(ApiError, match="it is in use by cluster c1"):
        await in_thread(lambda: unused("v37"))


async def test_four_clusters_of_a_version_are_three_names_and_others(fake: Fake) -> None:
    await in_thread(lambda: version("v36", "1.36.3"))
    for name in ("c1", "c2", "c3", "c4"):
        await in_thread(lambda name=name: cluster(name))  # type: ignore[misc]
    with pytest.raises(ApiError, match="cluster c1, cluster c2, cluster c3 and others"):
        await in_thread(lambda: unused("v36"))


async def test_snapshots_beyond_the_number_that_is_kept_go(fake: Fake) -> None:
    await up(backups={"keep": 1})
    await in_thread(
        lambda: rows("UPDATE cluster_snapshot SET taken_at = now() - interval '1 day', name = 'old.db' RETURNING 1")
    )
    await turn()
    found = await in_thread(lambda: backups.listed(str(Cluster.objects.get().uid)))
    assert [s["name"] != "old.db" for s in found] == [True]


@pytest.mark.parametrize("number", range(1, len(COMPONENTS) + 1))
@pytest.mark.parametrize("when", ["dies_before", "dies_after"])
async def test_a_pass_may_die_at_any_start_and_no_effect_is_repeated(fake: Fake, when: str, number: int) -> None:
    setattr(fake, when, number)
    await up()
    for _ in range(3):
        await turn()
    assert [e.split()[1] for e in fake.log if e.startswith("apply")] == list(COMPONENTS)
    assert (await shown())["status"]["phase"] == "Running"


async def annotate(**words: str) -> None:
    def do(live: Json) -> Json:
        live["metadata"].setdefault("annotations", {}).update({f"fleet.dev/{k}": v for k, v in words.items()})
        return live

    await in_thread(lambda: patch_object("clusters", "c1", do, write=BY))


@pytest.mark.parametrize("dies", [False, True])
async def test_etcd_goes_back_to_a_snapshot_by_a_persons_word_once(fake: Fake, dies: bool) -> None:
    await up()
    name = (await shown())["status"]["snapshots"][0]["name"]
    fake.log.clear()
    fake.dies_loading = dies
    await annotate(restore=name)
    await turn()
    await turn()
    stops = [f"stop {n}" for n in reversed(COMPONENTS)]
    loads = [f"restore {name}"] * (2 if dies else 1)
    assert fake.log == [*stops, *loads, *(f"apply {n} {'3.7.3' if n == ETCD else '1.36.3'}" for n in COMPONENTS)]
    obj = await shown()
    assert obj["status"]["phase"] == "Running"
    assert "work" not in obj["status"] and "fleet.dev/restore" not in obj["metadata"].get("annotations", {})


async def test_after_the_soak_a_snapshot_of_the_old_version_leads_back(fake: Fake) -> None:
    await up(rollout={"soakSeconds": 0})
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    name = next(s["name"] for s in (await shown())["status"]["snapshots"] if s["why"] == "upgrade")

    def both(live: Json) -> Json:
        live["spec"]["packageVersion"] = "v36"
        live["metadata"].setdefault("annotations", {})["fleet.dev/restore"] = name
        return live

    await in_thread(lambda: patch_object("clusters", "c1", both, write=BY))
    await turn()
    await turn()
    (plane,) = fake.planes.values()
    assert plane[APISERVER][1] == "1.36.3"
    assert (await shown())["status"]["packageVersion"] == "v36"


async def test_a_snapshot_that_is_not_there_is_refused_by_name(fake: Fake) -> None:
    await up()
    with pytest.raises(ApiError, match="names no snapshot of it; there are"):
        await annotate(restore="yesterday.db")
