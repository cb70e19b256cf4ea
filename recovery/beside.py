"""Work that waits for others' answers: done beside the loop of this process, which goes on meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from fleet.control.operators import Seat

log = logging.getLogger("fleet.recovery")


class Beside:
    """Jobs under way in this process, at most one of a name."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def busy(self, name: str) -> bool:
        """Whether the last job of that name still lasts."""
        task = self._under_way.get(name)
        return task is not None and not task.done()

    def begin(self, name: str, job: Coroutine[Any, Any, object]) -> None:
        """A job that breaks is logged: its next turn comes."""
        self._under_way[name] = asyncio.create_task(self._run(name, job), name=name)

    async def _run(self, name: str, job: Coroutine[Any, Any, object]) -> None:
        try:
            await job
        except Exception:
            log.exception("%s broke; the next turn comes", name)

    async def close(self) -> None:
        """At the end of the process: what is under way is given up."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


def beside(seat: Seat) -> Beside:
    """That of this process."""
    found: Beside = seat.kept.setdefault("beside", Beside())
    return found
