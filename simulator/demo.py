"""A demo fleet: data centres, clusters, packages and simulated machines, some of them in trouble. Safe to run again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from fleet.api.actions import Write, create_object
from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids, storage_for
from fleet.control.db import connect_sync
from machines.bulk import NewMachine, create_machines
from simulator import catalog, faults
from simulator.box import pick

Cursor = psycopg.Cursor[Any]
Json = dict[str, Any]

DEMO: Final = Actor("system:demo", is_system=True)
RACK_SIZE: Final = 40
MODELS: Final = ("R640", "R650", "DL380", "SYS-620C")
BOOT_SPREAD_SECONDS: Final = 45.0  # the boxes are switched on one after the other
WEATHER: Final = 0.02  # mishaps a machine and hour: over 3,000 machines one a minute
_CHUNK: Final = 1_000
_TAKEN = "SELECT name FROM machine WHERE name = ANY (%s)"


def seed_demo(clusters: int = 3, machines: int = 1000) -> int:
    """Make what is missing of a demo fleet of `machines` per cluster; how many machines were made now."""
    _objects(clusters)
    names = [catalog.place(number)[1] for number in range(clusters)]
    ids = cluster_ids(names)
    made: list[str] = []
    with connect_sync() as conn, conn.cursor() as cursor:
        for number in range(clusters):
            wanted = list(_machines(number, machines, ids[names[number]]))
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                cursor.execute(_TAKEN, [[row.name for row in chunk]])
                taken = {str(row[0]) for row in cursor.fetchall()}
                missing = [row for row in chunk if row.name not in taken]
                _switch_on(cursor, create_machines(cursor, missing))
                made += [row.name for row in missing]
    if made:
        _trouble(made)
    return len(made)


def _objects(clusters: int) -> None:
    for config in catalog.CONFIGS:
        _ensure("machineconfigversions", config)
    for package in catalog.PACKAGES:
        _ensure("machinepackageversions", package)
    for pool in catalog.CLASSES:
        _ensure("machineclasses", pool)
    for number in range(clusters):
        _ensure("idcs", catalog.idc_json(catalog.place(number)[0]))
        _ensure("clusters", catalog.cluster_json(number))


def _ensure(plural: str, obj: Json) -> None:
    if storage_for(plural).read(obj["metadata"]["name"]) is None:
        create_object(plural, obj, write=Write(DEMO, manager="demo"))


def _machines(cluster: int, count: int, cluster_id: int) -> Iterator[NewMachine]:
    idc, name, _ = catalog.place(cluster)
    for number in range(count):
        rack, unit = divmod(number, RACK_SIZE)
        spec: Json = {
            "clusterName": name,
            "idc": idc,
            "rack": f"r{rack + 1:02}",
            "ip": f"10.{cluster % 256}.{rack % 256}.{unit + 10 + 80 * (rack // 256)}",  # up to 768 racks
            "serialNumber": f"SIM{cluster:02}{number:06}",
            "hardwareModel": MODELS[int(pick(cluster, f"model {rack}") * len(MODELS))],
            "driver": {"type": "simulated"},
        }
        labels = {"rack": spec["rack"], "pool": "general"}
        if number % 10 == 9:
            spec["className"] = labels["pool"] = "storage"
        yield NewMachine(f"{idc}-r{rack + 1:02}-u{unit + 1:02}", spec, cluster_id, labels)


def _switch_on(cursor: Cursor, ids: Sequence[int]) -> None:
    """Boxes whose seed follows from their name, so that the same demo behaves the same; they come up one after the other."""
    cursor.execute(
        """INSERT INTO simulated_host (uid, seed, settled_at, boot_until)
        SELECT m.uid, hashtextextended(m.name, 0) & 9223372036854775807, now(), now() + %s * interval '1 s' * abs(hashtext(m.name) %% 1000) / 1000
        FROM machine m WHERE m.id = ANY (%s) ORDER BY m.uid ON CONFLICT DO NOTHING""",
        [BOOT_SPREAD_SECONDS, list(ids)],
    )


def _trouble(names: Sequence[str]) -> None:
    """Some machines that are in trouble from the start, and weather for the rest."""
    faults.set_weather(WEATHER)
    _put("unreachable", names[17::991], None)
    _put("install-fails", names[29::331], None)
    _put("package-lock", names[41::677], 90)
    _put("wrong-serial", names[57:58], None)
    _put("disk-full", names[83::1499], None)
    _put("slow", names[97::211], 1800)


def _put(fault: str, names: Sequence[str], seconds: float | None) -> None:
    if names:
        faults.inject(fault, list(faults.find_machines(names)), seconds=seconds)
