"""A node of a real cluster whose kubelet is killed: seen, believed, permitted, repaired, verified, open again, and told by events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from lab import Lab, bmc, clusters, images, kubernetes
from lab.host import Host
from tests.kube.test_local import port
from tests.lab.running import Cluster, Json, Loop
from tests.lab.test_clusters import Business, bare
from tests.servers import Kubectl

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
OLD = kubernetes.VERSIONS[0]


class Story:
    """What happened to a machine, with the seconds that each part took."""

    def __init__(self, fleet: Cluster, machine: str) -> None:
        self.fleet, self.machine = fleet, machine
        self.began = time.monotonic()
        self.marks: list[tuple[str, float]] = []

    def until(self, what: str, condition: object, seconds: float = 180) -> None:
        """Wait for a state of the world, and keep when it came."""
        assert callable(condition)
        self.fleet.until(condition, what, self.machine, seconds=seconds)
        self.marks.append((what, time.monotonic() - self.began))

    def tell(self) -> None:
        sys.stdout.write("".join(f"  {at:6.1f} s  {what}\n" for what, at in self.marks))


def items(fleet: Cluster, kind: str, machine: str) -> list[Json]:
    done = fleet.kubectl("get", kind, f"--field-selector=spec.machine={machine}", "-o", "json")
    found: list[Json] = json.loads(done.stdout)["items"]
    return sorted(found, key=lambda o: o["metadata"]["creationTimestamp"])


def fault(fleet: Cluster, machine: str, type_: str) -> Json:
    """The newest fault of that type; empty while there is none."""
    found = [f for f in items(fleet, "faults", machine) if f["spec"]["type"] == type_]
    return found[-1] if found else {}


def phase(obj: Json) -> str:
    return str(obj.get("status", {}).get("phase", ""))


def events(fault_name: str) -> list[str]:
    """What was told of a fault, in its order."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT type FROM event WHERE data ->> 'fault' = %s ORDER BY pos, n", [fault_name])
        found = [row[0] for row in cursor.fetchall()]
    connection.close()
    return found


def messages(fault_name: str, type_: str) -> list[str]:
    """The words of events of that type about a fault."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT data ->> 'message' FROM event WHERE data ->> 'fault' = %s AND type = %s ORDER BY pos, n",
            [fault_name, type_],
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.close()
    return found


def evidence(machine: str) -> str:
    """What the host showed of itself before it was repaired."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(e.content, '') FROM machine_evidence e JOIN machine m ON m.id = e.machine_id WHERE m.name = %s",
            [machine],
        )
        (found,) = cursor.fetchone() or ("",)
    connection.close()
    return str(found or "")


@pytest.fixture
def fleet(kubectl: Kubectl, tmp_path: Path) -> Iterator[Cluster]:
    """kubectl in front of a running Fleet with a watcher."""
    log = tmp_path / "loop.log"
    running = Loop(
        log,
        watches=True,
        FLEET_BINARIES=str(kubernetes.folder(tmp_path / "binaries")),
        FLEET_CLUSTERS_DIR=str(tmp_path / "clusters"),
    )
    made = Cluster(kubectl)
    try:
        yield made
    finally:
        made.remove_clusters()
        running.stop()
        sys.stdout.write(log.read_text()[-8000:])


def joined(lab: Lab, fleet: Cluster, folder: Path, names: tuple[str, ...]) -> tuple[list[Host], Business]:
    """A cluster of these nodes, all open."""
    hosts = bare(lab, *names)
    plane = {"exposure": {"type": "HostPort", "host": lab.gateway, "port": port()}}
    fleet.apply(*clusters.ground(lab, ["lab"]), clusters.gated("lab", OLD, "Local", plane))
    fleet.apply(*(clusters.machine(lab, h, "lab") for h in hosts))
    fleet.wait_cluster_ready("lab")
    business = Business(folder)
    fleet.until(lambda: len(business.nodes()) == len(names), "the nodes joined", *names, seconds=240)
    for host in hosts:
        lab.import_images(host, *clusters.node_images())
        host.ssh(f"mkdir -p {clusters.FOLDER} && touch {clusters.READY}")
    business.apply(*clusters.reporter(business.server))
    fleet.until(lambda: all(_open(business, n) for n in names), "the nodes are open", *names, seconds=240)
    fleet.wait_ready(*names)
    return hosts, business


