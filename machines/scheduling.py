"""The part of a pass that opens and closes nodes: gates answered for the whole batch, permits, intents, patches, what became of them.

Of Fleet's parts only this one changes whether a node takes workloads; an Operation that drains goes through `machines.nodes` too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from clusters.schema_cluster import IMPORTED, MADE, provider_of
from clusters.schema_gates import daemon_set_type
from fleet.control.conditions import Condition, find
from fleet.control.kinds import Json
from fleet.safety import permits
from machines import gates, scheduling_rows
from machines.carriers import brake
from machines.catalog import Catalog, Shared
from machines.conditions import OPERATOR_TYPES, TYPES
from machines.desired import by_name
from machines.gates import WHILE_CLOSED, Gate, View
from machines.judge import KUBELET
from machines.nodes import Change, Changed, Dress, change_all
from machines.passes import Context, Pass, guarded
from machines.reporters import declared
from machines.rows import Row
from machines.rules import matching
from machines.scheduled import Scheduled
from machines.scheduling_rows import Decided

log = logging.getLogger(__name__)
CORDON: Final = "Cordon"
PERMIT_SECONDS: Final = 60  # of a gate: afterwards a repair takes the permit over, with its count
_OWN: Final = frozenset(OPERATOR_TYPES)


def gates_of(row: Row, known: Catalog) -> tuple[Gate, ...]:
    """All gates of a machine: its cluster's, its class's, its own, those of rules, and Fleet's."""
    cluster = known.clusters.get(row.cluster_id)
    if cluster is None:
        return ()
    class_ = known.classes.get(row.spec.get("className", ""))
    return gates.merged(
        gates.gates_from(cluster.spec.get("readinessGates", ()), f"Cluster {cluster.name}"),
        (Gate(daemon_set_type(d["namespace"], d["name"]), source=f"Cluster {cluster.name}") for d in cluster.spec.get("daemonSetGates", ())),
        gates.gates_from(class_.spec.get("readinessGates", ()), f"MachineClass {class_.name}") if class_ else (),
        gates.gates_from(row.spec.get("readinessGates", ()), "Machine"),
        (Gate(r.type, r.polarity, r.mode, f"ReadinessRule {r.name}", r.dry_run) for r in matching(known.rules, cluster.name, row.labels)),
        _of_fleet(cluster),
    )  # fmt: skip


def _of_fleet(cluster: Shared) -> tuple[Gate, ...]:
    """What counts whenever a node is to open: it is Ready, has no fault and, where Fleet runs its kubelet, is as accepted."""
    own = tuple(Gate(type_, mode=WHILE_CLOSED, source="Fleet") for type_ in ("NodeReady", "Faultless"))
    return (*own, Gate("UpToDate", mode=WHILE_CLOSED, source="Fleet")) if provider_of(cluster.spec) in MADE else own


def is_expected(row: Row, body: Json | None) -> bool:
    """The machine is a node, or has the package that makes it one."""
    return row.node is not None or KUBELET in by_name(body or {})


async def schedule(passes: Sequence[Pass], known: Catalog, context: Context, fresh: Mapping[int, bool]) -> None:
    """Decide for every machine of the batch, and do it. `fresh`: whether the view of a cluster with nodes can be believed."""
    for each in passes:
        if each.judged is not None and each.error is None:
            guarded(each, lambda each=each: _decide(each, known, fresh))  # type: ignore[misc]
    owners = {c: owners_of(known.clusters[c]) for c in {p.row.cluster_id for p in passes} if c in known.clusters}
    for each in passes:
        each.owners = owners.get(each.row.cluster_id, {})
    deciding = [p for p in passes if p.scheduled is not None and p.error is None]
    await _permits(deciding, context)
    await _act(deciding, context)
    await _dress([p for p in deciding if fresh.get(p.row.cluster_id)], context)
    rows = [r for p in deciding if (r := _row(p)) is not None]
    await scheduling_rows.write(context.conn, context.me, rows)
    await _give_back(deciding, context)


def _decide(each: Pass, known: Catalog, fresh: Mapping[int, bool]) -> None:
    row, judged = each.row, each.judged
    assert judged is not None
    body = judged.chosen.body
    member = row.cluster_id in fresh and is_expected(row, body)
    if not member and not row.scheduling.state:
        return
    cluster = known.clusters.get(row.cluster_id)
    provider = provider_of(cluster.spec) if cluster else ""
    enforced = bool(cluster and cluster.spec.get("enforceGates", provider != IMPORTED))
    own = with_times(row, each.conditions())
    found = gates.answers(gates_of(row, known), [*own, *(c for c in row.conditions if c.type not in _OWN)])
    operation = each.outcome.operation
    ended = each.outcome.move is not None and bool(each.outcome.move.ended)
    open_ = operation is not None and not ended
    status = each.outcome.move.status if each.outcome.move is not None else operation.status if operation else {}
    view = View(
        enforced=enforced, fresh=fresh.get(row.cluster_id, False), is_member=member, held=judged.halt if judged.halt[0] else brake(row, "Restart", known),
        operation=operation.name if operation is not None and open_ else "", draining=open_ and bool(status.get("closesNode")),
        leaving=row.deleted_at is not None,
    )  # fmt: skip
    node = each.node_after or row.node
    memory = row.scheduling
    if each.node_after is not None:  # an Operation closed the node in this pass: that is no news of somebody else's
        memory = replace(memory, state="", rv="")
    each.scheduled = Scheduled(gates.decide(node, found, memory, view), found, enforced)


