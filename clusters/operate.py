"""The Cluster-Operator in a pass: files, observe, the next move, its intent behind the lease, its effect; again, until there is nothing to do now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from django.conf import settings
from django.db import transaction

from clusters import access, backups, carriers, keep, kubelets, lifecycle, restoring
from clusters.addons import Tended
from clusters.cases import Case, load, progress_of, write
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.lifecycle import ADDONS, Move, Progress, Wish, next_move
from clusters.planes import APISERVER, COMPONENTS, ComponentSeen, Foresees, Plane, Provider, good_until
from clusters.planning import (
    SOON,
    URGENT,
    Around,
    Ends,
    Outcome,
    backup_due,
    emulating,
    hop_of,
    part_of,
    soak_until,
    wish_of,
)
from clusters.prepare import prepare
from clusters.providers import networks
from clusters.rollouts import rows_of, seen_of
from clusters.schema_cluster import hosted_on
from clusters.status import Part, Told
from clusters.storage import let_go
from clusters.wanted import plane_of
from fleet.control import clock
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, ReconcileError
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.control.work import Claim, Settled, set_back
from fleet.events.publish import ERROR, WARNING

log = logging.getLogger("fleet.clusters")

MOVES: Final = 24  # of one pass; what is left comes in the next
WAIT_SECONDS: Final = 1.0
REFUSED_SECONDS: Final = 15.0
REST_SECONDS: Final = 10.0
STUCK_SECONDS: Final = 60.0  # waits for a new spec, which wakes it
_WORSE: Final = {"late": ERROR, "refuse": WARNING}
_CHANGING: Final = frozenset({"begin", "snapshot", "intend", "apply", "put-back", "unemulate"})


@dataclass(slots=True)
class Pass:
    """One pass over one cluster with a control plane."""

    claim: Claim
    me: int
    case: Case
    provider: Provider
    stopping: Callable[[], bool] = lambda: False
    ends: Ends = ()  # of its certificates, the first to end first
    meta: Endpoint | None = None  # the way to its meta cluster
    addons: Tended = field(init=False)

    def __post_init__(self) -> None:
        self.addons = Tended(self.claim, self.me, rows_of(self.case.status))

    async def run(self) -> Settled:
        """To its end; how the lease ends. LeaseLost when it is another's by now."""
        progress = progress_of(self.case.status)
        self.ends = await in_thread(lambda: keep.ends(self.case.uid))
        meta = hosted_on(self.case.spec)
        self.meta = await in_thread(lambda: access.endpoint_named(meta)) if meta else None
        try:
            if self.case.deleted:
                await self._take_down(progress)
                return self._settled(STUCK_SECONDS)
            restore = await in_thread(lambda: restoring.wanted(self.case))
            if restore is not None and (restore.stage or not self.case.held):
                progress = await self._restore(restore, progress)
            seconds = await self._move_on(progress)
        except ReconcileError as error:
            final = isinstance(error, PermanentError)
            kept = progress_of((await self._reread()).status)
            outcome = Outcome(
                kept, trouble=(error.reason, error.message), final=final, ends=self.ends, told=self._trouble_told(error)
            )
            await self._write(outcome)
            set_to = set_back(self.claim, most=60)
            return replace(set_to, next_seconds=STUCK_SECONDS) if final else set_to
        return self._settled(seconds)

    def _settled(self, seconds: float) -> Settled:
        return Settled(self.claim.object_id, self.claim.epoch, seconds)

    def _trouble_told(self, error: ReconcileError) -> tuple[Told, ...]:
        """An event when the trouble is new: a sentence that is there already is not said again."""
        before = self.case.condition("Ready")
        if (before.get("reason"), before.get("message")) == (error.reason, error.message):
            return ()
        return (Told("trouble", error.reason, error.message, WARNING),)

    async def _reread(self) -> Case:
        """What this pass itself wrote last."""
        found = await in_thread(lambda: load([self.case.id]))
        return found[0] if found else self.case

    async def _write(self, outcome: Outcome, *, effect: bool = False, fields: Json | None = None) -> None:
        """What there is to say of the cluster, behind the lease; before an `effect` also the kill switch is looked at."""
        part = part_of(self.case, replace(outcome, addons=self.addons.rows), clock.now())
        part = replace(part, fields={**part.fields, **(fields or {})})
        await in_thread(lambda: write(self.claim, self.me, part, effect=effect))

    async def _tell(self, told: Told) -> None:
        """An event by itself."""
        await in_thread(lambda: write(self.claim, self.me, Part(told=(told,))))

    # -- towards the wish -----------------------------------------------------------------------------------------------

    async def _move_on(self, progress: Progress) -> float:
        files = await self._files(progress)
        for _ in range(MOVES):
            now = clock.now()
            plane = self._plane(progress, files)
            seen = {s.name: s for s in await self.provider.observe(plane)}
            await self._note_carriers(seen)
            if seen.get(APISERVER) and seen[APISERVER].ready:
                await self.addons.look(self.case, progress, self.provider.endpoint(plane), now)
            seen[ADDONS] = seen_of(self.addons.rows, is_new=not progress.reached)
            wish = wish_of(self.case, progress, plane, await self._around(plane, progress), now)
            move = next_move(wish, progress, seen, now)
            if self._is_kept_back(move, progress, now):
                move = Move("wait", message=f"nothing new starts: {self.case.held}", reason="Held")
            if move.verb in ("wait", "late", "refuse", "rest"):
                if move.verb == "rest" and not self.case.held:
                    await self._back_up(plane, progress, now)
                return await self._end(plane, progress, seen, move)
            progress = await self._do(move, progress, wish, plane, now)
            if move.verb == "begin" and set(progress.versions) - set(self.case.versions):
                self.case = await self._reread()
            if self.stopping():
                break
        return 0.0

    async def _note_carriers(self, seen: Mapping[str, ComponentSeen]) -> None:
        """The ledger learns which machines carry it before anything is decided from what was seen."""
        meta, found = hosted_on(self.case.spec), list(seen.values())
        if meta:
            await in_thread(lambda: carriers.note(self.case.id, meta, found))

    async def _around(self, plane: Plane, progress: Progress) -> Around:
        """What counts besides the components; of a change that may be to come also its kubelets, and what the provider cannot run."""
        case = self.case
        if hop_of(case, progress) is None:
            return Around(self.ends, self.addons.rows)
        counted = await in_thread(lambda: kubelets.counted(case.id))
        lacking: Sequence[str] = ()
        if isinstance(self.provider, Foresees):
            at_target = replace(progress, versions=dict.fromkeys(COMPONENTS, str(case.spec["packageVersion"])))
            lacking = self.provider.lacking(self._plane(at_target, plane.files))
        return Around(self.ends, self.addons.rows, counted, lacking)

    def _is_kept_back(self, move: Move, progress: Progress, now: datetime) -> bool:
        """Held: nothing new starts, but who runs with a certificate that is about to end is started with the renewed one."""
        if not self.case.held or move.verb not in _CHANGING:
            return False
        step = progress.step(move.component)
        return not (move.verb == "apply" and step and step.good_until and step.good_until - now < URGENT)

    def _ends_within(self, time: timedelta, now: datetime) -> bool:
        """Whether a certificate ends so soon."""
        return bool(self.ends) and self.ends[0][1] - now < time

    def _plane(self, progress: Progress, files: Mapping[str, str]) -> Plane:
        """The control plane as it shall be."""
        return plane_of(self.case, progress, files, self.meta)

    async def _files(self, progress: Progress, *, restoring: bool = False) -> Mapping[str, str]:
        """Its place, keys and certificates, made and renewed; while held only what is about to end."""
        case, now = self.case, clock.now()
        have = await in_thread(lambda: keep.files(case.uid))
        if have and case.held and not self._ends_within(URGENT, now):
            return have
        plane = partial(self._plane, progress)
        made = await prepare(case, self.provider, have, plane, now, restoring=restoring)
        self.ends = made.ends
        if made.renewed:
            names = ", ".join(made.renewed)
            text = f"certificates are renewed: {names}; who reads them is started again, one after the other"
            await self._tell(Told("certificates", "Renewed", text))
        return made.files

    async def _end(
        self, plane: Plane, progress: Progress, seen: Mapping[str, ComponentSeen], move: Move
    ) -> float:  # fmt: skip
        """Record what was found; seconds until the next look."""
        case, now = self.case, clock.now()
        endpoint = self.provider.endpoint(plane)
        version = await self._version(plane) if seen.get(APISERVER) and seen[APISERVER].ready else ""
        is_news = move.verb in _WORSE and case.condition("Ready").get("message") != move.message
        told = (Told(move.verb, move.reason, move.message, _WORSE[move.verb]),) if is_news else ()
        shown = endpoint.server if version else ""
        outcome = Outcome(
            progress, seen, move, ends=self.ends, told=told, version=version, endpoint=shown, addons=self.addons.rows
        )  # fmt: skip
        part = part_of(case, outcome, now)
        snapshots = await in_thread(lambda: backups.listed(case.uid))
        part = replace(part, fields={**part.fields, "snapshots": snapshots or None})

        def record() -> None:
            with transaction.atomic():
                write(self.claim, self.me, part)
                if version:
                    access.store_if_new(case.id, endpoint)

        await in_thread(record)
        if move.verb == "wait":
            return REST_SECONDS if case.held or not move.component else WAIT_SECONDS
        if self._ends_within(SOON, now):
            log.warning("cluster %s: the certificate %s ends at %s", case.name, *self.ends[0])
        return REFUSED_SECONDS if move.verb in ("refuse", "late") else REST_SECONDS

    async def _version(self, plane: Plane) -> str:
        try:
            async with Kube(self.provider.endpoint(plane), networks=networks()) as kube:
                return str((await kube.get("/version"))["gitVersion"]).removeprefix("v")
        except (KubeError, KubeUnreachable) as error:
            log.info("cluster %s does not tell its version: %s", self.case.name, error)
            return ""

    # -- one move -------------------------------------------------------------------------------------------------------

    async def _do(self, move: Move, progress: Progress, wish: Wish, plane: Plane, now: datetime) -> Progress:
        """The intent behind the lease, then the effect; the progress after it."""
        name, case = move.component, self.case
        if move.verb == "begin":
            return await in_thread(lambda: self._begin(wish))
        if move.verb == "snapshot":
            await self._snapshot(plane, progress, "upgrade", now)
            taken = replace(progress, snapshot_for=wish.target)
            told = Told("snapshot", "SnapshotTaken", f"etcd was saved before the change to {wish.target}")
            return await self._intend(taken, told)
        if move.verb == "intend":
            kind = "back" if wish.down else "on"
            told = Told("component", "Changing", f"{_of(name, 'goes', 'go')} {kind} to {wish.target}")
            return await self._intend(lifecycle.intended(emulating(case, progress), wish, name), told)
        if move.verb == "apply":
            return await self._apply(move, progress, wish, plane, now)
        if move.verb == "done":
            return await self._intend(
                lifecycle.ended(progress, name, now, ok=True),
                Told("component", "Ready", _of(name, "is ready", "are rolled out")),
                effect=False,
            )
        if move.verb == "put-back":
            return await self._put_back(move, progress, wish, now)
        if move.verb == "finish":
            until = soak_until(case, progress, now, settings.FLEET_SOAK_SECONDS)
            text = f"the control plane stands at {wish.target}" + (
                f" and is watched until {until:%H:%M:%S} UTC" if until else ""
            )
            return await self._intend(
                lifecycle.finished(progress, wish, until), Told("reached", "Reached", text), effect=False
            )
        if move.verb == "unemulate":
            told = Told(
                "soaked",
                "SoakEnded",
                f"the soak is over: {progress.emulated} is emulated no longer, pointing back ends here",
            )
            return await self._intend(replace(progress, emulated="", soak_until=None), told)
        raise AssertionError(f"no such move: {move.verb}")

    async def _apply(self, move: Move, progress: Progress, wish: Wish, plane: Plane, now: datetime) -> Progress:
        """A part is brought to what it shall be where it stands. What is started again and again is told once."""
        name, told = move.component, None
        if not lifecycle.is_started(progress, name, wish.digests[name]):
            why = f": {move.message}" if move.message else ""
            words = _of(name, "is started", "are applied")
            told = Told("component", "Starting", f"{words} at {progress.versions[name]}{why}")
        until = None if name == ADDONS else good_until(name, dict(self.ends))
        after = await self._intend(lifecycle.started(progress, name, wish.digests[name], now, until), told)
        if name == ADDONS:
            await self.addons.bring(self.case, after, self.provider.endpoint(plane), now, write_it=True)
            return after
        try:
            await self.provider.apply(plane, name)
        except PermanentError as error:
            if not lifecycle.can_put_back(wish, after, name):
                raise
            return await self._put_back(Move("put-back", name, error.reason, error.message), after, wish, now)
        return after

    async def _put_back(self, move: Move, progress: Progress, wish: Wish, now: datetime) -> Progress:
        """The part goes back to the version before, and the change stops there."""
        told = Told("component", move.reason, f"{_of(move.component, 'is', 'are')} put back: {move.message}", ERROR)
        return await self._intend(lifecycle.put_back(progress, wish, move, now), told)

    async def _intend(
        self, progress: Progress, told: Told | None, *, effect: bool = True, fields: Json | None = None
    ) -> Progress:
        """Written before what it tells of begins."""
        outcome = Outcome(progress, ends=self.ends, told=(told,) if told else ())
        await self._write(outcome, effect=effect, fields=fields)
        return progress

    def _begin(self, wish: Wish) -> Progress:
        """A new control plane starts at the target; one that is taken up again where the deleted cluster stood."""
        case = self.case
        with transaction.atomic():
            progress = Progress(versions=dict.fromkeys(COMPONENTS, wish.target))
            told = Told("begun", "Begun", f"a control plane is made at {wish.target}")
            if case.spec.get("restoreFrom"):
                status = backups.take_up(case.uid)
                if status is None:
                    raise PermanentError(
                        "NothingToRestore",
                        f"the data of the deleted cluster {case.uid} is gone, or another cluster took it up",
                    )
                progress = replace(progress_of(status), stopped={}) if status.get("componentVersions") else progress
                told = Told(
                    "begun", "Restored", f"the control plane of the deleted cluster {case.uid} is taken up again"
                )
            write(
                self.claim,
                self.me,
                part_of(case, Outcome(progress, ends=self.ends, told=(told,)), clock.now()),
                effect=True,
            )
        return progress

    async def _snapshot(self, plane: Plane, progress: Progress, why: str, now: datetime) -> None:
        name = f"{now:%Y%m%dT%H%M%SZ}-{why}.db"
        taken = await self.provider.snapshot(plane, backups.path_of(self.case, name))
        await in_thread(lambda: backups.note(self.case, taken, why, progress.reached))

    async def _back_up(self, plane: Plane, progress: Progress, now: datetime) -> None:
        """Scheduled snapshots."""
        last = await in_thread(lambda: backups.last(self.case.uid))
        if backup_due(self.case, last, now):
            await self._snapshot(plane, progress, "schedule", now)

    async def _restore(self, wanted: restoring.Wanted, progress: Progress) -> Progress:
        """From the stage where it is to the moment when components may start; the progress from there."""
        plane = self._plane(progress, await self._files(progress, restoring=True))
        if wanted.stage in ("", restoring.STOPPING):
            told = Told("restoring", "Restoring", f"etcd goes back to {wanted.name}: API servers are stopped", WARNING)
            await self._stage(wanted, restoring.STOPPING, progress, told)
            await self._stop_all(plane)
        if wanted.stage != restoring.STARTING:
            await self._stage(wanted, restoring.LOADING, progress)
            await self.provider.restore(plane, wanted.snapshot)
            progress = restoring.progress_after(self.case, progress, wanted.version)
            self.addons.rows = ()  # the data is another: all of them are applied again
            told = Told("restoring", "Restored", f"etcd holds {wanted.name}; the components start again", WARNING)
            await self._stage(wanted, restoring.STARTING, progress, told)
        await in_thread(lambda: restoring.used_up(self.case.name))
        await self._stage(wanted, "", progress)
        return progress

    async def _stage(self, wanted: restoring.Wanted, stage: str, progress: Progress, told: Told | None = None) -> None:
        await self._intend(progress, told, fields=restoring.stage_field(wanted.name, stage))

    async def _stop_all(self, plane: Plane) -> None:
        for name in reversed(COMPONENTS):
            await self.provider.stop(plane, name)

    # -- the end --------------------------------------------------------------------------------------------------------

    async def _take_down(self, progress: Progress) -> None:
        """Everything stops, the data stays for a day; then the object goes."""
        case = self.case
        if not case.guarded:
            return
        files = await in_thread(lambda: keep.files(case.uid))
        text = "the control plane is stopped; its data and keys are kept for a day"
        await self._intend(progress, Told("stopped", "Stopping", text, WARNING))
        await self._stop_all(self._plane(progress, files))

        def end() -> None:
            with transaction.atomic():
                backups.lay_down(case)
                access.forget(case.id)
                carriers.forget(case.id)
                let_go(case.name)

        await in_thread(end)


def _of(name: str, one: str, many: str) -> str:
    """A part of a control plane and what it does, in words."""
    return f"the addons {many}" if name == ADDONS else f"{name} {one}"
