"""The demo fleet is made once, is what people could have written themselves, and has something to see."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection

from fleet.api.schema import prune, validate
from fleet.api.storage import storage_for
from fleet.control.kinds import kinds
from simulator import catalog, faults
from simulator.demo import _machines, seed_demo

pytestmark = pytest.mark.usefixtures("fleet_db")


def count(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        return int(cursor.fetchone()[0])


def test_a_second_run_makes_nothing_and_a_bigger_one_only_what_is_missing() -> None:
    assert seed_demo(clusters=2, machines=50) == 100
    packages = count("machines_machinepackageversion")
    assert packages == len(catalog.PACKAGES)
    assert seed_demo(clusters=2, machines=50) == 0
    assert seed_demo(clusters=3, machines=60) == 80
    assert (count("machine"), count("simulated_host"), count("clusters_cluster")) == (180, 180, 3)
    assert count("machines_machinepackageversion") == packages


def test_its_machines_are_as_the_schema_wants_them() -> None:
    kind = kinds()["machines"]
    for row in _machines(2, 1200, 1):
        obj = {"metadata": {"name": row.name, "labels": row.labels}, "spec": row.spec}
        assert prune(kind, obj)[1] == []
        assert validate(kind, obj) == []
    seed_demo(clusters=1, machines=50)
    first = storage_for("machines").read("iad1-r01-u01")
    assert first is not None
    assert first.obj["spec"]["driver"] == {"type": "simulated"}


def test_some_machines_are_in_trouble_and_the_weather_is_on() -> None:
    call_command("seed_demo", "--clusters=1", "--machines=120")
    assert {fault for _, fault in faults.active()} >= {"unreachable", "install-fails", "wrong-serial"}
    assert count("simulated_weather WHERE rate > 0") == 1


def test_the_boxes_come_up_one_after_the_other_within_a_minute() -> None:
    seed_demo(clusters=1, machines=400)
    assert count("simulated_host WHERE boot_until > now() + interval '60 s'") == 0
    assert 100 < count("simulated_host WHERE boot_until > now() + interval '20 s'") < 300


def test_most_boxes_come_from_the_image_and_some_are_bare() -> None:
    seed_demo(clusters=2, machines=80)
    assert count("simulated_host WHERE marker = ''") == 20
    assert count("simulated_host WHERE host -> 'packages' -> 'containerd' ->> 'declared' = '2.1.4'") == 70
    assert count("simulated_host WHERE host ->> 'kernel' = '6.1.0-31-amd64'") == 70
