"""How many requests one cluster's API server gets from its watcher: a bucket that fills steadily."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable


class Pace:
    """At most `burst` at once and `rate` a second after that; `wait` sleeps for one's turn."""

    def __init__(self, rate: float = 20.0, burst: float = 100.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def due(self) -> float:
        """Take one turn; seconds until it comes."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left -= 1.0
        return 0.0 if self._left >= 0 else -self._left / self._rate

    async def wait(self) -> None:
        """Wait for one's turn."""
        seconds = self.due()
        if seconds > 0:
            await asyncio.sleep(seconds)


def spread(seconds: float) -> float:
    """A random time up to `seconds`: watchers that lost their streams together do not come back together."""
    return random.uniform(0.0, seconds)
