"""Addons through the real loop against a simulated API server: in their place of a change, waited for, put back, kept."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters import addons, providers
from clusters.kube import Kube, KubeError
from clusters.models import Cluster, ClusterPackageVersion
from clusters.planes import COMPONENTS, Plane
from clusters.rollouts import GIVE_UP_SECONDS
from clusters.schema_cluster import LOCAL
from fleet.api.actions import create_object, delete_object
from fleet.api.errors import ApiError
from fleet.control.endpoint import Endpoint
from fleet.control.kinds import API_VERSION, Json
from fleet.control.threads import in_thread
from fleet.safety import switch
from tests.clusters.test_operate import BY, Fake, annotate, change, cluster, rows, said, shown, turn
from tests.simulator.api_servers import LOOPBACK, ApiServer, order, simulated

MAPS = "/api/v1/namespaces/kube-system/configmaps"
AGENTS = "/apis/apps/v1/namespaces/agents/daemonsets"


@dataclass
class Served(Fake):
    """A control plane that behaves, whose API server is the simulated one."""

    server: Endpoint = Endpoint("")

    def endpoint(self, plane: Plane) -> Endpoint:
        return self.server


@pytest.fixture
def served() -> Iterator[ApiServer]:
    with simulated("--nodes", "1") as server:
        yield server


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path, fleet_db: None, served: ApiServer) -> Served:
    made = Served(server=served.endpoint)
    settings.FLEET_CLUSTERS_DIR = str(tmp_path / "clusters")
    monkeypatch.setitem(providers._made, LOCAL, lambda: made)
    monkeypatch.setattr(addons, "_times", {})
    return made


@pytest.fixture
async def kube(served: ApiServer) -> AsyncIterator[Kube]:
    async with Kube(served.endpoint, networks=LOOPBACK) as client:
        yield client


def config(name: str, value: str = "{{ variables.mtu }}", namespace: str = "kube-system") -> str:
    return (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{a: '{value}'}}\n"
    )


def agent(image: str) -> str:
    """A DaemonSet and its namespace; the namespace is written last."""
    return f"""apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent, namespace: agents}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec: {{containers: [{{name: agent, image: '{image}'}}]}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: agents}}
