"""The simulated controller: the power and the parts of the box that the simulated driver shows, on the same table."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from machines.bmc import PARTS, Bmc, BmcAccess, BmcError, Health, Part, PowerState
from simulator import store
from simulator.box import Box
from simulator.store import Connection
from simulator.timeline import boot, settle

BAD: Final[dict[str, str]] = {"Drives": "bad-disk", "Memory": "bad-memory", "Board": "bad-board", "Network": "bad-nic"}


def power(box: Box, now: float) -> PowerState:
    """BmcError while the controller is silent."""
    if box.has("bmc-silent", now):
        raise BmcError("BmcUnreachable", "The controller does not answer.")
    return "Off" if box.has("power-off", now) else "On"


def switch(box: Box, state: PowerState, now: float) -> None:
    """Off interrupts whatever runs; on boots a box that was off and leaves one that is on alone."""
    before = power(box, now)
    if box.has("bmc-deaf", now) or before == state:
        return
    if state == "Off":
        boot(box, now)  # what ran is interrupted, and the boot id is another one when it is on again
        box.faults.pop("hang", None)  # whatever hung hangs no more
        box.faults["power-off"] = {"at": now}
    else:
        del box.faults["power-off"]
        boot(box, now)


def health(box: Box, now: float) -> Health:
    """Power and parts."""
    parts = {p: Part(not box.has(BAD.get(p, ""), now)) for p in PARTS}
    return Health(
        power(box, now), {p: Part(False, f"Critical: {p}.") if x.well is False else x for p, x in parts.items()}
    )


class SimulatedBmcs:
    """`machines.bmc.Bmcs` on the table simulated_host; `connect` gives an autocommit connection of its own, opened at first use."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Callable[[], float] = time.time) -> None:
        self._connect = connect
        self._clock = clock
        self._conn: Connection | None = None

    def bmc(self, access: BmcAccess) -> Bmc:
        """The controller of one box."""
        return _SimulatedBmc(self, access.uid)

    async def close(self) -> None:
        """Give the connection back."""
        if self._conn is not None:
            await self._conn.close()
            self._conn = None

    async def see(self, uid: str) -> tuple[Box, float]:
        """The box as it is now, and the time."""
        now = self._clock()
        boxes, rate = await store.load(await self._connection(), [uid])
        settle(boxes[uid], now, rate)
        return boxes[uid], now

    async def change(self, uid: str, state: PowerState) -> None:
        """Switch the box, whose row is locked meanwhile."""
        conn, now = await self._connection(), self._clock()
        async with conn.transaction():
            boxes, rate = await store.load_locked(conn, [uid], now)
            settle(boxes[uid], now, rate)
            switch(boxes[uid], state, now)
            await store.save(conn, list(boxes.values()))

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        return self._conn


class _SimulatedBmc:
    def __init__(self, boxes: SimulatedBmcs, uid: str) -> None:
        self._boxes, self._uid = boxes, uid

    async def power_state(self) -> PowerState:
        return power(*await self._boxes.see(self._uid))

    async def power_off(self) -> None:
        await self._boxes.change(self._uid, "Off")

    async def power_on(self) -> None:
        await self._boxes.change(self._uid, "On")

    async def health(self) -> Health:
        return health(*await self._boxes.see(self._uid))
