"""Selectors: what parses, what matches, and that SQL agrees with Python."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.api.errors import ApiError
from fleet.api.selectors import FieldSelector, LabelSelector, field_text
from tests.api.recorder.kinds import RACK

A, B, NONE = {"env": "a", "size": "5"}, {"env": "b", "size": "1"}, {"other": "x"}
CASES = [
    ("env=a", [A]),
    ("env==a", [A]),
    ("env = a", [A]),
    ("env!=a", [B, NONE]),
    ("env in (a, b)", [A, B]),
    (" env  in(a) ", [A]),
    ("env in ()", []),
    ("env notin (a)", [B, NONE]),
    ("env notin ()", [A, B, NONE]),
    ("env", [A, B]),
    ("!env", [NONE]),
    ("! env", [NONE]),
    ("size>3", [A]),
    ("size < 3", [B]),
    ("env=", []),
    ("env!=", [A, B, NONE]),
    ("env=a,size=5", [A]),
    ("env=a,size!=5", []),
    ("", [A, B, NONE]),
    ("fleet.dev/pool", []),
    ("in", []),
    ("notin notin (x)", [A, B, NONE]),
]
TEXT = "abin()=!<>,. -/_5"


@pytest.mark.parametrize(("text", "matching"), CASES, ids=[text or "empty" for text, _ in CASES])
def test_a_label_selector_matches_as_kubernetes_does(text: str, matching: list[dict[str, str]]) -> None:
    selector = LabelSelector.parse(text)
    assert [labels for labels in (A, B, NONE) if selector.matches(labels)] == matching


@pytest.mark.parametrize(
    "text",
    ["a in (b", "a in", "a=b=c", "a b", "a=b!", "A_/b=c", "a/b/c", "/a", "a=" + "x" * 64, "x" * 64, "a>b", "a>", ",", "a,", "a,,b", "=a", "!", "()", "a in b", "a\n\0", "é", "a" * 5000],
)  # fmt: skip
def test_what_is_no_label_selector_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        LabelSelector.parse(text)
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("metadata.name=m", True),
        ("metadata.name==m", True),
        ("metadata.name!=m", False),
        ("spec.idc=a,status.phase=", True),
        ("spec.idc!=a", False),
        ("spec.idc=", False),
        ("status.phase!=Running", True),
        ("", True),
        (r"spec.idc!=a\,b", True),
        (r"spec.idc=a\=", False),
    ],
)
def test_a_field_selector_matches_missing_fields_as_empty_text(text: str, matches: bool) -> None:
    obj = {"metadata": {"name": "m"}, "spec": {"idc": "a"}}
    assert FieldSelector.parse(text, RACK).matches(obj) is matches


def test_a_backslash_makes_commas_and_equal_signs_part_of_a_value() -> None:
    assert FieldSelector.parse(r"spec.idc=a\,b\=c\\,metadata.name=x", RACK).terms == (
        ("spec.idc", "=", "a,b=c\\"),
        ("metadata.name", "=", "x"),
    )


@pytest.mark.parametrize(
    "text", ["spec.bogus=1", "nonsense", "=x", "metadata.labels=1", "spec.idc=a=b", "spec.idc=\\", "a" * 5000]
)
def test_a_field_that_is_not_declared_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        FieldSelector.parse(text, RACK)
    assert refused.value.code == 400


def test_the_name_of_a_selector_is_known_only_when_it_is_pinned() -> None:
    assert FieldSelector.parse("metadata.name=x,spec.idc=a", RACK).name == "x"
    assert FieldSelector.parse("metadata.name!=x", RACK).name is None


@pytest.mark.parametrize(
    ("value", "text"), [("x", "x"), (None, ""), (True, "true"), (False, "false"), (5, "5"), ({}, "{}")]
)
def test_a_field_is_compared_as_text(value: Any, text: str) -> None:
    assert field_text({"spec": {"idc": value}}, "spec.idc") == text


@given(st.text(TEXT, max_size=20) | st.text(max_size=20))
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    with contextlib.suppress(ApiError):
        LabelSelector.parse(text).matches({"a": "b"})
    with contextlib.suppress(ApiError):
        FieldSelector.parse(text, RACK).matches({})


REQUIREMENTS = st.builds(
    lambda key, form: form.replace("K", key),
    st.sampled_from(["a", "b", "fleet.dev/c", "%s"[1:]]),
    st.sampled_from(["K=x", "K!=x", "K in (x,y)", "K notin (x,y)", "K", "!K", "K>3", "K<3", "K in ()", "K=", "K notin ()"]),
)  # fmt: skip
LABELS = st.dictionaries(
    st.sampled_from(["a", "b", "fleet.dev/c", "s"]),
    st.sampled_from(["", "x", "y", "z", "2", "4", "007", "9" * 30]),
)


@pytest.mark.django_db
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(REQUIREMENTS, max_size=3), LABELS)
def test_sql_agrees_with_python(requirements: list[str], labels: dict[str, str]) -> None:
    selector = LabelSelector.parse(",".join(requirements))
    condition, parameters = selector.sql("labels")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT coalesce(({condition}), false) FROM (SELECT %s::jsonb AS labels) AS t",
            [*parameters, orjson.dumps(labels).decode()],
        )
        assert cursor.fetchone()[0] is selector.matches(labels)
