"""`make lab`, asserted: a business cluster in pods of a meta cluster, three machines that joined from bare Debian, its upgrade and its end."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest

from lab import Lab, clusters, kubernetes
from lab.host import Host
from lab.requirements import LabError
from lab.showcase import MASTER, WORKERS, Fleet, Kubectl, kubeconfig_of, showcase, until
from tests.kube.test_local import port

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
OLD, NEW = kubernetes.VERSIONS


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class Watch:
    """How long the API server of the business cluster was away at a time, at most."""

    def __init__(self, business: Kubectl) -> None:
        self._business = business
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.worst = 0.0
        self.answers = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.5):
            try:
                self._business("get", "--raw", "/api/v1/namespaces/default", "--request-timeout=2s")
            except LabError:
                continue
            now = time.monotonic()
            self.worst, last = max(self.worst, now - last), now
            self.answers += 1


def state(fleet: Fleet, machine: str) -> str:
    return str(fleet.get("machine", machine).get("status", {}).get("scheduling", {}).get("state", ""))


def kubelets(business: Kubectl) -> set[str]:
    return {n["status"]["nodeInfo"]["kubeletVersion"] for n in business.get("nodes").get("items", [])}


def test_what_make_lab_shows(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_HTTP_PORT", str(port()))
    monkeypatch.setenv("FLEET_HTTPS_PORT", str(port()))
    for name in (
        "DATABASE_URL",
        "REDIS_URL",
        "CELERY_BROKER",
        "FLEET_SECRET_KEY",
        "FLEET_PRIVATE_KEY",
        "FLEET_PUBLIC_KEY",
    ):
        monkeypatch.delenv(name, raising=False)  # those of the suite: this Fleet has its own
    with showcase(lab, say) as (fleet, business, workers):
        _joined(fleet, business)
        _a_lost_pod_comes_back(fleet, lab)
        _upgraded(fleet, business)
        _a_stopped_kubelet_comes_back(workers[0])


def _joined(fleet: Fleet, business: Kubectl) -> None:
    nodes = {n["metadata"]["name"]: n for n in business.get("nodes")["items"]}
    assert set(nodes) == set(WORKERS)
    for name, node in nodes.items():
        assert node["spec"]["providerID"] == f"fleet://{fleet.get('machine', name)['metadata']['uid']}"
        assert not node["spec"].get("unschedulable")

    def counted() -> bool:  # from time to time
        gates = {g["conditionType"]: g for g in fleet.get("cluster", clusters.BUSINESS)["status"].get("gates", [])}
        return bool(gates.get(clusters.CONDITION, {}).get("released") == len(WORKERS))

    until(counted, "the gates are counted", say)
    assert fleet.get("machine", MASTER)["status"]["nodeName"] == MASTER


def _a_lost_pod_comes_back(fleet: Fleet, lab: Lab) -> None:
    """A pod of the control plane is killed on its node; its controller brings it back."""
    meta = Kubectl(kubeconfig_of(lab, fleet, clusters.META))
    space = f"fleet-{clusters.BUSINESS}"
    before = {
        p["metadata"]["uid"] for p in meta.get("pods", "-n", space)["items"] if "scheduler" in p["metadata"]["name"]
    }
    assert before
    for pod in meta.get("pods", "-n", space)["items"]:
        if pod["metadata"]["uid"] in before:
            meta("delete", "pod", pod["metadata"]["name"], "-n", space, "--wait=false")

    def back() -> bool:
        pods = [p for p in meta.get("pods", "-n", space).get("items", []) if "scheduler" in p["metadata"]["name"]]
        ready = [
            p
            for p in pods
            if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))
        ]
        return bool(ready) and all(p["metadata"]["uid"] not in before for p in ready)

    until(back, "the scheduler's pod is back", say)


def _upgraded(fleet: Fleet, business: Kubectl) -> None:
    patch = json.dumps({"spec": {"packageVersion": f"k8s-{NEW}"}})
    with Watch(business) as watch:
        fleet("patch", "cluster", clusters.BUSINESS, "--type=merge", "-p", patch)
        reached = f"the control plane stands at {NEW}"
        until(
            lambda: fleet.get("cluster", clusters.BUSINESS)["status"].get("packageVersion") == f"k8s-{NEW}",
            reached,
            say,
        )
        until(lambda: kubelets(business) == {f"v{NEW}"}, "the kubelets follow", say)
        until(lambda: all(state(fleet, n) == "Open" for n in WORKERS), "all nodes are open again", say)
    say(f"the API was away for at most {watch.worst:.1f} s at a time, {watch.answers} answers")
    assert watch.answers > 0
    business("rollout", "status", "deployment/hello", "--timeout=90s")


def _a_stopped_kubelet_comes_back(host: Host) -> None:
    host.ssh("systemctl stop kubelet")
    until(
        lambda: host.ssh("systemctl is-active kubelet", check=False).returncode == 0,
        "a kubelet that was stopped runs again",
        say,
    )
