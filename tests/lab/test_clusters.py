"""A cluster from nothing to running pods by kubectl alone: control plane, machines that join, gates that open, upgrade, removal."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import access
from fleet.control import db
from lab import Lab, clusters, kubernetes
from lab.host import Host
from tests.kube.test_local import port
from tests.lab.running import Cluster, Json, Loop
from tests.servers import Kubectl, kubectl_binaries

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
OLD, NEW = kubernetes.VERSIONS


class Business:
    """kubectl in front of the cluster that Fleet made, as its admin."""

    def __init__(self, folder: Path) -> None:
        endpoint = asyncio.run(_endpoint())
        self.server = endpoint.server
        data = {
            k: base64.b64encode(v.encode()).decode()
            for k, v in (("ca", endpoint.ca), ("crt", endpoint.certificate), ("key", endpoint.key))
        }
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": endpoint.server, "certificate-authority-data": data["ca"]}}],
            "users": [{"name": "x", "user": {"client-certificate-data": data["crt"], "client-key-data": data["key"]}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        }  # fmt: skip
        self.file = folder / "business.json"
        self.file.write_text(json.dumps(config))

    def __call__(self, *arguments: str, stdin: str | None = None, ok: bool = True) -> str:
        command = [kubectl_binaries()[0], "--kubeconfig", str(self.file), *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": "/tmp"}
        )
        assert not ok or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: Json) -> None:
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *what: str) -> Json:
        found: Json = json.loads(self("get", *what, "-o", "json"))
        return found

    def nodes(self) -> dict[str, Json]:
        """Nodes by name; none while the API server is being replaced."""
        found = json.loads(self("get", "nodes", "-o", "json", ok=False) or "{}")
        return {n["metadata"]["name"]: n for n in found.get("items", [])}


async def _endpoint() -> Any:
    conn = await db.connect()
    try:
        (found,) = (await access.endpoints(conn)).values()
        return found
    finally:
        await conn.close()


@pytest.fixture
def fleet(kubectl: Kubectl, tmp_path: Path) -> Iterator[Cluster]:
    """kubectl in front of a running Fleet with a watcher."""
    binaries = kubernetes.folder(tmp_path / "binaries")
    log = tmp_path / "loop.log"
    running = Loop(
        log,
        watches=True,
        FLEET_BINARIES=str(binaries),
        FLEET_CLUSTERS_DIR=str(tmp_path / "clusters"),
        FLEET_SOAK_SECONDS="5",
    )
    made = Cluster(kubectl)
    try:
        yield made
    finally:
        made.remove_clusters()
        running.stop()
        sys.stdout.write(log.read_text()[-8000:])


def bare(lab: Lab, *names: str) -> list[Host]:
    """Hosts with nothing on them but the images that a registry would have."""
    hosts: list[Host] = [*lab.debs(names, node=True)]
    for host in hosts:
        lab.route(lab.pod_range(host), host)
    return hosts


def opened(business: Business, name: str) -> bool:
    found = business.nodes().get(name, {})
    return bool(found) and not found["spec"].get("unschedulable") and not _taints(found)


def _taints(node: Json) -> list[str]:
    return [t["key"] for t in node["spec"].get("taints", [])]


def kubelets(business: Business) -> set[str]:
    return {n["status"]["nodeInfo"]["kubeletVersion"] for n in business.nodes().values()}


def until(fleet: Cluster, condition: Callable[[], bool], what: str, *names: str, seconds: float = 240) -> None:
    fleet.until(condition, what, *names, seconds=seconds)


def test_the_life_of_a_cluster_and_its_machines(lab: Lab, fleet: Cluster, tmp_path: Path) -> None:
    names = ("a1", "a2", "a3")
    hosts = bare(lab, *names)
    plane = {"exposure": {"type": "HostPort", "host": lab.gateway, "port": port()}}
    fleet.apply(*clusters.ground(lab, ["lab"]), clusters.gated("lab", OLD, "Local", plane))
    fleet.apply(*(clusters.machine(lab, h, "lab") for h in hosts))
    fleet.wait_cluster_ready("lab")
    business = Business(tmp_path)

    until(fleet, lambda: len(business.nodes()) == 3, "three nodes joined", *names)
    until(
        fleet,
        lambda: all(fleet.condition(n, "UpToDate").get("status") == "True" for n in names),
        "the machines are as accepted",
        *names,
    )
    for host in hosts:
        lab.import_images(host, *clusters.node_images())

    # Closed until the reporters say yes.
    shown = fleet.get("machine", "a1")["status"]
    assert shown["scheduling"]["state"] == "Closed", shown["scheduling"]
    gates = {g["conditionType"]: g for g in shown["readinessGates"]}
    assert gates["NetworkReady"]["status"] == "Unknown"
    assert gates["NetworkReady"]["owner"] == "network"
    node = business.get("node", "a1")
    assert node["spec"]["unschedulable"] is True
    assert node["metadata"]["annotations"]["fleet.dev/closed-by"] == "join"
    business.apply(*clusters.reporter(business.server), clusters.workload("web"))
    for each in hosts:
        each.ssh(f"mkdir -p {clusters.FOLDER} && touch {clusters.READY}")
    until(fleet, lambda: all(opened(business, n) for n in names), "the gates open", *names)
    fleet.wait_ready(*names)
    business("rollout", "status", "deployment/web", "--timeout=90s")
    address = business.get("pods", "-l", "app=web")["items"][0]["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:8080/", timeout=10) as answer:
        assert answer.read().strip() == b"well"

    # A kubelet that is stopped comes back by itself.
    hosts[0].ssh("systemctl stop kubelet")
    until(
        fleet,
        lambda: hosts[0].ssh("systemctl is-active kubelet", check=False).returncode == 0,
        "the kubelet runs again",
        "a1",
    )

    # The control plane goes to the next minor, and the kubelets follow, one first.
    fleet.kubectl(
        "patch", "cluster", "lab", "--type=merge", "-p", json.dumps({"spec": {"packageVersion": f"k8s-{NEW}"}})
    )
    until(
        fleet,
        lambda: fleet.get("cluster", "lab")["status"].get("packageVersion") == f"k8s-{NEW}",
        "the control plane is upgraded",
        seconds=300,
    )
    until(fleet, lambda: kubelets(business) == {f"v{NEW}"}, "the kubelets follow", *names, seconds=420)
    until(fleet, lambda: all(opened(business, n) for n in names), "all are open again", *names)
    business("rollout", "status", "deployment/web", "--timeout=90s")

    # A machine that is deleted leaves: cordoned, drained, its node and its credentials gone.
    fleet.kubectl("delete", "machine", "a3", "--wait=false")
    until(fleet, lambda: not fleet.kubectl("get", "machine", "a3", ok=False).stdout, "the machine is gone", seconds=300)
    assert set(business.nodes()) == {"a1", "a2"}
    assert hosts[2].ssh("ls /var/lib/kubelet/pki /etc/kubernetes/bootstrap-kubeconfig", check=False).returncode != 0
    business("rollout", "status", "deployment/web", "--timeout=90s")
