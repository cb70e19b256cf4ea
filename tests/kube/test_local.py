"""A Local control plane of real binaries: it comes up, survives its starter, is upgraded and put back, saved and restored, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import psutil
import pytest

from clusters import pki
from clusters.kube import Kube
from clusters.local import _LOOPBACK, Local
from clusters.planes import APISERVER, COMPONENTS, ETCD, Component, ComponentSeen, Plane
from fleet.control.errors import PermanentError
from lab import kubernetes

pytestmark = pytest.mark.kube
OLD, NEW = kubernetes.VERSIONS
SECONDS = 180.0


def port() -> int:
    """The first of six free ports in a row, outside of those that the kernel gives to clients: a control plane uses the ones after its own too."""
    while True:
        number = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):  # one of them is taken
            for each in range(number, number + 6):
                held.enter_context(socket.socket()).bind(("0.0.0.0", each))
            return number


def component(name: str, version: str) -> Component:
    if name == ETCD:
        return Component(name, kubernetes.ETCD, binary="etcd", args={"unsafe-no-fsync": "true"})
    return Component(name, version, binary=f"{version}/{name}")


def plane(version: str = NEW) -> Plane:
    number = port()
    files = pki.ensure(pki.Names("127.0.0.1", f"https://127.0.0.1:{number}", "10.96.0.0/12"), {}, datetime.now(UTC)).all
    components = {n: component(n, version) for n in COMPONENTS}
    return Plane(str(uuid.uuid4()), "test", components, files, "127.0.0.1", number)


def at(made: Plane, version: str, *names: str, emulated: str = "") -> Plane:
    """The same with these components at another version."""
    return replace(made, components={**made.components, **{n: component(n, version) for n in names}}, emulated=emulated)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    made = Local(tmp_path / "planes", await asyncio.to_thread(kubernetes.folder, tmp_path / "binaries"))
    yield made
    for process in psutil.process_iter(["cmdline"]):
        assert str(tmp_path) not in " ".join(process.info["cmdline"] or ()), process


async def up(local: Local, made: Plane, *names: str) -> None:
    """Components one after the other, each ready before the next."""
    for name in names or COMPONENTS:
        await local.apply(made, name)
        await ready(local, made, name)


async def ready(local: Local, made: Plane, *names: str) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            seen = {s.name: s for s in await local.observe(made)}
            if all(n in seen and seen[n].ready and seen[n].digest == made.digest(n) for n in names or COMPONENTS):
                return
            await asyncio.sleep(0.2)


async def settled(local: Local, made: Plane) -> None:
    """All as wanted. Who lost its lease while the API server was away ends by itself, and is started again as an operator does."""
    async with asyncio.timeout(SECONDS):
        while True:
            seen = {s.name: s for s in await local.observe(made)}
            gone = [n for n in COMPONENTS if n not in seen or not seen[n].digest]
            if not gone and all(seen[n].ready and seen[n].digest == made.digest(n) for n in COMPONENTS):
                return
            for name in gone:
                await local.apply(made, name)
            await asyncio.sleep(0.2)


async def ended(local: Local, made: Plane) -> dict[str, ComponentSeen]:
    """What is seen once the API server has ended."""
    while True:
        seen = {s.name: s for s in await local.observe(made)}
        if not seen[APISERVER].digest:
            return seen
        await asyncio.sleep(0.1)


async def version_of(local: Local, made: Plane) -> str:
    async with Kube(local.endpoint(made), networks=_LOOPBACK) as kube:
        return str((await kube.get("/version"))["gitVersion"])


def config(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


MAPS = "/api/v1/namespaces/default/configmaps"


async def test_a_plane_comes_up_outlives_its_starter_and_leaves_nothing(local: Local, tmp_path: Path) -> None:
    made = plane()
    try:
        assert await local.observe(made) == []
        await up(local, made)
        assert await version_of(local, made) == f"v{NEW}"
        other = Local(tmp_path / "planes", tmp_path / "binaries")
        assert {s.name: (s.ready, s.digest) for s in await other.observe(made)} == {
            n: (True, made.digest(n)) for n in COMPONENTS
        }
        pid = orjson.loads((tmp_path / "planes" / made.uid / APISERVER / "run.json").read_bytes())["pid"]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            seen = await ended(local, made)
        assert seen[APISERVER].ready is False and "has ended" in seen[APISERVER].message
        assert seen[ETCD].ready
        await up(local, made, APISERVER)
        keys = list((tmp_path / "planes").rglob("*.key"))
        assert keys and all(p.stat().st_mode & 0o077 == 0 for p in keys)
    finally:
        assert await local.remove(made)
    assert not (tmp_path / "planes" / made.uid).exists()


async def test_a_minor_upgrade_under_emulation_and_back(local: Local) -> None:
    made = plane(OLD)
    try:
        await up(local, made)
        async with Kube(local.endpoint(made), networks=_LOOPBACK) as kube:
            await kube.create(MAPS, config("kept"))
        minor = ".".join(OLD.split(".")[:2])
        for number in range(1, len(COMPONENTS)):
            step = at(made, NEW, *COMPONENTS[1 : number + 1], emulated=minor)
            await up(local, step, COMPONENTS[number])
        upgraded = at(made, NEW, *COMPONENTS, emulated=minor)
        await ready(local, upgraded)
        async with Kube(local.endpoint(made), networks=_LOOPBACK) as kube:
            assert (await kube.get("/version"))["emulationMinor"] == minor.split(".")[1]
            assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
        for number in range(len(COMPONENTS) - 1, 0, -1):
            await up(local, at(made, NEW, *COMPONENTS[1:number], emulated=minor), COMPONENTS[number])
        await settled(local, made)
        assert await version_of(local, made) == f"v{OLD}"
    finally:
        assert await local.remove(made)


async def test_a_snapshot_brings_back_what_was_deleted_under_higher_versions(local: Local, tmp_path: Path) -> None:
    made = plane()
    try:
        await up(local, made)
        async with Kube(local.endpoint(made), networks=_LOOPBACK) as kube:
            before = await kube.create(MAPS, config("lost"))
            kept = await local.snapshot(made, tmp_path / "one.db")
            assert kept.size > 1_000
            await kube.delete(f"{MAPS}/lost")
        for name in reversed(COMPONENTS[1:]):
            await local.stop(made, name)
        await local.restore(made, kept)
        await up(local, made)
        async with Kube(local.endpoint(made), networks=_LOOPBACK) as kube:
            found = await kube.get(f"{MAPS}/lost")
            assert found["metadata"]["uid"] == before["metadata"]["uid"]
            fresh = await kube.create(MAPS, config("new"))
        assert int(fresh["metadata"]["resourceVersion"]) > 1_000_000_000
        (tmp_path / "one.db").write_bytes(b"other")
        with pytest.raises(PermanentError, match="not what was stored"):
            await local.restore(made, kept)
    finally:
        assert await local.remove(made)


async def test_a_component_that_cannot_run_says_why(local: Local) -> None:
    made = plane()
    try:
        await up(local, made, ETCD)
        broken = replace(
            made,
            components={**made.components, APISERVER: replace(component(APISERVER, NEW), args={"no-such-flag": "1"})},
        )
        await local.apply(broken, APISERVER)
        async with asyncio.timeout(SECONDS):
            seen = await ended(local, broken)
        assert "unknown flag: --no-such-flag" in seen[APISERVER].message
        missing = replace(
            made,
            components={**made.components, APISERVER: Component(APISERVER, "1.99.0", binary="1.99.0/kube-apiserver")},
        )
        with pytest.raises(PermanentError, match="is no program on this host"):
            await local.apply(missing, APISERVER)
    finally:
        assert await local.remove(made)
