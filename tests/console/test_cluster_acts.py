"""Acts on clusters: told by a dry run before they are done, refused with a sentence, done through the same actions as the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from clusters.models import Cluster
from clusters.planes import COMPONENTS
from clusters.schema_versions import CLUSTER_PACKAGE_VERSION_KIND
from clusters.storage import CONFIRM
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.models import RoleBinding
from fleet.api.patches import merge_patch
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.console.choices import EXPOSURES
from fleet.console.cluster_forms import FIELDS, object_of
from fleet.console.cluster_seen import seen_of
from fleet.control.kinds import API_VERSION, Json
from fleet.control.times import format_time

Browser = Callable[[str], Client]
WRITE = Write(by=SYSTEM)
NEW = {"metadata.name": "fresh", "spec.idc": "iad1", "spec.provider": "Local", "spec.packageVersion": "k8s-1.36.3"}


def version(name: str, kubernetes: str, etcd: str = "3.7.3", **spec: Any) -> None:
    components = [{"name": c, "binary": c} | ({"version": etcd} if c == "etcd" else {}) for c in COMPONENTS]
    obj = {
        "apiVersion": API_VERSION,
        "kind": CLUSTER_PACKAGE_VERSION_KIND.kind,
        "metadata": {"name": name},
        "spec": {"kubernetesVersion": kubernetes, "components": components, **spec},
    }
    create_object("clusterpackageversions", obj, write=WRITE)


@pytest.fixture
def versions(small_fleet: list[str]) -> None:
    """Three minors of Kubernetes."""
    version("k8s-1.36.3", "1.36.3", machineVersions={"kubelet": "1.36.3"})
    version("k8s-1.37.2", "1.37.2", machineVersions={"kubelet": "1.37.2"}, addons=[{"name": "coredns", "manifest": ""}])
    version("k8s-1.38.0", "1.38.0")


@pytest.fixture
def local(versions: None, monkeypatch: pytest.MonkeyPatch) -> Json:
    """Cluster a with a control plane that stands and is well at 1.36.3; its provider knows nothing against any version."""
    monkeypatch.setattr("fleet.console.cluster_forms.provider", lambda name: object())
    well = [{"type": t, "status": "True", "reason": "Ready", "message": ""} for t in ("EtcdHealthy", "APIServerReachable", "Ready")]  # fmt: skip
    status = {
        "packageVersion": "k8s-1.36.3", "kubernetesVersion": "1.36.3", "conditions": well, "componentVersions": dict.fromkeys(COMPONENTS, "k8s-1.36.3"),
        "certificates": [{"name": "apiserver.crt", "notAfter": "2099-01-01T00:00:00Z"}], "nodes": {"total": 3, "ready": 3},
    }  # fmt: skip
    row = Cluster.objects.get(name="a")
    spec = {**row.spec, "provider": "Local", "packageVersion": "k8s-1.36.3"}
    Cluster.objects.filter(pk=row.pk).update(spec=spec, status=status, finalizers=["fleet.dev/control-plane"])
    return live()


def live(name: str = "a") -> Json:
    stored = storage_for("clusters").read(name)
    assert stored is not None
    return stored.obj


def told(client: Client, path: str, **form: str) -> dict[str, Any]:
    response = client.post(path, form)
    assert response.status_code == 200, response.content
    found: dict[str, Any] = response.json()
    return found


def change(client: Client, to: str, **form: str) -> dict[str, Any]:
    return told(client, "/clusters/a/foresee", verb="upgrade", packageVersion=to, **form)


def _counts() -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM event), (SELECT count(*) FROM clusters_cluster), (SELECT max(rv) FROM clusters_cluster)")  # fmt: skip
        return cursor.fetchone()


# -- create -------------------------------------------------------------------------------------------------------------


def test_a_new_cluster_is_told_and_then_made_as_told(versions: None, browser_of: Browser) -> None:
    client = browser_of("admin")
    before = _counts()
    form = NEW | {"spec.controlPlane.exposure.host": "10.0.0.9", "spec.controlPlane.exposure.port": "6443"}
    found = told(client, "/do/clusters/foresee", **form)
    assert found["may"] and found["fields"] == {}
    assert "Kubernetes 1.36.3 with etcd 3.7.3 as four processes" in found["html"]
    assert "10.0.0.9, port 6443" in found["html"]
    assert "Pods from 10.244.0.0/16, services from 10.96.0.0/12" in found["html"]
    assert _counts() == before
    done = client.post("/do/clusters", form)
    assert done.status_code == 303, done.content.decode()[-1500:]
    assert done["Location"].startswith("/clusters/fresh?did=")
    made = live("fresh")
    assert made["spec"] == {
        "idc": "iad1", "provider": "Local", "packageVersion": "k8s-1.36.3",
        "controlPlane": {"exposure": {"host": "10.0.0.9", "port": 6443}},
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT actor, verb FROM audit WHERE kind = 'Cluster' AND name = 'fresh'")
        assert cursor.fetchall() == [("admin", "create")]


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("", "A group of plain hosts"),
        ("Simulated", "no real host is touched"),
        ("Imported", "the cluster behind Credential their-cluster"),
    ],
)
def test_what_other_providers_make_is_told(versions: None, browser_of: Browser, provider: str, said: str) -> None:
    config = """{kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}],
      clusters: [{name: x, cluster: {server: "https://10.0.0.9:6443"}}], users: [{name: x, user: {token: secret}}]}"""
    spec = {"type": "kubeconfig", "clusters": ["fresh"], "data": {"kubeconfig": config}}
    login = {"apiVersion": API_VERSION, "kind": "Credential", "metadata": {"name": "their-cluster"}, "spec": spec}
    create_object("credentials", login, write=WRITE)
    form = NEW | {"spec.provider": provider, "spec.packageVersion": ""}
    form |= {"spec.kubeconfigCredential": "their-cluster"} if provider == "Imported" else {}
    found = told(browser_of("admin"), "/do/clusters/foresee", **form)
    assert found["may"], found
    assert said in found["html"]
    assert "their-cluster" in browser_of("admin").get("/clusters").content.decode()


@pytest.mark.parametrize(
    ("form", "field", "message"),
    [
        ({"metadata.name": "Not A Name"}, "metadata.name", ""),
        ({"spec.network.podCIDR": "10.0.0.0/99"}, "spec.network.podCIDR", "must be a network"),
        ({"spec.controlPlane.exposure.port": "99999"}, "spec.controlPlane.exposure.port", "65535"),
        ({"spec.controlPlane.exposure.port": "http"}, "spec.controlPlane.exposure.port", "integer"),
        ({"spec.packageVersion": ""}, "spec.packageVersion", "needs the name of a ClusterPackageVersion"),
        ({"spec.packageVersion": "gone"}, "spec.packageVersion", "there is no such ClusterPackageVersion"),
        ({"spec.provider": "Imported", "spec.packageVersion": ""}, "spec.kubeconfigCredential", "needs a Credential"),
        ({"spec.restoreFrom": "4961c15e-30df-4dba-8d0f-000000000000"}, "spec.restoreFrom", "its data is gone"),
    ],
    ids=["name", "network", "port range", "port type", "no version", "unknown version", "credential", "restore"],
)
def test_each_problem_stands_at_its_field_and_nothing_is_made(
    versions: None, browser_of: Browser, form: dict[str, str], field: str, message: str
) -> None:
    client = browser_of("admin")
    before = _counts()
    found = told(client, "/do/clusters/foresee", **(NEW | form))
    assert not found["may"]
    assert message.lower() in found["fields"][field].lower()
    assert client.post("/do/clusters", NEW | form).status_code == 422
    assert _counts() == before


def test_all_problems_are_told_at_once(versions: None, browser_of: Browser) -> None:
    wrong = {"spec.network.podCIDR": "x", "spec.network.serviceCIDR": "y", "spec.packageVersion": ""}
    found = told(browser_of("admin"), "/do/clusters/foresee", **(NEW | wrong))
    assert sorted(found["fields"]) == ["spec.network.podCIDR", "spec.network.serviceCIDR", "spec.packageVersion"]


def test_a_name_that_is_taken_is_told(versions: None, browser_of: Browser) -> None:
    found = told(browser_of("admin"), "/do/clusters/foresee", **(NEW | {"metadata.name": "a"}))
    assert not found["may"]
    assert "already exists" in found["html"]


def test_every_field_of_the_form_is_one_of_the_kind_and_stands_in_the_dialog(
    versions: None, browser_of: Browser
) -> None:
    kind = storage_for("clusters").kind
    for path in FIELDS:
        at: Any = {"properties": {"metadata": {"properties": {"name": {}}}, "spec": kind.spec}}
        for part in path.split("."):
            at = at["properties"][part]
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO deleted_cluster (uid, name, spec, status, purge_at) VALUES (gen_random_uuid(), 'old', '{}', '{}', now() + interval '1 day')")  # fmt: skip
    text = browser_of("admin").get("/clusters").content.decode()
    assert [p for p in FIELDS if f'name="{p}"' not in text] == []
    types = storage_for("clusters").kind.spec["properties"]["controlPlane"]["properties"]["exposure"]["properties"][
        "type"
    ]
    assert types["enum"] == [value for value, _ in EXPOSURES]
    assert "old, kept until" in text


def test_pods_of_a_meta_cluster_are_told(local: Json, browser_of: Browser) -> None:
    components = [
        {"name": c, "image": f"registry/{c}:1"} | ({"version": "3.7.3"} if c == "etcd" else {}) for c in COMPONENTS
    ]
    spec = {"kubernetesVersion": "1.37.2", "components": components}
    obj = {"apiVersion": API_VERSION, "kind": "ClusterPackageVersion", "metadata": {"name": "images"}, "spec": spec}
    create_object("clusterpackageversions", obj, write=WRITE)
    client = browser_of("admin")
    form = NEW | {
        "spec.provider": "Hosted",
        "spec.packageVersion": "images",
        "spec.controlPlane.exposure.type": "HostPort",
    }
    lacking = told(client, "/do/clusters/foresee", **form)["fields"]
    assert sorted(lacking) == ["spec.controlPlane.exposure.host", "spec.controlPlane.metaCluster"]
    form |= {"spec.controlPlane.metaCluster": "a", "spec.controlPlane.exposure.host": "10.0.0.9"}
    found = told(client, "/do/clusters/foresee", **form)
    assert found["may"], found
    assert "as pods in namespace fleet-fresh of a, 1 member of etcd." in found["html"]
    assert client.post("/do/clusters", form).status_code == 303
    assert live("fresh")["spec"]["controlPlane"] == {
        "metaCluster": "a",
        "exposure": {"type": "HostPort", "host": "10.0.0.9"},
    }


def test_only_providers_that_are_built_are_offered(versions: None, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("fleet.console.choices.BUILT", ("Local",))
    text = browser_of("admin").get("/clusters").content.decode()
    assert 'value="Local"' in text
    assert 'value="Imported"' not in text


def test_an_admin_of_one_cluster_makes_that_one_only(versions: None, browser_of: Browser) -> None:
    user = get_user_model().objects.create_user(username="admin-c", password=None)
    RoleBinding.objects.create(user=user, role="admin", cluster="c")
    client = browser_of("admin-c")
    refused = client.post("/do/clusters/foresee", NEW)
    assert refused.status_code == 403
    assert told(client, "/do/clusters/foresee", **(NEW | {"metadata.name": "c"}))["may"]


# -- change of the version ----------------------------------------------------------------------------------------------


def test_an_upgrade_is_told_in_its_order_with_snapshot_and_machines(local: Json, browser_of: Browser) -> None:
    before = _counts()
    found = change(browser_of("admin"), "k8s-1.37.2")
    assert found["may"] and found["go"] == "Upgrade to k8s-1.37.2"
    html = found["html"]
    steps = [
        "Snapshot of etcd",
        "<b>etcd</b>",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "Addons",
        "Machines",
    ]
    at = [html.index(step) for step in steps]
    assert at == sorted(at)
    assert "stays 3.7.3" in html
    assert "1.36.3 → <b>1.37.2</b>" in html
    assert "kubelet 1.36.3 → 1.37.2 on 2 machines: one first, then within the budget" in html
    assert "speaks as 1.36" in html
    assert "Nothing stands in the way" in html
    assert _counts() == before


def test_going_back_is_told_in_reverse(local: Json, browser_of: Browser) -> None:
    row = Cluster.objects.get(name="a")
    stands = dict.fromkeys(COMPONENTS, "k8s-1.37.2")
    status = row.status | {"packageVersion": "k8s-1.37.2", "componentVersions": stands, "emulatedVersion": "1.36"}
    Cluster.objects.filter(pk=row.pk).update(spec=row.spec | {"packageVersion": "k8s-1.37.2"}, status=status)
    found = change(browser_of("admin"), "k8s-1.36.3")
    assert found["may"] and found["go"] == "Go back to k8s-1.36.3"
    steps = ["Machines", "Addons", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "<b>etcd</b>"]
    at = [found["html"].index(step) for step in steps]
    assert at == sorted(at)


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("k8s-1.38.0", "one minor at a time; go to k8s-1.37.2 first"),
        ("gone", "There is no such ClusterPackageVersion."),
    ],
)
def test_what_preflight_refuses_is_told_and_refused(local: Json, browser_of: Browser, to: str, sentence: str) -> None:
    client = browser_of("admin")
    found = change(client, to)
    assert not found["may"]
    assert sentence in found["html"]
    done = client.post("/clusters/a/do", {"verb": "upgrade", "packageVersion": to, "seen": found["seen"]})
    assert done.status_code == 422
    assert live() == local


def test_what_would_make_it_wait_is_told_apart(local: Json, browser_of: Browser) -> None:
    row = Cluster.objects.get(name="a")
    ill = [{"type": "EtcdHealthy", "status": "False", "message": "one member is lost"}]
    Cluster.objects.filter(pk=row.pk).update(status=row.status | {"conditions": ill})
    spec = {"target": {"cluster": "a"}, "reason": "quarter close", "until": _soon(), "owner": "olga"}
    hold = {"apiVersion": API_VERSION, "kind": "Hold", "metadata": {"name": "close"}, "spec": spec}
    create_object("holds", hold, write=WRITE)
    client = browser_of("admin")
    client.post("/safety/do", {"verb": "stop", "reason": "bad kernel", "count": "3", "told": "3"})
    found = change(client, "k8s-1.37.2")
    client.post("/safety/do", {"verb": "resume", "count": "3", "told": "3"})
    assert found["may"]
    assert "would not begin yet: etcd is not known to be healthy: one member is lost." in found["html"]
    assert "would not begin yet: nothing new starts: Hold close: quarter close." in found["html"]
    assert "begins once changes are allowed again: everything is stopped by admin" in found["html"]


def _soon() -> str:
    return format_time(timezone.now() + timedelta(days=1))


def test_pointing_at_the_same_would_change_nothing(local: Json, browser_of: Browser) -> None:
    found = change(browser_of("admin"), "k8s-1.36.3")
    assert not found["may"]
    assert "nothing would change" in found["html"]


def test_the_version_is_changed_only_on_the_cluster_that_was_shown(local: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    seen = change(client, "k8s-1.37.2")["seen"]
    row = Cluster.objects.get(name="a")
    Cluster.objects.filter(pk=row.pk).update(status=row.status | {"nodes": {"total": 4}})  # no news for this dialog
    form = {"verb": "upgrade", "packageVersion": "k8s-1.37.2", "seen": seen}
    assert client.post("/clusters/a/do", form).status_code == 303
    assert live()["spec"]["packageVersion"] == "k8s-1.37.2"
    again = client.post("/clusters/a/do", form | {"packageVersion": "k8s-1.36.3"})
    assert again.status_code == 409
    text = again.content.decode()
    assert "It has changed since you looked; now it asks for k8s-1.37.2 and stands at k8s-1.36.3." in text
    assert "Nothing was changed." in text
    assert live()["spec"]["packageVersion"] == "k8s-1.37.2"


def test_progress_in_between_is_a_change_too(local: Json) -> None:
    moved = {**local, "status": {**local["status"], "componentVersions": {"etcd": "k8s-1.37.2"}}}
    assert seen_of(moved) != seen_of(local)
    assert seen_of({**local, "status": {**local["status"], "nodes": {"total": 9}}}) == seen_of(local)


# -- delete -------------------------------------------------------------------------------------------------------------


def test_a_cluster_with_machines_is_not_deleted_and_says_so(local: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    before = _counts()
    found = told(client, "/clusters/a/foresee", verb="delete")
    assert not found["may"]
    assert "Refused. 2 machines still name it" in found["html"]
    assert "3 nodes are known in it" in found["html"]
    assert f"restoreFrom: {local['metadata']['uid']}" in found["html"]
    assert "kept for 24 h" in found["html"]
    form = {"verb": "delete", "seen": found["seen"], "confirm": "a"}
    assert client.post("/clusters/a/do", form).status_code == 409
    assert _counts() == before
    assert CONFIRM not in live()["metadata"].get("annotations", {})


@pytest.mark.parametrize("typed", ["", "A", "1", "b"])
def test_deleting_takes_the_exact_name(local: Json, browser_of: Browser, typed: str) -> None:
    client = browser_of("admin")
    found = told(client, "/clusters/a/foresee", verb="delete")
    answer = client.post("/clusters/a/do", {"verb": "delete", "seen": found["seen"], "confirm": typed})
    assert answer.status_code == 400
    assert "type a, the name of the cluster" in answer.content.decode().lower()


def test_both_steps_of_a_deletion_are_done_together(local: Json, browser_of: Browser) -> None:
    for name in ("a1", "a2"):
        patch_object("machines", name, lambda o: merge_patch(o, {"spec": {"clusterName": "b"}}), write=WRITE)
    client = browser_of("admin")
    found = told(client, "/clusters/a/foresee", verb="delete")
    assert found["may"], found["html"]
    assert "deletionTimestamp" not in live()["metadata"]
    done = client.post("/clusters/a/do", {"verb": "delete", "seen": found["seen"], "confirm": "a"})
    assert done.status_code == 303, done.content.decode()[-1500:]
    assert done["Location"].startswith("/clusters/a?did=")
    meta = live()["metadata"]
    assert "deletionTimestamp" in meta and meta["annotations"][CONFIRM] == "a"
    assert "do-delete" not in client.get("/clusters/a").content.decode().split("<dialog")[0]


def test_plain_hosts_are_gone_at_once_and_the_way_leads_to_the_list(
    small_fleet: list[str], browser_of: Browser
) -> None:
    delete_object("machines", "b1", write=WRITE)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM machine WHERE name = 'b1'")
    client = browser_of("admin")
    found = told(client, "/clusters/b/foresee", verb="delete")
    done = client.post("/clusters/b/do", {"verb": "delete", "seen": found["seen"], "confirm": "b"})
    assert done.status_code == 303, done.content.decode()[-1500:]
    assert done["Location"].startswith("/clusters?did=")
    assert not Cluster.objects.filter(name="b").exists()


# -- rights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["viewer", "oper-a"])
def test_who_may_not_change_a_cluster_reads_why_and_finds_no_button(local: Json, browser_of: Browser, who: str) -> None:
    client = browser_of(who)
    page = client.get("/clusters/a").content.decode()
    assert "a cluster is changed by the role admin" in page
    assert '<dialog id="do-upgrade"' not in page and 'data-open="#do-delete"' not in page
    assert "do-create" not in client.get("/clusters").content.decode()
    for verb in ("upgrade", "delete"):
        answer = client.post("/clusters/a/foresee", {"verb": verb, "packageVersion": "k8s-1.37.2"})
        assert answer.status_code == 403
        assert "it takes the role admin in it" in answer.json()["html"]
        form = {"verb": verb, "packageVersion": "k8s-1.37.2", "confirm": "a", "seen": seen_of(local)}
        assert client.post("/clusters/a/do", form).status_code == 403
    assert client.post("/do/clusters/foresee", NEW).status_code == 403
    assert client.post("/do/clusters", NEW).status_code == 403
    assert live() == local


def test_an_unknown_verb_and_an_unknown_cluster_are_refused(local: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    assert client.post("/clusters/a/do", {"verb": "explode"}).status_code == 400
    assert client.post("/clusters/nobody/do", {"verb": "upgrade", "packageVersion": "x"}).status_code == 404
    assert client.post("/clusters/nobody/foresee", {"verb": "delete"}).status_code in (403, 404)
    assert live() == local


def test_the_dialog_offers_where_it_may_go_and_chooses_the_next(local: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    client.get("/clusters/a")
    with CaptureQueriesContext(connection) as queries:
        text = client.get("/clusters/a").content.decode()
    assert len(queries) <= 12, "\n".join(q["sql"][:160] for q in queries.captured_queries)
    assert '<option value="k8s-1.37.2" selected>k8s-1.37.2</option>' in text
    assert "k8s-1.38.0 (refused)" in text
    chosen = browser_of("admin").get("/clusters/a?do=upgrade&to=k8s-1.38.0").content.decode()
    assert '<option value="k8s-1.38.0" selected>' in chosen


def test_a_cluster_without_a_control_plane_of_its_own_has_no_version_to_change(
    small_fleet: list[str], browser_of: Browser
) -> None:
    assert "do-upgrade" not in browser_of("admin").get("/clusters/a").content.decode()


def test_the_form_leaves_out_what_was_left_empty() -> None:
    form = QueryDict(mutable=True)
    form.update({"metadata.name": " x ", "spec.idc": "", "spec.controlPlane.exposure.port": "80"})
    assert object_of(form) == {
        "apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "x"},
        "spec": {"controlPlane": {"exposure": {"port": 80}}},
    }  # fmt: skip


# -- who needs a person -------------------------------------------------------------------------------------------------


def test_a_stalled_control_plane_needs_a_person_on_the_overview_and_leads_the_list(
    local: Json, browser_of: Browser
) -> None:
    row = Cluster.objects.get(name="a")
    why = "the change to k8s-1.37.2 stopped at etcd, which was put back"
    stalled = {"type": "Stalled", "status": "True", "reason": "ComponentNotReady", "message": why, "lastTransitionTime": "2026-11-25T20:00:00Z"}  # fmt: skip
    Cluster.objects.filter(pk=row.pk).update(status=row.status | {"conditions": [stalled]})
    text = browser_of("admin").get("/").content.decode()
    assert '<a href="/clusters/a" class="bad">1 cluster</a> needs you' in text
    assert "The change to k8s-1.37.2 stopped at etcd, which was put back." in text
    assert "Next: point it back, or at a corrected version." in text
    assert "its control plane waits for a person" in browser_of("viewer").get("/clusters").content.decode()
    assert "Cluster a" not in browser_of("oper-b").get("/").content.decode()
