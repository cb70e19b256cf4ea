"""H10 (b) once against a real control plane of this machine: `python -m benchmarks.real --nodes 5000 --rounds 3`.

etcd and kube-apiserver as Fleet's provider Local runs them; nobody else works on their nodes. Binaries come from the lab's cache, which
builds them where they are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import h10, harness
from benchmarks.world import World, machine_name, world
from fleet.control.endpoint import Endpoint

SECONDS = 120.0
_AT_A_TIME = 16


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with world("S") as made:
        print(harness.table("H10", harness.run(Measure(options.nodes), made, options.rounds)))
    return 0


class Measure(h10.Measure):
    """The same against kube-apiserver; the floor alone beside it."""

    title = "a cluster is adopted from a real kube-apiserver: listed over TLS, written, linked to machines; the floor receives and decodes"

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def count(self, world: World) -> int:
        return self._nodes

    @contextlib.contextmanager
    def server(self, count: int, first: int) -> Iterator[Endpoint]:
        """A control plane with so many nodes."""
        with tempfile.TemporaryDirectory(prefix="fleet-real-") as folder, plane(Path(folder)) as endpoint:
            asyncio.run(fill(endpoint, [machine_name(n) for n in range(first, first + count)]))
            yield endpoint

    def peers(self) -> Mapping[str, Callable[[World], harness.Run]]:
        return {}


@contextlib.contextmanager
def plane(home: Path) -> Iterator[Endpoint]:
    """etcd and kube-apiserver of the newest version, ready; gone afterwards."""
    from clusters import pki
    from clusters.local import Local
    from clusters.planes import APISERVER, COMPONENTS, ETCD, Component, Plane
    from lab import kubernetes

    version = kubernetes.VERSIONS[-1]
    local, port = Local(home / "planes", kubernetes.folder(home / "binaries")), _port()
    names = pki.Names("127.0.0.1", f"https://127.0.0.1:{port}", "10.96.0.0/12")
    components = {n: Component(n, version, binary=f"{version}/{n}") for n in COMPONENTS} | {
        ETCD: Component(ETCD, kubernetes.ETCD, binary="etcd", args={"unsafe-no-fsync": "true"})
    }
    made = Plane(str(uuid.uuid4()), "real", components, pki.ensure(names, {}, datetime.now(UTC)).all, "127.0.0.1", port)

    async def up() -> None:
        for name in (ETCD, APISERVER):
            await local.apply(made, name)
            async with asyncio.timeout(SECONDS):
                await ready(name)

    async def ready(name: str) -> None:
        while True:
            if any(s.name == name and s.ready for s in await local.observe(made)):
                return
            await asyncio.sleep(0.2)

    try:
        asyncio.run(up())
        yield local.endpoint(made)
    finally:
        if not asyncio.run(local.remove(made)):
            raise RuntimeError("something of the control plane is left")


def _port() -> int:
    """The first of five free ports in a row, which a Local control plane uses."""
    while True:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError, OverflowError):
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            number = int(first.getsockname()[1])
            for after in range(number + 1, number + 5):
                held.enter_context(socket.socket()).bind(("127.0.0.1", after))
            return number


async def fill(endpoint: Endpoint, names: list[str]) -> None:
    """Register nodes of 9 kB, as many kubelets do."""
    from benchmarks.nodes import node
    from clusters.kube import Kube

    turn = asyncio.Semaphore(_AT_A_TIME)
    async with Kube(endpoint, networks=[ipaddress.ip_network("127.0.0.0/8")]) as kube:

        async def one(name: str) -> None:
            async with turn:
                obj = node(name)
                for own in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
                    del obj["metadata"][own]
                await kube.create("/api/v1/nodes", obj)

        await asyncio.gather(*(one(n) for n in names))


if __name__ == "__main__":
    sys.exit(main())
