"""Bodies: what is read, what is found twice, what is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.api.errors import ApiError
from fleet.api.jsonbody import MAX_BYTES, MAX_DEPTH, MAX_YAML_BYTES, loads

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc.:\"'\\ ", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("data", "value", "twice"),
    [
        (b'{"a":1}', {"a": 1}, []),
        (b'{"a":1,"a":2}', {"a": 2}, ["a"]),
        (b'{"a"\n\t:1,"a" \r:2}', {"a": 2}, ["a"]),
        (b'{"a":{"b":1,"c":0,"b":2},"d":[{"e":1},{"e":1,"e":2}]}', {"a": {"b": 2, "c": 0}, "d": [{"e": 1}, {"e": 2}]}, ["a.b", "d[1].e"]),
        (b'{"a":1,"\\u0061":2}', {"a": 2}, ["a"]),
        (b'{"a":"\\":\\":"}', {"a": '":":'}, []),
        (b'{"a":"\\\\u0000"}', {"a": "\\u0000"}, []),
        (b" null ", None, []),
    ],
    ids=["plain", "twice", "spaces before the colon", "deep", "escaped key", "colons in text", "escaped escape", "null"],
)  # fmt: skip
def test_json_is_read_and_keys_that_stand_twice_are_named(data: bytes, value: Any, twice: list[str]) -> None:
    assert loads(data) == (value, twice)


@pytest.mark.parametrize(
    ("text", "value", "twice"),
    [
        ("a: 1\nb: [x, 2.5, null]", {"a": 1, "b": ["x", 2.5, None]}, []),
        ("a: yes\nb: off", {"a": True, "b": False}, []),
        ("on: 1\n5: x", {"true": 1, "5": "x"}, []),
        ("a: 2026-01-01", {"a": "2026-01-01"}, []),
        ("a: 1\na: 2\nb: {c: 1, c: 2}", {"a": 2, "b": {"c": 2}}, ["a", "b.c"]),
        ("<<: {a: 1}", {"<<": {"a": 1}}, []),
        ('{"a": 1}', {"a": 1}, []),
        ("", None, []),
    ],
    ids=[
        "plain",
        "YAML 1.1 booleans",
        "keys become text",
        "dates stay text",
        "twice",
        "no merge keys",
        "JSON",
        "empty",
    ],
)
def test_yaml_is_read_as_the_json_that_it_means(text: str, value: Any, twice: list[str]) -> None:
    assert loads(text.encode(), "application/apply-patch+yaml") == (value, twice)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"{nonsense", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'{"a":"\\u0000"}', b'{"\\u0000":1}', b"[" * 100_000,
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), b'{"a":1} x', b"\x00", b'{"a":01}', b"{'a':1}",
    ],
)  # fmt: skip
def test_json_that_is_none_is_a_bad_request(data: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        loads(data)
    assert (refused.value.code, refused.value.reason) == (400, "BadRequest")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x", "a: .nan", "a: -.inf", "- " * 1000, "[" * 1000, "!!python/object:os.system x", "!!binary aaaa", "!!timestamp x", "!!set {a}",
        "? [a]\n: b", "a: !!int x", "a: [b", "--- a\n--- b", 'a: "\\0"', "a: " + "9" * 5000, "a: " + "9" * 30, "\x01", "!!map x", "%YAML 9\n--- a",
    ],
)  # fmt: skip
def test_yaml_that_is_no_json_is_a_bad_request(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        loads(text.encode(), "application/yaml")
    assert refused.value.code == 400


@pytest.mark.parametrize(("size", "media"), [(MAX_BYTES, "application/json"), (MAX_YAML_BYTES, "application/yaml")])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(size: int, media: str) -> None:
    with pytest.raises(ApiError) as refused:
        loads(b"x" * (size + 1), media)
    assert refused.value.code == 413


@given(st.binary(max_size=200), st.sampled_from(["application/json", "application/yaml"]))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes, media: str) -> None:
    with contextlib.suppress(ApiError):
        loads(data, media)


@given(st.text("ab:{}[],&*!-?|>'\"\n #%@`0.", max_size=60))
def test_no_yaml_text_raises_anything_but_a_refusal(text: str) -> None:
    with contextlib.suppress(ApiError):
        loads(text.encode(), "application/yaml")


@given(JSON_VALUES)
def test_what_was_written_as_json_is_read_back(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == (value, [])


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a": 1, "a": 2, "t": "x\u0022: y"}', rb'{"a": 1, "a": 2, "t": "x\"\u003a y"}', rb'{"a": 1, "a": 2, "t": "x\"\u003A y"}', rb'{"a" : 1, "a":2}',
        rb'{"a": {"b": 1}, "a": 2, "t": "\":"}',
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_is_found_whatever_texts_hold(body: bytes) -> None:
    assert loads(body)[1] == ["a"]


@pytest.mark.parametrize("body", [rb'{"a": "x\":\":"}', rb'{"a": "x\"  : y"}', rb'{"a\":": 1}', rb'{"a": "\u0022:"}'])
def test_texts_that_look_like_keys_are_none(body: bytes) -> None:
    assert loads(body)[1] == []
