"""Fleet makes a bare host a node: its own packages and configurations, in their order, and back after drift."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, kubernetes, node_packages
from lab.host import Host
from tests.lab.running import Cluster, Loop
from tests.lab.test_final_state import ground as fleet_ground
from tests.lab.test_final_state import machine
from tests.lab.test_nodes_by_hand import JOINING, TOKEN, Ground, kubeconfig
from tests.servers import Kubectl

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
OLD, NEW = kubernetes.VERSIONS


@pytest.fixture
def fleet(kubectl: Kubectl, tmp_path: Path) -> Iterator[Cluster]:
    """kubectl in front of a running Fleet."""
    running = Loop(tmp_path / "loop.log")
    yield Cluster(kubectl)
    running.stop()


@pytest.fixture
def ground(lab: Lab, tmp_path: Path) -> Iterator[Ground]:
    """A control plane that a node may join."""
    (tmp_path / "ground").mkdir()
    made = Ground(lab, tmp_path / "ground")
    try:
        made.start()
        made.apply(*JOINING)
        yield made
    finally:
        made.stop()


def kubelet_of(host: Host) -> str:
    return host.text("kubelet --version 2>/dev/null || true")


def test_fleet_makes_a_bare_host_a_node_and_upgrades_its_kubelet(lab: Lab, fleet: Cluster, ground: Ground) -> None:
    host = lab.deb("bare", node=True)
    token = kubeconfig(ground.server, ground.files["ca.crt"], token=".".join(TOKEN))
    host.put("/etc/kubernetes/bootstrap-kubeconfig", json.dumps(token), mode="0600")
    host.put("/etc/kubernetes/pki/ca.crt", ground.files["ca.crt"])
    fleet.apply(*node_packages.manifests(lab.store))
    fleet.apply(*fleet_ground(lab, machineVersions=node_packages.versions(OLD), variables=dict(node_packages.LAB_VARIABLES)))  # fmt: skip
    fleet.apply(machine(host, "bare", variables={"podCIDR": lab.pod_range(host)}))

    fleet.wait_ready("bare")
    ground.approved_until(lambda: ground.ready("bare") and ground.answers("bare"), "the node is Ready")
    node = ground.get("node", "bare")
    assert node["spec"]["providerID"] == f"fleet://{fleet.get('machine', 'bare')['metadata']['uid']}"
    assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v{OLD}"

    host.ssh("systemctl disable --now containerd.service; rm /etc/cni/net.d/10-fleet.conflist")
    fleet.until(
        lambda: host.ssh("systemctl is-active containerd && ls /etc/cni/net.d/10-fleet.conflist", check=False).returncode == 0,
        "containerd runs again and the network is configured", "bare",
    )  # fmt: skip

    fleet.kubectl(
        "patch", "machine", "bare", "--type=merge", "-p", json.dumps({"spec": {"versions": {"kubelet": NEW}}})
    )
    fleet.until(lambda: kubelet_of(host) == f"Kubernetes v{NEW}", f"the kubelet is {NEW}", "bare")
    fleet.wait_ready("bare")
    ground.approved_until(
        lambda: ground.ready("bare") and ground.get("node", "bare")["status"]["nodeInfo"]["kubeletVersion"] == f"v{NEW}",
        "the node reports its new kubelet",
    )  # fmt: skip
