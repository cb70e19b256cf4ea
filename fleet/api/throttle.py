"""A bound on what one client may ask of a web process: 429 with Retry-After, which kubectl and client-go obey by themselves."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from fleet.api.errors import too_many_requests

BURST_SECONDS = 5.0  # a client that was quiet may ask at once for as much as this long allows
MOST_CLIENTS = 10_000


class Throttle:
    """A bucket per client that fills at `rate` per second. 0 = no bound."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when that was so

    def take(self, client: str) -> None:
        """One request of that client; ApiError 429 when it asked for too much."""
        if self.rate <= 0:
            return
        most = max(1.0, self.rate * BURST_SECONDS)
        now = self._clock()
        with self._lock:
            if len(self._buckets) > MOST_CLIENTS:
                self._buckets.clear()
            left, since = self._buckets.get(client, (most, now))
            left = min(most, left + (now - since) * self.rate)
            self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            wait = math.ceil((1 - left) / self.rate)  # who comes after that is served
            raise too_many_requests("too many requests of this client: it is asked to wait", wait)
