"""The simulated provisioner wipes a box once for each id, and misbehaves as it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from machines.provisioner import ProvisionerAccess, ProvisionError
from simulator.box import Box, bare
from simulator.provisioner import SimulatedProvisioners, installation, request
from simulator.timeline import settle
from tests.simulator.conftest import Lab, connect

UID = "00000000-0000-0000-0000-000000000001"
LONG = 300.0


def box() -> Box:
    """One that Fleet has worked on."""
    made = bare(UID, 7)
    made.marker, made.epoch, made.incarnation, made.serial = "inst uid", 4, 1, "SN1"
    made.packages["pouch"] = {"version": "1.0", "state": "installed"}
    made.files["/etc/pouch.conf"] = {"sha256": "ab", "mode": "0644", "owner": "root:root"}
    made.ops["op/01-x-1"] = {"state": "Succeeded", "at": 1.0, "ends": 2.0}
    return made


def test_a_box_comes_back_wiped_with_another_boot_and_another_key() -> None:
    one = box()
    before = (one.boot_id, one.host_key)
    request(one, "a", 0.0)
    assert installation(one, "a", 0.0).state == "Pending"
    settle(one, 10.0)
    assert installation(one, "a", 10.0).state == "Running"
    assert one.boot_until > 60
    settle(one, LONG)
    done = installation(one, "a", LONG)
    assert (done.state, done.boot_id, done.host_keys) == ("Done", one.boot_id, (one.host_key,))
    assert not {before[0], before[1]} & {one.boot_id, one.host_key}
    new = bare(UID, 7)
    assert (one.packages, one.files, one.units) == (new.packages, new.files, new.units)
    assert (one.marker, one.epoch, one.ops, one.serial) == ("", -1, {}, "SN1")


def test_the_same_id_asked_for_twice_is_one_installation() -> None:
    one = box()
    for at in (0.0, 3.0, 20.0, LONG):
        settle(one, at)
        request(one, "a", at)
    assert one.installs == 1
    request(one, "b", LONG)
    settle(one, 2 * LONG)
    assert one.installs == 2


def test_an_id_that_was_never_asked_for_is_unknown() -> None:
    assert installation(box(), "a", 0.0).state == "Unknown"


@pytest.mark.parametrize(
    ("fault", "state", "installs"),
    [("reinstall-fails", "Failed", 0), ("reinstall-stuck", "Running", 1), ("provisioner-deaf", "Unknown", 0)],
)
def test_it_misbehaves_as_it_is_told(fault: str, state: str, installs: int) -> None:
    one = box()
    one.faults[fault] = {"at": 0.0}
    request(one, "a", 1.0)
    settle(one, LONG)
    assert (installation(one, "a", LONG).state, one.installs) == (state, installs)


def test_a_silent_one_tells_nothing_and_takes_nothing() -> None:
    one = box()
    one.faults["provisioner-silent"] = {"at": 0.0}
    with pytest.raises(ProvisionError, match="ProvisionerUnreachable"):
        request(one, "a", 1.0)
    assert one.installations == {}


async def test_every_process_sees_the_same_installation(lab: Lab) -> None:
    ours, others = (SimulatedProvisioners(connect, lab.now) for _ in range(2))
    access = ProvisionerAccess(lab.target.uid, "m1")
    mine, theirs = ours.provisioner(access), others.provisioner(access)
    before = await lab.look()
    await mine.install("a")
    await theirs.install("a")
    assert (await theirs.installation("a")).state == "Pending"
    lab.move(30)
    assert (await lab.look()).reason == "ConnectionRefused"
    lab.move(LONG)
    done = await theirs.installation("a")
    assert done.state == "Done"
    facts = await lab.look()
    assert (facts.boot_id == done.boot_id, facts.boot_id != before.boot_id, facts.marker) == (True, True, "")
    known = (await lab.hosts.observe([replace(lab.target, host_keys=("ssh-ed25519 AAAAold",))]))[0]
    assert known.reason == "HostKeyMismatch"
    assert (await lab.hosts.observe([replace(lab.target, host_keys=done.host_keys)]))[0].seen
    await ours.close()
    await others.close()
