"""What is known of one cluster, and how fresh that is: cache, news not written yet, and the writer of both."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from fleet.control.conditions import Condition
from fleet.control.db import Connection
from machines import packing
from machines.waking import wake
from machines.watch import ingest
from machines.watch.absence import Absences, Verdict
from machines.watch.cache import CONDITIONS, FIELDS, SAME, NodeCache
from machines.watch.ingest import Observed
from machines.watch.leases import Lease
from machines.watch.seen import NODE_READY, Node, NodeCondition, conditions_of
from machines.watch.telling import Telling

log = logging.getLogger("fleet.watch")

FAILING_SECONDS: Final = 40.0  # no answer for this long: the view is stale
SILENT_SECONDS: Final = 130.0  # nothing heard for this long, though requests are answered
MOST_PENDING: Final = (
    1_000  # news not written yet, a batch; the stream waits beyond that: each holds on to the page it came in
)
_NODE_GONE: Final = (Condition(NODE_READY, "Unknown", "NodeGone", "The cluster has no node of this machine any more."),)

LISTING, FRESH, STALE, SHRUNK = "Listing", "Fresh", "Stale", "Shrunk"


class View:
    """One cluster as seen under one lease."""

    def __init__(self, lease: Lease, *, by_name: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease = lease
        self.by_name = by_name
        self.cache = NodeCache()
        self.absences = Absences()
        self.telling = Telling()
        self.version = ""  # of Kubernetes
        self.reason = ""  # why it is not fresh
        self.lines = 0  # of the watch so far; counted, not timed: the clock is read when somebody asks
        self.moved = True  # whether counts may have changed since they were told
        self.read_again = False
        self._clock = clock
        self._begun = clock()
        self._heard: float | None = None
        self._noted = 0
        self._failing: float | None = None
        self._listed = False
        self._writing = False
        self._unknown = False  # whether conditions were made Unknown because the view is stale
        self._pending: dict[str, tuple[Node, int]] = {}
        self._gone: set[str] = set()
        self._doubted: frozenset[str] = frozenset()
        self._kinds: dict[tuple[NodeCondition, ...], list[Condition]] = {}
        self._others: frozenset[str] = frozenset()  # types that declared reporters own
        self.news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # -- how fresh ----------------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """The stream, or a whole list, arrived just now."""
        self._heard = self._clock()
        self._failing = None

    def failed(self, reason: str) -> None:
        """The cluster did not answer, or refused."""
        self.reason = reason
        if self._failing is None:
            self._failing = self._clock()

    def answered(self) -> None:
        """The server is there, though the stream is silent: not fresh by that, but no failure either."""
        self._failing = None

    def _note(self) -> None:
        """Lines since the last look were heard just now: looks come every two seconds."""
        if self.lines != self._noted:
            self._noted = self.lines
            self.heard()

    def quiet_seconds(self) -> float:
        """How long nothing was heard."""
        self._note()
        return self._clock() - (self._begun if self._heard is None else self._heard)

    def age(self) -> float | None:
        """Seconds since the view was known to be right; None = it never was."""
        self._note()
        return None if self._heard is None or not self._listed else self._clock() - self._heard

    def state(self) -> str:
        """One word on the view."""
        self._note()
        now = self._clock()
        silent = now - (self._begun if self._heard is None else self._heard) > SILENT_SECONDS
        if silent or (self._failing is not None and now - self._failing > FAILING_SECONDS):
            return STALE
        if self.absences.broken:
            return SHRUNK
        return FRESH if self._listed else LISTING

    def condition(self) -> Condition:
        """`ViewFresh` of the Cluster."""
        state = self.state()
        if state == FRESH:
            return Condition("ViewFresh", "True", "Streaming", "Nodes are streamed from the cluster's API server.")
        if state == LISTING:
            return Condition("ViewFresh", "Unknown", "Listing", "The nodes are being read for the first time.")
        if state == SHRUNK:
            text = f"{len(self.absences)} nodes are missing from a list; so many are not believed to be gone at once."
            return Condition("ViewFresh", "False", "ListShrank", text)
        return Condition("ViewFresh", "False", "NoAnswer", self.reason or "Nothing is heard from the API server.")

    # -- news ---------------------------------------------------------------------------------------------------------

    async def load(self, conn: Connection) -> None:
        """Begin with what stands in PostgreSQL."""
        found = await ingest.load(conn, self.lease.cluster_id)
        if not packing.known(packed for _, _, packed in found):
            await packing.refresh(conn)
        for name, machine, packed in found:
            self.cache.put(name, machine, packed)

    def take(self, node: Node) -> None:
        """A node as it is now."""
        news = self.cache.take(node)
        if news == SAME and not self.absences:
            return
        name = node.metadata.name
        self.absences.seen(name)
        self._gone.discard(name)
        if news == SAME:
            return
        before = self._pending.get(name)
        self._pending[name] = (node, news if before is None else news | before[1])
        self.news.set()
        if len(self._pending) >= MOST_PENDING:
            self._room.clear()

    def drop(self, name: str) -> None:
        """The API server says that this node was deleted."""
        self.absences.seen(name)
        self._pending.pop(name, None)
        self.cache.doubt([name])  # should it come back before this is written, all of it is news
        self._gone.add(name)
        self.news.set()

    def listed(self, names: set[str]) -> Verdict:
        """A complete list ended: who is believed to be gone, who is only missed."""
        verdict = self.absences.judge(set(self.cache.names()), names, self._clock())
        for name in verdict.gone:
            self.drop(name)
        self._listed = True
        self.heard()
        return verdict

    def missed(self, names: frozenset[str]) -> None:
        """Lists in a row lacked these nodes and are not believed: nobody can say how they are."""
        self._doubted = names

    async def room(self) -> None:
        """Wait until there is room for more news."""
        await self._room.wait()

    @property
    def idle(self) -> bool:
        """Whether everything that was seen is written, and what follows from it is done."""
        return not (self._pending or self._gone or self._writing) and self.telling.idle

    # -- writing ------------------------------------------------------------------------------------------------------

    async def flush(self, conn: Connection) -> int:
        """Write the news; how many nodes. What could not be written stays news."""
        pending, self._pending = self._pending, {}
        gone, self._gone = self._gone, set()
        self.news.clear()
        self._writing = True
        try:
            if gone:
                await self._flush_gone(conn, gone)
            if pending:
                await self._flush_pending(conn, pending)
        except BaseException:
            for name, (node, news) in self._pending.items():
                pending[name] = (node, news | pending[name][1]) if name in pending else (node, news)
            self._pending = pending
            self._gone |= {name for name in gone if name not in self._pending}
            self.news.set()
            raise
        finally:
            self._writing = False
        self._room.set()
        self.moved = self.moved or bool(pending or gone)
        return len(pending) + len(gone)

    async def _flush_pending(self, conn: Connection, pending: dict[str, tuple[Node, int]]) -> None:
        fields = [node for node, news in pending.values() if news & FIELDS]
        cache = self.cache
        fresh = [n for n in fields if not cache.machine(n.metadata.name)]
        machine_of = {n.metadata.name: m for n in fields if (m := cache.machine(n.metadata.name))}
        if fresh:
            machine_of |= await ingest.links(conn, self.lease, fresh, by_name=self.by_name)
        moved = await ingest.write_nodes(conn, self.lease, fields, machine_of) if fields else set()
        observed: list[Observed] = []
        names: dict[int, str] = {}
        for name, (node, news) in pending.items():
            machine = machine_of.get(name) or cache.machine(name)
            if machine and news & CONDITIONS or name in machine_of and not cache.machine(name):
                names[machine] = name
                observed.append(Observed(machine, self._conditions(node), cache.packed(name)))
        packed, changed = await ingest.write_conditions(conn, self.lease, observed)
        for machine, array in packed.items():
            cache.written(names[machine], machine, array)
        await wake(conn, moved | changed)
        self.telling.add(changed)

    def _conditions(self, node: Node) -> list[Condition]:
        """Equal sets of thousands of nodes are one object."""
        seen = node.status.conditions
        found = self._kinds.get(seen)
        if found is None:
            if len(self._kinds) >= 1_000:
                self._kinds.clear()
            found = self._kinds[seen] = conditions_of(seen, self._others)
        return found

    def leave(self, types: frozenset[str]) -> bool:
        """Leave these types to others; whether that is news, so that all nodes are to be read again."""
        if types == self._others:
            return False
        self._others = types
        self._kinds.clear()
        self.cache.doubt(self.cache.names())
        return True

    async def _flush_gone(self, conn: Connection, gone: set[str]) -> None:
        observed = [
            Observed(machine, _NODE_GONE, self.cache.packed(name))
            for name in gone
            if (machine := self.cache.machine(name))
        ]
        _, changed = await ingest.write_conditions(conn, self.lease, observed)
        moved = await ingest.remove_nodes(conn, self.lease, gone)
        for name in gone:
            if name not in self._pending:
                self.cache.drop(name)
        await wake(conn, moved | changed)

    async def settle(self, conn: Connection) -> None:
        """Make conditions Unknown that nobody can vouch for: all while the view is stale, those of missed nodes while it is doubted."""
        stale = self.state() == STALE
        if stale and not self._unknown:
            await self._make_unknown(
                conn, list(self.cache.names()), "NoAnswer", "The cluster does not answer; the node may be as it was."
            )
        elif not stale and self._doubted:
            await self._make_unknown(
                conn, self._doubted, "Missed", "A list lacked the node; its absence is not believed yet."
            )
            self._doubted = frozenset()
        self._unknown = stale

    async def _make_unknown(self, conn: Connection, names: Iterable[str], reason: str, message: str) -> None:
        observed, by_machine = [], {}
        kinds: dict[tuple[str, ...], tuple[Condition, ...]] = {}
        for name in names:
            machine, before = self.cache.machine(name), self.cache.packed(name)
            if machine:
                by_machine[machine] = name
                types = tuple(sorted({packing.entry(p).type for p in before} | {NODE_READY}))
                unknown = kinds.setdefault(types, tuple(Condition(t, "Unknown", reason, message) for t in types))
                observed.append(Observed(machine, unknown, before))
        packed, changed = await ingest.write_conditions(conn, self.lease, observed)
        for machine, array in packed.items():
            self.cache.written(by_machine[machine], machine, array)
        self.cache.doubt(by_machine.values())
        await wake(conn, changed)
        self.moved = self.read_again = True
        log.warning(
            "cluster %d: conditions of %d nodes are Unknown now: %s", self.lease.cluster_id, len(changed), reason
        )

    async def relink(self, conn: Connection) -> list[str]:
        """Part from machines that went away; names of nodes whose machine has been declared by now: they are to be read again."""
        away, new = await ingest.strayed(conn, self.lease, by_name=self.by_name)
        if away:
            left = [Observed(machine, (), self.cache.packed(name), member=False) for name, machine in away.items()]
            await ingest.write_conditions(conn, self.lease, left)
            await ingest.unlink(conn, self.lease, sorted(away))
            for name in away:
                self.cache.written(name, 0, ())
            self.cache.doubt(away)
            self.moved = True
        self.cache.doubt(new)
        return sorted(new)

    def take_again(self) -> bool:
        """Whether conditions were put aside, so that only a new list tells what they are; asked once."""
        again, self.read_again = self.read_again, False
        return again
