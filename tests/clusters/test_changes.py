"""What keeps a change of a control plane from beginning, and what it does when it cannot go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clusters import keep, pki, providers
from clusters.models import Cluster
from clusters.planes import APISERVER, COMPONENTS, ETCD, Plane, good_until
from clusters.schema_cluster import LOCAL
from clusters.wanted import host_of, port_of
from fleet.api.actions import create_object, delete_object
from fleet.api.errors import ApiError
from fleet.control.errors import PermanentError
from fleet.control.kinds import API_VERSION
from fleet.control.threads import in_thread
from fleet.control.times import format_time
from fleet.safety import switch
from tests.clusters.test_operate import BY, Fake, change, cluster, rows, said, shown, turn, version


@dataclass
class Choosy(Fake):
    """A provider that knows which versions it has no programs for, or only notices when it starts one."""

    missing: set[str] = field(default_factory=set)
    unstartable: set[str] = field(default_factory=set)

    def lacking(self, plane: Plane) -> Sequence[str]:
        return [
            f"{n}: there is no program {c.version}/{n}"
            for n, c in plane.components.items()
            if c.version in self.missing
        ]

    async def apply(self, plane: Plane, component: str) -> None:
        if plane.components[component].version in self.unstartable:
            raise PermanentError("NoBinary", f"{component} is no program on this host")
        await super().apply(plane, component)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path, fleet_db: None) -> Choosy:
    made = Choosy()
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    monkeypatch.setitem(providers._made, LOCAL, lambda: made)
    return made


async def up(fake: Choosy) -> None:
    for name, number, etcd in (
        ("v36", "1.36.3", "3.7.3"),
        ("v37", "1.37.2", "3.7.3"),
        ("v38", "1.38.0", "3.7.3"),
        ("old-etcd", "1.37.2", "3.6.9"),
    ):
        await in_thread(lambda name=name, number=number, etcd=etcd: version(name, number, etcd))  # type: ignore[misc]
    await in_thread(lambda: cluster(rollout={"soakSeconds": 3600}))
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v36"
    fake.log.clear()


@asynccontextmanager
async def held() -> AsyncIterator[str]:
    until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    spec = {"target": {"cluster": "c1"}, "reason": "an audit", "until": until}
    obj = {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"name": "h"}, "spec": spec}
    await in_thread(lambda: create_object("holds", obj, write=BY))
    yield "nothing new starts: Hold h: an audit"
    await in_thread(lambda: delete_object("holds", "h", write=BY))


@asynccontextmanager
async def paused() -> AsyncIterator[str]:
    await in_thread(lambda: change(paused=True))
    yield "nothing new starts: spec.paused keeps Fleet's hands off"
    await in_thread(lambda: change(paused=False))


@asynccontextmanager
async def stopped() -> AsyncIterator[str]:
    await in_thread(lambda: switch.stop("ann", "an incident"))
    try:
        yield "Everything is stopped: an incident"
    finally:
        await in_thread(lambda: switch.resume("ann"))


@pytest.mark.parametrize("brake", [held, paused, stopped])
async def test_no_upgrade_begins_under_a_brake_and_it_goes_on_once_it_is_off(fake: Choosy, brake: Any) -> None:
    await up(fake)
    async with brake() as text:
        await in_thread(lambda: change(packageVersion="v37"))
        await turn()
        await turn()
        assert [e for e in fake.log if e.startswith("apply")] == []
        assert (await said("Ready"))[2] == text
        assert set((await shown())["status"]["componentVersions"].values()) == {"v36"}
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v37"


@pytest.mark.parametrize("brake", [held, paused, stopped])
async def test_a_brake_in_the_middle_of_an_upgrade_stops_it_before_the_next_component(fake: Choosy, brake: Any) -> None:
    await up(fake)
    fake.broken.add((APISERVER, "1.37.2"))  # so that the pass ends there
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    async with brake():
        fake.broken.clear()
        await turn()
        (plane,) = fake.planes.values()
        assert {n: v for n, (_, v) in plane.items()} == {
            ETCD: "3.7.3",
            APISERVER: "1.37.2",
            **dict.fromkeys(COMPONENTS[2:], "1.36.3"),
        }
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v37"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        pytest.param("v40", "there is no such ClusterPackageVersion", id="a version that is not there"),
        pytest.param("v38", "goes from Kubernetes 1.36.3 to 1.38.0, one minor at a time; go to v37 first", id="a minor is skipped"),
        pytest.param("old-etcd", "goes from etcd 3.7.3 to 3.6.9; an older etcd minor does not read the data", id="etcd goes back"),
    ],
)  # fmt: skip
async def test_what_can_be_known_is_refused_where_it_is_written(fake: Choosy, wanted: str, text: str) -> None:
    await up(fake)
    with pytest.raises(ApiError, match=rf"spec.packageVersion.*{text}") as refused:
        await in_thread(lambda: change(packageVersion=wanted))
    assert refused.value.code == 422
    await turn()
    assert fake.log == []


async def test_a_program_that_is_not_there_is_refused_before_anything_changes(fake: Choosy) -> None:
    await up(fake)
    fake.missing.add("1.37.2")
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert fake.log == []
    status, reason, message = await said("Stalled")
    assert (status, reason) == ("True", "PreflightFailed")
    assert f"{APISERVER}: there is no program 1.37.2/{APISERVER}" in message
    fake.missing.clear()
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v37"


async def test_a_component_that_cannot_be_started_is_put_back_at_once_and_the_change_stops(fake: Choosy) -> None:
    await up(fake)
    fake.unstartable.add("1.37.2")
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    status, reason, message = await said("Stalled")
    assert (status, reason) == ("True", "NoBinary")
    assert (
        "the change to v37 stopped at kube-apiserver, which was put back: kube-apiserver is no program on this host"
        in message
    )
    (plane,) = fake.planes.values()
    assert {v for n, (_, v) in plane.items() if n != ETCD} == {"1.36.3"}
    assert (await said("APIServerReachable"))[0] == "True"


async def shorten(days: float, *names: str) -> None:
    """Certificates that end so soon, those with which components run too."""

    def do() -> None:
        row = Cluster.objects.get()
        uid, now = str(row.uid), datetime.now(UTC)
        have = keep.files(uid)
        host, port = "127.0.0.1", 20_000 + int(uid[:8], 16) % 10_000
        leaves = pki.leaves(pki.Names(host, f"https://{host}:{port}", "10.96.0.0/12"))
        changed, ends = {}, {}
        for name in names:
            leaf = leaves[name]
            then = now - timedelta(days=pki.LEAF_DAYS - days)
            changed[f"{name}.crt"], changed[f"{name}.key"] = pki.issue(
                leaf, have[f"{leaf.authority}.crt"], have[f"{leaf.authority}.key"], then
            )
            ends[f"{name}.crt"] = pki.read(changed[f"{name}.crt"]).not_valid_after_utc
        keep.store(uid, changed, ends)
        for step in row.status["steps"]:
            first = good_until(step["name"], ends) if step["name"] in COMPONENTS else None
            step |= {"goodUntil": format_time(first)} if first else {}
        Cluster.objects.filter(pk=row.pk).update(status=row.status)

    await in_thread(do)


async def events() -> list[str]:
    return [str(m) for (m,) in await in_thread(lambda: rows("SELECT data ->> 'message' FROM event ORDER BY pos, n"))]


async def test_certificates_near_their_end_are_renewed_and_who_reads_them_is_started_again_one_after_the_other(
    fake: Choosy,
) -> None:
    await up(fake)
    await shorten(20, "etcd-server", "apiserver", "scheduler")
    before = len(await events())
    await turn()
    assert fake.log == [
        f"apply {n} {v}" for n, v in ((ETCD, "3.7.3"), (APISERVER, "1.36.3"), ("kube-scheduler", "1.36.3"))
    ]
    story = (await events())[before:]
    assert (
        story[0]
        == "certificates are renewed: apiserver, etcd-server, scheduler; who reads them is started again, one after the other"
    )
    assert story[1:] == [
        t for n in (ETCD, APISERVER, "kube-scheduler") for t in (f"{n} is started at v36", f"{n} is ready")
    ]
    ends = {c["name"]: c["notAfter"] for c in (await shown())["status"]["certificates"]}
    assert ends["apiserver.crt"] > (datetime.now(UTC) + timedelta(days=80)).strftime("%Y-%m-%d")
    fake.log.clear()
    await turn()
    assert fake.log == []


async def test_a_component_that_does_not_get_ready_after_a_renewal_keeps_the_next_one_running(fake: Choosy) -> None:
    await up(fake)
    fake.broken.add((ETCD, "3.7.3"))
    await shorten(20, "etcd-server", "apiserver")
    await turn()
    assert fake.log == [f"apply {ETCD} 3.7.3"]
    assert (await said("Ready"))[1:] == ("Starting", "etcd crashes")


@pytest.mark.parametrize(
    ("days", "renewed"), [pytest.param(20, False, id="in time"), pytest.param(2, True, id="urgent")]
)
async def test_while_held_a_certificate_is_renewed_only_when_it_is_urgent(
    fake: Choosy, days: float, renewed: bool
) -> None:
    await up(fake)
    await shorten(days, "apiserver")
    async with held():
        await turn()
        await turn()
        assert fake.log == ([f"apply {APISERVER} 1.36.3"] if renewed else [])


def test_the_ports_of_the_test_are_those_of_the_operator() -> None:
    case: Any = type("C", (), {"spec": {}, "uid": "0000000a-x"})
    assert (host_of(case), port_of(case)) == ("127.0.0.1", 20_010)
