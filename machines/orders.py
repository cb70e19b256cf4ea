"""Orders of the list of machines besides the names': each is read from indexes, page by page, from where the page before ended.

An order is a row of lanes. The machines of a lane lie in one index in the lane's own order, so a page reads as many rows as it
shows and no lane behind the one that fills it. What no index holds in order (the last change, the model) is no order here.

A cursor is `order:lane:value:...`, the last row's place in its lane. It names a place, not a row: the row may be gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleet.api.storage import ListQuery
from machines.storage import MachineStorage, fetch

NAME: Final = re.compile(r"[a-z0-9.-]{1,253}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_TABLES: Final = "machine m JOIN machine_state s ON s.id = m.id"


class CursorError(ValueError):
    """A cursor that cannot be read, or that another order made."""


@dataclass(frozen=True, slots=True)
class Lane:
    """`columns`: what its index has sorted it by. `cluster` is the column that narrows the same index to clusters.

    `twin`: the other table's column that is always equal to the only one here. Told the bound of a page too, a merge join
    does not read that table from its end.
    """

    name: str
    where: str
    columns: tuple[str, ...]
    cluster: str = "s.cluster_id"
    descending: bool = False
    twin: str = ""


def _phase(phase: str) -> Lane:
    # as literal text: the partial index of phases asks for it
    return Lane(phase, f"s.phase <> 'Running' AND s.phase = '{phase}'", ("s.cluster_id", "s.name"))


_TROUBLE: Final = (
    _phase("Failed"),
    _phase("Repairing"),
    _phase("Probation"),
    Lane("down", "s.down AND s.phase = 'Running'", ("s.cluster_id", "s.idc_id", "s.model_id", "s.rack_id", "s.id")),
    Lane("drifted", "s.drift <> 0 AND s.phase = 'Running' AND NOT s.down", ("s.cluster_id", "s.id")),
    _phase("Updating"),
    _phase("Provisioning"),
    _phase("Pending"),
    Lane("well", "s.phase = 'Running' AND s.drift = 0 AND NOT s.down", ("m.cluster_id", "m.name"), "m.cluster_id"),
    _phase("Decommissioning"),
    _phase("Retired"),
)
_LANES: Final[dict[str, tuple[Lane, ...]]] = {
    "-name": (Lane("all", "true", ("m.name",), "m.cluster_id", descending=True),),
    "new": (
        Lane("all", "true", ("m.id",), "m.cluster_id", descending=True, twin="s.id"),
    ),  # ids are given in the order of creation
    "trouble": _TROUBLE,
}
ORDERS: Final = ("name", "-name", "trouble", "cluster", "-cluster", "new")


@dataclass(frozen=True, slots=True)
class Ordered:
    """Ids of one page in order. `next` is the cursor of the page behind it, "" = the end."""

    ids: list[int]
    next: str = ""


def ordered(storage: MachineStorage, query: ListQuery, order: str, among: Sequence[int] | None = None) -> Ordered:
    """One page of `query.limit` ids; `query.after` is this order's cursor or "". `among`: only these ids, a bounded set.

    CursorError for a cursor of another order. Two pages are two moments: what changes its place between them may be met twice
    or missed, all else is met once.
    """
    if order.endswith("cluster"):
        return _by_cluster(storage, query, order, among)
    lanes = _LANES[order]
    first, at = _place(lanes, query.after, order)
    named: list[str] = []
    params: list[Any] = []
    for number, lane in enumerate(lanes[first:]):
        text, values = _lane_sql(storage, query, lane, at if number == 0 else (), among)
        if number:  # a one-time filter: a lane that is not needed is not read
            text = f"{text} AND {' + '.join(f'(SELECT count(*) FROM l{n})' for n in range(number))} <= {query.limit}"
        ranked = f"SELECT {number} AS lane, row_number() OVER () AS place, id, at FROM ({text} {_sorted(lane)} LIMIT {query.limit + 1}) r"
        named.append(f"l{number} AS MATERIALIZED ({ranked})")
        params += values
    arms = " UNION ALL ".join(f"SELECT * FROM l{n}" for n in range(len(named)))
    rows = fetch(f"WITH {', '.join(named)} SELECT lane, place, id, at FROM ({arms}) t ORDER BY lane, place", params)
    shown = rows[: query.limit]
    cursor = ""
    if len(rows) > query.limit:
        lane_number, _, _, values = shown[-1]
        cursor = ":".join([order, lanes[first + lane_number].name, *(str(v) for v in values)])
    return Ordered([row[2] for row in shown], cursor)


def _lane_sql(
    storage: MachineStorage, query: ListQuery, lane: Lane, at: Sequence[Any], among: Sequence[int] | None
) -> tuple[str, list[Any]]:
    """(the lane's rows behind a place as a SELECT without order, its parameters)."""
    where, params = _filtered(storage, query, lane.cluster, among)
    columns = ", ".join(lane.columns)
    if at:
        marks = ", ".join("%s::text" if c.endswith("name") else "%s::bigint" for c in lane.columns)
        sign = "<" if lane.descending else ">"
        where += f" AND ({columns}) {sign} ({marks})" + (f" AND {lane.twin} {sign} {marks}" if lane.twin else "")
        params = [*params, *at, *(at if lane.twin else ())]
    return f"SELECT s.id, jsonb_build_array({columns}) AS at FROM {_TABLES} WHERE {lane.where}{where}", params


def _sorted(lane: Lane) -> str:
    return "ORDER BY " + ", ".join(f"{c} DESC" if lane.descending else c for c in lane.columns)


def _filtered(
    storage: MachineStorage, query: ListQuery, cluster: str, among: Sequence[int] | None
) -> tuple[str, list[Any]]:
    """The filter as conditions that begin with AND."""
    where, params, _ = storage.filter_sql(query, cluster)
    if among is None:
        return where, params
    return f"{where} AND s.id = ANY (%s::bigint[])", [*params, list(among)]


def _place(lanes: Sequence[Lane], cursor: str, order: str) -> tuple[int, list[Any]]:
    """(number of the lane where the page begins, values of its columns there)."""
    if not cursor:
        return 0, []
    made, *rest = cursor.split(":")
    found = next(((n, lane) for n, lane in enumerate(lanes) if rest and lane.name == rest[0]), None)
    if made != order or found is None or len(rest) != len(found[1].columns) + 1:
        raise CursorError(cursor)
    return found[0], [_value(text, c.endswith("name")) for text, c in zip(rest[1:], found[1].columns, strict=True)]


def _value(text: str, is_name: bool) -> Any:
    if not (NAME if is_name else _NUMBER).fullmatch(text):
        raise CursorError(text)
    return text if is_name else int(text)


def _by_cluster(storage: MachineStorage, query: ListQuery, order: str, among: Sequence[int] | None) -> Ordered:
    """Clusters by name (machines outside every cluster first), each read by its own index as far as the page needs it."""
    down = order.startswith("-")
    cluster, name = _cluster_place(query.after, order)
    clusters, params = _clusters(query)
    where, values = _filtered(storage, query, "m.cluster_id", among)
    way = " DESC" if down else ""
    if query.after:
        clusters, params = f"{clusters} AND name {'<=' if down else '>='} %s::text", [*params, cluster]
    # Sorted clusters outside: the sort above them is incremental and stops at the cluster that fills the page.
    rows = fetch(
        f"""SELECT c.name, r.name, r.id FROM ({clusters} ORDER BY name{way}) c CROSS JOIN LATERAL (
          SELECT m.id, m.name FROM {_TABLES} WHERE m.cluster_id = c.id AND m.name > CASE WHEN c.name = %s::text THEN %s::text ELSE '' END{where}
          ORDER BY m.name LIMIT {query.limit + 1}) r ORDER BY c.name{way}, r.name LIMIT {query.limit + 1}""",
        [*params, cluster, name, *values],
    )
    shown = rows[: query.limit]
    more = f"{order}:{shown[-1][0]}:{shown[-1][1]}" if len(rows) > query.limit else ""
    return Ordered([row[2] for row in shown], more)


def _cluster_place(cursor: str, order: str) -> tuple[str, str]:
    """(cluster, machine) behind which the page begins."""
    if not cursor:
        return "", ""
    made, *rest = cursor.split(":")
    if made != order or len(rest) != 2 or not NAME.fullmatch(rest[1]) or not (rest[0] == "" or NAME.fullmatch(rest[0])):
        raise CursorError(cursor)
    return rest[0], rest[1]


def _clusters(query: ListQuery) -> tuple[str, list[Any]]:
    """(id, name) of the clusters that the filter leaves, as SQL."""
    parts, params = ["true"], list[Any]()
    if query.clusters is not None:
        parts.append("name = ANY (%s::text[])")
        params.append(sorted(query.clusters))
    for path, operator, value in query.fields.terms:
        if path == "spec.clusterName":
            parts.append(f"name {'=' if operator == '=' else '<>'} %s::text")
            params.append(value)
    return (
        f"""SELECT id, name FROM (SELECT 0 AS id, '' COLLATE "C" AS name UNION ALL SELECT id::int, name::text FROM clusters_cluster) k WHERE {" AND ".join(parts)}""",
        params,
    )


def matching(
    storage: MachineStorage, query: ListQuery, among: Sequence[int] | None = None
) -> list[tuple[int, str, str]]:
    """(id, name, name of the cluster or "") of what a filter means, in no order; one more than `query.limit` when there are more."""
    where, params = _filtered(storage, query, "m.cluster_id", among)
    found = fetch(
        f"SELECT m.id, m.name, coalesce(c.name, '') FROM {_TABLES} LEFT JOIN clusters_cluster c ON c.id = m.cluster_id WHERE true{where} LIMIT {query.limit + 1}",
        params,
    )
    return [(int(id_), str(name), str(cluster)) for id_, name, cluster in found]
