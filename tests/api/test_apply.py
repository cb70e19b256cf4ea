"""Server-side apply and ownership beyond the recorded probes: properties, limits, and what must never raise."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api.apply import server_side_apply, track_update
from fleet.api.errors import ApiError
from fleet.api.fieldsets import Path, decode, encode, in_order, ownable, show, tree
from fleet.api.owners import ANCIENT, MAX_UPDATERS, read_entries
from fleet.api.structure import ABSENT, compare, field_set, merge, remove, same, with_parents
from fleet.api.table import LAST_APPLIED
from fleet.control.kinds import API_VERSION, Json
from tests.api.recorder.kinds import RACK

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
WORDS = st.sampled_from(["a", "b", "c"])


def _unique(key: str) -> Any:
    return lambda items: list({item[key]: item for item in items}.values())


CONFIG_MAPS = st.lists(
    st.fixed_dictionaries({"name": WORDS}, optional={"value": WORDS, "tags": st.lists(WORDS, unique=True, max_size=2)}),
    max_size=3,
).map(_unique("name"))
SPECS = st.fixed_dictionaries(
    {"ip": WORDS},
    optional={
        "idc": WORDS,
        "versions": st.dictionaries(WORDS, WORDS, max_size=2),
        "selector": st.dictionaries(WORDS, WORDS, min_size=1, max_size=2),
        "packages": st.lists(WORDS, unique=True, max_size=3),
        "configMaps": CONFIG_MAPS,
        "args": st.lists(WORDS, min_size=1, max_size=2),
        "driver": st.fixed_dictionaries({}, optional={"type": WORDS, "port": st.integers(1, 3)}),
        "free": st.dictionaries(WORDS, st.one_of(WORDS, st.integers(0, 1), st.dictionaries(WORDS, WORDS)), max_size=2),
    },
)


def rack(spec: Json, **meta: Any) -> Json:
    return {"apiVersion": API_VERSION, "kind": "Rack", "metadata": {"name": "r", **meta}, "spec": copy.deepcopy(spec)}


def apply(live: Json | None, spec: Json, manager: str = "a", *, force: bool = True, now: datetime = NOW) -> Json:
    return server_side_apply(RACK, live, rack(spec), manager, force, now)


def owned(obj: Json) -> dict[str, set[Path]]:
    return {e.manager: e.paths for e in read_entries(obj["metadata"]["managedFields"])}


@given(SPECS)
def test_an_apply_owns_what_it_says_and_nothing_else(spec: Json) -> None:
    made = apply(None, spec)
    assert owned(made) == {"a": field_set(tree(RACK), ownable(rack(spec)))}


@given(SPECS, SPECS)
def test_an_apply_repeated_changes_nothing_not_even_its_time(first: Json, second: Json) -> None:
    """An empty list is nobody's, so (as in Kubernetes) it goes with the last item and comes back with the next apply."""
    once = apply(apply(None, first), second)
    twice = apply(once, second)
    assert apply(twice, second, now=LATER) == twice
    assert _holds_empty_list(second) or twice == once


def _holds_empty_list(value: Any) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value == [] or any(_holds_empty_list(child) for child in children)


@given(SPECS, SPECS)
def test_after_an_apply_the_object_holds_the_configuration(first: Json, second: Json) -> None:
    out = apply(apply(None, first, "b"), second)
    again = merge(tree(RACK), ownable(out), ownable(rack(second)))
    assert same(compare_as_sets(again), compare_as_sets(ownable(out)))


def compare_as_sets(obj: Json) -> Json:
    """The object with the order of sets and keyed lists taken away; an empty list is like none."""
    out = copy.deepcopy(obj)
    spec = out["spec"]
    spec["packages"] = sorted(spec.get("packages", []))
    maps = [{**item, "tags": sorted(item.get("tags", []))} for item in spec.get("configMaps", [])]
    spec["configMaps"] = sorted(maps, key=lambda item: str(item["name"]))
    return out


