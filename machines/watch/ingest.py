"""Writing what was seen: changes only, whole batches, fenced by the lease. Wakes the machines whose nodes moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import orjson

from fleet.control import clock
from fleet.control.arrays import arrays, flags, numbers, texts
from fleet.control.conditions import Condition
from fleet.control.db import Connection
from machines import packing
from machines.conditions import BIT
from machines.packing import Packed
from machines.watch import ingest_sql
from machines.watch.leases import Lease, LeaseLost
from machines.watch.seen import NODE_READY, Node, clean_json, internal_ip, machine_uid

BATCH: Final = 1_000  # rows a transaction
_READY_BIT: Final = 1 << BIT[NODE_READY]


@dataclass(frozen=True, slots=True)
class Observed:
    """The conditions of one machine's node. `before`: as packed when they were written last; `member`: False = it is no node any more."""

    machine_id: int
    conditions: Sequence[Condition]
    before: tuple[int, ...]
    member: bool = True


async def _fenced(
    conn: Connection, sql: LiteralString, lease: Lease, values: Mapping[str, Any], *, prepare: bool = True
) -> list[tuple[int, bool]]:
    """Run a statement whose first row says whether the lease held; its other rows.

    What looks into `node` is planned each time: a plan kept from when that table was small reads all of it for each row, and a
    cluster of 20,000 nodes that is adopted would never be written.
    """
    given = {"c": lease.cluster_id, "epoch": lease.epoch, "me": lease.holder, **values}
    rows = await (await conn.execute(sql, given, prepare=prepare)).fetchall()
    if not rows[0][1]:
        raise LeaseLost(f"cluster {lease.cluster_id}")
    return [(row[0], row[1]) for row in rows[1:]]


async def load(conn: Connection, cluster_id: int) -> list[tuple[str, int, tuple[int, ...]]]:
    """(name, machine or 0, packed conditions) of a cluster's nodes as they were written last."""
    cursor = conn.cursor(binary=True)
    await cursor.execute(ingest_sql.LOAD, [cluster_id])
    return [(name, machine, tuple(packed)) for name, machine, packed in await cursor.fetchall()]


async def links(conn: Connection, lease: Lease, nodes: Sequence[Node], *, by_name: bool) -> dict[str, int]:
    """Machines by the name of their node, those that are declared; the first of two nodes that claim one machine."""
    found: list[tuple[str, int]] = []
    for at in range(0, len(nodes), BATCH):
        part = nodes[at : at + BATCH]
        names, uids = texts(n.metadata.name for n in part), texts(machine_uid(n) for n in part)
        values = {"names": names, "uids": uids, "by_name": by_name, "c": lease.cluster_id}
        found += await (await conn.execute(ingest_sql.LINKS, values, prepare=False)).fetchall()  # as `_fenced` says
    out: dict[str, int] = {}
    taken: set[int] = set()
    for name, machine in sorted(found):
        if machine not in taken:
            taken.add(machine)
            out[name] = machine
    return out


async def write_nodes(conn: Connection, lease: Lease, nodes: Sequence[Node], machine_of: Mapping[str, int]) -> set[int]:
    """Rows of the table `node`, those that differ; machines whose node moved."""
    moved: set[int] = set()
    for at in range(0, len(nodes), BATCH):
        part = nodes[at : at + BATCH]
        values = {
            "name": texts(n.metadata.name for n in part), "uid": texts(n.metadata.uid for n in part),
            "machine": numbers(machine_of.get(n.metadata.name) for n in part), "provider": texts(n.spec.provider_id for n in part),
            "closed": flags(n.spec.unschedulable for n in part), "by": texts(n.metadata.annotations.closed_by for n in part),
            "taints": texts(clean_json(n.spec.taints, "[]") for n in part), "labels": texts(clean_json(n.metadata.labels, "{}") for n in part),
            "boot": texts(n.status.node_info.boot_id for n in part), "kubelet": texts(n.status.node_info.kubelet_version for n in part),
            "ip": texts(internal_ip(n) for n in part), "created": texts(n.metadata.created for n in part),
            "rv": texts(n.metadata.version for n in part),
        }  # fmt: skip
        moved |= {machine for machine, _ in await _fenced(conn, ingest_sql.NODES, lease, values, prepare=False)}
    return moved


