"""The reconciler on the real database against hosts that behave."""

from __future__ import annotations

import pytest

from fleet.control.db import Connection
from tests.machines.loop import Loop, config, package


@pytest.fixture
def loop(conn: Connection) -> Loop:
    return Loop(conn)


async def simple(loop: Loop) -> None:
    """One machine with one package and one file."""
    await loop.make(config(), package(configMaps=[{"name": "pouch-config", "value": "v1"}]))
    await loop.machine(versions={"pouch": "1.0"})


async def test_a_bare_machine_gets_its_package_and_its_file_and_comes_to_rest(loop: Loop) -> None:
    await simple(loop)
    phases = await loop.run(20)
    machine = await loop.get()
    assert phases == ["Pending", "Provisioning", "Running"] or phases == ["Provisioning", "Running"]
    assert machine is not None
    box = loop.hosts.boxes[machine["metadata"]["uid"]]
    assert box.packages["pouch"]["state"] == "installed"
    assert box.files["/etc/pouch-config.conf"]["content"] == "idc=a\n"
    assert box.units["pouch.service"]["active"] == "active"
    assert await loop.condition("Ready") == ("True", "AsAccepted", "The machine is at its final state.")
    began = list(loop.hosts.started)
    await loop.run(3)
    assert loop.hosts.started == began
