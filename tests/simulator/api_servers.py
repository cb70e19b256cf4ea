"""The two servers of the conformance tests, alike to use: the simulated one as a process, a real control plane of real binaries."""

from __future__ import annotations

import asyncio
import ipaddress
import subprocess
import sys
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import orjson
import pytest

from clusters.kube import Kube, KubeError, tls
from clusters.local import Local
from clusters.planes import APISERVER, CONTROLLER_MANAGER, ETCD
from fleet.control.endpoint import Endpoint
from lab import kubernetes

LOOPBACK: Final = [ipaddress.ip_network("127.0.0.0/8")]
PARTS: Final = (ETCD, APISERVER, CONTROLLER_MANAGER)
Json = dict[str, Any]


@dataclass(frozen=True)
class ApiServer:
    """How to reach it, and how to make it forget the past."""

    endpoint: Endpoint
    compact: Callable[[], None]


def order(url: str, what: str, body: Json | None = None) -> Any:
    """Something of the simulated server's admin path."""
    request = urllib.request.Request(f"{url}/-/{what}", orjson.dumps(body or {}), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return orjson.loads(answer.read())


@contextmanager
def simulated(*arguments: str) -> Iterator[ApiServer]:
    """The simulated server in a process of its own."""
    command = [sys.executable, "-m", "simulator.kube", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield ApiServer(Endpoint(url), lambda: order(url, "compact"))
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def real(folder: Path) -> Iterator[ApiServer]:
    """etcd, kube-apiserver and kube-controller-manager; no scheduler and no kubelet."""
    from tests.kube.test_local import plane, up

    local, made = Local(folder / "planes", kubernetes.folder(folder / "binaries")), plane()

    def compact() -> None:
        asyncio.run(_compact(local._etcd(made), local.endpoint(made)))

    try:
        asyncio.run(up(local, made, *PARTS))
        endpoint = local.endpoint(made)
        asyncio.run(_takes_pods(endpoint))
        yield ApiServer(endpoint, compact)
    finally:
        assert asyncio.run(local.remove(made))


async def _compact(etcd: Endpoint, endpoint: Endpoint) -> None:
    async with Kube(endpoint, networks=LOOPBACK) as kube:
        listed = await kube.get("/api/v1/events", limit="1")
    body = {"revision": listed["metadata"]["resourceVersion"], "physical": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{etcd.server}/v3/kv/compaction", json=body, ssl=tls(etcd)) as answer,
    ):
        said = await answer.text()
        assert answer.status == 200 or "has been compacted" in said, said


async def _takes_pods(endpoint: Endpoint) -> None:
    """A namespace takes pods once its service account is there."""
    path = "/api/v1/namespaces/default/pods"
    pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    async with Kube(endpoint, networks=LOOPBACK) as kube:

        async def takes() -> bool:
            try:
                await kube.create(path, pod | {"kind": "Pod", "apiVersion": "v1"}, dry_run=True)
            except KubeError:
                return False
            return True

        await came_true(takes)


async def lines(kube: Kube, path: str, version: str, **params: Any) -> AsyncGenerator[tuple[str, Json], None]:
    """Events of a watch: (type, object)."""
    watch = cast(AsyncGenerator[bytes, None], kube.watch(path, version, **params))
    async with asyncio.timeout(150), aclosing(watch) as stream:
        async for line in stream:
            found = orjson.loads(line)
            yield found["type"], found["object"]


async def first(kube: Kube, path: str, version: str, count: int, **params: Any) -> list[tuple[str, Json]]:
    """So many events of a watch."""
    out = []
    async with aclosing(lines(kube, path, version, **params)) as stream:
        async for each in stream:
            out.append(each)
            if len(out) == count:
                break
    return out


async def refusal(doing: Awaitable[object]) -> KubeError:
    """The error of what must not go well."""
    with pytest.raises(KubeError) as caught:
        await doing
    return caught.value


async def came_true(look: Callable[[], Awaitable[bool]], seconds: float = 120.0) -> None:
    """Wait until something holds; controllers of a real server take their time."""
    end = asyncio.get_running_loop().time() + seconds
    while not await look():
        assert asyncio.get_running_loop().time() < end, "it never came true"
        await asyncio.sleep(0.1)
