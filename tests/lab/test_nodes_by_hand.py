"""Hosts of the lab become nodes by hand, with the packages that Fleet installs: pods run, report, reach each other and outlive reboots."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from clusters import pki
from clusters.local import Local
from clusters.planes import APISERVER, COMPONENTS, ETCD, Component, Plane
from fleet.control.render import render
from lab import Lab, addons, clusters, images, kubernetes, node_packages
from lab.host import Host
from tests.lab.running import Json
from tests.servers import Kubectl, free_port, kubectl_binaries

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
OLD, NEW = kubernetes.VERSIONS
SERVICES = "10.96.0.0/12"
TOKEN = ("lab123", "0123456789abcdef")


class Ground:
    """A control plane on the lab's bridge and kubectl as its admin."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.host, self.port = lab.gateway, free_port()
        self.server = f"https://{self.host}:{self.port}"
        names = pki.Names(self.host, self.server, SERVICES)
        self.files = pki.ensure(names, {}, datetime.now(UTC)).all
        self._local = Local(folder / "planes", kubernetes.folder(folder / "binaries"))
        self._plane = Plane(str(uuid.uuid4()), "test", {n: _component(n) for n in COMPONENTS}, self.files, self.host, self.port)  # fmt: skip
        config = kubeconfig(self.server, self.files["ca.crt"], **{f"client-{k}-data": _base64(self.files[f"admin.{n}"]) for k, n in (("certificate", "crt"), ("key", "key"))})  # fmt: skip
        (folder / "kubeconfig").write_text(json.dumps(config))
        self.kubectl = Kubectl(kubectl_binaries()[0], folder / "kubeconfig", folder / "cache")

    def start(self) -> None:
        for name in COMPONENTS:
            asyncio.run(self._local.apply(self._plane, name))
            if name == APISERVER:
                until(lambda: self.kubectl("get", "--raw", "/readyz", ok=False).returncode == 0, "the API server is ready")  # fmt: skip

    def stop(self) -> None:
        assert asyncio.run(self._local.remove(self._plane))

    def get(self, *what: str) -> Json:
        found: Json = json.loads(self.kubectl("get", *what, "-o", "json").stdout)
        return found

    def apply(self, *objects: Json) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def approve(self) -> None:
        """Every certificate that is asked for: the test is alone here."""
        for csr in self.get("csr")["items"]:
            if not csr["status"].get("conditions"):
                self.kubectl("certificate", "approve", csr["metadata"]["name"])

    def approved_until(self, condition: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self.approve()
            return condition()

        until(look, what)

    def answers(self, node: str) -> bool:
        """Whether the kubelet answers the API server, with a certificate of the cluster."""
        return self.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/healthz", ok=False).returncode == 0

    def ready(self, node: str) -> bool:
        done = self.kubectl("get", "node", node, "-o", "json", ok=False)
        conditions = json.loads(done.stdout)["status"].get("conditions", []) if done.returncode == 0 else []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


def _component(name: str) -> Component:
    if name == ETCD:
        return Component(name, kubernetes.ETCD, binary="etcd", args={"unsafe-no-fsync": "true"})
    return Component(name, NEW, binary=f"{NEW}/{name}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def kubeconfig(server: str, ca: str, **user: str) -> Json:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}],
        "users": [{"name": "it", "user": user}], "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip


JOINING: list[Json] = [
    {
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{TOKEN[0]}", "namespace": "kube-system"},
        "stringData": {"token-id": TOKEN[0], "token-secret": TOKEN[1], "usage-bootstrap-authentication": "true"},
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "joining"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-bootstrapper"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers"}],
    },
]  # fmt: skip


def install(lab: Lab, host: Host, objects: list[Json], package: str, version: str) -> None:
    """What Fleet does with a package: its configuration from templates, its deb from the store, its units."""
    named = {o["metadata"]["name"]: o["spec"] for o in objects}
    spec = named[f"{package}-{version}"]
    values = {
        **node_packages.LAB_VARIABLES, "podCIDR": lab.pod_range(host),
        "machine": {"name": host.name, "uid": f"uid-of-{host.name}", "ip": host.address},
    }  # fmt: skip
    for pointer in spec["configMaps"]:
        for file in named[f"{pointer['name']}-{pointer['value']}"]["files"]:
            host.put(file["path"], render(file["content"], values, file["path"]))
    artifact = spec["config"]["artifacts"][0]
    target = f"/var/tmp/{package}.deb"
    host.ssh(
        f"curl -fsS -o {target} {artifact['url']} && echo '{artifact['sha256']}  {target}' | sha256sum -c --quiet"
        f" && dpkg -i {target} && rm {target}"
    )
    check = shlex.join(spec.get("healthCheck", {}).get("command", ["true"]))
    host.wait_for(lambda: host.ssh(check, check=False).returncode == 0, 30, f"well after {package} {version}")