@given(SPECS, SPECS)
def test_what_one_manager_drops_the_other_keeps(first: Json, second: Json) -> None:
    both = apply(apply(None, first), second, "b")
    left = apply(both, {"ip": second["ip"]})
    kept = field_set(tree(RACK), ownable(rack(second)))
    assert owned(left)["b"] >= kept
    assert kept <= field_set(tree(RACK), ownable(left)) | set(field_paths(left))


def field_paths(obj: Json) -> set[Path]:
    return compare(tree(RACK), {}, ownable(obj)).added


@given(SPECS, SPECS)
def test_no_two_managers_own_different_values_of_a_field(first: Json, second: Json) -> None:
    """Without force an apply either conflicts or leaves every field of the other as it was."""
    live = apply(None, first, "b")
    try:
        out = apply(live, second, force=False)
    except ApiError as refused:
        assert refused.code == 409
        assert refused.details
        return
    changed = compare(tree(RACK), ownable(live), ownable(out))
    assert not (changed.modified | changed.removed) & owned(live)["b"]


@given(SPECS, SPECS)
def test_an_update_is_owned_by_who_made_it(first: Json, second: Json) -> None:
    live = rack(first, uid="1")
    live["metadata"]["managedFields"] = track_update(RACK, None, live, "a", NOW)
    new = rack(second, uid="1")
    new["metadata"]["managedFields"] = track_update(RACK, live, new, "b", NOW)
    changed = compare(tree(RACK), ownable(live), ownable(new))
    owners = owned(new)
    assert owners.get("b", set()) == changed.taken - {("f:metadata",)}
    assert not owners.get("a", set()) & (changed.taken | changed.removed)
    assert set().union(*owners.values()) == field_paths(new) - {("f:metadata",)}


@given(SPECS)
def test_an_update_that_changes_nothing_changes_no_owner(spec: Json) -> None:
    live = rack(spec, uid="1")
    live["metadata"]["managedFields"] = track_update(RACK, None, live, "a", NOW)
    assert track_update(RACK, live, copy.deepcopy(live), "b", LATER) == live["metadata"]["managedFields"]


@given(SPECS, SPECS)
def test_fieldsets_survive_their_encoding(first: Json, second: Json) -> None:
    paths = field_set(tree(RACK), ownable(rack(first))) | compare(tree(RACK), {}, ownable(rack(second))).added
    assert decode(encode(paths)) == paths
    assert sorted(in_order(paths)) == sorted(paths)


@given(SPECS, SPECS)
def test_a_merge_with_nothing_is_the_object_itself(first: Json, second: Json) -> None:
    schema = tree(RACK)
    assert merge(schema, ownable(rack(first)), ABSENT) == ownable(rack(first))
    assert remove(schema, ownable(rack(first)), set()) == ownable(rack(first))
    assert with_parents(schema, with_parents(schema, field_paths(rack(second)))) == with_parents(
        schema, field_paths(rack(second))
    )


def test_ten_updating_managers_are_kept_and_the_oldest_become_one() -> None:
    live = rack({"ip": "a", "versions": {}}, uid="1")
    live["metadata"]["managedFields"] = track_update(RACK, None, live, "m00", NOW)
    for number in range(1, 14):
        new = copy.deepcopy(live)
        new["spec"]["versions"][f"p{number}"] = "1"
        moment = NOW + timedelta(minutes=number)
        new["metadata"]["managedFields"] = track_update(RACK, live, new, f"m{number:02}", moment)
        live = new
    entries = read_entries(live["metadata"]["managedFields"])
    assert len(entries) == MAX_UPDATERS
    assert [e.manager for e in entries][0] == ANCIENT
    assert set().union(*(e.paths for e in entries)) == field_paths(live) - {("f:metadata",)}


