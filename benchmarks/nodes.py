"""Nodes of ordinary size as an API server sends them, and a server process that does nothing but send them.

The server is a process of its own, so that its CPU counts for nobody: `python -m benchmarks.nodes <port>`. Paths begin with the
cluster's number: /c3/api/v1/nodes. Bursts are made ready first and sent on order, so that only the sending is timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

PRESSURES = ("DiskPressure", "PIDPressure", "MemoryPressure", "KernelDeadlock", "ReadonlyFilesystem")


def node(name: str, *, ready: bool = True, version: int = 1) -> dict[str, Any]:
    """About 9 kB: labels, managed fields, 28 images, six conditions."""
    return {
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/hostname": name, **{f"label.example.com/key-{k}": f"value-{k}" for k in range(20)}},
            "annotations": {f"example.com/note-{k}": "x" * 40 for k in range(6)},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsV1": {f"f:key{k}": {} for k in range(60)}}],
        },
        "spec": {"podCIDR": "10.244.1.0/24", "providerID": f"kind://docker/bench/{name}"},
        "status": {
            "capacity": {"cpu": "64", "memory": "263825824Ki", "pods": "110"},
            "conditions": [
                *({"type": t, "status": "False", "reason": f"No{t}", "message": f"kubelet has no {t}", "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                   "lastTransitionTime": "2026-01-01T00:00:00Z"} for t in PRESSURES),
                {"type": "Ready", "status": "True" if ready else "False", "reason": "KubeletReady" if ready else "KubeletNotReady",
                 "message": "kubelet is posting ready status" if ready else "container runtime is down", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"bootID": f"boot-{name}", "kubeletVersion": "v1.37.2", "kernelVersion": "6.1.0-26-amd64", "machineID": "0" * 32, "systemUUID": "1" * 32, "architecture": "amd64",
                "containerRuntimeVersion": "containerd://2.2.0", "kubeProxyVersion": "", "operatingSystem": "linux", "osImage": "Debian GNU/Linux 12 (bookworm)"},
            "images": [{"names": [f"registry.example.com/some/image-{k}@sha256:{'a' * 64}", f"registry.example.com/some/image-{k}:v1.2.3"], "sizeBytes": 12345678} for k in range(28)],
        },
    }  # fmt: skip


def encoded(value: Any) -> bytes:
    """As an API server writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


class Cluster:
    """One cluster's nodes: numbers first to last, which of them are not ready, and the streams that are open."""

    def __init__(self, first: int, count: int) -> None:
        self.names = [f"node-{n:07}" for n in range(first, first + count)]
        self.sick: set[int] = set()
        self.version = 1
        self.streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.opened = asyncio.Event()
        self.ready: list[bytes] = []
        self._pages: dict[tuple[int, int], bytes] = {}

    def open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A stream was opened."""
        self.streams.append((reader, writer))
        self.opened.set()

    def forget(self) -> None:
        """Streams whose reader has hung up."""
        self.streams = [(r, w) for r, w in self.streams if not (r.at_eof() or w.is_closing())]
        if not self.streams:
            self.opened.clear()

    def page(self, at: int, limit: int) -> bytes:
        """One page of the list, kept: building it is not what is measured."""
        found = self._pages.get((at, limit))
        if found is None:
            names = self.names[at : at + limit]
            meta = {"resourceVersion": str(self.version)}
            if at + limit < len(self.names):
                meta |= {"continue": str(at + limit)}
            items = b",".join(encoded(node(n, ready=at + i not in self.sick)) for i, n in enumerate(names))
            found = b'{"kind":"NodeList","apiVersion":"v1","metadata":' + encoded(meta) + b',"items":[' + items + b"]}"
            self._pages[at, limit] = found
        return found

    def prepare(self, events: int, every: int) -> None:
        """A burst of so many events; every n-th one flips Ready, the others are heartbeats. The last names the new version."""
        self.forget()
        lines = []
        for n in range(events):
            at = n % len(self.names)
            if n % every == 0:
                self.sick ^= {at}
            self.version += n == events - 1
            lines.append(
                b'{"type":"MODIFIED","object":'
                + encoded(node(self.names[at], ready=at not in self.sick, version=self.version))
                + b"}\n"
            )
        self._pages.clear()
        joined = [b"".join(lines[i : i + 16]) for i in range(0, len(lines), 16)]
        self.ready = [f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in joined]

    async def send(self) -> None:
        """The burst, to the one stream that is open, or that will be."""
        await self.opened.wait()
        stream = self.streams[-1][1]
        with contextlib.suppress(ConnectionError):  # who has read enough may hang up
            for part in self.ready:
                stream.write(part)
                await stream.drain()


class Feeder:
    """The server."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, until it watches or ends."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = urlsplit(head.split(b" ", 2)[1].decode())
                query = {k: v[0] for k, v in parse_qs(target.query).items()}
                if "watch" in query:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                    )
                    await writer.drain()
                    if target.path.endswith("/nodes"):
                        self.clusters[target.path.split("/")[1]].open(reader, writer)
                    return
                body = self._body(target.path, query)
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _body(self, path: str, query: dict[str, str]) -> bytes:
        first, _, rest = path.lstrip("/").partition("/")
        if first == "make":
            step, per, base = int(query["step"]), int(query["per"]), int(query["base"])
            self.clusters = {f"c{c}": Cluster(base + c * step, per) for c in range(int(query["clusters"]))}
        elif first == "prepare":
            for cluster in self._some(query):
                cluster.prepare(int(query["events"]), int(query["every"]))
        elif first == "warm":
            for cluster in self._some(query):
                for at in range(0, len(cluster.names), 500):
                    cluster.page(at, 500)
        elif first == "go":
            for cluster in self._some(query):
                task = asyncio.ensure_future(cluster.send())
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
        elif rest == "version":
            return b'{"gitVersion":"v1.37.2"}'
        elif rest == "api/v1/nodes":
            return self.clusters[first].page(int(query.get("continue", "0")), int(query.get("limit", "500")))
        elif first in self.clusters:
            return b'{"kind":"List","metadata":{"resourceVersion":"1"},"items":[]}'
        return encoded({name: cluster.version for name, cluster in self.clusters.items()})

    def _some(self, query: dict[str, str]) -> list[Cluster]:
        first = int(query.get("first", "0"))
        return list(self.clusters.values())[first : first + int(query.get("streams", "1000"))]


class Remote:
    """The server as benchmarks use it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, what: str, **params: int) -> dict[str, int]:
        """Order something; the version of every cluster."""
        query = "&".join(f"{k}={v}" for k, v in params.items())
        with urllib.request.urlopen(f"{self.url}/{what}?{query}", timeout=600) as answer:
            found: dict[str, int] = json.loads(answer.read())
        return found

    def of(self, cluster: int) -> str:
        """Address of one cluster's API server."""
        return f"{self.url}/c{cluster}"


@contextmanager
def feeder(clusters: int, per: int, step: int, base: int = 0) -> Iterator[Remote]:
    """A server with so many clusters of so many nodes; the numbers in their names go on from `base`, from cluster to cluster by `step`."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.nodes"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        remote = Remote(int(process.stdout.readline()))
        remote.ask("make", clusters=clusters, per=per, step=step, base=base)
        yield remote
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def main() -> None:
    """Serve until terminated; the port goes to standard output."""
    server = await asyncio.start_server(Feeder().answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
