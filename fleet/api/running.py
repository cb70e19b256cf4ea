"""What a web process has running once for all its clients: the hub of the change log and the tail of the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from asgiref.sync import sync_to_async

from fleet.api.storage import storage_of
from fleet.control.db import Connection, close_pool, connect, pool
from fleet.control.kinds import Json
from fleet.events.hub import Hub
from fleet.events.tail import EventTail

BORROW_SECONDS = 5.0
_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
_tails: dict[asyncio.AbstractEventLoop, EventTail] = {}


async def running_hub() -> Hub:
    """The hub of this process's event loop, started on first use."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub(connect, _load)
    await hub.start()
    return hub


async def running_tail() -> EventTail:
    """The tail of the event log behind that hub."""
    loop = asyncio.get_running_loop()
    tail = _tails.get(loop)
    if tail is None:
        tail = _tails[loop] = EventTail(await running_hub(), _borrow)
    return tail


def end_watches() -> None:
    """At the wish to end: watches end as if their time were over, and clients come again elsewhere; other requests are finished."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        hub.end()


async def stop_hubs() -> None:
    """At shutdown of the server."""
    loop = asyncio.get_running_loop()
    if _tails.pop(loop, None) is not None:
        await close_pool()
    hub = _hubs.pop(loop, None)
    if hub is not None:
        await hub.stop()


async def _borrow() -> AbstractAsyncContextManager[Connection]:
    return (await pool()).connection(timeout=BORROW_SECONDS)


async def _load(kind: int, ids: Iterable[int]) -> dict[int, Json]:
    storage = storage_of(kind)
    if storage is None:
        return {}
    return await sync_to_async(storage.by_ids, thread_sensitive=False)(list(ids))
