"""Ways to the API server of a Hosted cluster other than a port of a node, and etcd on volumes of a storage class: on a real meta cluster with kube-proxy and a DNS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from clusters.planes import APISERVER, ETCD
from fleet.api.storage import storage_for
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from lab import Lab, addons, images
from lab.host import Host
from tests.kube.test_cluster_operator import MAPS, NEW, reached, stands_at, store, turn
from tests.lab.test_hosted import Meta, client, config, meta, node, say

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
__all__ = ["meta", "say"]  # fixtures

VOLUMES = "disks"  # the storage class
PATIENCE_SECONDS = 300


def hosted(exposure: Json, **plane: str) -> Json:
    return {
        "provider": "Hosted", "packageVersion": f"k8s-{NEW}", "controlPlane": {"metaCluster": "meta", "exposure": exposure, **plane},
    }  # fmt: skip


def services_and_volumes(meta: Meta, lab: Lab, host: Host) -> None:
    """What such clusters ask of a meta cluster: addresses of Services that lead somewhere, names, and a volume that waits for its pod."""
    lab.import_images(host, images.kube_proxy(), images.dns())
    # Hosts of the lab have no default route, so that what runs in a host's own network could not even begin to ask for a Service.
    host.ssh(f"mkdir -p /srv/disk-1; ip route add 10.96.0.0/12 via {lab.gateway}")
    local = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host.name]}]}]}  # fmt: skip
    volume = {
        "capacity": {"storage": "50Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": VOLUMES, "persistentVolumeReclaimPolicy": "Retain",
        "local": {"path": "/srv/disk-1"}, "nodeAffinity": {"required": local},
    }  # fmt: skip
    meta.apply(
        *addons.kube_proxy(meta.server), *addons.dns(),
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": VOLUMES}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk-1"}, "spec": volume},
    )  # fmt: skip
    for what in ("daemonset/kube-proxy", "deployment/coredns"):
        meta.kubectl("-n", "kube-system", "rollout", "status", what, "--timeout=90s", timeout=120)


def balance(meta: Meta, name: str, address: str) -> bool:
    """What a provider of balancers does: it gives a Service of its type an address. Whether there is one."""
    namespace = f"fleet-{name}"
    found = meta.kubectl("-n", namespace, "get", "service", APISERVER, "-o", "jsonpath={.spec.type}", ok=False)
    if found.stdout != "LoadBalancer":
        return False
    patch = f'{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{address}"}}]}}}}}}'
    meta.kubectl("-n", namespace, "patch", "service", APISERVER, "--subresource=status", "--type=merge", "-p", patch)
    return True


async def stands(meta: Meta, name: str) -> None:
    """Ready at its version; what Fleet and the meta cluster say where it does not come."""
    try:
        await reached(name, stands_at(NEW))
    except TimeoutError:
        found = await in_thread(lambda: storage_for("clusters").read(name))
        there = meta.kubectl("-n", f"fleet-{name}", "get", "pods,pvc,services,events", "-o", "wide", ok=False).stdout
        raise AssertionError(f"{found.obj['status'] if found else 'gone'}\n{there}") from None


async def test_an_api_server_is_reached_by_a_node_port_a_cluster_ip_and_a_balancer(
    meta: Meta, lab: Lab, say: Callable[[str], None], settings: Any
) -> None:
    host = await asyncio.to_thread(node, lab, meta, "c1", NEW)
    await asyncio.to_thread(services_and_volumes, meta, lab, host)
    inside, balanced = "10.96.7.7", f"{lab.gateway.rpartition('.')[0]}.200"
    for address in (inside, balanced):  # as routers of a data centre lead to them
        await asyncio.to_thread(lab.route, f"{address}/32", host)
    settings.FLEET_ALLOWED_NETWORKS = [*settings.FLEET_ALLOWED_NETWORKS, f"{inside}/32"]
    clusters = {
        "by-node": hosted({"type": "NodePort", "host": host.address, "port": 30443}),
        "inside": hosted({"type": "ClusterIP", "host": inside, "port": 6443}, storageClass=VOLUMES),
        "balanced": hosted({"type": "LoadBalancer", "host": balanced, "port": 443}),
    }
    begun = time.monotonic()
    for name, spec in clusters.items():
        await in_thread(partial(store, "clusters", "Cluster", name, spec))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(balance, meta, "balanced", balanced):
            await turn()
            await asyncio.sleep(0.3)
    for name in clusters:
        await stands(meta, name)
        async with client(name) as kube:
            await kube.create(MAPS, config("kept"))
            assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
        say(f"{name} is Ready and takes writes {time.monotonic() - begun:.1f} s after all three were asked for")

    # etcd's data is where the volume is, and in no folder of Fleet's.
    (claim,) = meta.get("pvc", "-n", "fleet-inside")["items"]
    assert (claim["status"]["phase"], claim["spec"]["volumeName"]) == ("Bound", "disk-1"), claim
    assert "member" in host.text("find /srv/disk-1 -maxdepth 3")
    pods = meta.get("pods", "-n", "fleet-inside")["items"]
    (member,) = (p for p in pods if p["metadata"]["name"].startswith(ETCD))
    meta.kubectl("-n", "fleet-inside", "delete", "pod", member["metadata"]["name"], "--wait=true")
    await stands(meta, "inside")
    async with client("inside") as kube:
        assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