def _open(business: Business, name: str) -> bool:
    node = business.nodes().get(name, {})
    return bool(node) and not node["spec"].get("unschedulable")


def _silenced(host: Host) -> None:
    """Killed, and kept from coming back by itself."""
    host.ssh("systemctl mask --runtime --now kubelet; systemctl kill -s KILL kubelet 2>/dev/null; true")
    assert host.text("systemctl is-active kubelet || true") != "active"


def _broken_configuration(host: Host, fleet: Cluster, business: Business) -> None:
    """A hand edits containerd's configuration into an error: the runtime does not start, is given its configuration back, and runs."""
    config = "/etc/containerd/config.toml"
    good = host.text(f"sha256sum {config}")
    story = Story(fleet, "k1")
    host.ssh(f"echo 'version = [' >{config}; systemctl restart containerd || true")
    assert host.text("systemctl is-active containerd || true") != "active"
    story.until("ConfigurationError is confirmed", lambda: phase(fault(fleet, "k1", "ConfigurationError")) not in ("", "Open"))  # fmt: skip
    story.until("containerd runs", lambda: host.ssh("systemctl is-active containerd", check=False).returncode == 0)
    story.until("the fault is resolved", lambda: phase(fault(fleet, "k1", "ConfigurationError")) == "Resolved")
    story.until("the node is open", lambda: _open(business, "k1"))
    story.tell()
    assert host.text(f"sha256sum {config}") == good
    repaired = [o for o in items(fleet, "operations", "k1") if o["spec"]["verb"] == "Repair"][-1]
    assert "write-files" in [s["verb"] for s in repaired["status"]["steps"]]
    assert "/etc/containerd/config.toml" in evidence("k1")  # the runtime says what it could not read


def test_a_kubelet_that_was_killed_and_masked_is_brought_back(lab: Lab, fleet: Cluster, tmp_path: Path) -> None:
    (first, second), business = joined(lab, fleet, tmp_path, ("k1", "k2"))

    # By SSH alone: faster than the cluster notices.
    story = Story(fleet, "k1")
    _silenced(first)
    story.until(
        "ComponentsHealthy is False", lambda: fleet.condition("k1", "ComponentsHealthy").get("status") == "False"
    )
    story.until("ComponentCrash is confirmed", lambda: phase(fault(fleet, "k1", "ComponentCrash")) not in ("", "Open"))
    story.until("the kubelet runs", lambda: first.ssh("systemctl is-active kubelet", check=False).returncode == 0)
    story.until("the fault is resolved", lambda: phase(fault(fleet, "k1", "ComponentCrash")) == "Resolved")
    story.until("the node is open", lambda: _open(business, "k1"))
    story.tell()
    (remediation,) = items(fleet, "remediations", "k1")
    assert phase(remediation) == "Succeeded"
    operation = next(o for o in items(fleet, "operations", "k1") if o["spec"]["verb"] == "Repair")
    assert [s["verb"] for s in operation["status"]["steps"]] == [
        "permit", "isolate", "collect-evidence", "set-units", "post-check",
    ]  # fmt: skip
    assert "masked" in evidence("k1")
    told = events(fault(fleet, "k1", "ComponentCrash")["metadata"]["name"])
    assert told == [
        "dev.fleet.fault.confirmed", "dev.fleet.remediation.started", "dev.fleet.remediation.verifying",
        "dev.fleet.remediation.probation", "dev.fleet.remediation.succeeded", "dev.fleet.fault.resolved",
    ]  # fmt: skip

    _broken_configuration(first, fleet, business)

    # With nobody to see to the unit itself: the host's word and the cluster's together.
    fleet.kubectl("patch", "faultrule", "component-crash", "--type=merge", "-p", '{"spec":{"mode":"Disabled"}}')
    fleet.kubectl("patch", "machine", "k2", "--type=merge", "-p", '{"spec":{"driftPolicy":"Report"}}')
    story = Story(fleet, "k2")
    _silenced(second)
    story.until(
        "ComponentsHealthy is False", lambda: fleet.condition("k2", "ComponentsHealthy").get("status") == "False"
    )
    story.until("NodeReady is Unknown", lambda: fleet.condition("k2", "NodeReady").get("status") == "Unknown")
    story.until("NotResponding is confirmed", lambda: phase(fault(fleet, "k2", "NotResponding")) in ("Confirmed", "Recovering", "Resolved"))  # fmt: skip
    (said,) = messages(fault(fleet, "k2", "NotResponding")["metadata"]["name"], "dev.fleet.fault.confirmed")
    assert "NodeReady is Unknown" in said and "ComponentsHealthy is False" in said, said
    story.until("the kubelet runs", lambda: second.ssh("systemctl is-active kubelet", check=False).returncode == 0)
    story.until("NodeReady is True", lambda: fleet.condition("k2", "NodeReady").get("status") == "True")
    story.until("the fault is resolved", lambda: phase(fault(fleet, "k2", "NotResponding")) == "Resolved")
    story.until("the node is open", lambda: _open(business, "k2"))
    story.tell()
    fleet.wait_ready("k1", "k2")


