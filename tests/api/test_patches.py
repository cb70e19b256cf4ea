"""Merge patch and JSON patch: the vectors of the RFCs, bounds, and refusals that say what is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api.errors import ApiError
from fleet.api.patches import MAX_OPERATIONS, json_patch, merge_patch

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=10,
)
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {"path": st.text("/ab01-~", max_size=6) | st.none() | st.integers()},
        optional={
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "dance", 5, None, [], {}]),
            "from": st.text("/ab01~", max_size=4) | st.integers() | st.none(),
            "value": VALUES,
        },
    )
    | VALUES,
    max_size=4,
)


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_follows_the_vectors_of_its_rfc(document: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(document)
    assert merge_patch(document, patch) == result
    assert document == before


@given(VALUES, VALUES)
def test_a_merge_patch_applied_twice_changes_nothing_more(document: Any, patch: Any) -> None:
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2], "b": {"c": "x"}}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "b": {"c": "x"}}),
        ([{"op": "remove", "path": "/b/c"}], {"a": [1, 2], "b": {}}),
        ([{"op": "test", "path": "/a/1", "value": 2}, {"op": "replace", "path": "/a", "value": []}], {"a": [], "b": {"c": "x"}}),
        ([{"op": "move", "from": "/b/c", "path": "/d~1e"}], {"a": [1, 2], "b": {}, "d/e": "x"}),
        ([{"op": "copy", "from": "/b", "path": "/~0"}], {"a": [1, 2], "b": {"c": "x"}, "~": {"c": "x"}}),
        ([], {"a": [1, 2], "b": {"c": "x"}}),
    ],
    ids=["insert", "append", "remove", "test and replace", "move with escape", "copy with escape", "nothing"],
)  # fmt: skip
def test_a_json_patch_does_what_its_operations_say(operations: Any, result: Any) -> None:
    document = {"a": [1, 2], "b": {"c": "x"}}
    assert json_patch(document, operations) == result
    assert document == {"a": [1, 2], "b": {"c": "x"}}


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ({"op": "remove", "path": "/z"}, "operation 1 (remove /z)"),
        ({"op": "test", "path": "/a", "value": 9}, "operation 1 (test /a)"),
        ({"op": "add", "path": "/a/7/x", "value": 9}, "operation 1 (add /a/7/x)"),
        ({"op": "dance", "path": "/a"}, "operation 1 (dance /a)"),
        ({"op": "copy", "path": "/a"}, "operation 1 (copy /a)"),
        ({"op": "add", "path": "/a"}, "operation 1 (add /a)"),
    ],
)
def test_an_operation_that_does_not_apply_is_named_by_number_and_path(operation: Any, says: str) -> None:
    with pytest.raises(ApiError) as refused:
        json_patch({"a": [1]}, [{"op": "test", "path": "/a", "value": [1]}, operation])
    assert refused.value.code == 422
    assert says in refused.value.message


def test_copies_that_double_the_document_are_stopped() -> None:
    bomb = [{"op": "copy", "from": "", "path": f"/x{i}"} for i in range(40)]
    with pytest.raises(ApiError) as refused:
        json_patch({"a": "x" * 100}, bomb)
    assert refused.value.code == 413


def test_too_many_operations_are_refused() -> None:
    with pytest.raises(ApiError) as refused:
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * (MAX_OPERATIONS + 1))
    assert refused.value.code == 413


@given(VALUES, OPERATIONS | VALUES)
def test_no_json_patch_raises_anything_but_a_refusal(document: Any, operations: Any) -> None:
    before = copy.deepcopy(document)
    try:
        json_patch(document, operations)
    except ApiError as refused:
        assert refused.code in (400, 413, 422)
    assert document == before
