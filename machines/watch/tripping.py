"""Opens the breaker of a cluster whose pods do not start, and says on the Cluster how many do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, LiteralString

from clusters.status import Told
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.events.publish import WARNING
from fleet.safety.breakers import trip
from machines.watch.leases import Lease
from machines.watch.starts import Rate, Rule, Starts, complaint

log = logging.getLogger("fleet.watch")

LOOK_SECONDS: Final = 5.0
RULE_SECONDS: Final = 30.0  # between two looks at policies
SHOW_SECONDS: Final = 30.0  # at least between two writes of the rate
_RULE: Final[LiteralString] = "SELECT percent, at_least, seconds, off, policy FROM breaker_pods(%s)"
_MINE: Final[LiteralString] = "SELECT FROM shard WHERE cluster_id = %s AND epoch = %s AND holder = %s"
_USUAL: Final = Rule()
With = Callable[[Callable[[Connection], Awaitable[object]]], Awaitable[None]]


class Tripping:
    """One cluster. `fresh`: whether its view is; from any other nothing follows.

    `told` are events about the Cluster that are not written yet.
    """

    def __init__(
        self, lease: Lease, starts: Starts, with_: With, fresh: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self.rule = _USUAL
        self.rate = Rate()
        self.told: list[Told] = []
        self._lease = lease
        self._starts = starts
        self._with = with_
        self._fresh = fresh
        self._clock = clock
        self._read_at: float | None = None
        self._tripped_at: float | None = None
        self._shown: Json | None = {}  # not known: what an earlier watcher showed may stand there
        self._shown_at: float | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._starts and self._due(self._read_at, RULE_SECONDS):
                await self._with(self._read)
            self.rate = self._starts.rate(self.rule.window_seconds)
            why = complaint(self.rate, self.rule)
            if why and self._fresh() and self._due(self._tripped_at, self.rule.window_seconds):
                await self._with(lambda conn, why=why: self._trip(conn, why))  # type: ignore[misc]

    def fields(self) -> Json:
        """`podStarts` of the Cluster where it is to be written."""
        rate = self.rate
        now = {"tried": rate.tried, "failed": rate.failed, "windowSeconds": self.rule.window_seconds}
        shown = now if rate.tried else None
        if shown == self._shown or not self._due(self._shown_at, SHOW_SECONDS):
            return {}
        self._shown, self._shown_at = shown, self._clock()
        return {"podStarts": shown}

    def _due(self, last: float | None, seconds: float) -> bool:
        return last is None or self._clock() - last >= seconds

    async def _read(self, conn: Connection) -> None:
        row = await (await conn.execute(_RULE, [self._lease.cluster_id], prepare=True)).fetchone()
        percent, at_least, seconds, off, policy = row or (None, None, None, False, "")
        self.rule = Rule(
            float(_USUAL.percent if percent is None else percent), at_least or _USUAL.at_least, seconds or _USUAL.window_seconds, bool(off), policy
        )  # fmt: skip
        self._read_at = self._clock()

    async def _trip(self, conn: Connection, why: str) -> None:
        lease = self._lease
        if not (await conn.execute(_MINE, [lease.cluster_id, lease.epoch, lease.holder])).rowcount:
            return  # another watcher counts
        await trip(conn, "cluster", lease.cluster_id, why)
        self._tripped_at = self._clock()
        self.told.append(Told("pods-fail", "PodsFail", why, WARNING))
        log.warning("cluster %d: %s", lease.cluster_id, why)
