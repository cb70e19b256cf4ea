"""What is known of one cluster's reports: ConfigMaps, pods, what of them is not written yet, and the writer.

A condition of a node is worked out from what stands now when it is written: whose it is, which ConfigMap says it, whether its
reporter lives. So news of any kind only names nodes and types to look at again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from clusters.schema_gates import FLEET
from clusters.status import Told
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from fleet.events.publish import WARNING
from machines import reports, reports_sql
from machines.reporters import Declared, Pods, Refused, declared
from machines.reports import BATCH, Report
from machines.waking import wake
from machines.watch.leases import Lease, LeaseLost
from machines.watch.maps import Entries, Held, Problem, problem_of, read, summary
from machines.watch.pods import PodStream
from machines.watch.seen import ConditionMap

_MOST_TOLD: Final = 100  # events that wait; `ReportersHealthy` counts all
_LOOK_BACK: Final = 30.0  # seconds: nodes that were written since then may have got another machine


class Reports:
    """One cluster's reports under one lease."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.declared = Declared()
        self.news = asyncio.Event()
        self.pods: Mapping[Pods, PodStream] = {}
        self.troubles: dict[str, Problem] = {}  # of streams, by what they read
        self.told: list[Told] = []
        self._maps: dict[str, Held] = {}
        self._rvs: dict[str, str] = {}  # resourceVersions that were received before
        self._problems: dict[str, str] = {}  # as told last, by map
        self._from: dict[str, dict[str, str]] = {}  # node → type → the map that says it
        self._by_map: defaultdict[str, set[str]] = defaultdict(set)
        self._machines: dict[str, int] = {}  # of nodes, as written last
        self._watched: dict[str, set[str]] = {}  # nodes with a condition of a DaemonSet's, by type
        self._dirty: dict[str, dict[str, bool]] = {}  # node → type → received just now
        self._noted: set[str] = set()
        self._gone: set[str] = set()
        self._stale = False

    async def load(self, conn: Connection) -> None:
        """Begin with what stands in PostgreSQL: who is declared, which map was first, which resourceVersions are no news."""
        c = self.lease.cluster_id
        self.declared = await self.look(conn)
        for map_, rv, problem in await (await conn.execute(reports_sql.MAPS, [c])).fetchall():
            self._rvs[map_], self._problems[map_] = rv, problem
        for node, type_, map_ in await (await conn.execute(reports_sql.HELD, [c])).fetchall():
            self._hold(node, type_, map_)
        for node, type_ in await (await conn.execute(reports_sql.WATCHED, [c])).fetchall():
            self._watched.setdefault(type_, set()).add(node)

    async def look(self, conn: Connection) -> Declared:
        """What the Cluster says now."""
        row = await (await conn.execute(reports_sql.DECLARED, [self.lease.cluster_id], prepare=True)).fetchone()
        return Declared() if row is None else declared(row[0], row[1])

    def declare(self, now: Declared) -> None:
        """The Cluster says something else: maps are to be listed again; those of namespaces that are read no more are gone."""
        self.declared = now
        for key in [k for k in self._known() if k.partition("/")[0] not in now.namespaces]:
            self.gone(key)

    # -- news ---------------------------------------------------------------------------------------------------------

    def listed(self, namespace: str, maps: Sequence[ConditionMap]) -> None:
        """All maps of a namespace: those that are not among them are gone."""
        there = {_key(m) for m in maps}
        for key in [k for k in self._known() if k.startswith(f"{namespace}/") and k not in there]:
            self.gone(key)
        for each in maps:
            self.take(each)

    def take(self, found: ConditionMap) -> None:
        """A map as it is now."""
        key, old = _key(found), self._maps.get(_key(found))
        if old is not None and old.rv == found.rv and old.under is self.declared:
            return
        fresh = self._rvs.get(key) != found.rv
        now = self._maps[key] = read(found, self.declared, old)
        self._rvs[key] = found.rv
        if "" not in now.refused:
            self._compare(key, now, old.entries if old is not None else {}, fresh=fresh)
        self._note(key)

    def gone(self, key: str) -> None:
        """The map was deleted."""
        self._maps.pop(key, None)
        self._rvs.pop(key, None)
        self._problems.pop(key, None)
        self._noted.discard(key)
        self._gone.add(key)
        nodes = self._by_map.pop(key, set())
        for node in nodes:
            for type_ in [t for t, m in self._from.get(node, {}).items() if m == key]:
                self._free(node, type_)
        self._retry(nodes)
        self.news.set()

    def pods_changed(self, pods: Pods, nodes: Iterable[str] | None) -> None:
        """Pods of a DaemonSet moved on these nodes; None = all of them are known now."""
        for type_ in [t for t, p in self.declared.gates.items() if p == pods]:
            whole = {*self.pods[pods].nodes(), *self._watched.get(type_, ())} if nodes is None else nodes
            for node in whole:
                self._mark(node, type_)
        mine = {t for r in self.declared.reporters.values() if r.pods == pods for t in r.types}
        for node in list(self._from) if nodes is None else nodes:
            for type_ in mine & self._from.get(node, {}).keys():
                self._mark(node, type_)

    def set_stale(self, stale: bool) -> None:
        """Whether the cluster answers: while it does not, nobody can vouch for what was said through it."""
        if stale == self._stale:
            return
        self._stale = stale
        for node, types in self._from.items():
            for type_ in types:
                self._mark(node, type_)
        for type_, nodes in self._watched.items():
            for node in nodes:
                self._mark(node, type_)

    # -- what follows -------------------------------------------------------------------------------------------------

    def _compare(self, key: str, now: Held, before: Entries, *, fresh: bool) -> None:
        """Mark what differs from before, free what the map names no more, and put aside what another map says already."""
        reporter = self.declared.reporters[now.reporter]
        aged = {t for t in reporter.types if reporter.ttl_seconds is not None or t in self.declared.aged}
        for node, conditions in [*now.entries.items()]:
            if node not in now.refused:
                self._admit(key, now, node, conditions, before.get(node), renew=aged if fresh else set(), fresh=fresh)
        for node, conditions in [*now.doubled.items()]:
            self._admit(key, now, node, conditions, before.get(node), renew=set(), fresh=False)
        self._retry(self._let_go(key, now, set(self._by_map.get(key, ()))), but=key)

    def _let_go(self, key: str, now: Held, nodes: set[str]) -> set[str]:
        """Free what a map said of these nodes and says no more; nodes of which something was freed."""
        freed = set()
        for node in nodes:
            kept = {c.type for c in now.entries.get(node, ())}
            unread = node in now.refused and not kept  # nothing good is known here; what is written stays
            for type_ in [t for t, m in self._from.get(node, {}).items() if m == key and t not in kept]:
                owner = self.declared.owners.get(type_)
                if not unread or owner is None or owner.name != now.reporter:
                    self._free(node, type_)
                    freed.add(node)
        return freed

    def _admit(
        self, key: str, now: Held, node: str, conditions: tuple[Condition, ...], before: tuple[Condition, ...] | None, *, renew: set[str], fresh: bool
    ) -> None:  # fmt: skip
        """Let a map say these conditions of a node, unless another says one of them already."""
        rival = self._rival(key, node, conditions)
        if rival:
            now.doubled[node] = conditions
            now.refused[node] = Refused("Doubled", f"{rival} reports the same condition already")
            now.entries.pop(node, None)
            if before is not None:
                now.entries[node] = before
            return
        if now.doubled.pop(node, None) is not None:
            now.refused.pop(node, None)
        now.entries[node] = conditions
        for condition in conditions:
            self._hold(node, condition.type, key)
            if before != conditions or condition.type in renew:
                self._mark(node, condition.type, renew=fresh)

    def _rival(self, key: str, node: str, conditions: Sequence[Condition]) -> str:
        """Another map of the same owner, not known yet or there, that says one of these conditions of the node."""
        said = self._from.get(node, {})
        for condition in conditions:
            other, owner = said.get(condition.type, key), self.declared.owners.get(condition.type)
            held = self._maps.get(other)
            if other != key and (held is None or held.reporter in ("", owner.name if owner else "")):
                return other
        return ""

    def _retry(self, nodes: set[str], but: str = "") -> None:
        """Nodes were given free: other maps may say what was doubled before."""
        for key, held in self._maps.items() if nodes else ():
            waiting = nodes & held.doubled.keys()
            if key == but or held.under is not self.declared or not waiting:
                continue
            for node in waiting:
                self._admit(key, held, node, held.doubled[node], held.entries.get(node), renew=set(), fresh=False)
            self._note(key)
            self._retry(self._let_go(key, held, waiting), but=key)

    def _hold(self, node: str, type_: str, key: str) -> None:
        types = self._from.setdefault(node, {})
        before = types.get(type_, key)
        types[type_] = key
        self._by_map[key].add(node)
        if before != key and before not in types.values():
            self._by_map[before].discard(node)

    def _free(self, node: str, type_: str) -> None:
        types = self._from[node]
        key = types.pop(type_)
        if key not in types.values() and key in self._by_map:
            self._by_map[key].discard(node)
        if not types:
            del self._from[node]
        self._mark(node, type_)

    def _mark(self, node: str, type_: str, *, renew: bool = False) -> None:
        types = self._dirty.setdefault(node, {})
        types[type_] = renew or types.get(type_, False)
        self.news.set()

    def _known(self) -> set[str]:
        return {*self._maps, *self._rvs, *self._by_map}

    def _note(self, key: str) -> None:
        """Tell of a new problem once; the same word at the next receipt is no news."""
        held = self._maps[key]
        problem = held.problem = problem_of(held)
        text = "" if problem is None else str(problem)
        new = problem is not None and self._problems.get(key, "").partition(":")[0] != problem.reason
        if problem is not None and new and len(self.told) < _MOST_TOLD:
            self.told.append(Told("report-refused", problem.reason, f"ConfigMap {key}: {problem.text}.", WARNING))
        self._problems[key] = text
        self._noted.add(key)
        self.news.set()

    def condition(self) -> Condition | None:
        """`ReportersHealthy` of the Cluster; None where nobody is declared and nothing is wrong."""
        found = {f"ConfigMap {k}": h.problem for k, h in self._maps.items() if h.problem is not None} | self.troubles
        nobody = not (self.declared.reporters or self.declared.gates or self.declared.namespaces)
        return None if nobody and not found else summary(found)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def check(self, conn: Connection) -> None:
        """Nodes that have got another machine, or their first: all that is said of them is to be written."""
        values = {"c": self.lease.cluster_id, "seconds": _LOOK_BACK}
        for node, machine in await (await conn.execute(reports_sql.NODES_LATELY, values, prepare=True)).fetchall():
            if self._machines.get(node) != machine:
                for type_ in self._from.get(node, {}):
                    self._mark(node, type_)
                for type_, pods in self.declared.gates.items():
                    if pods in self.pods and node in self.pods[pods].nodes():
                        self._mark(node, type_)

    async def flush(self, conn: Connection) -> int:
        """Write the news; how many reports. What could not be written stays news."""
        dirty, self._dirty = self._dirty, {}
        noted, self._noted = self._noted, set()
        gone, self._gone = self._gone, set()
        self.news.clear()
        try:
            await self._write_maps(conn, noted, gone)
            return await self._write_reports(conn, dirty)
        except BaseException:
            for node, types in dirty.items():
                for type_, renew in types.items():
                    self._mark(node, type_, renew=renew)
            self._noted |= noted
            self._gone |= gone
            self.news.set()
            raise

    async def _write_maps(self, conn: Connection, noted: set[str], gone: set[str]) -> None:
        keys = sorted(k for k in noted if k in self._maps)
        for at in range(0, max(len(keys), len(gone) and 1), BATCH):
            part = keys[at : at + BATCH]
            values = {
                "c": self.lease.cluster_id, "epoch": self.lease.epoch, "me": self.lease.holder, "map": part,
                "reporter": [self._maps[k].reporter for k in part], "rv": [self._maps[k].rv for k in part],
                "problem": [self._problems[k] for k in part], "gone": sorted(gone - set(keys)) if not at else [],
            }  # fmt: skip
            held = await (await conn.execute(reports_sql.NOTE_MAPS, values, prepare=True)).fetchone()
            if held is None or not held[0]:
                raise LeaseLost(f"cluster {self.lease.cluster_id}")

    async def _write_reports(self, conn: Connection, dirty: Mapping[str, Mapping[str, bool]]) -> int:
        nodes, count = sorted(dirty), 0
        for at in range(0, len(nodes), BATCH):
            linked = await self._linked(conn, nodes[at : at + BATCH])
            found = [
                report
                for node, machine in linked.items()
                for type_, renew in dirty[node].items()
                if (report := self._report(machine, node, type_, renew)) is not None
            ]
            await wake(conn, await reports.write(conn, found, self.lease))
            self._machines |= linked
            count += len(found)
        return count

    async def _linked(self, conn: Connection, names: list[str]) -> dict[str, int]:
        values = {"c": self.lease.cluster_id, "names": names}
        return dict(await (await conn.execute(reports_sql.NODES, values, prepare=True)).fetchall())

    def _report(self, machine: int, node: str, type_: str, renew: bool) -> Report | None:
        """What there is to write of a node's condition; None while nobody can say."""
        key = self._from.get(node, {}).get(type_, "")
        said = self._gate(node, type_) if type_ in self.declared.gates else self._said(node, type_, key)
        if said is None:
            return None
        if self._stale:
            said = Condition(type_, "Unknown", "NoAnswer", "The cluster does not answer; it may be as it was.")
        owner = self.declared.owners.get(type_)
        source, ttl = (FLEET, None) if owner is None else (owner.name, owner.ttl_seconds)
        return Report(machine, type_, said, source, key, ttl, renew)

    def _gate(self, node: str, type_: str) -> Condition | None:
        stream = self.pods.get(self.declared.gates[type_])
        if stream is None or not stream.listed:
            return None
        self._watched.setdefault(type_, set()).add(node)
        return stream.condition(type_, node)

    def _said(self, node: str, type_: str, key: str) -> Condition | None:
        owner = self.declared.owners.get(type_)
        if owner is None:
            return None  # taken away by those who look after what is declared
        if not key:
            return Condition(type_, "Unknown", "NotReported", "No ConfigMap names it any more.")
        if owner.pods is not None:
            stream = self.pods.get(owner.pods)
            if stream is None or not stream.listed:
                return None
            if not stream.ready(node):
                text = f"The pod of {owner.name} on this node is not Ready; what it said last does not count."
                return Condition(type_, "Unknown", "ReporterNotReady", text)
        held = self._maps.get(key)
        if held is None or held.reporter != owner.name:
            return None
        return next((c for c in held.entries.get(node, ()) if c.type == type_), None)


def _key(found: ConditionMap) -> str:
    return f"{found.namespace}/{found.name}"
