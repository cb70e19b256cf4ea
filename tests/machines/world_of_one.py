"""One machine with one package and one file, for tests of the reconciler."""

from __future__ import annotations

from fleet.api.storage import storage_for
from fleet.control.kinds import Json
from simulator.box import Box
from tests.machines.loop import Loop, config, package


async def simple(loop: Loop) -> None:
    """One machine with one package and one file."""
    await loop.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
    await loop.machine(versions={"pouch": "1.0"})


async def box_of(loop: Loop, name: str = "m1") -> Box:
    machine = await loop.get(name)
    assert machine is not None
    return loop.hosts.boxes[machine["metadata"]["uid"]]


async def running(loop: Loop) -> Box:
    """A machine at its final state."""
    await simple(loop)
    await loop.run(20)
    assert await loop.phase() == "Running"
    return await box_of(loop)


async def operation(loop: Loop, verb: str, **spec: object) -> str:
    name = f"op-{verb.lower()}-{len(loop.hosts.started)}"
    await loop.make({"kind": "Operation", "metadata": {"name": name}, "spec": {"machine": "m1", "verb": verb, **spec}})
    return name


def read(name: str) -> Json:
    stored = storage_for("machines").read(name)
    assert stored is not None
    return stored.obj
