"""One pass over a batch of machines: observe, analyze, act, record.

A pass may die between any two of its numbered points; the next starts from what it sees:
 1 accepted sets stored   2 hosts looked at   3 Operations stored as Pending   4 permits granted   5 intent of the step committed
 6 step started on the host   7 Operations settled   8 nodes opened and closed   9 pass recorded
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from django.db import connection

from clusters.schema_cluster import MADE, provider_of
from fleet.control.conditions import Condition
from fleet.control.errors import ReconcileError
from fleet.control.kinds import Json
from fleet.control.work import backoff
from fleet.safety import permits
from machines import decide, hot
from machines.accepting import choose
from machines.act import act
from machines.actions import let_go, take_words
from machines.catalog import Catalog, catalog
from machines.conclude import Outcome, conclude, standing
from machines.conditions import NEVER
from machines.drivers import CONNECTIONS, SSH, connections, settings_of, target_of
from machines.hosts import Facts, Hosts, Login
from machines.judge import Around, judge
from machines.logins import Logins, read_logins
from machines.operation_rows import open_operations
from machines.operations import polls
from machines.passes import Context, Pass, guarded, no_fault
from machines.phases import RETIRED
from machines.rows import Record, Row
from machines.scheduling import schedule
from machines.scheduling_rows import views

log = logging.getLogger(__name__)


async def reconcile(rows: Sequence[Row], context: Context) -> None:
    """Bring each machine one step nearer to what it shall be; the next pass starts from what it sees."""
    known = await catalog(context.conn)
    connections.update({name: idc.spec.get("sshConnections", CONNECTIONS) for name, idc in known.idcs.items()})
    passes = await _accept([Pass(row) for row in rows], known, context)
    await context.point(1)
    await _observe(passes, known, context)
    await context.point(2)
    fresh = await views(context.conn, [p.row.cluster_id for p in passes if p.row.cluster_id])
    await _analyze(passes, known, context, fresh)
    await act(passes, known, context)
    await schedule(passes, known, context, fresh)
    await context.point(8)
    await _record(passes, context)


async def _in_thread(job: Callable[[], None]) -> None:
    """Django's blocking code; rare enough that its connection is not kept."""

    def run() -> None:
        try:
            job()
        finally:
            connection.close()

    await asyncio.to_thread(run)


# -- which set ----------------------------------------------------------------------------------------------------------


async def _accept(passes: list[Pass], known: Catalog, context: Context) -> list[Pass]:
    """Machines take the sets that are theirs from now on. Who lost its lease or got a new spec meanwhile is left out."""
    for each in passes:
        each.chosen = guarded(each, lambda each=each: choose(each.row, known))  # type: ignore[misc]
    news = {p.row.id: p.chosen.acceptance(p.row) for p in passes if p.chosen is not None and p.chosen.changed}
    if not news:
        return passes
    taken = await hot.accept(context.conn, context.me, list(news.values()))
    kept = []
    for each in passes:
        if each.row.id not in news or each.chosen is None:
            kept.append(each)
        elif each.row.id in taken:
            chosen = each.chosen
            moved = chosen.hash != each.row.desired_hash
            drift = each.row.drift | 2 if moved else each.row.drift
            each.row = replace(
                each.row,
                desired_hash=chosen.hash,
                latest_hash=chosen.latest,
                accepted=chosen.body,
                layers=chosen.layers,
                drift=drift,
            )
            kept.append(each)
        else:
            kept.append(replace(each, error=ReconcileError("Moved", "The spec changed while the pass began.")))
    return kept


# -- observe ------------------------------------------------------------------------------------------------------------


async def _observe(passes: list[Pass], known: Catalog, context: Context) -> None:
    """One look at each host, side by side."""
    aimed = [(p, settings_of(p.row, known)) for p in passes if p.error is None]
    logins = await read_logins(context.conn, {wanted.get("credential", "") for _, wanted in aimed})
    by_driver: defaultdict[str, list[Pass]] = defaultdict(list)
    for each, wanted in aimed:
        guarded(each, lambda each=each, wanted=wanted: _aim(each, wanted, known, logins))  # type: ignore[misc]
        if each.target is not None:
            by_driver[each.driver].append(each)
    await asyncio.gather(*(_look(group, context.hosts_by_driver[name]) for name, group in by_driver.items()))


