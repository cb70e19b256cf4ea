"""In which order a worker meets hints."""

from __future__ import annotations

import pytest

from fleet.celery import app
from fleet.control.hints import Hint
from fleet.control.kinds import CLUSTER, MACHINE
from fleet.control.tasks import send_hints


@pytest.mark.usefixtures("fleet_db")
def test_many_machines_keep_no_cluster_waiting() -> None:
    queue = "fleet.w.order"
    wanted = [Hint(MACHINE, idc, 0, 127, queue) for idc in range(3)] + [Hint(CLUSTER, 0, 0, 127, queue)]
    assert send_hints(wanted) == 4
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        met = [channel.basic_get(queue, no_ack=True).decode()[0][0] for _ in wanted]
    assert met == [CLUSTER, MACHINE, MACHINE, MACHINE]
