"""One schema, two readings: what is pruned and what is refused."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api.errors import ApiError
from fleet.api.schema import prune, validate
from fleet.control.kinds import API_VERSION, Json, Kind
from tests.api.recorder.kinds import BUNDLE, RACK

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 20) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["ip", "idc", "count", "driver", "configMaps", "name", "value", "tags", "packages", "versions", "free", "either", "when", "bogus"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "apiVersion": VALUES,
        "kind": VALUES,
        "metadata": st.dictionaries(
            st.sampled_from(["name", "labels", "annotations", "finalizers", "generateName", "uid", "bogus"]), VALUES
        ),
        "spec": VALUES,
        "status": VALUES,
        "bogus": VALUES,
    },
)


def rack(spec: Any = None, **meta: Any) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Rack",
        "metadata": {"name": "r", **meta},
        "spec": {"ip": "1"} if spec is None else spec,
    }


@given(OBJECTS)
def test_pruning_twice_prunes_nothing_more_and_leaves_its_input(obj: Json) -> None:
    before = copy.deepcopy(obj)
    with contextlib.suppress(ApiError):
        once, _ = prune(RACK, obj)
        assert prune(RACK, once) == (once, [])
    assert obj == before


@given(OBJECTS)
def test_no_object_raises_anything_but_a_refusal(obj: Json) -> None:
    with contextlib.suppress(ApiError):
        validate(RACK, prune(RACK, obj)[0])


def test_unknown_fields_are_named_by_their_path() -> None:
    obj = rack({"ip": "1", "x": 1, "driver": {"y": {}}, "configMaps": [{"name": "a"}, {"name": "b", "z": 1}]}, w=1) | {
        "v": 1
    }
    pruned, unknown = prune(RACK, obj)
    assert sorted(unknown) == ["metadata.w", "spec.configMaps[1].z", "spec.driver.y", "spec.x", "v"]
    assert pruned == rack({"ip": "1", "driver": {}, "configMaps": [{"name": "a"}, {"name": "b"}]})


def test_free_objects_keep_everything_and_null_is_absent_elsewhere() -> None:
    spec = {"ip": "1", "idc": None, "free": {"a": None, "b": [{"c": None}]}, "driver": {"type": None}}
    assert prune(RACK, rack(spec)) == (rack({"ip": "1", "free": {"a": None, "b": [{"c": None}]}, "driver": {}}), [])


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({}, "spec.ip", "FieldValueRequired"),
        ({"ip": 1}, "spec.ip", "FieldValueTypeInvalid"),
        ({"ip": "x" * 21}, "spec.ip", "FieldValueTooLong"),
        ({"ip": "1", "count": True}, "spec.count", "FieldValueTypeInvalid"),
        ({"ip": "1", "count": 11}, "spec.count", "FieldValueInvalid"),
        ({"ip": "1", "mode": "x"}, "spec.mode", "FieldValueNotSupported"),
        ({"ip": "1", "code": "abcde"}, "spec.code", "FieldValueInvalid"),
        ({"ip": "1", "code": "abcd\n"}, "spec.code", "FieldValueInvalid"),
        ({"ip": "1", "when": "2026-02-30T00:00:00Z"}, "spec.when", "FieldValueTypeInvalid"),
        ({"ip": "1", "when": "2026-02-03"}, "spec.when", "FieldValueTypeInvalid"),
        ({"ip": "1", "versions": {"a": 1}}, "spec.versions[a]", "FieldValueTypeInvalid"),
        ({"ip": "1", "packages": ["a", "a"]}, "spec.packages[1]", "FieldValueDuplicate"),
        ({"ip": "1", "configMaps": [{"name": "a"}, {"name": "a"}]}, "spec.configMaps[1]", "FieldValueDuplicate"),
        ({"ip": "1", "configMaps": [{"name": str(n)} for n in range(5)]}, "spec.configMaps", "FieldValueTooMany"),
        ({"ip": "1", "either": 1.5}, "spec.either", "FieldValueTypeInvalid"),
        ([], "spec", "FieldValueTypeInvalid"),
    ],
)
def test_a_mistake_is_told_by_field_and_reason(spec: Any, field: str, reason: str) -> None:
    assert [(p.field, p.reason) for p in validate(RACK, rack(spec))] == [(field, reason)]


@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00Z", "2026-01-01t00:00:00.5z", "2024-02-29T23:59:59+02:00"])
def test_a_date_of_rfc_3339_is_accepted(moment: str) -> None:
    assert validate(RACK, rack({"ip": "1", "when": moment})) == []


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({"name": ""}, "metadata.name"),
        ({"name": "A"}, "metadata.name"),
        ({"name": "a\n"}, "metadata.name"),
        ({"name": "a..b"}, "metadata.name"),
        ({"name": "x" * 254}, "metadata.name"),
        ({"name": "", "generateName": "A-"}, "metadata.generateName"),
        ({"labels": {"a b": ""}}, "metadata.labels"),
        ({"labels": {"a": "x" * 64}}, "metadata.labels"),
        ({"labels": {"x" * 254 + "/a": ""}}, "metadata.labels"),
        ({"labels": {"/a": ""}}, "metadata.labels"),
        ({"annotations": {"a": "é" * 131_072}}, "metadata.annotations"),
        ({"finalizers": ["a b"]}, "metadata.finalizers"),
    ],
)
def test_bad_metadata_is_told_by_field(meta: Json, field: str) -> None:
    assert [p.field for p in validate(RACK, rack(None, **meta))] == [field]


@pytest.mark.parametrize("meta", ["x", [], 5, True])
def test_metadata_that_is_no_object_cannot_be_read(meta: Any) -> None:
    with pytest.raises(ApiError) as refused:
        prune(RACK, rack() | {"metadata": meta})
    assert refused.value.code == 400


@pytest.mark.parametrize(
    "meta",
    [
        {"name": 5},
        {"labels": []},
        {"labels": {"a": 5}},
        {"annotations": {"a": {}}},
        {"generation": True},
        {"finalizers": "x"},
    ],
)
def test_metadata_of_the_wrong_type_cannot_be_read(meta: Json) -> None:
    with pytest.raises(ApiError) as refused:
        prune(RACK, rack(None, **meta))
    assert refused.value.code == 400


def test_a_label_that_is_null_is_empty() -> None:
    assert prune(RACK, rack(None, labels={"a": None}))[0]["metadata"]["labels"] == {"a": ""}


def test_items_of_a_list_with_two_keys_are_the_same_only_by_both() -> None:
    units = [{"name": "a", "port": 1}, {"name": "a", "port": 2}]
    obj = {"metadata": {"name": "b"}, "spec": {"packageName": "p", "units": units}}
    assert validate(BUNDLE, obj) == []
    obj["spec"]["units"].append({"name": "a", "port": 2, "enabled": True})  # type: ignore[index]
    assert [p.field for p in validate(BUNDLE, obj)] == ["spec.units[2]"]


def test_an_immutable_kind_keeps_its_spec() -> None:
    fixed = Kind("Fixed", "fixeds", "fixed", RACK.spec, {}, immutable=True)
    assert validate(fixed, rack({"ip": "1"}), rack({"ip": "1"})) == []
    assert [p.reason for p in validate(fixed, rack({"ip": "2"}), rack({"ip": "1"}))] == ["FieldValueForbidden"]
