"""The stream of one cluster's nodes into its View."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from clusters.kube import Kube, KubeError
from machines.watch.pace import Pace, spread
from machines.watch.reflect import ORDINARY, Reflector, Times, decoded
from machines.watch.seen import NodePage, RawPage, named, node_line, node_page, one_node, raw_page
from machines.watch.view import View

log = logging.getLogger("fleet.watch")

NODES: Final = "/api/v1/nodes"
_LISTS: Final = 3
_ONE_BY_ONE: Final = 50  # more nodes than this are read by a list


class NodeStream(Reflector):
    """Keeps a View up to date. `listing` bounds the lists that run at a time in this process."""

    def __init__(
        self,
        kube: Kube,
        view: View,
        *,
        times: Times = ORDINARY,
        pace: Pace | None = None,
        listing: asyncio.Semaphore | None = None,
    ) -> None:
        super().__init__(kube, NODES, times=times, pace=pace)
        self._view = view
        self._listing = listing or asyncio.Semaphore(2)
        self.failed = view.failed  # type: ignore[method-assign]
        self.heard = view.heard  # type: ignore[method-assign]
        self.room = view.room  # type: ignore[method-assign]

    async def read_all(self) -> str:
        """One list; up to three when it lacks nodes that were there, so that a lie told once is nobody's loss."""
        self._view.take_again()
        version, doubted = "", frozenset[str]()
        for attempt in range(_LISTS):
            if attempt:
                await asyncio.sleep(self.times.recheck + spread(self.times.recheck))
            async with self._listing:
                doubted, version = await self._list()
            if not doubted:
                break
        self._view.missed(doubted)
        return version

    async def _list(self) -> tuple[frozenset[str], str]:
        names: set[str] = set()
        version = ""
        async for page in self.pages(_read, lambda page: page.metadata.go_on):
            for node in page.items or ():
                names.add(node.metadata.name)
                self._view.take(node)
            names.update(page.unreadable)
            version = version or page.metadata.version
            await self._view.room()
        return self._view.listed(names).doubted, version

    def doubt(self) -> float | None:
        """While nodes are missed, lists go on."""
        return self.times.relist if self._view.absences else None

    def line(self, line: bytes) -> str:
        """One event of one node. A node that cannot be read stays as it was; the others go on."""
        view = self._view
        view.lines += 1
        try:
            event = node_line(line)
        except msgspec.DecodeError as error:
            log.warning("cluster %d: a node cannot be read: %s", view.lease.cluster_id, error)
            return ""
        kind, node = event.type, event.object
        if kind == "MODIFIED" or kind == "ADDED":
            view.take(node)
        elif kind == "DELETED":
            view.drop(node.metadata.name)
        return node.metadata.version

    async def read(self, names: list[str]) -> None:
        """Read single nodes again, many of them by a list."""
        if len(names) > _ONE_BY_ONE:
            self.again.set()
            return
        for name in names:
            await self.pace.wait()
            try:
                self._view.take(decoded(one_node, await self.kube.send("GET", f"{NODES}/{name}")))
            except KubeError as error:
                if error.code != 404:  # deleted by now: the stream says so
                    raise


def _read(body: bytes) -> NodePage:
    """A page; nodes in it that cannot be read are named, so that they do not count as missing."""
    try:
        return node_page(body)
    except msgspec.DecodeError:
        return _readable(decoded(raw_page, body))


def _readable(page: RawPage) -> NodePage:
    nodes, unreadable = [], []
    for raw in page.items or ():
        try:
            nodes.append(one_node(raw))
        except msgspec.DecodeError as error:
            name = decoded(named, bytes(raw)).metadata.name
            log.warning("the node %s cannot be read: %s", name, error)
            unreadable.append(name)
    return NodePage(page.metadata, nodes, unreadable)