async def write_conditions(
    conn: Connection, lease: Lease, seen: Sequence[Observed]
) -> tuple[dict[int, tuple[int, ...]], set[int]]:
    """The nodes' conditions on their machines, those that differ: (packed conditions by machine, machines where more than a message moved)."""
    packed: dict[int, tuple[int, ...]] = {}
    moved: set[int] = set()
    ordered = sorted(seen, key=lambda o: o.machine_id)
    for at in range(0, len(ordered), BATCH):
        part = ordered[at : at + BATCH]
        done = await _pack(conn, part)
        packed |= {o.machine_id: tuple(p.array) for o, p, _ in done}
        moved |= {machine for machine, _ in await _fenced(conn, ingest_sql.CONDITIONS, lease, _values(done))}
    return packed, moved


async def _pack(conn: Connection, part: Sequence[Observed]) -> list[tuple[Observed, Packed, int]]:
    """Each with its packed conditions and the mask of bits that are the watcher's on this machine. Equal sets are packed once."""
    await packing.ensure_entries(conn, _distinct(part))
    if not packing.known(o.before for o in part):
        await packing.refresh(conn)
    now = clock.now()
    known: dict[tuple[int, tuple[int, ...]], tuple[Packed, int]] = {}
    out = []
    for each in part:
        key = (id(each.conditions), each.before)
        found = known.get(key)
        if found is None:
            found = known[key] = (packing.pack(each.conditions, each.before, now), _own(each))
        out.append((each, *found))
    return out


def _distinct(part: Sequence[Observed]) -> Iterable[Condition]:
    once = {id(o.conditions): o.conditions for o in part}
    return (c for conditions in once.values() for c in conditions)


def _own(observed: Observed) -> int:
    """Bits that are the watcher's: of the types that the node reports, and of those it reported before."""
    types = {c.type for c in observed.conditions} | {packing.entry(p).type for p in observed.before}
    return sum(1 << BIT[t] for t in types if t in BIT) | _READY_BIT


def _values(done: Sequence[tuple[Observed, Packed, int]]) -> dict[str, Any]:
    ready = [next((c for c in o.conditions if c.type == NODE_READY), None) for o, _, _ in done]
    return {
        "id": numbers(o.machine_id for o, _, _ in done), "own": numbers(own for _, _, own in done),
        "ct": numbers(p.true for _, p, _ in done), "cf": numbers(p.false for _, p, _ in done), "cond": arrays(p.array for _, p, _ in done),
        "notes": texts(orjson.dumps(p.notes).decode() if p.notes else None for _, p, _ in done), "member": flags(o.member for o, _, _ in done),
        "why": texts("NoNode" if r is None else r.reason for r in ready),
        "message": texts("The machine is no node any more." if r is None else r.message or f"The node is {r.reason}." for r in ready),
        "types": sorted({c.type for o, _, _ in done for c in o.conditions} | {packing.entry(p).type for o, _, _ in done for p in o.before}),
    }  # fmt: skip


async def remove_nodes(conn: Connection, lease: Lease, names: Iterable[str]) -> set[int]:
    """Nodes that are gone; the machines that they were."""
    moved: set[int] = set()
    wanted = sorted(names)
    for at in range(0, len(wanted), BATCH):
        found = await _fenced(conn, ingest_sql.GONE, lease, {"names": wanted[at : at + BATCH]})
        moved |= {machine for machine, _ in found}
    return moved


async def unlink(conn: Connection, lease: Lease, names: Sequence[str]) -> None:
    """These nodes belong to no machine of this cluster any more."""
    await _fenced(conn, ingest_sql.UNLINK, lease, {"names": list(names)})


async def strayed(conn: Connection, lease: Lease, *, by_name: bool) -> tuple[dict[str, int], dict[str, int]]:
    """(nodes whose machine is gone or elsewhere, nodes whose machine has been declared by now), with the machine."""
    away: dict[str, int] = {}
    new: dict[str, int] = {}
    found = await conn.execute(ingest_sql.STRAYED, {"c": lease.cluster_id, "by_name": by_name})
    for name, machine, is_away in await found.fetchall():
        (away if is_away else new)[name] = machine
    return away, new


async def counts(conn: Connection, cluster_id: int) -> dict[str, int]:
    """Nodes of a cluster for `status.nodes`."""
    row = await (await conn.execute(ingest_sql.COUNTS, [cluster_id], prepare=True)).fetchone()
    assert row is not None
    return dict(zip(("total", "ready", "open", "unknown", "undeclared"), (int(v) for v in row), strict=True))
