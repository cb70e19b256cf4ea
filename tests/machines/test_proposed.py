"""A dry run tells what a proposed spec would lead to, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.api.actions import Write, create_object, patch_object
from fleet.api.rights import SYSTEM
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION, Json
from fleet.control.threads import in_thread
from tests.machines.loop import Loop, config, package
from tests.machines.world_of_one import running


@pytest.fixture
def loop(conn: Connection) -> Loop:
    return Loop(conn)


async def told(name: str, **spec: Any) -> list[str]:
    """Warnings of a dry-run change of the spec."""
    write = Write(by=SYSTEM, dry_run=True)

    def change(live: Json) -> Json:
        return {**live, "spec": {**live["spec"], **spec}}

    await in_thread(lambda: patch_object("machines", name, change, write=write))
    return write.warnings


async def test_an_upgrade_is_told_with_its_disruption_steps_and_differences(loop: Loop) -> None:
    await running(loop)
    await loop.make(package(version="1.1", disruption="Restart", configMaps=[{"name": "pouch-config", "value": "v1"}]))
    before, done = await loop.get(), len(loop.hosts.started)
    first, *rest = await told("m1", versions={"pouch": "1.1"})
    assert first.startswith("plan: disruption Restart; ")
    assert "stage-package pouch, permit, pre-check" in first
    assert rest == ["plan: package pouch: wanted 1.1, seen 1.0"]
    await loop.run(3)
    assert ((await loop.get()) or {})["spec"] == (before or {})["spec"]
    assert len(loop.hosts.started) == done


async def test_a_removal_and_a_file_that_goes_with_it_are_told(loop: Loop) -> None:
    await running(loop)
    lines = await told("m1", versions={})
    assert "plan: removal pouch: wanted none, seen 1.0" in lines
    assert any("stale-file /etc/pouch-config.conf" in line for line in lines)


async def test_what_does_not_resolve_is_told_with_the_reason(loop: Loop) -> None:
    await running(loop)
    (line,) = await told("m1", versions={"pouch": "9.9"})
    assert line.startswith("plan: none: ") and "9.9" in line


async def test_a_change_without_a_plan_says_so_and_one_without_a_change_says_nothing(loop: Loop) -> None:
    await running(loop)
    assert await told("m1", rack="r7") == ["plan: nothing would be done"]
    assert await told("m1") == []


async def test_a_new_machine_is_told_everything_it_would_get(loop: Loop) -> None:
    await loop.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
    write = Write(by=SYSTEM, dry_run=True)
    spec = {"idc": "a", "ip": "10.0.0.1", "versions": {"pouch": "1.0"}}
    obj = {"apiVersion": API_VERSION, "kind": "Machine", "metadata": {"name": "m2"}, "spec": spec}
    await in_thread(lambda: create_object("machines", obj, write=write))
    assert "install-package pouch, write-files pouch, set-units pouch" in write.warnings[0]
    assert "plan: package pouch: wanted 1.0, seen none" in write.warnings
    assert await loop.get("m2") is None