def join(lab: Lab, ground: Ground, host: Host, objects: list[Json], kubelet: str) -> None:
    token = kubeconfig(ground.server, ground.files["ca.crt"], token=".".join(TOKEN))
    host.put("/etc/kubernetes/bootstrap-kubeconfig", json.dumps(token), mode="0600")
    host.put("/etc/kubernetes/pki/ca.crt", ground.files["ca.crt"])
    for package, version in node_packages.versions(kubelet).items():
        install(lab, host, objects, package, version)


@pytest.fixture(scope="module")
def ground(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(lab, tmp_path_factory.mktemp("ground"))
    try:
        made.start()
        made.apply(*JOINING)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def objects(lab: Lab) -> list[Json]:
    return node_packages.manifests(lab.store)


@pytest.fixture(scope="module")
def nodes(lab: Lab, ground: Ground, objects: list[Json]) -> list[Host]:
    """Two nodes, one of each kubelet, open for pods."""
    hosts: list[Host] = [*lab.debs(["n1", "n2"], node=True)]
    for host, version in zip(hosts, (OLD, NEW), strict=True):
        lab.route(lab.pod_range(host), host)
        join(lab, ground, host, objects, version)
        lab.import_images(host, images.pause(), images.busybox(), images.reporter(), images.kube_proxy(), images.dns())
    for host in hosts:
        # The kubelet answers when its second certificate, that of a server, is there too.
        ground.approved_until(lambda: ground.ready(host.name) and ground.answers(host.name), f"{host.name} is Ready")  # noqa: B023 - asked at once
        taints = [t["key"] for t in ground.get("node", host.name)["spec"]["taints"] if "not-ready" not in t["key"]]
        assert taints == ["fleet.dev/joining"]
        ground.kubectl("taint", "node", host.name, "fleet.dev/joining-")
    until(lambda: ground.kubectl("get", "serviceaccount", "default", ok=False).returncode == 0, "there is a service account")  # fmt: skip
    return hosts


def web(name: str, host: Host) -> Json:
    """A pod that says its name on port 8080, `web-<host>` also on its node's port 18080."""
    command = ["sh", "-c", f"mkdir /tmp/www && echo {name} >/tmp/www/index.html && echo begins && exec httpd -f -p 8080 -h /tmp/www"]  # fmt: skip
    container: Json = {"name": "web", "image": images.BUSYBOX, "imagePullPolicy": "Never", "command": command}
    if name == f"web-{host.name}":
        container["ports"] = [{"containerPort": 8080, "hostPort": 18080}]
    spec = {"nodeSelector": {"kubernetes.io/hostname": host.name}, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def address_of(ground: Ground, pod: str) -> str:
    """The pod's address once it is ready."""
    ground.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=90s", timeout=120)
    return str(ground.get("pod", pod)["status"]["podIP"])


def fetch(url: str) -> str:
    """A page, asked for from this machine."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode().strip())


def test_a_node_is_its_machine(ground: Ground, nodes: list[Host]) -> None:
    for host, version in zip(nodes, (OLD, NEW), strict=True):
        node = ground.get("node", host.name)
        assert node["spec"]["providerID"] == f"fleet://uid-of-{host.name}"
        assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v{version}"
        assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == f"containerd://{kubernetes.CONTAINERD}"
        assert {a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"} == {host.address}


def test_a_kubelet_leaves_the_kernel_of_this_machine_alone(nodes: list[Host]) -> None:
    wanted = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
    assert {name: nodes[0].text(f"cat /proc/sys/{name}") for name in wanted} == wanted
    assert {name: Path("/proc/sys", name).read_text().strip() for name in wanted} != wanted


def test_pods_run_and_reach_each_other_across_nodes(lab: Lab, ground: Ground, nodes: list[Host]) -> None:
    ground.apply(*(web(f"web-{h.name}", h) for h in nodes))
    addresses = [address_of(ground, f"web-{h.name}") for h in nodes]
    for address, host in zip(addresses, nodes, strict=True):
        assert address.rpartition(".")[0] == lab.pod_range(host).rpartition(".")[0]
    there = ground.kubectl("exec", "web-n1", "--", "fetch", f"http://{addresses[1]}:8080/").stdout
    assert there.strip() == "web-n2"
    assert ground.kubectl("logs", "web-n2").stdout.strip() == "begins"
    assert nodes[1].text(f"curl -fsS http://{addresses[0]}:8080/") == "web-n1"
    assert fetch(f"http://{addresses[0]}:8080/") == "web-n1"
    assert fetch(f"http://{nodes[0].address}:18080/") == "web-n1"


def services(ground: Ground) -> None:
    """Addresses and names of Services lead somewhere."""
    ground.apply(*addons.kube_proxy(ground.server), *addons.dns())
    for what in ("daemonset/kube-proxy", "deployment/coredns"):
        ground.kubectl("-n", "kube-system", "rollout", "status", what, "--timeout=90s", timeout=120)


def test_a_service_is_found_by_its_name_from_every_node(ground: Ground, nodes: list[Host]) -> None:
    services(ground)
    pods = [web(f"behind-{h.name}", h) for h in nodes]
    for pod in pods:
        pod["metadata"]["labels"] = {"app": "behind"}
    service = {"selector": {"app": "behind"}, "ports": [{"port": 80, "targetPort": 8080}]}
    ground.apply(*pods, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "behind"}, "spec": service})
    for host in nodes:
        address_of(ground, f"behind-{host.name}")

    def answers(pod: str) -> set[str]:
        """Who answers twenty requests of a pod."""
        script = "for i in $(seq 20); do fetch http://behind.default.svc.cluster.local/ || true; done"
        return set(ground.kubectl("exec", pod, "--", "sh", "-c", script, timeout=180).stdout.split())

    for host in nodes:
        until(lambda: answers(f"behind-{host.name}") == {"behind-n1", "behind-n2"}, f"both answer {host.name}")  # noqa: B023 - asked at once


def test_a_reporter_says_what_it_finds_on_its_node(ground: Ground, nodes: list[Host]) -> None:
    ground.apply(*clusters.reporter(ground.server))
    ground.kubectl("rollout", "status", "daemonset/network-ready", "--timeout=60s", timeout=90)

    def said(node: str) -> tuple[str, str]:
        data = ground.get("configmap", "network-ready")["data"]
        (condition,) = json.loads(data[node])["conditions"]
        assert condition["type"] == clusters.CONDITION
        return condition["status"], condition["reason"]

    def reported() -> set[str]:
        done = ground.kubectl("get", "configmap", "network-ready", "-o", "jsonpath={.data}", ok=False)
        return set(json.loads(done.stdout)) if done.returncode == 0 else set()

    until(lambda: reported() == {"n1", "n2"}, "both nodes report")
    assert {n: said(n) for n in ("n1", "n2")} == dict.fromkeys(("n1", "n2"), ("False", "FileMissing"))
    nodes[1].ssh(["touch", clusters.READY])
    until(lambda: said("n2") == ("True", "FileFound"), "n2 says that its network is ready")
    assert said("n1") == ("False", "FileMissing")
    found = ground.get("configmap", "network-ready")["metadata"]
    assert (found["labels"], found["annotations"]) == (
        {"fleet.dev/conditions": "true"},
        {"fleet.dev/reporter": "network"},
    )
    ground.kubectl("delete", "configmap", "network-ready")
    until(lambda: ground.kubectl("get", "configmap", "network-ready", ok=False).returncode == 0, "it is written again")


def test_a_pod_outlives_the_upgrade_of_its_kubelet(
    lab: Lab, ground: Ground, nodes: list[Host], objects: list[Json]
) -> None:
    ground.apply(web("outlives", nodes[0]))
    address_of(ground, "outlives")
    begun = ground.get("pod", "outlives")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    install(lab, nodes[0], objects, "kubelet", NEW)
    until(
        lambda: ground.get("node", "n1")["status"]["nodeInfo"]["kubeletVersion"] == f"v{NEW}" and ground.ready("n1"),
        "the new kubelet reports",
    )
    status = ground.get("pod", "outlives")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["state"]["running"]["startedAt"]) == (0, begun)


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_a_node_comes_back_with_its_pods_and_routes(lab: Lab, ground: Ground, nodes: list[Host], how: str) -> None:
    host, name = nodes[1], how.replace(" ", "-")
    ground.apply(web(name, host), web(f"{name}-peer", nodes[0]))
    address_of(ground, name)
    peer = address_of(ground, f"{name}-peer")
    if how == "reboot":
        host.reboot()
    else:
        host.power_cut()
        host.power_on()
        host.wait_ready()

    def restarted() -> bool:
        status = ground.get("pod", name)["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 1 and status["ready"])

    until(restarted, "the pod runs again")
    assert ground.ready(host.name)
    assert ground.kubectl("exec", name, "--", "fetch", f"http://{peer}:8080/").stdout.strip() == f"{name}-peer"  # fmt: skip
