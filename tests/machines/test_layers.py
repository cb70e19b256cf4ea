"""How a changed shared layer reaches running machines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from clusters.models import Cluster
from clusters.planes import COMPONENTS
from clusters.status import Part, write_parts
from fleet.api.storage import storage_for
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from machines.layers import RESUME, Layer, Progress, Sight, advance, rollout_layers
from tests.machines.loop import Loop, package

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def layer(**changes: object) -> Layer:
    plain: Json = {
        "kind": "cluster",
        "id": 1,
        "name": "c1",
        "value": {"versions": {"pouch": "1.1"}},
        "manual": False,
        "soak": 60,
        "resume": "",
    }
    return Layer(**(plain | changes))


def progress(state: str, **changes: object) -> Progress:
    plain: Json = {"hash": layer().hash, "state": state, "since": NOW}
    return Progress(**(plain | changes))


@pytest.mark.parametrize(
    ("before", "sight", "state", "moved"),
    [
        pytest.param(None, Sight((5, 6, 7)), "Canary", (5,), id="one machine goes first"),
        pytest.param(None, Sight(()), "Done", (), id="nobody lags behind"),
        pytest.param(None, Sight((), unseen=2), "Pending", (), id="nobody is reachable"),
        pytest.param(progress("Canary", canary_id=5), Sight((6,), 1), "Canary", (), id="the canary is at work"),
        pytest.param(progress("Canary", canary_id=5), Sight((6,), canary_well=True, canary_moved=True), "Canary", (), id="the soak begins"),
        pytest.param(
            progress("Canary", canary_id=5, canary_good_at=NOW - timedelta(seconds=61)), Sight((6,), canary_well=True, canary_moved=True), "Rolling", (), id="the soak ends"
        ),
        pytest.param(progress("Canary", canary_id=5, canary_good_at=NOW), Sight((6,), canary_moved=True), "Canary", (), id="a canary that got sick starts its soak anew"),
        pytest.param(progress("Rolling"), Sight((6, 7)), "Rolling", (6, 7), id="the others follow"),
        pytest.param(progress("Rolling"), Sight(tuple(range(500)), 150), "Rolling", tuple(range(50)), id="no more at once than the width"),
        pytest.param(progress("Rolling"), Sight((6,), 1, ("m9", "broken.")), "Stopped", (), id="the first failure stops it"),
        pytest.param(progress("Canary", canary_id=5), Sight((5,), 0, ("m5", "broken.")), "Stopped", (), id="a canary that fails stops it"),
        pytest.param(progress("Stopped"), Sight((6,)), "Stopped", (), id="stopped stays stopped"),
        pytest.param(progress("Rolling"), Sight(), "Done", (), id="all have it"),
        pytest.param(progress("Stopped", hash="another"), Sight((6,)), "Canary", (6,), id="a new edit starts anew"),
    ],
)  # fmt: skip
def test_a_rollout_goes_on_as_its_machines_show(
    before: Progress | None, sight: Sight, state: str, moved: tuple[int, ...]
) -> None:
    step = advance(layer(), before, sight, NOW)
    assert (step.progress.state, step.move) == (state, moved)


def test_a_manual_rollout_waits_for_a_persons_word() -> None:
    waiting = advance(layer(manual=True), None, Sight((5,)), NOW)
    assert (waiting.progress.state, waiting.move) == ("Waiting", ())
    assert f"{RESUME}={layer().hash}" in waiting.progress.message
    started = advance(layer(manual=True, resume=layer().hash), waiting.progress, Sight((5,)), NOW)
    assert started.move == (5,)


def test_a_person_lets_a_stopped_rollout_go_on_and_old_failures_are_forgotten() -> None:
    later = NOW + timedelta(hours=1)
    step = advance(layer(resume=layer().hash), progress("Stopped", failed_machine="m9"), Sight((6,)), later)
    assert (step.progress.state, step.progress.since, step.progress.failed_machine) == ("Rolling", later, "")


@pytest.fixture
def loop(conn: Connection) -> Loop:
    # Behind the database's clock, so that what fails in the test fails after the rollout began.
    return Loop(conn, moment=datetime.now(UTC) - timedelta(hours=1))


async def fleet(loop: Loop, count: int, **cluster: object) -> None:
    """A cluster with machines at its first version; the second one is known."""
    spec = {"machineVersions": {"pouch": "1.0"}, **cluster}
    await loop.make(package(), package(version="1.1"), {"kind": "Cluster", "metadata": {"name": "c1"}, "spec": spec})
    for number in range(count):
        await loop.machine(f"m{number + 1}", clusterName="c1", ip=f"10.0.1.{number + 1}")
    for _ in range(15):
        await loop.step()
    assert await versions(loop) == ["1.0"] * count


async def versions(loop: Loop) -> list[str]:
    return sorted(box.packages.get("pouch", {}).get("declared", "") for box in loop.hosts.boxes.values())


async def turn(loop: Loop, times: int = 1) -> None:
    """The chore, then a pass over the machines."""
    for _ in range(times):
        await in_thread(lambda: rollout_layers(loop.moment))
        await loop.step()


async def test_a_changed_cluster_reaches_one_machine_then_after_the_soak_the_others(loop: Loop) -> None:
    await fleet(loop, 3)
    await loop.edit("clusters", "c1", machineVersions={"pouch": "1.1"})
    await turn(loop, 10)
    assert await versions(loop) == ["1.0", "1.0", "1.1"]
    await turn(loop, 40)
    assert await versions(loop) == ["1.1", "1.1", "1.1"]
    cluster = await loop.get("c1", "clusters")
    assert cluster is not None
    shown = next(c for c in cluster["status"]["conditions"] if c["type"] == "MachinesUpToDate")
    assert (shown["status"], shown["reason"]) == ("True", "AllHaveIt")
    spec = ((await loop.get("m1")) or {})["spec"]
    assert "versions" not in spec


async def test_a_bad_version_in_a_layer_hits_one_machine_and_no_more(loop: Loop) -> None:
    await fleet(loop, 3)
    await loop.make(package(version="2.0", url="simulated:broken.deb", rollbackOnFailure=True))
    await loop.edit("clusters", "c1", machineVersions={"pouch": "2.0"})
    await turn(loop, 40)
    assert await versions(loop) == ["1.0", "1.0", "1.0"]
    rows = await (await loop.conn.execute("SELECT state, failed_machine FROM layer_rollout")).fetchall()
    assert rows == [("Stopped", "m1")]
    began = {folder.partition("/")[0] for folder in loop.hosts.started}
    await turn(loop, 10)
    assert {folder.partition("/")[0] for folder in loop.hosts.started} == began


async def test_a_pin_is_left_alone(loop: Loop) -> None:
    await fleet(loop, 1)
    await loop.edit("machines", "m1", versions={"pouch": "1.0"})
    await loop.edit("clusters", "c1", machineVersions={"pouch": "1.1"})
    await turn(loop, 30)
    assert await versions(loop) == ["1.0"]
    assert (await loop.condition("Pinned"))[0] == "True"
    rows = await (await loop.conn.execute("SELECT state FROM layer_rollout")).fetchall()
    assert rows == [("Done",)]


def cluster_version(name: str, kubernetes: str, **machine_versions: str) -> Json:
    components: list[Json] = [{"name": n, "binary": n} for n in COMPONENTS]
    components[0]["version"] = "3.7.3"
    spec = {"kubernetesVersion": kubernetes, "components": components, "machineVersions": machine_versions}
    return {"kind": "ClusterPackageVersion", "metadata": {"name": name}, "spec": spec}


async def reached(version: str, emulated: str | None = None) -> None:
    """The control plane stands there, as its operator says it."""

    def say() -> None:
        write_parts(
            storage_for("clusters"),
            {Cluster.objects.get().pk: Part({"packageVersion": version, "emulatedVersion": emulated})},
        )

    await in_thread(say)


async def planned(loop: Loop, count: int = 2, **cluster: object) -> None:
    """A cluster with a control plane at v36, whose machines have what v36 says."""
    await loop.make(cluster_version("v36", "1.36.3", pouch="1.0"), cluster_version("v37", "1.37.2", pouch="1.1"))
    await fleet(loop, count, provider="Local", packageVersion="v36", **{"machineVersions": {}, **cluster})
    await reached("v36")
    await turn(loop)


async def up_to_date(loop: Loop) -> tuple[str, str, str]:
    cluster = await loop.get("c1", "clusters")
    assert cluster is not None
    found: Json = next((c for c in cluster["status"]["conditions"] if c["type"] == "MachinesUpToDate"), {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


async def test_machines_follow_a_new_version_once_the_control_plane_has_reached_it(loop: Loop) -> None:
    await planned(loop)
    await loop.edit("clusters", "c1", packageVersion="v37")
    await turn(loop, 10)
    assert await versions(loop) == ["1.0", "1.0"]
    assert await up_to_date(loop) == (
        "False",
        "WaitsForControlPlane",
        "the machines follow v36 until the control plane has reached v37",
    )
    await reached("v37")
    await turn(loop, 6)
    assert await versions(loop) == ["1.0", "1.1"]
    assert (await up_to_date(loop))[:2] == ("False", "Canary")
    await turn(loop, 40)
    assert await versions(loop) == ["1.1", "1.1"]
    assert (await up_to_date(loop))[:2] == ("True", "AllHaveIt")


async def test_on_the_way_back_machines_go_before_the_control_plane(loop: Loop) -> None:
    await planned(loop)
    await loop.edit("clusters", "c1", packageVersion="v37")
    await reached("v37", "1.36")
    await turn(loop, 50)
    assert await versions(loop) == ["1.1", "1.1"]
    await loop.edit("clusters", "c1", packageVersion="v36")
    await turn(loop, 50)
    assert await versions(loop) == ["1.0", "1.0"]
    assert (await up_to_date(loop))[:2] == ("True", "AllHaveIt")


async def test_a_new_machine_takes_what_the_others_have_and_the_clusters_own_word_is_stronger(loop: Loop) -> None:
    await planned(loop, 1)
    await loop.edit("clusters", "c1", packageVersion="v37")
    await loop.machine("m2", clusterName="c1", ip="10.0.1.2")
    for _ in range(15):
        await loop.step()
    assert await versions(loop) == ["1.0", "1.0"]
    await loop.edit("clusters", "c1", machineVersions={"pouch": "1.0"})
    await reached("v37")
    await turn(loop, 30)
    assert await versions(loop) == ["1.0", "1.0"]
    assert (await up_to_date(loop))[:2] == ("True", "AllHaveIt")


async def test_a_cluster_without_machines_is_told_when_nothing_is_to_come_any_more(loop: Loop) -> None:
    await planned(loop, 0)
    await loop.edit("clusters", "c1", packageVersion="v37")
    await turn(loop)
    assert (await up_to_date(loop))[1] == "WaitsForControlPlane"
    await reached("v37")
    await turn(loop)
    assert (await up_to_date(loop))[:2] == ("True", "AllHaveIt")


async def test_machines_that_lag_behind_out_of_reach_are_told_of(loop: Loop) -> None:
    await planned(loop, 1)
    await loop.edit("machines", "m1", paused=True)
    await loop.edit("clusters", "c1", packageVersion="v37")
    await reached("v37")
    await turn(loop, 3)
    assert (await up_to_date(loop))[:2] == ("False", "Pending")
    assert await versions(loop) == ["1.0"]
