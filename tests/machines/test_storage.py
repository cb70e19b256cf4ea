"""Machines as objects of the API: created, listed, changed and removed with all the rows that go with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from django.db import transaction

import machines.storage
from fleet.api.actions import Write, create_object, delete_object, patch_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.selectors import FieldSelector, LabelSelector
from fleet.api.storage import ListQuery, Stored, register_storage, storage_for
from fleet.control.kinds import Json
from machines.schema import MACHINE_KIND
from machines.storage import MachineStorage
from tests.machines import world

pytestmark = pytest.mark.usefixtures("fleet_db")
storage = MachineStorage(MACHINE_KIND)


def manifest(name: str, labels: Json | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "fleet.dev/v1",
        "kind": "Machine",
        "metadata": {"name": name, "labels": labels or {}, "generation": 1},
        "spec": spec,
    }


def create(name: str, labels: Json | None = None, **spec: Any) -> Stored:
    with transaction.atomic():
        return storage.insert(manifest(name, labels, **spec))


def change(name: str, **spec: Any) -> Stored:
    with transaction.atomic():
        stored = storage.read(name, lock=True)
        assert stored is not None
        meta = stored.obj["metadata"] | {"generation": stored.obj["metadata"]["generation"] + 1}
        after = storage.replace(stored, {**stored.obj, "metadata": meta, "spec": {**stored.obj["spec"], **spec}})
    storage.after_commit(after)
    return after


def names(query: ListQuery) -> list[str]:
    return [o["metadata"]["name"] for o in storage.page(query).objects]


def cluster(name: str) -> int:
    return int(
        world.sql(
            "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now()) RETURNING id",
            name,
        )[0][0]
    )


def test_a_new_machine_is_pending_due_and_counted() -> None:
    stored = create("web-1", {"role": "web"}, idc="a", ip="10.0.0.1", versions={"pouch": "1.0"})
    obj = stored.obj
    assert obj["spec"] == {"idc": "a", "ip": "10.0.0.1", "versions": {"pouch": "1.0"}}
    assert obj["metadata"]["labels"] == {"role": "web"}
    assert obj["status"] == {"phase": "Pending", "observedGeneration": 0, "conditions": [], "readinessGates": []}
    assert world.sql("SELECT kind, object_id, due_at <= now() FROM work_item") == [(1, stored.id, True)]
    assert world.sql("SELECT phase, n FROM count_delta") == [("Pending", 1)]
    assert storage.count(ListQuery()) == 1


def test_what_is_created_is_what_is_read() -> None:
    stored = create("web-1", idc="ü", ip="10.0.0.1")
    again = storage.read("web-1")
    assert again == stored
    assert storage.by_ids([stored.id, 999]) == {stored.id: stored.obj}
    assert storage.read("web-2") is None


def test_a_name_that_is_taken_is_refused() -> None:
    create("web-1", idc="a", ip="10.0.0.1")
    with pytest.raises(ApiError) as refusal:
        create("web-1", idc="a", ip="10.0.0.2")
    assert (refusal.value.code, refusal.value.reason) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"idc": "a", "ip": "10.0.0.1"}, "spec.ip"),
        ({"idc": "b", "ip": "10.0.0.2", "serialNumber": "S1"}, "spec.serialNumber"),
    ],
    ids=["address", "serial number"],
)
def test_an_address_or_serial_that_is_taken_is_refused_by_field(spec: Json, field: str) -> None:
    create("web-1", idc="a", ip="10.0.0.1", serialNumber="S1")
    (problem,) = storage.problems(manifest("web-2", **spec), None)
    assert (problem.field, problem.reason) == (field, "FieldValueDuplicate")
    assert "web-1" in problem.message
    with pytest.raises(ApiError) as refusal:  # also when the check came before the other's commit
        create("web-2", **spec)
    assert refusal.value.code == 422
    assert refusal.value.details is not None and refusal.value.details["causes"][0]["field"] == field


def test_the_same_address_in_another_idc_and_ones_own_are_fine() -> None:
    stored = create("web-1", idc="a", ip="10.0.0.1", serialNumber="S1")
    assert not storage.problems(manifest("web-2", idc="b", ip="10.0.0.1"), None)
    assert not storage.problems(stored.obj, stored.obj)


def test_an_unknown_cluster_is_refused_by_field() -> None:
    (problem,) = storage.problems(manifest("web-1", idc="a", ip="10.0.0.1", clusterName="nowhere"), None)
    assert problem.field == "spec.clusterName"


def test_a_change_raises_the_version_and_wakes_the_machine() -> None:
    stored = create("web-1", idc="a", ip="10.0.0.1")
    world.sql("UPDATE work_item SET due_at = now() + interval '1 hour'")
    after = change("web-1", paused=True)
    assert after.rv > stored.rv
    assert world.sql("SELECT generation, paused FROM machine_state") == [(2, True)]
    assert world.sql("SELECT wake, due_at <= now() FROM work_item") == [(True, True)]


def test_a_version_never_falls_even_when_the_transaction_is_older_than_the_row() -> None:
    stored = create("web-1", idc="a", ip="10.0.0.1")
    high = stored.rv + (1 << 30)
    world.sql("UPDATE machine_state SET rv = %s", high)
    assert change("web-1", paused=True).rv == high + 1


def test_a_machine_that_changes_its_cluster_moves_in_every_table() -> None:
    first, second = cluster("one"), cluster("two")
    stored = create("web-1", idc="a", ip="10.0.0.1", clusterName="one")
    world.sql("UPDATE capacity SET in_service = true")
    world.sql("INSERT INTO capacity_total VALUES (%s, 1)", first)
    change("web-1", clusterName="two", idc="b")
    assert world.sql(
        "SELECT s.cluster_id, c.cluster_id, w.cluster_id, m.cluster_id FROM machine_state s, capacity c, work_item w, machine m"
    ) == [(second,) * 4]
    assert world.sql(
        "SELECT s.idc_id = c.idc_id AND s.idc_id = w.idc_id, (SELECT name FROM place WHERE id = s.idc_id) FROM machine_state s, capacity c, work_item w"
    ) == [(True, "b")]
    assert world.sql("SELECT cluster_id, n FROM capacity_total ORDER BY 1") == [(first, 0), (second, 1)]
    assert world.sql("SELECT cluster_id, sum(n)::int FROM count_delta GROUP BY 1 ORDER BY 1") == [
        (first, 0),
        (second, 1),
    ]
    assert stored.cluster_id == first


def test_a_removed_machine_leaves_a_tombstone_and_nothing_else() -> None:
    stored = create("web-1", idc="a", ip="10.0.0.1")
    with transaction.atomic():
        gone = storage.remove(stored)
    storage.after_commit(stored)
    left = [
        t
        for t in ("machine", "machine_state", "capacity", "machine_fact", "work_item")
        if world.sql(f"SELECT 1 FROM {t}")
    ]
    assert left == []
    assert world.sql("SELECT name, rv FROM tombstone") == [("web-1", gone)]
    assert create("web-1", idc="a", ip="10.0.0.1").rv > gone


def test_a_version_of_a_machine_made_anew_lies_above_its_tombstone() -> None:
    world.sql("INSERT INTO tombstone (rv, kind, name, object) VALUES (%s, 1, 'web-1', '{}')", 1 << 60)
    assert create("web-1", idc="a", ip="10.0.0.1").rv == (1 << 60) + 1


def test_pages_follow_each_other_by_name_without_gap() -> None:
    world.make(25)
    query, seen = ListQuery(limit=10), []
    while True:
        page = storage.page(query)
        seen += [o["metadata"]["name"] for o in page.objects]
        if not page.next_name:
            break
        query = ListQuery(limit=10, after=page.next_name)
    assert seen == [f"m-{n:04}" for n in range(25)]


def test_an_empty_list_has_a_position_too() -> None:
    page = storage.page(ListQuery())
    assert (page.objects, page.next_name) == ([], "")
    assert page.rv > 0


def test_filters_choose_by_cluster_phase_label_and_state() -> None:
    one, two = cluster("one"), cluster("two")
    world.make(2, cluster_id=one, prefix="a")
    world.make(2, cluster_id=two, prefix="b")
    world.sql("""UPDATE machine SET labels = '{"role": "web"}' WHERE name IN ('a-0000', 'b-0000')""")
    world.sql("UPDATE machine_state SET phase = 'Failed' WHERE name = 'b-0001'")
    world.sql(
        "UPDATE machine_state SET phase = 'Running', cond_true = 4, observed_generation = 1 WHERE name LIKE 'a-%%'"
    )

    def by(path: str, value: str, operator: Any = "=") -> list[str]:
        return names(ListQuery(fields=FieldSelector(((path, operator, value),))))

    assert by("spec.clusterName", "one") == ["a-0000", "a-0001"]
    assert by("spec.clusterName", "nowhere") == []
    assert by("status.phase", "Failed") == ["b-0001"]
    assert by("status.phase", "Running") == ["a-0000", "a-0001"]
    assert by("status.phase", "Running", "!=") == ["b-0000", "b-0001"]
    assert by("status.state", "bad") == ["b-0001"]
    assert by("status.state", "ok") == ["a-0000", "a-0001"]
    assert by("status.state", "unknown") == ["b-0000"]
    assert by("metadata.name", "a-0001") == ["a-0001"]
    assert names(ListQuery(labels=LabelSelector.parse("role=web"))) == ["a-0000", "b-0000"]
    assert names(ListQuery(labels=LabelSelector.parse("!role"))) == ["a-0001", "b-0001"]
    assert names(ListQuery(clusters=frozenset({"two"}))) == ["b-0000", "b-0001"]
    assert names(ListQuery(clusters=frozenset())) == []


def test_a_page_takes_one_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    world.make(3)
    asked: list[str] = []

    def counting(text: str, params: Any) -> list[tuple[Any, ...]]:
        asked.append(text)
        return fetch(text, params)

    fetch = machines.storage.fetch
    monkeypatch.setattr(machines.storage, "fetch", counting)
    assert len(storage.page(ListQuery()).objects) == 3
    assert len(asked) == 1


@pytest.fixture
def served_plainly() -> Iterator[None]:
    """Without what admission adds (a finalizer, the people's words); what was served before is served again afterwards."""
    before = storage_for("machines")
    register_storage(storage)
    yield
    register_storage(before)


@pytest.mark.usefixtures("served_plainly")
def test_a_machine_lives_and_goes_through_the_one_way_to_write() -> None:
    write = Write(by=SYSTEM)
    wish = manifest("web-9", idc="a", ip="10.0.0.9")
    wish["metadata"] = {"name": "web-9", "finalizers": ["example.com/wait"]}
    create_object("machines", wish, write=write)
    marked, gone = delete_object("machines", "web-9", write=write)
    assert (gone, marked["metadata"]["generation"]) == (False, 2)
    assert marked["metadata"]["deletionTimestamp"]

    def freed(live: Json) -> Json:
        live["metadata"].pop("finalizers")
        return live

    patch_object("machines", "web-9", freed, write=write)
    assert storage.read("web-9") is None
    assert world.sql("SELECT op FROM change WHERE kind = 1 ORDER BY rv") == [(1,), (2,), (2,), (3,)]
    assert world.sql("SELECT count(*) FROM work_item") == [(0,)]


def test_a_page_of_texts_is_the_same_page() -> None:
    world.make(3)
    texts, plain = storage.text_page(ListQuery(limit=2)), storage.page(ListQuery(limit=2))
    assert texts is not None
    assert orjson.loads(orjson.dumps(texts.objects)) == plain.objects
    assert texts.next_name == plain.next_name == "m-0001"