def with_times(row: Row, conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions of this pass, each with the time since when its status has been so."""
    old = {c.type: c for c in row.conditions}
    return [
        replace(c, since=old[c.type].since) if c.type in old and old[c.type].status == c.status else c
        for c in conditions
    ]


async def _permits(deciding: Sequence[Pass], context: Context) -> None:
    """Closing takes capacity away: it draws on the budget like a drain."""
    closing = {p.row.id: p for p in deciding if p.scheduled is not None and p.scheduled.verdict.act == "close"}
    asks = [permits.Ask(i, CORDON, True, f"gate:{p.row.uid}", PERMIT_SECONDS) for i, p in closing.items()]
    found = await permits.permits(context.conn, asks) if asks else {}
    for machine, each in closing.items():
        if each.scheduled is not None and not found[machine].ok:
            verdict = gates.refused(each.scheduled.verdict, found[machine].message)
            each.scheduled = replace(each.scheduled, verdict=verdict)


async def _act(deciding: Sequence[Pass], context: Context) -> None:
    """Intent first; what is not committed reaches no API server."""
    acting = [p for p in deciding if p.scheduled is not None and p.scheduled.verdict.act and p.row.node is not None]
    intents = [r for p in acting if (r := _row(p, intent=True)) is not None]
    begun = await scheduling_rows.write(context.conn, context.me, intents, act=True)
    going = [p for p in acting if p.row.id in begun]
    for each in acting:
        if each.row.id not in begun:
            _failed(each, "NotBegun", "The kill switch is on, or another worker took over: the node is left as it is.")
    changes = [c for p in going if (c := _change(p)) is not None]
    done = await change_all(context.conn, context.clusters, changes)
    for each, result in zip(going, done, strict=True):
        _done(each, result)


async def _dress(deciding: Sequence[Pass], context: Context) -> None:
    """The labels and taints of machines on their nodes, where they differ from what stands there or was put there last."""
    wanting = [p for p in deciding if p.row.node is not None and not p.halted and _undressed(p.row)]
    intents = [r for p in wanting if (r := _row(p)) is not None]
    begun = await scheduling_rows.write(context.conn, context.me, intents, act=True)
    going = [p for p in wanting if p.row.id in begun]
    changes = [
        Change(p.row.cluster_id, p.row.node, "dress", dress=Dress.of(p.row.spec))
        for p in going
        if p.row.node is not None
    ]
    for each, result in zip(going, await change_all(context.conn, context.clusters, changes), strict=True):
        if result.reason:
            log.warning("machine %s: labels and taints of its node: %s", each.row.name, result.message)
            continue
        each.dressed, each.node_rv = Dress.of(each.row.spec).digest, result.rv or each.node_rv


def _undressed(row: Row) -> bool:
    wanted = Dress.of(row.spec)
    if row.node is None or gates.behind(row.node, row.scheduling):
        return False
    known = row.scheduling.dressed if row.scheduling.node_uid == row.node.uid else ""
    return wanted.digest != known or not wanted.fits(row.node)


def _change(each: Pass) -> Change | None:
    scheduled, node = each.scheduled, each.row.node
    if scheduled is None or node is None:
        return None
    return Change(each.row.cluster_id, node, scheduled.verdict.act, scheduled.verdict.cause)


def _done(each: Pass, result: Changed) -> None:
    if result.reason:
        _failed(each, result.reason, result.message)
    each.node_rv = result.rv or each.node_rv


def _failed(each: Pass, reason: str, message: str) -> None:
    if each.scheduled is not None and each.row.node is not None:
        verdict = gates.failed(each.scheduled.verdict, each.row.node, reason, message)
        each.scheduled = replace(each.scheduled, verdict=verdict)


def _row(each: Pass, *, intent: bool = False) -> Decided | None:
    """The row as it shall stand; None where there is nothing to keep."""
    row, scheduled = each.row, each.scheduled
    if scheduled is None:
        return None
    verdict, node = scheduled.verdict, row.node
    same = node is not None and row.scheduling.node_uid == node.uid
    live = each.node_after or node
    said: str = verdict.state
    if intent and verdict.act:
        said = "Opening" if verdict.act == "open" else "Closing"
    kept = row.scheduling.dressed if same else ""
    return Decided(
        row.id,
        row.epoch,
        row.cluster_id,
        said,
        verdict.reason,
        verdict.message,
        node=node.name if node else "",
        node_uid=node.uid if node else "",
        cause=(verdict.cause or (live.closed_by if live else "")) if verdict.state == "Closed" else "",
        rv=each.node_rv or (row.scheduling.rv if same else ""),
        opened=verdict.opened,
        overruled=tuple(sorted(verdict.overruled)),
        gates=[a.json(each.owners.get(a.gate.type, "")) for a in scheduled.answers],
        dressed=kept if each.dressed is None else each.dressed,
    )


def owners_of(cluster: Shared) -> dict[str, str]:
    """Whose each condition type is on machines of the cluster: Fleet's parts, and the reporters that it names."""
    found = declared(cluster.spec)
    own = {type_: owner for type_, (_, owner, _) in TYPES.items()} | dict.fromkeys(found.gates, "watcher")
    return own | {type_: r.name for r in found.reporters.values() for type_ in r.types}


async def _give_back(deciding: Sequence[Pass], context: Context) -> None:
    """Permits of gates whose node is open again and ready."""
    well = [
        p.row.id
        for p in deciding
        if p.scheduled is not None
        and p.scheduled.verdict.state == "Open"
        and p.scheduled.verdict.reason != "GateWouldClose"
        and (ready := find(p.row.conditions, "NodeReady")) is not None
        and ready.status == "True"
    ]
    due = await scheduling_rows.gate_permits(context.conn, well)
    if due:
        await permits.release(context.conn, due)
