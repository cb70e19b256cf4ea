"""The simulated driver: hosts that behave in time, on one table, so that every worker process sees the same boxes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from machines.hosts import Facts, StepOrder, StepResult, Target
from simulator import store
from simulator.box import Box, look, unseen
from simulator.fence import start
from simulator.store import Connection
from simulator.timeline import settle


class SimulatedHosts:
    """`machines.hosts.Hosts` on the table simulated_host.

    `connect` gives an autocommit connection of this adapter's own, opened at first use; `clock` the time in seconds.
    A look writes only what happened by itself since the last one; a start locks its boxes, like the flock on a real host.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Callable[[], float] = time.time) -> None:
        self._connect = connect
        self._clock = clock
        self._conn: Connection | None = None

    async def observe(self, targets: Sequence[Target]) -> list[Facts]:
        """One look at each host, in the order asked."""
        conn, now = await self._connection(), self._clock()
        boxes, rate = await store.load(conn, [target.uid for target in targets])
        moved = [uid for uid, box in boxes.items() if settle(box, now, rate)]
        if moved:
            boxes.update(await self._settle_stored(conn, moved, now))
        return [look(boxes[target.uid], target, now) for target in targets]

    async def act(self, orders: Sequence[StepOrder]) -> list[StepResult]:
        """Start one step a host under its fence."""
        conn, now = await self._connection(), self._clock()
        by_uid: defaultdict[str, list[int]] = defaultdict(list)
        for index, order in enumerate(orders):
            by_uid[order.target.uid].append(index)
        results: dict[int, StepResult] = {}
        async with conn.transaction():
            boxes, rate = await store.load_locked(conn, list(by_uid), now)
            for uid, box in boxes.items():
                settle(box, now, rate)
                results.update((index, _start(box, orders[index], now)) for index in by_uid[uid])
            await store.save(conn, list(boxes.values()))
        return [results[index] for index in range(len(orders))]

    async def close(self) -> None:
        """Give the connection back."""
        if self._conn is not None:
            await self._conn.close()
            self._conn = None

    async def _settle_stored(self, conn: Connection, uids: list[str], now: float) -> dict[str, Box]:
        """What happened by itself becomes true for everybody: settled again on locked rows, then written."""
        async with conn.transaction():
            boxes, rate = await store.load_locked(conn, uids, now)
            await store.save(conn, [box for box in boxes.values() if settle(box, now, rate)])
        return boxes

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        return self._conn


def _start(box: Box, order: StepOrder, now: float) -> StepResult:
    dark = unseen(box, order.target, now)
    if dark is not None:
        return StepResult(order.ref, "Unknown", dark.reason, dark.message)
    result = start(box, order, now)
    if box.strikes("lost-answer", now):
        return StepResult(order.ref, "Unknown", "Disconnected", "The connection broke after the step was sent.")
    return result
