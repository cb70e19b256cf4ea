"""The control plane on the page of its cluster: one sentence, the stages of a change, components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from clusters.models import Cluster
from clusters.planes import COMPONENTS
from fleet.console.plane import view
from fleet.control.kinds import Json


def obj(
    *,
    target: str = "v37",
    reached: str = "v37",
    ready: str = "True",
    message: str = "",
    stands: dict[str, str] | None = None,
    **status: Any,
) -> Json:
    conditions = [{"type": "Ready", "status": ready, "reason": "X", "message": message}, *status.pop("conditions", [])]
    whole = {
        "packageVersion": reached, "kubernetesVersion": "1.37.2", "conditions": conditions,
        "componentVersions": stands or dict.fromkeys(COMPONENTS, target), **status,
    }  # fmt: skip
    return {"metadata": {"name": "a"}, "spec": {"provider": "Local", "packageVersion": target}, "status": whole}


def test_plain_hosts_have_none() -> None:
    assert view({"metadata": {"name": "a"}, "spec": {}}) is None


@pytest.mark.parametrize(
    ("found", "tone", "sentence"),
    [
        pytest.param({"metadata": {}, "spec": {"provider": "Local"}}, "unknown", "Nothing was looked at yet.", id="new"),
        pytest.param(obj(), "ok", "Kubernetes 1.37.2 is ready.", id="ready"),
        pytest.param(
            obj(emulatedVersion="1.36"), "ok",
            "Kubernetes 1.37.2 is ready. It speaks as 1.36 until its soak ends; until then pointing back is allowed.", id="soaks",
        ),
        pytest.param(
            obj(reached="v36", ready="False", message="etcd is starting", conditions=[{"type": "Reconciling", "status": "True"}]),
            "busy", "On the way from v36 to v37. Etcd is starting.", id="upgrades",
        ),
        pytest.param(
            obj(ready="False", conditions=[{"type": "Stalled", "status": "True", "message": "the change to v37 stopped"}]),
            "bad", "The change to v37 stopped.", id="stopped",
        ),
        pytest.param(obj(work={"restore": "x.db", "stage": "Loading"}), "busy", "Etcd goes back to the snapshot x.db: loading.", id="restores"),
    ],
)  # fmt: skip
def test_one_sentence_says_how_it_is(found: Json, tone: str, sentence: str) -> None:
    seen = view(found)
    assert seen is not None
    assert (seen.tone, seen.sentence) == (tone, sentence)


def test_a_change_shows_its_stages_and_rest_shows_none() -> None:
    steps = [{"name": "etcd", "status": "True"}, {"name": "kube-apiserver", "status": "Running"}]
    stands = {"etcd": "v37", "kube-apiserver": "v37", "kube-controller-manager": "v36", "kube-scheduler": "v36"}
    moving = view(obj(reached="v36", stands=stands, steps=steps))
    assert moving is not None
    assert [s.state for s in moving.moving] == ["done", "done", "now", "later", "later"]
    put_back = view(
        obj(
            reached="v36",
            stands={**stands, "kube-apiserver": "v36"},
            steps=steps[:1],
            stopped={"component": "kube-apiserver"},
        )
    )
    assert put_back is not None
    assert [s.state for s in put_back.moving] == ["done", "done", "failed", "later", "later"]
    calm = view(obj())
    assert calm is not None and calm.moving == []


def test_the_page_shows_it_and_shows_no_script_of_a_component(
    small_fleet: list[str], browser_of: Callable[[str], Client]
) -> None:
    row = Cluster.objects.get(name="a")
    steps = [{"name": "etcd", "status": "Running", "startTime": "2026-11-25T20:00:00Z"}]
    bad = [{"name": "etcd", "ready": "False", "seen": "3.7.3", "wanted": "3.7.3", "message": "<script>x</script>"}]
    Cluster.objects.filter(pk=row.pk).update(
        spec={**row.spec, "provider": "Local", "packageVersion": "v37"},
        status=obj(components=bad, steps=steps)["status"],
    )
    text = browser_of("admin").get("/clusters/a").content.decode()
    assert "Kubernetes 1.37.2 is ready." in text
    assert "&lt;script&gt;x" in text and "<script>x" not in text
