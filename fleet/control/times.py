"""Times as the API reads and writes them: RFC 3339, as CloudEvents and Kubernetes ask. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

_LONGEST: Final = 40  # characters; nanoseconds and an offset take 35
# A zone belongs to it: a time without one is another moment for every reader.
_RFC_3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII)
NEEDS_ZONE: Final = "must be a time with its zone, such as 2026-01-31T18:00:00Z"


def format_time(moment: datetime) -> str:
    """RFC 3339, UTC, seconds. `moment` knows its zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: Any) -> datetime | None:
    """The moment of an RFC 3339 time, in UTC, to the microsecond; None for anything else, also for a time without a zone or a day that is none.

    In UTC because PostgreSQL reads no offset of 16 hours and more, and Python does.
    """
    if not isinstance(value, str) or len(value) > _LONGEST or not _RFC_3339.fullmatch(value.upper()):
        return None
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