"""


def version(name: str, kubernetes: str, **manifests: str) -> None:
    components: list[Json] = [{"name": n, "binary": n} for n in COMPONENTS]
    components[0]["version"] = "3.7.3"
    spec = {
        "kubernetesVersion": kubernetes,
        "components": components,
        "addons": [{"name": n, "manifest": m} for n, m in manifests.items()],
    }
    obj = {"apiVersion": API_VERSION, "kind": "ClusterPackageVersion", "metadata": {"name": name}, "spec": spec}
    create_object("clusterpackageversions", obj, write=BY)


async def up(**spec: Any) -> None:
    await in_thread(lambda: version("v36", "1.36.3", config=config("net"), agent=agent("x:1")))
    await in_thread(
        lambda: version("v37", "1.37.2", config=config("net", "new {{ variables.mtu }}"), agent=agent("x:2"))
    )
    await in_thread(lambda: cluster(variables={"mtu": 1450}, rollout={"soakSeconds": 3600}, **spec))
    await turn()


async def roll(kube: Kube, available: int = 1) -> None:
    """As the controller of daemon sets says it when its pods are there."""
    found = await kube.get(f"{AGENTS}/agent")
    status = {
        "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": available,
        "updatedNumberScheduled": 1, "numberAvailable": available, "observedGeneration": found["metadata"]["generation"],
    }  # fmt: skip
    await kube.patch(f"{AGENTS}/agent/status", {"status": status})


async def events() -> list[str]:
    found = await in_thread(lambda: rows("SELECT data ->> 'message' FROM event ORDER BY pos, n"))
    return [str(message) for (message,) in found]


async def made_due() -> None:
    """The time to look is there."""
    addons._times.clear()
    await turn()


async def test_a_new_cluster_gets_its_addons_after_its_components_and_need_not_wait_for_nodes(
    fake: Served, kube: Kube
) -> None:
    await up()
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "1450"}
    assert (await kube.get(f"{AGENTS}/agent"))["metadata"]["managedFields"][0]["manager"] == "fleet"
    status = (await shown())["status"]
    assert (status["phase"], status["packageVersion"]) == ("Running", "v36")
    assert [s["name"] for s in status["steps"]][-1] == "addons"
    assert {a["name"]: a["reason"] for a in status["addons"]} == {"config": "UpToDate", "agent": "RollingOut"}
    state, reason, message = await said("AddonsUpToDate")
    assert (state, reason) == ("False", "RollingOut")
    assert message == "agent: DaemonSet agents/agent: its controller has not looked at it yet"
    await roll(kube)
    await made_due()
    assert (await said("AddonsUpToDate"))[:2] == ("True", "UpToDate")
    assert "addon agent is rolled out" in await events()


async def test_an_upgrade_brings_the_addons_last_and_waits_for_them(fake: Served, kube: Kube) -> None:
    await up()
    await roll(kube)
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "new 1450"}
    status = (await shown())["status"]
    assert (status["packageVersion"], status["phase"]) == ("v36", "Upgrading")
    assert {s["name"]: s["status"] for s in status["steps"]} == {
        **dict.fromkeys(COMPONENTS[1:], "True"),
        "etcd": "True",
        "addons": "Running",
    }
    assert (await said("Ready"))[1:] == (
        "RollingOut",
        "addon agent: DaemonSet agents/agent: its controller has not looked at it yet",
    )
    await roll(kube)
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v37"


async def test_the_way_back_begins_with_the_addons(fake: Served, kube: Kube) -> None:
    await up()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    await roll(kube)
    await turn()
    fake.log.clear()
    await in_thread(lambda: change(packageVersion="v36"))
    await turn()
    assert [e for e in fake.log if e.startswith("apply")] == []
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "1450"}
    await roll(kube)
    await turn()
    assert (await shown())["status"]["packageVersion"] == "v36"


async def passed(seconds: float) -> None:
    """So much time goes by for the addons."""

    def do() -> None:
        row = Cluster.objects.get()
        for each in row.status["addons"]:
            each["since"] = "2020-01-01T00:00:00Z"
        Cluster.objects.filter(pk=row.pk).update(status=row.status)

    assert seconds > GIVE_UP_SECONDS
    await in_thread(do)
    await turn()


async def test_an_addon_that_makes_no_progress_is_put_back_and_the_upgrade_stops_with_the_object_and_the_reason(
    fake: Served, kube: Kube
) -> None:
    await up()
    await roll(kube)
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    await roll(kube, available=0)
    await turn()
    await passed(GIVE_UP_SECONDS + 1)
    state, reason, message = await said("Stalled")
    assert (state, reason) == ("True", "AddonsNotReady")
    assert "addon agent made no progress for 10 minutes: DaemonSet agents/agent: 0 of 1 pods are available" in message
    status = (await shown())["status"]
    assert (status["packageVersion"], status["phase"], status["componentVersions"]["addons"]) == (
        "v36",
        "Failed",
        "v36",
    )
    assert (await kube.get(f"{AGENTS}/agent"))["spec"]["template"]["spec"]["containers"][0]["image"] == "x:1"
    (plane,) = fake.planes.values()
    assert {n: v for n, (_, v) in plane.items()} == {"etcd": "3.7.3", **dict.fromkeys(COMPONENTS[1:], "1.37.2")}
    assert (await said("APIServerReachable"))[0] == "True"


@pytest.mark.parametrize(
    ("manifest", "reason", "message"),
    [
        pytest.param(config("Bad_Name", "x"), "Invalid", 'ConfigMap kube-system/Bad_Name: ConfigMap "Bad_Name" is invalid: metadata.name', id="invalid"),
        pytest.param("apiVersion: w/v1\nkind: Widget\nmetadata: {name: w}", "KindUnknown", "Widget w: the API server knows no Widget in w/v1", id="no such kind"),
        pytest.param(config("m", "x", "nowhere"), "Refused", 'ConfigMap nowhere/m: namespaces "nowhere" not found', id="no such namespace"),
    ],
)  # fmt: skip
async def test_what_the_api_server_does_not_take_is_named_and_breaks_nothing_else(
    fake: Served, kube: Kube, manifest: str, reason: str, message: str
) -> None:
    await in_thread(lambda: version("v36", "1.36.3", config=config("net", "old")))
    await in_thread(lambda: version("v37", "1.37.2", bad=manifest, config=config("net", "new")))
    await in_thread(lambda: cluster())
    await turn()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    if reason != "Invalid":
        found = {a["name"]: a for a in (await shown())["status"]["addons"]}
        assert (found["bad"]["reason"], found["config"]["reason"]) == (reason, "UpToDate")
        assert found["bad"]["message"].startswith(message)
        assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "new"}
        await passed(GIVE_UP_SECONDS + 1)
    assert re.search(rf"put back: addon bad.*{re.escape(message)}", (await said("Stalled"))[2])
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "old"}
    assert (await shown())["status"]["packageVersion"] == "v36"


async def test_what_somebody_changed_or_deleted_comes_back_and_the_events_tell_it(fake: Served, kube: Kube) -> None:
    await up()
    await kube.patch(f"{MAPS}/net", {"data": {"a": "by hand"}})
    await kube.delete(f"{AGENTS}/agent")
    before = (await kube.get(f"{MAPS}/net"))["metadata"]["resourceVersion"]
    await turn()
    assert (await kube.get(f"{MAPS}/net"))["metadata"]["resourceVersion"] == before, "it was not time yet"
    await made_due()
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "1450"}
    assert await kube.find(f"{AGENTS}/agent") is not None
    told = [e for e in await events() if "as declared again" in e]
    assert sorted(told) == [
        f"{what} was changed by somebody and is as declared again"
        for what in ("ConfigMap kube-system/net", "DaemonSet agents/agent")
    ]


async def test_addons_in_order_are_left_alone_and_nothing_is_written(fake: Served, kube: Kube) -> None:
    await up()
    await roll(kube)
    await made_due()
    before = (
        (await shown())["metadata"]["resourceVersion"],
        (await kube.get(f"{AGENTS}/agent"))["metadata"]["resourceVersion"],
    )
    await made_due()
    await made_due()
    assert (
        (await shown())["metadata"]["resourceVersion"],
        (await kube.get(f"{AGENTS}/agent"))["metadata"]["resourceVersion"],
    ) == before


async def test_a_changed_variable_reaches_the_addons(fake: Served, kube: Kube) -> None:
    await up()
    await in_thread(lambda: change(variables={"mtu": 9000}))
    await turn()
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "9000"}


@pytest.mark.parametrize("how", ["paused", "stopped"])
async def test_while_it_is_held_or_all_is_stopped_addons_are_looked_at_and_not_written(
    fake: Served, kube: Kube, how: str
) -> None:
    await up()
    await kube.patch(f"{MAPS}/net", {"data": {"a": "by hand"}})
    await kube.delete(f"{AGENTS}/agent")
    if how == "paused":
        await in_thread(lambda: change(paused=True))
    else:
        await in_thread(lambda: switch.stop("ann", "an incident"))
    try:
        await made_due()
        assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "by hand"}
        assert (await said("AddonsUpToDate"))[2] == "agent: DaemonSet agents/agent: it is not there"
    finally:
        await in_thread(lambda: switch.resume("ann"))
    await in_thread(lambda: change(paused=False))
    await made_due()
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "1450"}


async def test_an_api_server_that_does_not_answer_leaves_the_addons_unknown_and_nothing_is_put_back(
    fake: Served, kube: Kube, served: ApiServer
) -> None:
    await up()
    await in_thread(lambda: change(packageVersion="v37"))
    await turn()
    order(served.endpoint.server, "faults", {"what": "refuse", "code": 503, "path": "/apis/apps"})
    await passed(GIVE_UP_SECONDS + 1)
    await passed(GIVE_UP_SECONDS + 1)
    state, reason, message = await said("AddonsUpToDate")
    assert (state, reason) == ("Unknown", "NotAnswering")
    assert "DaemonSet agents/agent: the API server answers 503" in message
    assert (await said("Stalled"))[0] == "False"
    assert (await shown())["status"]["componentVersions"]["addons"] == "v37"


async def test_a_variable_that_an_addon_lacks_is_refused_before_anything_changes(fake: Served) -> None:
    await up()
    await in_thread(lambda: version("v38", "1.37.3", config=config("net", "{{ variables.vlan }}")))
    with pytest.raises(ApiError, match="spec.packageVersion.*addon config: 'dict object' has no attribute 'vlan'"):
        await in_thread(lambda: change(packageVersion="v38"))
    with pytest.raises(ApiError, match="spec.variables.*addon config"):
        await in_thread(lambda: change(variables={}))


async def test_after_a_restore_of_etcd_the_addons_are_applied_again(fake: Served, kube: Kube) -> None:
    await up()
    await kube.patch(f"{MAPS}/net", {"data": {"a": "from the snapshot"}})
    await annotate(restore=(await shown())["status"]["snapshots"][0]["name"])
    await turn()
    await turn()
    assert (await kube.get(f"{MAPS}/net"))["data"] == {"a": "1450"}


async def test_a_version_at_which_only_the_addons_stand_is_in_use(fake: Served) -> None:
    await up()

    def stands() -> None:
        row = Cluster.objects.get()
        row.status["componentVersions"]["addons"] = "v37"
        Cluster.objects.filter(pk=row.pk).update(status=row.status)

    await in_thread(stands)
    with pytest.raises(ApiError, match="it is in use by cluster c1"):
        await in_thread(lambda: delete_object("clusterpackageversions", "v37", write=BY))
    assert await in_thread(lambda: ClusterPackageVersion.objects.filter(name="v37").exists())


async def test_the_api_server_is_asked_where_the_kinds_lie(kube: Kube) -> None:
    visit = addons.Visit(kube, write=False)
    paths = [
        await visit._path({"apiVersion": v, "kind": k, "metadata": {"name": "x"}})
        for v, k in (("v1", "ConfigMap"), ("v1", "Namespace"), ("apps/v1", "DaemonSet"), ("w/v1", "W"))
    ]
    assert paths == [
        "/api/v1/namespaces/default/configmaps/x",
        "/api/v1/namespaces/x",
        "/apis/apps/v1/namespaces/default/daemonsets/x",
        None,
    ]
    with pytest.raises(KubeError):
        await kube.get("/apis/w/v1")
