"""Arrays as PostgreSQL reads them: what went in comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.control import arrays
from tests.machines.world import sql

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", '"', "\\", '","', "NULL", "None", "{}", ",", '\\"', " "]
)


@pytest.mark.django_db(transaction=True)
@given(st.lists(TEXT | st.none(), max_size=6))
def test_texts(values: list[str | None]) -> None:
    assert sql("SELECT %s::text[]", arrays.texts(iter(values))) == [(values,)]


@pytest.mark.django_db(transaction=True)
@given(st.lists(st.integers(-(1 << 62), 1 << 62) | st.none(), max_size=6), st.lists(st.booleans(), max_size=6))
def test_numbers_and_flags(values: list[int | None], said: list[bool]) -> None:
    assert sql("SELECT %s::bigint[], %s::boolean[]", arrays.numbers(values), arrays.flags(said)) == [(values, said)]


@pytest.mark.django_db(transaction=True)
@given(st.lists(st.lists(st.integers(-9, 9), max_size=3), max_size=4))
def test_arrays_of_arrays(values: list[list[int]]) -> None:
    rows = sql(
        "SELECT v::bigint[] FROM unnest(%s::text[]) WITH ORDINALITY AS a(v, n) ORDER BY n", arrays.arrays(values)
    )
    assert [row[0] for row in rows] == values


def test_a_character_that_postgresql_has_not_is_left_for_it_to_refuse() -> None:
    assert arrays.texts(["a\0b", "c"]) == '{"a\0b","c"}'
