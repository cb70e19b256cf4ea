"""Times as the API reads them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fleet.control.times import format_time, parse_time

SIX = datetime(2026, 1, 31, 18, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T18:00:00Z",
        "2026-01-31t18:00:00z",
        "2026-01-31T19:00:00+01:00",
        "2026-01-31T18:00:00.000000000Z",
        "2026-01-30T22:05:00-19:55",
    ],
)
def test_a_time_with_its_zone_is_read(text: str) -> None:
    assert parse_time(text) == SIX
    assert parse_time(text).tzinfo is UTC  # type: ignore[union-attr]
    assert format_time(parse_time(text) or SIX) == "2026-01-31T18:00:00Z"


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T18:00:00", "2026-01-31", "20260131T180000Z", "2026-W05-6T18:00:00Z", "2026-01-31T18:00Z", "2026-01-31 18:00:00Z",
     "2026-02-30T18:00:00Z", "2026-01-31T18:00:00+25:00", "0001-01-01T00:00:00+01:00", "٢٠٢٦-01-31T18:00:00Z", "2026-01-31T18:00:00." + "0" * 40 + "Z", "now", "", None, 1],
)  # fmt: skip
def test_what_is_no_such_time_is_none(text: object) -> None:
    assert parse_time(text) is None
