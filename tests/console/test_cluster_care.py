"""Pause, resume and restore: told with their kubectl line, tried by a dry run, done through the same actions as the API."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from clusters.models import Cluster
from clusters.planes import COMPONENTS
from clusters.storage import RESTORE
from fleet.console.cluster_care import AS_SNAPSHOT
from fleet.console.cluster_seen import seen_of
from fleet.control.kinds import Json
from tests.console.test_cluster_acts import change, live, local, told, versions

__all__ = ["local", "versions"]
Browser = Callable[[str], Client]
SNAPSHOTS: list[dict[str, Any]] = [
    {"name": "20261125T214201Z-upgrade.db", "takenAt": "2026-11-25T21:42:01Z", "why": "upgrade", "size": 21_340_160, "sha256": "0" * 64, "packageVersion": "k8s-1.36.3"},
    {"name": "20261125T154201Z-scheduled.db", "takenAt": "2026-11-25T15:42:01Z", "why": "scheduled", "size": 20_340_160, "sha256": "1" * 64, "packageVersion": "k8s-1.36.3"},
]  # fmt: skip
FIRST: str = SNAPSHOTS[0]["name"]


@pytest.fixture
def saved(local: Json) -> Json:
    """Cluster a at 1.37.2, its soak over, with two snapshots of 1.36.3."""
    row = Cluster.objects.get(name="a")
    stands = {"packageVersion": "k8s-1.37.2", "componentVersions": dict.fromkeys(COMPONENTS, "k8s-1.37.2")}
    Cluster.objects.filter(pk=row.pk).update(
        spec=row.spec | {"packageVersion": "k8s-1.37.2"}, status=row.status | stands | {"snapshots": SNAPSHOTS}
    )
    with connection.cursor() as cursor:
        for each in SNAPSHOTS:
            cursor.execute(
                "INSERT INTO cluster_snapshot (cluster_uid, name, why, path, size, sha256, revision, package_version) VALUES (%s, %s, %s, %s, %s, %s, 1, %s)",
                [str(row.uid), each["name"], each["why"], f"/tmp/{uuid.uuid4()}", each["size"], each["sha256"], each["packageVersion"]],
            )  # fmt: skip
    return live()


def foresee(client: Client, verb: str, **form: str) -> dict[str, Any]:
    return told(client, "/clusters/a/foresee", verb=verb, **form)


def do(client: Client, verb: str, seen: str, **form: str) -> Any:
    return client.post("/clusters/a/do", {"verb": verb, "seen": seen, **form})


def test_a_cluster_is_paused_and_resumed_and_both_are_told(local: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    found = foresee(client, "pause")
    assert found["may"] and found["go"] == "Pause 1 cluster"
    assert "Nothing new starts on 2 machines of it" in found["html"]
    assert (
        "kubectl patch cluster a --type merge -p &#x27;{&quot;spec&quot;:{&quot;paused&quot;:true}}&#x27;"
        in found["html"]
    )
    assert live() == local
    assert do(client, "pause", found["seen"]).status_code == 303
    assert live()["spec"]["paused"] is True
    page = client.get("/clusters/a").content.decode()
    assert 'data-open="#do-resume"' in page and 'data-open="#do-pause"' not in page
    back = foresee(client, "resume")
    assert back["may"] and "puts differences right again on 2 machines" in back["html"]
    assert do(client, "resume", back["seen"]).status_code == 303
    assert "paused" not in live()["spec"]


def test_a_pause_in_the_middle_of_a_change_says_that_it_stands_still(local: Json, browser_of: Browser) -> None:
    row = Cluster.objects.get(name="a")
    Cluster.objects.filter(pk=row.pk).update(spec=row.spec | {"packageVersion": "k8s-1.37.2"})
    client = browser_of("admin")
    assert "The change to k8s-1.37.2 stands still" in foresee(client, "pause")["html"]
    assert "The change to k8s-1.37.2 goes on" in foresee(client, "resume")["html"]


def test_what_changed_since_it_was_told_is_not_paused(local: Json, browser_of: Browser) -> None:
    answer = do(browser_of("admin"), "pause", "of-yesterday")
    assert answer.status_code == 409
    assert live() == local


def test_a_restore_tells_what_is_lost_and_goes_back_with_its_version(saved: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    found = foresee(client, "restore", snapshot=FIRST, after=AS_SNAPSHOT)
    assert found["may"], found["html"]
    html = found["html"]
    assert "written to its API after 25 Nov 21:42 UTC is lost" in html
    assert "It asks for k8s-1.36.3 from then on, not for k8s-1.37.2." in html
    assert "fleet.dev/restore" in html and "packageVersion" in html
    assert live() == saved
    form = {"snapshot": FIRST, "after": AS_SNAPSHOT}
    assert do(client, "restore", found["seen"], **form, confirm="A").status_code == 400
    assert live() == saved
    done = do(client, "restore", found["seen"], **form, confirm="a")
    assert done.status_code == 303, done.content.decode()[-800:]
    now = live()
    assert now["metadata"]["annotations"][RESTORE] == FIRST
    assert now["spec"]["packageVersion"] == "k8s-1.36.3"


def test_a_restore_that_keeps_the_version_says_that_it_is_upgraded_again(saved: Json, browser_of: Browser) -> None:
    client = browser_of("admin")
    found = foresee(client, "restore", snapshot=FIRST, after="")
    assert "It still asks for k8s-1.37.2: the upgrade from k8s-1.36.3 begins" in found["html"]
    assert do(client, "restore", found["seen"], snapshot=FIRST, after="", confirm="a").status_code == 303
    assert live()["spec"]["packageVersion"] == "k8s-1.37.2"


def test_a_restore_of_a_paused_cluster_waits_and_says_so(saved: Json, browser_of: Browser) -> None:
    row = Cluster.objects.get(name="a")
    Cluster.objects.filter(pk=row.pk).update(spec=row.spec | {"paused": True})
    html = foresee(browser_of("admin"), "restore", snapshot=FIRST, after="")["html"]
    assert "would not begin yet: nothing new starts: spec.paused" in html


@pytest.mark.parametrize(
    ("snapshot", "said"), [("", "Choose a snapshot."), ("gone.db", "no snapshot “gone.db” of it any more")]
)
def test_a_snapshot_that_is_not_there_is_refused(saved: Json, browser_of: Browser, snapshot: str, said: str) -> None:
    client = browser_of("admin")
    found = foresee(client, "restore", snapshot=snapshot, after="")
    assert not found["may"]
    assert said.lower() in found["html"].lower()
    assert do(client, "restore", found["seen"], snapshot=snapshot, confirm="a").status_code == 400
    assert live() == saved


def test_the_dialog_lists_the_snapshots_with_age_size_and_version(saved: Json, browser_of: Browser) -> None:
    text = browser_of("admin").get("/clusters/a").content.decode()
    dialog = text[text.index('id="do-restore"') :]
    assert dialog.index(SNAPSHOTS[0]["name"]) < dialog.index(SNAPSHOTS[1]["name"])
    assert "25 Nov 21:42 UTC" in dialog and "k8s-1.36.3 · upgrade" in dialog


def test_without_a_snapshot_the_dialog_says_so(local: Json, browser_of: Browser) -> None:
    text = browser_of("admin").get("/clusters/a").content.decode()
    assert "There is no snapshot yet." in text
    assert 'id="restore-go"' not in text


@pytest.mark.parametrize("verb", ["pause", "resume", "restore"])
@pytest.mark.parametrize("who", ["viewer", "oper-a"])
def test_who_may_not_change_the_cluster_gets_a_refusal(saved: Json, browser_of: Browser, who: str, verb: str) -> None:
    client = browser_of(who)
    assert client.post("/clusters/a/foresee", {"verb": verb, "snapshot": FIRST}).status_code == 403
    form = {"snapshot": FIRST, "confirm": "a"}
    assert do(client, verb, seen_of(saved), **form).status_code == 403
    assert live() == saved
    assert f'id="do-{verb}"' not in client.get("/clusters/a").content.decode()


def test_a_machine_is_paused_with_an_undo_and_resumed(small_fleet: list[str], browser_of: Browser) -> None:
    client = browser_of("oper-a")
    page = client.get("/machines/a1").content.decode()
    assert "kubectl patch machine a1 --type merge" in page and "Hold instead…" in page
    text = client.post("/machines/a1/do", {"verb": "pause"}, follow=True).content.decode()
    assert "a1 is paused" in text and 'name="verb" value="resume"><button class="linkbtn">Undo' in text
    assert 'data-open="#do-resume"' in text
    assert browser_of("viewer").post("/machines/a1/do", {"verb": "resume"}).status_code == 403
    assert client.post("/machines/a1/do", {"verb": "resume"}).status_code == 303
    assert 'data-open="#do-pause"' in client.get("/machines/a1").content.decode()


def test_what_the_provider_cannot_run_is_told_before(local: Json, browser_of: Browser, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    class Lacks:
        def lacking(self, plane: Any) -> list[str]:
            return [f"etcd: there is no binary {plane.components['etcd'].binary} under /opt/kube"]

    monkeypatch.setattr("fleet.console.cluster_forms.provider", lambda name: Lacks())
    found = change(browser_of("admin"), "k8s-1.37.2")
    assert found["may"]
    assert "would not begin yet: etcd: there is no binary etcd under /opt/kube." in found["html"]
