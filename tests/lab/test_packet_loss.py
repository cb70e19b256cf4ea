"""A real host of which a third of the packets are lost, each way: what is wanted of it is reached all the same, each step once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.lab.running import Cluster, Loop
from tests.lab.test_final_state import CONFIGS, ground, machine, pouch
from tests.servers import Kubectl

pytestmark = [pytest.mark.lab, pytest.mark.faults, pytest.mark.filterwarnings("ignore::ResourceWarning")]
SHARE = 0.3
PATIENCE_SECONDS = 600  # TCP doubles its waits over packets that are lost in a row


@pytest.fixture
def fleet(kubectl: Kubectl, tmp_path: Path) -> Iterator[Cluster]:
    """kubectl in front of a running Fleet; only hosts lose packets."""
    loop = Loop(tmp_path / "loop.log")
    yield Cluster(kubectl)
    loop.stop()


def test_a_host_that_loses_a_third_of_its_packets_gets_its_packages(lab: Lab, fleet: Cluster) -> None:
    host = lab.deb("lossy")
    host.lose_packets(SHARE)
    fleet.apply(
        *ground(lab, machineVersions={"pouch": "1.0"}),
        *CONFIGS,
        pouch(lab, "1.0", postinst="echo installed >>/var/log/pouch-installed"),
        machine(host, "lossy"),
    )
    fleet.wait_ready("lossy", seconds=PATIENCE_SECONDS)
    assert host.lost_packets() > 20
    host.stop_losing_packets()
    assert host.text("pouch") == "1.0"
    assert host.text("systemctl is-active pouch.service") == "active"
    assert host.text("cat /var/log/pouch-installed") == "installed"
