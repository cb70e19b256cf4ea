"""A demo fleet: data centres, clusters, packages and simulated machines, some of them in trouble. Safe to run again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from fleet.api.actions import Write, create_object
from fleet.api.rights import Actor
from fleet.api.storage import cluster_ids, storage_for
from fleet.control.db import connect_sync
from machines.bulk import NewMachine, create_machines
from simulator import catalog, faults, store
from simulator.box import Box, bare, default_seed, pick
from simulator.steps import kernel_release, put_package

Cursor = psycopg.Cursor[Any]
Json = dict[str, Any]

DEMO: Final = Actor("system:demo", is_system=True)
RACK_SIZE: Final = 40
MODELS: Final = ("R640", "R650", "DL380", "SYS-620C")
BOOT_SPREAD_SECONDS: Final = 45.0  # the boxes are switched on one after the other
WEATHER: Final = 0.02  # mishaps a machine and hour: over 3,000 machines one a minute
_CHUNK: Final = 1_000
BARE_EVERY: Final = 8
_INSERT = """INSERT INTO simulated_host (seed, uid, boots, boot_until, settled_at, incarnation, epoch, marker, host, ops, faults)
  SELECT n.seed, n.uid, n.boots, n.boot_until, n.settled_at, n.incarnation, n.epoch, n.marker, n.host::jsonb, n.ops::jsonb, n.faults::jsonb
  FROM unnest(%s::bigint[], %s::uuid[], %s::int[], %s::timestamptz[], %s::timestamptz[], %s::int[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS n(seed, uid, boots, boot_until, settled_at, incarnation, epoch, marker, host, ops, faults) ON CONFLICT DO NOTHING"""
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
                _switch_on(cursor, number, missing, create_machines(cursor, missing))
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


def _switch_on(cursor: Cursor, cluster: int, rows: Sequence[NewMachine], ids: Sequence[int]) -> None:
    """Boxes whose seed follows from their name, so that the same demo behaves the same; they come up one after the other.

    Most come from this installation's image with the packages on them; every eighth is bare.
    """
    cursor.execute(
        "SELECT m.id, m.uid::text, i.installation::text FROM machine m, installation i WHERE m.id = ANY (%s)",
        [list(ids)],
    )
    uids = {row[0]: (row[1], row[2]) for row in cursor.fetchall()}
    now = time.time()
    packed = []
    for number, (id_, row) in enumerate(zip(ids, rows, strict=True)):
        uid, installation = uids[id_]
        box = bare(uid, default_seed(row.name))
        box.settled_at, box.boot_until = now, now + BOOT_SPREAD_SECONDS * pick(box.seed, "power on")
        if number % BARE_EVERY:
            box.marker, box.serial = f"{installation} {uid}", row.spec["serialNumber"]
            _image(
                box,
                catalog.place(cluster)[2] | (catalog.CLASSES[0]["spec"]["versions"] if "className" in row.spec else {}),
            )
        packed.append((box.seed, *store.pack(box)))
    if packed:
        cursor.execute(_INSERT, [list(column) for column in zip(*sorted(packed, key=lambda p: p[1]), strict=True)])


def _image(box: Box, versions: dict[str, str]) -> None:
    for package in catalog.image(versions):
        put_package(box, package, "installed")
        for unit in package["units"]:
            box.units[unit] = {"load": "loaded", "enabled": "enabled", "active": "active"}
        if package["kernel"]:
            box.kernel = kernel_release(package["declared"])
            box.kernels = [*box.kernels, box.kernel]


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
