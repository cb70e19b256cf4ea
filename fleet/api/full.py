"""A database without room on its disk: the statement failed, so nothing was stored; reading goes on."""

from __future__ import annotations

import logging
import time
from typing import Final

import psycopg

from fleet.api import errors
from fleet.api.errors import ApiError

log = logging.getLogger("fleet.api")
RETRY_SECONDS: Final = 10
REASON: Final = "Fleet's database has no room left on its disk: nothing of this request was stored. Try again once its administrator made room."

_last: float | None = None


def is_full(error: BaseException) -> bool:
    """Whether PostgreSQL said so (53100), also through Django's error. One that loses its log to a full disk ends, and is away."""
    return isinstance(error, psycopg.errors.DiskFull) or isinstance(error.__cause__, psycopg.errors.DiskFull)


def refusal(error: BaseException) -> ApiError:
    """503 with the reason; noted for `/metrics` and, once a while, in the log."""
    global _last
    if _last is None or time.time() - _last > RETRY_SECONDS:
        log.error("the database has no room on its disk: %s", str(error).splitlines()[0])
    _last = time.time()
    return errors.unavailable(REASON, RETRY_SECONDS)


def last() -> float:
    """When this process was last told so, in Unix seconds; 0 = never."""
    return _last or 0.0
