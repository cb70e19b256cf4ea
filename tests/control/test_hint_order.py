"""In which order a worker meets hints, and which it lets go."""

from __future__ import annotations

from typing import cast

import pytest
import redis
from django.conf import settings

from fleet.celery import app
from fleet.control.hints import Hint
from fleet.control.kinds import CLUSTER, MACHINE
from fleet.control.tasks import BEATS_KEPT, drop_late_beats, is_late, send_hints, tick
from fleet.control.ticks import QUEUE


@pytest.mark.usefixtures("fleet_db")
def test_many_machines_keep_no_cluster_waiting() -> None:
    queue = "fleet.w.order"
    wanted = [Hint(MACHINE, idc, 0, 127, queue) for idc in range(3)] + [Hint(CLUSTER, 0, 0, 127, queue)]
    assert send_hints(wanted) == 4
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        met = [channel.basic_get(queue, no_ack=True).decode()[0][0] for _ in wanted]
    assert met == [CLUSTER, MACHINE, MACHINE, MACHINE]


@pytest.mark.usefixtures("fleet_db")
def test_a_hint_is_late_once_its_mark_lapsed_whatever_the_clocks_of_processes_say() -> None:
    hint = Hint(CLUSTER, 0, 0, 127, "fleet.w.late")
    with redis.Redis.from_url(settings.REDIS_URL) as valkey:
        assert send_hints([hint]) == 1
        token = cast(bytes, valkey.get(hint.key)).decode()
        assert not is_late(hint.key, token)
        assert valkey.get(hint.key) is None  # the next one may follow
        assert send_hints([hint]) == 1
        assert is_late(hint.key, token)
        assert valkey.get(hint.key) is not None  # the mark of the next one stays


@pytest.mark.usefixtures("fleet_db")
def test_beats_that_nobody_took_are_dropped_but_for_the_newest() -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as valkey:
        valkey.delete(QUEUE)
        for _ in range(30):
            tick.apply_async(queue=QUEUE)
        newest = valkey.lindex(QUEUE, 0)
        drop_late_beats()
        assert valkey.llen(QUEUE) == BEATS_KEPT
        assert valkey.lindex(QUEUE, 0) == newest
        valkey.delete(QUEUE)
