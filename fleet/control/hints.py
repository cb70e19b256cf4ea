"""Hints: which worker should look for what. A hint is (kind, idc, shards); losing one loses nothing, the next tick sends it anew.

Shards are dealt out over the workers that are alive, so that each keeps its connections to the same hosts. At most one hint
for each (kind, idc, worker) is on its way; what nobody fetched within 10 s goes to the queue that all workers of the idc read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.control.db import Connection
from fleet.control.kinds import MACHINE
from fleet.control.work import SHARDS
from fleet.control.worker import ALIVE_SECONDS

SHARED_QUEUE = "fleet"
SOON, LATER = 0, 6  # steps that kombu keeps apart in Valkey
LATE_SECONDS = 10.0  # a shard without progress for this long is anybody's

_DUE = """
WITH RECURSIVE c AS (
  (SELECT cluster_id AS id FROM work_item WHERE kind = %(kind)s ORDER BY cluster_id LIMIT 1)
  UNION ALL
  SELECT (SELECT w.cluster_id FROM work_item w WHERE w.kind = %(kind)s AND w.cluster_id > c.id ORDER BY w.cluster_id LIMIT 1) FROM c WHERE c.id IS NOT NULL)
SELECT d.idc_id, d.shard, max(extract(epoch FROM now() - d.due_at))::float8 FROM c, LATERAL (
  SELECT w.idc_id, w.shard, w.due_at FROM work_item w WHERE w.kind = %(kind)s AND w.cluster_id = c.id AND w.due_at <= now() ORDER BY w.due_at LIMIT 200) d
WHERE c.id IS NOT NULL GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Hint:
    """Look for due objects of `kind` in that idc, shards `low` to `high`."""

    kind: int
    idc_id: int
    low: int
    high: int
    queue: str

    @property
    def key(self) -> str:
        """One of these is on its way at a time."""
        return f"fleet:hint:{self.queue}:{self.kind}:{self.idc_id}:{self.low}"

    @property
    def priority(self) -> int:
        """Of the message, 0 first: what is there by the thousand keeps nothing else waiting, whose hints would lapse meanwhile."""
        return LATER if self.kind == MACHINE else SOON


@dataclass(frozen=True, slots=True)
class Due:
    """A shard with something due, and for how long the oldest waits."""

    idc_id: int
    shard: int
    late_seconds: float


@dataclass(frozen=True, slots=True)
class Alive:
    """A worker; `idcs` empty = serves all."""

    name: str
    idcs: frozenset[int]


def own_queue(name: str) -> str:
    """The queue that only this worker reads."""
    return f"fleet.w.{name}"


def idc_queue(name: str) -> str:
    """The queue that all workers of an idc's own pool read."""
    return f"fleet.idc.{name}"


def plan_hints(kind: int, due: Iterable[Due], alive: Sequence[Alive], names: dict[int, str]) -> list[Hint]:
    """Whom to tell what. `names`: idcs by number. An idc with a pool of its own is served by that pool alone."""
    found: dict[tuple[int, int], float] = defaultdict(float)
    groups: dict[int, list[str]] = {}
    for item in due:
        serving = groups.setdefault(item.idc_id, _serving(item.idc_id, alive))
        number = item.shard * len(serving) // SHARDS if serving else -1
        found[item.idc_id, number] = max(found[item.idc_id, number], item.late_seconds)
    hints = []
    for (idc_id, number), late in sorted(found.items()):
        serving = groups[idc_id]
        dedicated = any(idc_id in w.idcs for w in alive)
        shared = idc_queue(names[idc_id]) if dedicated and idc_id in names else SHARED_QUEUE
        low, high = (
            (0, SHARDS - 1)
            if number < 0
            else (-(-number * SHARDS // len(serving)), -(-(number + 1) * SHARDS // len(serving)) - 1)
        )
        if number >= 0:
            hints.append(Hint(kind, idc_id, low, high, own_queue(serving[number])))
        if number < 0 or late > LATE_SECONDS:
            hints.append(Hint(kind, idc_id, low, high, shared))
    return hints


def _serving(idc_id: int, alive: Sequence[Alive]) -> list[str]:
    """Names of the idc's own pool, else of the workers that serve all, in order."""
    own = sorted({w.name for w in alive if idc_id in w.idcs})
    return own or sorted({w.name for w in alive if not w.idcs})


async def due_now(conn: Connection, kind: int) -> list[Due]:
    """Shards with something due, from the 200 longest waiting of each cluster."""
    found = await (await conn.execute(_DUE, {"kind": kind}, prepare=True)).fetchall()
    return [Due(*row) for row in found]


async def alive_now(conn: Connection) -> tuple[list[Alive], dict[int, str]]:
    """Workers with a beating heart, and the names of all idcs by number."""
    places = await (await conn.execute("SELECT id, name FROM place WHERE dim = 'idc'")).fetchall()
    numbers = {name: number for number, name in places}
    found = await (
        await conn.execute(
            "SELECT name, idcs FROM worker WHERE NOT stopping AND seen_at > now() - %s * interval '1 s'",
            [ALIVE_SECONDS],
        )
    ).fetchall()
    unknown = -1  # a pool for an idc that no machine stands in yet serves nothing, not everything
    alive = [Alive(name, frozenset(numbers.get(i, unknown) for i in idcs)) for name, idcs in found]
    return alive, {number: name for name, number in numbers.items()}
