"""Which machines a batch means: found once, when it is asked for. From then on the list is what counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django.db import connection

from fleet.api.selectors import LabelSelector
from fleet.api.storage import ListQuery
from fleet.control.arrays import numbers
from fleet.control.digests import hex64
from fleet.control.kinds import Json
from machines.batches.schema import fields_of
from machines.orders import matching
from machines.storage import MachineStorage, fetch

MOST: Final = 100_000
_SHOWN_CLUSTERS: Final = 100


class TargetError(ValueError):
    """What `spec.target` says is no list that can be acted on; `path` is the field below it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path, self.message = path, message


@dataclass(frozen=True, slots=True)
class Target:
    """One machine of the list. `cluster` is "" outside every cluster."""

    id: int
    name: str
    cluster: str


def find(storage: MachineStorage, spec: Json) -> list[Target]:
    """The machines that are meant now, by name; TargetError when there is none, or more than MOST."""
    target, cluster = spec["target"], spec.get("clusterName", "")
    found = _named(target["machines"], cluster) if "machines" in target else _selected(storage, target, cluster)
    if not found:
        raise TargetError("", "no machine matches: nothing would be done")
    if len(found) > MOST:
        raise TargetError("", f"more than {MOST:,} machines match: narrow it, by a cluster first")
    return sorted(found, key=lambda t: t.name)


def _named(names: Sequence[str], cluster: str) -> list[Target]:
    sql = "SELECT m.id, m.name, coalesce(c.name, '') FROM machine m LEFT JOIN clusters_cluster c ON c.id = m.cluster_id WHERE m.name = ANY (%s)"
    found = [Target(*row) for row in fetch(sql, [list(names)])]
    missing = sorted(set(names) - {t.name for t in found})
    if missing:
        raise TargetError("machines", f'there is no machine "{missing[0]}"' + _more(len(missing)))
    others = [t for t in found if cluster and t.cluster != cluster]
    if others:
        where = f"in cluster {others[0].cluster}" if others[0].cluster else "in no cluster"
        raise TargetError("machines", f'"{others[0].name}" is {where}, not in {cluster}' + _more(len(others)))
    return found


def _more(count: int) -> str:
    return f", and {count - 1} more are like that" if count > 1 else ""


def _selected(storage: MachineStorage, target: Json, cluster: str) -> list[Target]:
    query = ListQuery(
        LabelSelector.parse(target.get("labelSelector", "")), fields_of(target.get("fieldSelector", "")), limit=MOST,
        clusters=frozenset([cluster]) if cluster else None,
    )  # fmt: skip
    among = None
    if prefix := target.get("namePrefix"):
        sql = "SELECT id FROM machine WHERE name >= %s AND name < %s LIMIT %s"
        among = [row[0] for row in fetch(sql, [prefix, prefix + "\uffff", MOST + 1])]
    return [Target(*row) for row in matching(storage, query, among)]


def digest(targets: Iterable[tuple[str, int]]) -> str:
    """Of names and ids: a machine that was made anew is another one."""
    return hex64(sorted([name, id_] for name, id_ in targets))


def by_cluster(targets: Iterable[Target]) -> list[Json]:
    """How many of each, the largest first."""
    counts = Counter(t.cluster for t in targets).most_common(_SHOWN_CLUSTERS)
    return [{"name": name, "count": n} for name, n in counts]


def keep(batch: int, targets: Sequence[Target]) -> None:
    """The frozen list, in the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO operation_batch_target (batch_id, machine_id, cluster_id, name) "
            "SELECT %s, m.id, m.cluster_id, m.name FROM machine m WHERE m.id = ANY (%s::bigint[])",
            [batch, numbers(t.id for t in targets)],
        )
