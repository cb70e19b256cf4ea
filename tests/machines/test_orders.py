"""Orders of the list of machines: whole, disjoint, stable while machines go, and read from indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from pytest import MonkeyPatch

from fleet.api.selectors import FieldSelector, LabelSelector
from fleet.api.storage import ListQuery
from fleet.control import db
from machines.bulk import NewMachine, create_machines
from machines.orders import ORDERS, CursorError, ordered
from machines.schema import MACHINE_KIND
from machines.storage import MachineStorage, fetch
from tests.machines import world

pytestmark = pytest.mark.usefixtures("fleet_db")
storage = MachineStorage(MACHINE_KIND)
SORTED = [o for o in ORDERS if o != "name"]
PHASES = ("Failed", "Repairing", "Probation", "Updating", "Provisioning", "Pending", "Running", "Decommissioning", "Retired")  # fmt: skip
# first what needs a person, then what runs and is not well, then what changes, then what is well, then what leaves
TROUBLE = ("Failed", "Repairing", "Probation", "down", "drifted", "Updating", "Provisioning", "Pending", "well", "Decommissioning", "Retired")  # fmt: skip


def _cluster(name: str) -> int:
    return int(
        world.sql(
            "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now()) RETURNING id",
            name,
        )[0][0]
    )


def fill(n: int, more: Sequence[str] = ()) -> None:
    """Machines in two clusters, in `more` of them and in none, in every phase, some down, some drifted; names that sort against the ids."""
    ids = {"": 0} | {name: _cluster(name) for name in ("zeta", "alpha", *more)}
    places = ("zeta", "alpha", "alpha", "", *more)
    rows = []
    for number in range(n):
        cluster = places[number % len(places)]
        spec = {"idc": "x", "rack": f"r{number % 5}"} | ({"clusterName": cluster} if cluster else {})
        rows.append(NewMachine(f"m-{n - number:06}", spec, ids[cluster], {"even": "yes"} if number % 2 == 0 else {}))
    with db.connect_sync() as connection, connection.cursor() as cursor:
        create_machines(cursor, rows)
    world.sql(
        "UPDATE machine_state SET phase = (%s::text[])[1 + id %% 17 %% 9], observed_generation = 1, cond_true = CASE WHEN id %% 5 = 0 THEN 0 ELSE 6 END, observed_hash = CASE WHEN id %% 3 = 0 THEN 1 ELSE 0 END RETURNING 1",
        list(PHASES),
    )


def pages(order: str, limit: int = 7, **more: Any) -> list[list[str]]:
    """Names, page by page."""
    out, after = [], ""
    while True:
        page = ordered(storage, ListQuery(after=after, limit=limit, **more), order)
        out.append(names(page.ids))
        after = page.next
        if not after:
            return out


def names(ids: list[int]) -> list[str]:
    found = {row[0]: row[1] for row in world.sql("SELECT id, name FROM machine WHERE id = ANY (%s)", ids)}
    return [found[id_] for id_ in ids]


def expected(order: str) -> list[str]:
    """The same order, worked out from all rows."""
    rows = world.sql(
        "SELECT s.name, s.id, coalesce(c.name, ''), s.phase, s.down, s.drift <> 0, s.cluster_id, s.idc_id, s.model_id, s.rack_id FROM machine_state s LEFT JOIN clusters_cluster c ON c.id = s.cluster_id"
    )

    def place(row: Any) -> Any:
        name, id_, _, phase, down, drifted, cluster_id, *places = row
        lane = phase if phase != "Running" else "down" if down else "drifted" if drifted else "well"
        within = {"down": (cluster_id, *places, id_), "drifted": (cluster_id, id_)}.get(lane, (cluster_id, name))
        return TROUBLE.index(lane), within

    rows.sort(key=lambda r: r[0])
    keys: dict[str, Any] = {
        "-name": lambda rows: reversed(rows),
        "new": lambda rows: sorted(rows, key=lambda r: -r[1]),
        "cluster": lambda rows: sorted(rows, key=lambda r: r[2]),
        "-cluster": lambda rows: [r for c in ("zeta", "alpha", "") for r in rows if r[2] == c],
        "trouble": lambda rows: sorted(rows, key=place),
    }
    return [r[0] for r in keys[order](rows)]


@pytest.mark.parametrize("order", SORTED)
def test_pages_of_an_order_are_the_whole_fleet_in_that_order(order: str) -> None:
    fill(120)
    found = pages(order)
    assert [name for page in found for name in page] == expected(order)
    assert {len(page) for page in found[:-1]} == {7}


@pytest.mark.parametrize("order", SORTED)
def test_a_page_goes_on_where_the_last_ended_though_its_machine_is_gone(order: str) -> None:
    fill(40)
    want = expected(order)
    page = ordered(storage, ListQuery(limit=10), order)
    world.sql("DELETE FROM machine WHERE name = %s RETURNING 1", want[9])
    assert names(ordered(storage, ListQuery(limit=10, after=page.next), order).ids) == want[10:20]


@pytest.mark.parametrize("order", SORTED)
def test_an_order_keeps_to_filter_and_scope(order: str) -> None:
    fill(60)
    selected: dict[str, Any] = {
        "labels": LabelSelector.parse("even=yes"),
        "fields": FieldSelector((("status.phase", "!=", "Pending"), ("spec.clusterName", "!=", "zeta"))),
        "clusters": frozenset({"alpha", "zeta"}),
    }
    want = {
        row[0]
        for row in world.sql(
            "SELECT m.name FROM machine m JOIN machine_state s USING (id) JOIN clusters_cluster c ON c.id = m.cluster_id WHERE c.name = 'alpha' AND m.labels <> '{}' AND s.phase <> 'Pending'"
        )
    }
    assert [n for page in pages(order, **selected) for n in page] == [n for n in expected(order) if n in want]


@pytest.mark.parametrize("order", SORTED)
def test_among_a_few_ids_only_those_are_ordered(order: str) -> None:
    fill(30)
    few = [row[0] for row in world.sql("SELECT id FROM machine WHERE id %% 3 = 0")]
    found = ordered(storage, ListQuery(limit=50), order, few)
    assert names(found.ids) == [n for n in expected(order) if n in set(names(few))]


@pytest.mark.parametrize(
    ("order", "cursor"),
    [
        ("trouble", "m-000001"),
        ("trouble", "cluster:alpha:m-000001"),
        ("trouble", "trouble:Failed:1"),
        ("trouble", "trouble:Failed:x:m-000001"),
        ("trouble", "trouble:Failed:1:m;drop"),
        ("trouble", "trouble:nothing:1:m-000001"),
        ("trouble", "trouble:"),
        ("trouble", "trouble:Failed:99999999999999999999:m-000001"),
        ("cluster", "-cluster:alpha:m-000001"),
        ("cluster", "cluster:alpha"),
        ("cluster", "cluster:al pha:m-000001"),
        ("new", "new:all:-1"),
        ("new", "new:all:\u0661"),
        ("-name", "m-000001"),
    ],
)
def test_a_cursor_of_another_order_or_of_nobody_is_refused(order: str, cursor: str) -> None:
    with pytest.raises(CursorError):
        ordered(storage, ListQuery(after=cursor), order)


@pytest.mark.parametrize("order", SORTED)
def test_a_page_reads_no_more_rows_than_some_pages_hold(order: str, monkeypatch: MonkeyPatch) -> None:
    """In the first page and far behind it, by the numbers of the plan that ran."""
    fill(6_000, [f"c{n:02}" for n in range(40)])
    world.sql("UPDATE machine_state SET phase = 'Running', observed_hash = 0, cond_true = 6 WHERE id > 400 RETURNING 1")
    for table in ("machine", "machine_state", "clusters_cluster"):
        world.sql(f"ANALYZE {table}")
    read: list[int] = []

    def explained(text: str, params: Any) -> Any:
        (plan,) = fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", params)[0]
        read.append(rows_read((plan if isinstance(plan, list) else orjson.loads(plan))[0]["Plan"]))
        return fetch(text, params)

    monkeypatch.setattr("machines.orders.fetch", explained)
    page = ordered(storage, ListQuery(limit=20), order)
    for _ in range(30):
        page = ordered(storage, ListQuery(limit=20, after=page.next), order)
    assert max(read) < 400, read


def rows_read(plan: Any) -> int:
    """Rows that scans of the two big tables looked at."""
    own = 0
    if plan.get("Relation Name") in ("machine", "machine_state"):
        own = int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return own + sum(rows_read(p) for p in plan.get("Plans", []))
