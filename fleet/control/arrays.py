"""Arrays as PostgreSQL's own text: psycopg's general dumper looks at every element and takes five times as long. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def numbers(values: Iterable[float | None]) -> str:
    """Of integers or floats."""
    return "{" + ",".join(["NULL" if v is None else str(v) for v in values]) + "}"


def flags(values: Iterable[bool]) -> str:
    """A bool[]."""
    return "{" + ",".join(["t" if v else "f" for v in values]) + "}"


def arrays(values: Iterable[Sequence[int]]) -> str:
    """A text[] of bigint[] texts."""
    return "{" + ",".join(['"{' + ",".join(map(str, v)) + '}"' for v in values]) + "}"


def texts(values: Iterable[str | None]) -> str:
    """A text[], or anything that is read from texts; a backslash escapes itself and the quote, and NULL without quotes is none."""
    return "{" + ",".join(["NULL" if v is None else f'"{_escaped(v)}"' for v in values]) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
