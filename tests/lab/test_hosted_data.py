"""A member of etcd whose data was destroyed on its node, while two others serve: replaced in place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from clusters import hosted_members
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from lab import Lab
from tests.kube.test_cluster_operator import MAPS, OLD, reached, stands_at, store, turn
from tests.lab.test_hosted import Meta, client, config, hosted_spec, meta, node, say, where

pytestmark = [pytest.mark.lab, pytest.mark.kube, pytest.mark.filterwarnings("ignore::ResourceWarning")]
__all__ = ["meta", "say"]  # fixtures


async def test_a_member_with_broken_data_is_replaced_in_place(
    meta: Meta,
    lab: Lab,
    say: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosted_members, "BROKEN_AFTER", timedelta(seconds=20))
    monkeypatch.setattr(hosted_members, "_STARTS", 1)
    hosts = {name: await asyncio.to_thread(node, lab, meta, name, OLD) for name in ("e1", "e2", "e3")}
    await in_thread(lambda: store("clusters", "Cluster", "web", hosted_spec(hosts["e1"], etcdReplicas=3)))
    made = await reached("web", stands_at(OLD))
    before = await asyncio.to_thread(where, meta)
    assert len(before) == 3
    async with client("web") as kube:
        await kube.create(MAPS, config("kept"))
    broken = next(name for name, at in before.items() if at != "e1")
    host = hosts[before[broken]]
    begun = time.monotonic()
    folder = f"/var/lib/fleet-planes/{made['metadata']['uid']}/{broken}/data"
    await asyncio.to_thread(host.ssh, f"rm -rf {folder}/member && pkill -9 -x etcd")

    def volume() -> dict[str, Any]:
        return {v["spec"]["claimRef"]["name"]: v["metadata"]["uid"] for v in meta.get("persistentvolumes")["items"]}

    old = await asyncio.to_thread(volume)
    async with asyncio.timeout(300):
        while (await asyncio.to_thread(volume)).get(f"data-{broken}") in (None, old[f"data-{broken}"]):
            await turn()
            await asyncio.sleep(0.5)

    def whole(status: Json) -> bool:
        return bool(stands_at(OLD)(status)) and status["components"][0]["replicas"] == "3/3"

    await reached("web", whole)
    say(f"a member of etcd with broken data was replaced in place within {time.monotonic() - begun:.1f} s")
    assert await asyncio.to_thread(where, meta) == before
    async with client("web") as kube:
        assert (await kube.get(f"{MAPS}/kept"))["data"] == {"a": "b"}