def _aim(each: Pass, wanted: Json, known: Catalog, logins: Logins) -> None:
    """The target of a machine, or facts that say why there is none."""
    row = each.row
    each.driver = wanted.get("type", SSH)
    login: Login | None = None
    if each.driver == SSH:
        cluster = known.clusters.get(row.cluster_id)
        name = cluster.name if cluster else ""
        try:
            login = logins.for_machine(wanted.get("credential", ""), cluster=name, address=row.spec.get("ip", ""))
        except ReconcileError as error:
            each.facts = Facts(row.id, reason=error.reason, message=error.message)
            return
    body = (each.chosen.body if each.chosen else None) or {}
    stale = tuple((each.chosen.layers if each.chosen else {}).get("stale", ()))
    each.target = target_of(
        row, wanted, body, login=login, polls=polls(row.operation), stale=stale, contents=bool(row.drift & 2)
    )


async def _look(group: list[Pass], hosts: Hosts) -> None:
    targets = [p.target for p in group if p.target is not None]
    try:
        found = {f.key: f for f in await hosts.observe(targets)}
    except Exception as error:
        log.exception("the driver failed for a batch of %d hosts", len(group))
        found = {}
        for each in group:
            each.error = error
    for each in group:
        each.facts = found.get(each.row.id) or Facts(
            each.row.id, reason="Garbled", message="The driver gave no answer for the host."
        )


# -- analyze ------------------------------------------------------------------------------------------------------------


async def _analyze(passes: list[Pass], known: Catalog, context: Context, fresh: Mapping[int, bool]) -> None:
    """What each look means (pure, guarded), and the Operations that follow from it, stored before anything is done."""
    ids = [p.row.id for p in passes]
    held = {i: ("Held", _hold_text(h)) for i, h in (await permits.held(context.conn, ids)).items()} if ids else {}
    joins = frozenset(
        c for c, yes in fresh.items() if yes and c in known.clusters and provider_of(known.clusters[c].spec) in MADE
    )
    around = Around(context.installation, known, context.clock(), held, joins)
    openings = []
    for each in passes:
        if each.error is not None or each.facts is None or each.chosen is None:
            continue
        each.judged = guarded(each, lambda each=each: judge(each.row, each.chosen, each.facts, around))  # type: ignore[misc]
        opening = guarded(each, lambda each=each: decide.opening(each.row, each.judged)) if each.judged else None  # type: ignore[misc]
        if opening is not None:
            openings.append(opening)
    opened = await open_operations(context.conn, context.me, openings)
    for each in passes:
        operation = opened.get(each.row.id) or each.row.operation
        if each.judged is not None and operation is not None:
            each.outcome = Outcome(operation)
    await context.point(3)


def _hold_text(held: permits.HeldBy) -> str:
    until = f" until {held.until:%Y-%m-%d %H:%M}" if held.until else ""
    return f"Hold {held.hold} by {held.owner}{until}: {held.reason}"


# -- record -------------------------------------------------------------------------------------------------------------


async def _record(passes: list[Pass], context: Context) -> None:
    """One statement for the batch; rows whose epoch, generation or set moved are not written."""
    now = context.clock()
    records: list[Record] = []
    retired: list[str] = []
    used: list[tuple[str, tuple[str, ...]]] = []
    for each in passes:
        ending = partial(_concluded, each, now, context.rest_seconds)
        record = guarded(each, ending) if each.error is None else None
        records.append(record if record is not None else _failed(each))
        if record is not None and each.judged is not None and each.judged.words_used:
            used.append((each.row.name, each.judged.words_used))
        if each.row.phase == RETIRED:
            retired.append(each.row.name)
    await hot.record(context.conn, context.me, records)
    await context.point(9)
    if used:
        await _in_thread(lambda: take_words(used))
    if retired:
        await _in_thread(lambda: let_go(retired))


def _concluded(each: Pass, now: datetime, rest_seconds: float) -> Record | None:
    if each.judged is None:
        return None
    return conclude(each.row, each.judged, standing(each.outcome), now, rest_seconds, each.scheduled)


def _failed(each: Pass) -> Record:
    """A pass that broke: the machine keeps its conditions, and says so."""
    row, error = each.row, each.error
    reason = error.reason if isinstance(error, ReconcileError) else "PassFailed"
    message = (
        error.message
        if isinstance(error, ReconcileError)
        else f"A pass over this machine broke: {type(error).__name__}: {error}"
    )
    mine = decide.own(row.conditions)
    broken = Condition("Reconciling", "True", reason, message[:900])
    attempts = row.attempts + 1
    return Record(
        id=row.id, epoch=row.epoch, generation=row.generation, want=row.desired_hash, observed=0 if row.drift & 2 else row.desired_hash,
        phase=row.phase, open=row.open, conditions=(*(c for c in mine if c.type != "Reconciling"), broken),
        next_seconds=backoff(attempts, first=5), attempts=attempts, resting=False,
        in_service=decide.in_service(row.phase), before=row.packed, masks=(0 if row.open else NEVER, 0, 0, 0),
    )  # fmt: skip


__all__ = ["Context", "no_fault", "reconcile"]
