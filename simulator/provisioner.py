"""The simulated provisioner: it wipes the box that the simulated driver shows, on the same table, and starts it anew from its image."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from machines.provisioner import Installation, Provisioner, ProvisionerAccess, ProvisionError
from simulator import store
from simulator.box import Box, pick
from simulator.store import Connection
from simulator.timeline import settle

QUEUE_SECONDS: Final = 5.0  # before the box goes down
SHORTEST_SECONDS, LONGEST_SECONDS = 60.0, 150.0
_KEPT: Final = 4  # installations that it remembers of a box


def request(box: Box, id_: str, now: float) -> None:
    """Ask for an installation; one that it knows is asked for in vain. ProvisionError while it is silent."""
    _answers(box, now)
    if box.has("provisioner-deaf", now) or id_ in box.installations:
        return
    seconds = SHORTEST_SECONDS + (LONGEST_SECONDS - SHORTEST_SECONDS) * pick(box.seed, f"installation {id_}")
    box.installations[id_] = {"at": now, "begins": now + QUEUE_SECONDS, "ends": now + QUEUE_SECONDS + seconds}
    if box.strikes("reinstall-fails", now):
        box.installations[id_]["failed"] = True
    elif box.has("reinstall-stuck", now):
        box.installations[id_]["stuck"] = True
    while len(box.installations) > _KEPT:
        del box.installations[next(iter(box.installations))]


def installation(box: Box, id_: str, now: float) -> Installation:
    """What it says of one. ProvisionError while it is silent."""
    _answers(box, now)
    known = box.installations.get(id_)
    if known is None:
        return Installation("Unknown")
    if now < known["begins"]:
        return Installation("Pending", "The machine waits for its turn.")
    if known.get("failed"):
        return Installation("Failed", "The image does not fit the disk.", "ImageInvalid")
    if known.get("stuck") or now < known["ends"]:
        return Installation("Running", "The image is written to the disk.")
    return Installation("Done", boot_id=box.boot_id, host_keys=(box.host_key,))


def _answers(box: Box, now: float) -> None:
    if box.has("provisioner-silent", now):
        raise ProvisionError("ProvisionerUnreachable", "The provisioner does not answer.")


class SimulatedProvisioners:
    """`machines.provisioner.Provisioners` on the table simulated_host; `connect` gives an autocommit connection of its own, opened at first use."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Callable[[], float] = time.time) -> None:
        self._connect = connect
        self._clock = clock
        self._conn: Connection | None = None

    def provisioner(self, access: ProvisionerAccess) -> Provisioner:
        """That of one box."""
        return _SimulatedProvisioner(self, access.uid)

    async def close(self) -> None:
        """Give the connection back."""
        if self._conn is not None:
            await self._conn.close()
            self._conn = None

    async def see(self, uid: str, id_: str) -> Installation:
        """How far an installation of the box is now."""
        now = self._clock()
        boxes, rate = await store.load(await self._connection(), [uid])
        settle(boxes[uid], now, rate)
        return installation(boxes[uid], id_, now)

    async def ask(self, uid: str, id_: str) -> None:
        """Ask for one, with the box's row locked meanwhile."""
        conn, now = await self._connection(), self._clock()
        async with conn.transaction():
            boxes, rate = await store.load_locked(conn, [uid], now)
            settle(boxes[uid], now, rate)
            request(boxes[uid], id_, now)
            lost = boxes[uid].strikes("reinstall-answer-lost", now)
            await store.save(conn, list(boxes.values()))
        if lost:
            raise ProvisionError("ProvisionerTimeout", "The provisioner did not answer in time.", sent=True)

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = await self._connect()
        return self._conn


class _SimulatedProvisioner:
    def __init__(self, boxes: SimulatedProvisioners, uid: str) -> None:
        self._boxes, self._uid = boxes, uid

    async def install(self, id_: str) -> None:
        await self._boxes.ask(self._uid, id_)

    async def installation(self, id_: str) -> Installation:
        return await self._boxes.see(self._uid, id_)