def _keeper(node: str) -> Json:
    """One pod that nobody makes twice: its name is its identity, as with a volume. It would rather run on that node."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    prefer = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}]}
    }
    container = {
        "name": "db",
        "image": images.BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "exec sleep 1000000"],
    }
    pod = {
        "metadata": {"labels": {"app": "db"}},
        "spec": {"affinity": prefer, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    spec = {"serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"}, "spec": spec}  # fmt: skip


def _runs_on(business: Business, node: str) -> bool:
    found = business.get("pods", "-n", "default", "-l", "app=db")["items"]
    return [(p["spec"].get("nodeName"), p["status"]["phase"]) for p in found if "deletionTimestamp" not in p["metadata"]] == [(node, "Running")]  # fmt: skip


def test_what_ran_on_a_node_without_power_runs_elsewhere_before_it_is_back(
    lab: Lab, fleet: Cluster, tmp_path: Path
) -> None:
    (first, _), business = joined(lab, fleet, tmp_path, ("k3", "k4"))
    with bmc.Controller(first, lab.gateway, serial_number="SN-K3") as controller:
        word = {"username": bmc.USER, "password": bmc.PASSWORD}
        fleet.apply({"kind": "Credential", "metadata": {"name": "lab-bmc"}, "spec": {"type": "redfish", "data": word, "clusters": ["lab"]}})  # fmt: skip
        spec = {"serialNumber": "SN-K3", "bmc": {**controller.spec, "credential": "lab-bmc"}}
        fleet.kubectl("patch", "machine", "k3", "--type=merge", "-p", json.dumps({"spec": spec}))
        fleet.kubectl("patch", "faultrule", "host-unreachable", "--type=merge", "-p", '{"spec":{"holdSeconds":5}}')
        business.apply(_keeper("k3"))
        fleet.until(lambda: _runs_on(business, "k3"), "the pod runs on k3", "k3")

        story = Story(fleet, "k3")
        first.power_cut()
        story.until("HostUnreachable is confirmed", lambda: phase(fault(fleet, "k3", "HostUnreachable")) not in ("", "Open", "Suspected"))  # fmt: skip
        story.until("NodeReady is Unknown", lambda: fleet.condition("k3", "NodeReady").get("status") == "Unknown")
        story.until("the pod runs on k4", lambda: _runs_on(business, "k4"))
        story.until("the power is on", lambda: controller.resets == ["On"])
        story.until("NodeReady is True", lambda: fleet.condition("k3", "NodeReady").get("status") == "True")
        story.until("the fault is resolved", lambda: phase(fault(fleet, "k3", "HostUnreachable")) == "Resolved")
        story.until("the node is open", lambda: _open(business, "k3"))
        story.tell()
        operation = next(o for o in items(fleet, "operations", "k3") if o["spec"]["verb"] == "Repair")
        cycled = next(s for s in operation["status"]["steps"] if s["verb"] == "power-cycle")
        assert cycled["message"].endswith("1 pod of its node was let go meanwhile."), cycled
        node = business.nodes()["k3"]
        assert not node["spec"].get("taints") and "fleet.dev/out-of-service" not in node["metadata"]["annotations"]
        assert _runs_on(business, "k4")
        fleet.wait_ready("k3", "k4")