def test_kubectl_takes_over_what_client_side_apply_wrote_and_keeps_its_annotation_in_step() -> None:
    text = '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"r"},"spec":{"idc":"a","ip":"1"}}'
    live = rack({"ip": "1", "idc": "a"}, uid="1", annotations={LAST_APPLIED: text})
    live["metadata"]["managedFields"] = track_update(RACK, None, live, "kubectl-client-side-apply", NOW)
    out = apply(live, {"ip": "1", "idc": "b"}, "kubectl", force=False)
    assert out["spec"]["idc"] == "b"
    assert '"idc":"b"' in out["metadata"]["annotations"][LAST_APPLIED]
    with pytest.raises(ApiError):
        apply(live, {"ip": "1", "idc": "b"}, "other", force=False)


def test_kubectl_does_not_take_over_what_somebody_changed_since() -> None:
    text = '{"apiVersion":"fleet.dev/v1","kind":"Rack","metadata":{"name":"r"},"spec":{"idc":"old","ip":"1"}}'
    live = rack({"ip": "1", "idc": "a"}, uid="1", annotations={LAST_APPLIED: text})
    live["metadata"]["managedFields"] = track_update(RACK, None, live, "editor", NOW)
    with pytest.raises(ApiError) as refused:
        apply(live, {"ip": "1", "idc": "b"}, "kubectl", force=False)
    assert refused.value.code == 409


def test_true_and_one_are_different_values() -> None:
    live = apply(None, {"ip": "a", "free": {"a": 1}}, "b")
    with pytest.raises(ApiError):
        apply(live, {"ip": "a", "free": {"a": True}}, force=False)
    assert same({"a": [1, 2.0]}, {"a": [1.0, 2]})
    assert not same([True], [1])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ip": 5}, "spec.ip"),
        ({"ip": "a", "configMaps": {"a": 1}}, "spec.configMaps"),
        ({"ip": "a", "configMaps": [{"name": "a"}, {"name": "a"}]}, "spec.configMaps[1]"),
        ({"ip": "a", "packages": ["a", "a"]}, "spec.packages[1]"),
        ({"ip": "a", "driver": []}, "spec.driver"),
    ],
)
def test_a_configuration_of_the_wrong_shape_is_refused_and_not_merged(spec: Json, field: str) -> None:
    with pytest.raises(ApiError) as refused:
        apply(None, spec)
    assert refused.value.code == 422
    assert [c["field"] for c in (refused.value.details or {})["causes"]] == [field]


@pytest.mark.parametrize(
    "given_fields",
    [5, "x", [5], [{"operation": "Dance"}], [{"operation": "Apply", "fieldsType": "FieldsV1", "apiVersion": API_VERSION, "fieldsV1": {"x": {}}}]],
)  # fmt: skip
def test_garbage_for_owners_keeps_the_owners_on_record(given_fields: Any) -> None:
    live = apply(None, {"ip": "a"})
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"] = given_fields
    assert track_update(RACK, live, new, "b", NOW) == live["metadata"]["managedFields"]


@pytest.mark.parametrize("reset", [[], [{}]])
def test_owners_can_be_forgotten_and_come_back_with_the_first_apply(reset: list[Json]) -> None:
    live = apply(None, {"ip": "a", "idc": "x"})
    live["metadata"]["uid"] = "1"
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"] = reset
    new["metadata"]["managedFields"] = track_update(RACK, live, new, "b", NOW)
    assert new["metadata"]["managedFields"] == []
    assert set(owned(apply(new, {"ip": "a"}, force=False))) == {"a", "before-first-apply"}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("f:spec", "f:ip"), ".spec.ip"),
        (("f:spec", "f:configMaps", 'k:{"name":"a"}', "f:value"), '.spec.configMaps[name="a"].value'),
        (("f:spec", "f:units", 'k:{"name":"a","port":1}'), '.spec.units[name="a",port=1]'),
        (("f:spec", "f:packages", 'v:"a"'), '.spec.packages[="a"]'),
    ],
)
def test_paths_are_shown_as_kubectl_prints_them(path: Path, text: str) -> None:
    assert show(path) == text
