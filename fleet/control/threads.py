"""Django's blocking code out of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from django.db import connection

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run it in a thread and leave no connection behind."""

    def run() -> T:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.to_thread(run)
