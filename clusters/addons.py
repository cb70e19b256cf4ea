"""Addons in a cluster: server-side applied, put right where somebody changed them, looked at until they are rolled out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from clusters.cases import Case, write
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.lifecycle import ADDONS, Progress
from clusters.manifests import Addon, called, differs, in_order
from clusters.planning import addons_digest, addons_now
from clusters.providers import networks
from clusters.rollouts import Found, Row, moved, row_after, seen_of, standing
from clusters.status import Part, Told
from fleet.control.endpoint import Endpoint
from fleet.control.errors import TemporaryError
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.control.work import Claim
from fleet.events.publish import NORMAL, WARNING

log = logging.getLogger("fleet.clusters")

CHECK_SECONDS: Final = 300.0  # at rest everything is applied again so often: what somebody changed comes back
LOOK_SECONDS: Final = 15.0  # and what is not rolled out is looked at so often

_BUSY: Final = frozenset({429, 502, 503, 504})  # answers of a server that is not well: they say nothing of the object


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind lie at an API server."""

    plural: str
    namespaced: bool


@dataclass(slots=True)
class Visit:
    """One pass over the addons of one cluster. `write`: apply them, else only look. `repaired`: objects that were not as applied."""

    kube: Kube
    write: bool
    repaired: list[str] = field(default_factory=list)
    _known: dict[str, dict[str, Resource]] = field(default_factory=dict)  # by apiVersion, then by kind
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, addons: Sequence[Addon], before: Mapping[str, Row], now: datetime) -> list[Row]:
        """A row for each addon, in their order. What others need is applied first, across all addons."""
        found: dict[int, Found] = {}
        new = {id(o) for a in addons if a.name not in before or before[a.name].hash != a.hash for o in a.objects}
        for group in in_order(o for a in addons for o in a.objects):
            for each, result in zip(
                group, await asyncio.gather(*(self._bring(o, id(o) in new) for o in group)), strict=True
            ):
                found[id(each)] = result
        unready = any(f.standing is not None and not f.standing.ok and f.standing.needs_nodes for f in found.values())
        nodes = await self._has_nodes() if unready else True
        return [row_after(before.get(a.name), a, [found[id(o)] for o in a.objects], nodes, now) for a in addons]

    async def _bring(self, obj: Json, new: bool) -> Found:
        """One object as it is afterwards. `new`: it is not expected to be there as it shall be."""
        try:
            path = await self._path(obj)
            if path is None:
                return Found(obj, unknown_kind=True)
            there = await self.kube.find(path)
            if self.write:
                stored = await self.kube.apply(path, obj)
                if not new and (there is None or differs(there, stored)):
                    self.repaired.append(called(obj))
                there = stored
        except KubeError as error:
            if error.code in _BUSY:
                return Found(obj, silent=f"{called(obj)}: the API server answers {error.code}: {error.message}")
            return Found(obj, refused=(error.code, error.message))
        except KubeUnreachable as error:
            return Found(obj, silent=f"{called(obj)}: {error}")
        if there is None:
            return Found(obj, refused=(404, "it is not there"))
        return Found(obj, standing(there))

    async def _path(self, obj: Json) -> str | None:
        """Of the object at this API server; None = it does not know the kind."""
        resource = (await self._resources(obj["apiVersion"])).get(obj["kind"])
        if resource is None:
            return None
        base = _base(obj["apiVersion"])
        if resource.namespaced:
            base += f"/namespaces/{obj['metadata'].get('namespace', 'default')}"
        return f"{base}/{resource.plural}/{obj['metadata']['name']}"

    async def _resources(self, api_version: str) -> Mapping[str, Resource]:
        """By the API server's own discovery. What it does not know is asked again: a definition may have brought it meanwhile."""
        async with self._asking:
            if not self._known.get(api_version):
                found = (await self.kube.find(_base(api_version)) or {}).get("resources", [])
                whole = [r for r in found if "/" not in r["name"]]  # without subresources
                self._known[api_version] = {r["kind"]: Resource(r["name"], r["namespaced"]) for r in whole}
            return self._known[api_version]

    async def _has_nodes(self) -> bool:
        """Whether any node is there. Not known = there may be some: then what is not rolled out is late, not excused."""
        try:
            return bool((await self.kube.get("/api/v1/nodes", limit="1")).get("items"))
        except (KubeError, KubeUnreachable):
            return True


@dataclass(slots=True)
class Tended:
    """The addons of one cluster in one pass over it. `rows`: as last seen."""

    claim: Claim
    me: int
    rows: Sequence[Row]
    looked: bool = False

    async def look(self, case: Case, progress: Progress, endpoint: Endpoint, now: datetime) -> None:
        """Once a pass, when it is time: how far they are. They are applied again then, so that what somebody changed comes back."""
        rows, step = self.rows, progress.step(ADDONS)
        if self.looked or not rows or ADDONS not in progress.versions:
            return
        if addons_digest(case, progress, rows) != seen_of(rows, is_new=False).digest:
            return  # they are to be others: a step of the change brings them
        self.looked = True
        is_due, write_it = due(case.uid, rows, step is not None and step.status == "Running")
        if is_due:
            write_it = write_it and not case.held and await self._may_write()
            await self.bring(case, progress, endpoint, now, write_it=write_it)

    async def bring(self, case: Case, progress: Progress, endpoint: Endpoint, now: datetime, *, write_it: bool) -> None:
        """One visit to the addons where they stand, and the news of it."""
        addons, problem = addons_now(case, progress)
        if problem:
            return
        async with Kube(endpoint, networks=networks()) as kube:
            visit = Visit(kube, write_it)
            after = await visit.run(addons, {r.name: r for r in self.rows}, now)
        note(case.uid, wrote=write_it)
        told = [
            Told("addon", "Repaired", f"{what} was changed by somebody and is as declared again", WARNING)
            for what in visit.repaired
        ]
        told += [
            Told("addon", r.reason, text, WARNING if r.status == "False" else NORMAL)
            for r, text in moved(self.rows, after)
        ]
        self.rows = after
        if told:
            await in_thread(lambda: write(self.claim, self.me, Part(told=told)))

    async def _may_write(self) -> bool:
        """Whether an effect may begin that no change asks for."""
        try:
            await in_thread(lambda: write(self.claim, self.me, Part(), effect=True))
        except TemporaryError as error:
            log.info("the addons of cluster %d are only looked at: %s", self.claim.object_id, error)
            return False
        return True


_times: dict[tuple[str, bool], float] = {}  # (uid of the control plane, whether it wrote) -> this process's clock


def due(uid: str, rows: Sequence[Row], running: bool) -> tuple[bool, bool]:
    """(Whether to look now, whether to apply too). Another worker does not know when this one was there: it goes there once more."""
    now = time.monotonic()
    check = now - _times.get((uid, True), -CHECK_SECONDS) >= CHECK_SECONDS
    late = now - max(_times.get((uid, w), -LOOK_SECONDS) for w in (True, False)) >= LOOK_SECONDS
    off = [r for r in rows if r.status != "True"]
    look = check or running or bool(off) and late
    return look, check or any(not r.applied for r in off)


def note(uid: str, *, wrote: bool) -> None:
    """A visit has just ended."""
    _times[uid, wrote] = time.monotonic()


def _base(api_version: str) -> str:
    return f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
