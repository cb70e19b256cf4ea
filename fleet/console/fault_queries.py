"""Faults and remediations as pages show them, read set-based: the board, the lists, what belongs to one machine, how rules and playbooks do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

import orjson

from fleet.api.rights import Actor
from fleet.console.fault_filters import FAULTS, REMEDIATIONS, ListFilter, sql_of
from fleet.console.queries import rows, scoped
from fleet.console.words import Word, count
from fleet.control.kinds import Json
from recovery.figures import OUTCOMES
from recovery.types import LIVE

PAGE: Final = 100
# as literal text: the partial index of live faults asks for it
IS_LIVE: Final = f"f.phase IN ({', '.join(repr(p) for p in LIVE)})"
_OPEN: Final = "f.ended_at IS NULL"
_BOARD: Final = """
SELECT f.type, f.category, coalesce(c.name, '') AS cluster, count(*) AS n, count(*) FILTER (WHERE f.phase = 'NeedsPerson') AS needs,
  count(*) FILTER (WHERE f.phase = 'Recovering') AS recovering, min(f.first_seen) AS since
FROM recovery_fault f LEFT JOIN clusters_cluster c ON c.id = f.cluster_id WHERE {live} AND NOT f.shadow AND {scope} GROUP BY 1, 2, 3
"""
_FAULTS: Final = """
SELECT f.id, f.name, f.spec ->> 'machine' AS machine, coalesce(c.name, '') AS cluster, f.type, f.category, f.severity, f.phase, f.rule, f.shadow, f.count, f.sources::text AS sources,
  f.first_seen, f.last_seen, coalesce(f.status ->> 'message', '') AS message, coalesce(f.status #>> '{{repair,message}}', '') AS refused, coalesce(f.status ->> 'remediation', '') AS remediation,
  (f.phase <> 'NeedsPerson')::int AS rank
FROM recovery_fault f LEFT JOIN clusters_cluster c ON c.id = f.cluster_id
WHERE {asked} AND {scope} AND ((f.phase <> 'NeedsPerson')::int, -f.id) > (%s, %s) ORDER BY rank, f.id DESC LIMIT %s
"""
_REMEDIATIONS: Final = """
SELECT f.id, f.name, f.spec ->> 'machine' AS machine, f.spec ->> 'fault' AS fault, coalesce(c.name, '') AS cluster, f.phase, f.playbook, f.rung + 1 AS rung,
  jsonb_array_length(coalesce(f.spec #> '{{ladder,rungs}}', '[]')) AS rungs, f.created_at, f.ended_at, coalesce(f.status ->> 'message', '') AS message, f.serial_number AS serial
FROM recovery_remediation f LEFT JOIN clusters_cluster c ON c.id = f.cluster_id WHERE {asked} AND {scope} AND f.id < %s ORDER BY f.id DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class FaultRow:
    """A fault in a list."""

    id: int
    name: str
    machine: str
    cluster: str
    type: str
    category: str
    severity: int
    phase: str
    rule: str
    shadow: bool
    count: int
    sources: tuple[str, ...]
    first_seen: datetime
    last_seen: datetime
    message: str
    refused: str
    remediation: str
    rank: int

    @property
    def said(self) -> str:
        """What is seen, and why nothing is done about it."""
        return self.refused or self.message

    @property
    def cursor(self) -> str:
        """Its place in the list."""
        return f"{self.rank}-{self.id}"


@dataclass(frozen=True, slots=True)
class RemediationRow:
    """A remediation in a list."""

    id: int
    name: str
    machine: str
    fault: str
    cluster: str
    phase: str
    playbook: str
    rung: int
    rungs: int
    created_at: datetime
    ended_at: datetime | None
    message: str
    serial: str


@dataclass(frozen=True, slots=True)
class Cell:
    """Live faults of a type in a cluster."""

    n: int = 0
    needs: int = 0
    recovering: int = 0
    since: datetime | None = None
    q: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """Types × clusters; the clusters with the most faults that need a person first."""

    clusters: tuple[str, ...]
    lines: tuple[tuple[str, str, Cell, tuple[Cell, ...]], ...]  # (type, category, all of it, by cluster)
    total: Cell


def board(actor: Actor, most: int = 8) -> Board:
    """What is wrong now. Beyond `most` clusters the rest is one column, called ""."""
    where, params = scoped(actor, "f.cluster_id")
    found = rows(_BOARD.format(live=IS_LIVE, scope=where), params)
    weight: dict[str, tuple[int, int]] = {}
    for row in found:
        needs, n = weight.get(row["cluster"], (0, 0))
        weight[row["cluster"]] = (needs + row["needs"], n + row["n"])
    order = sorted(weight, key=lambda c: (*(-w for w in weight[c]), c))
    shown = tuple(order[:most])
    types = sorted({(r["type"], r["category"]) for r in found})
    lines = []
    for type_, category in types:
        of = [r for r in found if r["type"] == type_]
        cells = tuple(_cell([r for r in of if r["cluster"] == c], type_, c) for c in shown)
        rest = (_cell([r for r in of if r["cluster"] not in shown], type_, None),) if len(order) > most else ()
        lines.append((type_, category, _cell(of, type_, None), (*cells, *rest)))
    lines.sort(key=lambda line: (-line[2].needs, -line[2].n, line[0]))
    return Board(shown, tuple(lines), _cell(found, "", None))


def _cell(found: Sequence[Json], type_: str, cluster: str | None) -> Cell:
    q = " ".join(
        filter(
            None, (f"type:{type_}" if type_ else "", f"cluster:{cluster or chr(39) * 2}" if cluster is not None else "")
        )
    )
    if not found:
        return Cell(q=q)
    total = {k: sum(r[k] for r in found) for k in ("n", "needs", "recovering")}
    return Cell(total["n"], total["needs"], total["recovering"], min(r["since"] for r in found), q)


def faults(actor: Actor, parsed: ListFilter, after: tuple[int, int] = (-1, 0), limit: int = PAGE, *, live: bool = True) -> list[FaultRow]:  # fmt: skip
    """A page and one more, those that need a person first. Without a phase only `live` ones; of rules on trial only where that is asked."""
    asked, values = sql_of(parsed, FAULTS)
    if live and not parsed.has("phase"):
        asked += f" AND {IS_LIVE}"
    if not parsed.has("shadow") and not parsed.has("rule"):
        asked += " AND NOT f.shadow"
    where, params = scoped(actor, "f.cluster_id")
    found = rows(
        _FAULTS.format(asked=asked, scope=where),
        [*values, *params, after[0], -after[1] if after[1] else -(1 << 62), limit + 1],
    )
    return [FaultRow(**{**r, "sources": tuple(orjson.loads(r["sources"]))}) for r in found]


def remediations(actor: Actor, parsed: ListFilter, before: int = 1 << 62, limit: int = PAGE) -> list[RemediationRow]:
    """A page and one more, newest first. Without a phase those that run."""
    asked, values = sql_of(parsed, REMEDIATIONS)
    if not parsed.tokens and not parsed.words:
        asked += f" AND {_OPEN}"
    where, params = scoped(actor, "f.cluster_id")
    found = rows(_REMEDIATIONS.format(asked=asked, scope=where), [*values, *params, before, limit + 1])
    return [RemediationRow(**r) for r in found]


def by_phase(actor: Actor) -> dict[str, int]:
    """Open remediations by phase."""
    where, params = scoped(actor, "f.cluster_id")
    found = rows(
        f"SELECT f.phase, count(*) AS n FROM recovery_remediation f WHERE {_OPEN} AND {where} GROUP BY 1 ORDER BY n DESC",
        params,
    )
    return {r["phase"]: int(r["n"]) for r in found}


def needing(actor: Actor, limit: int = 200) -> list[FaultRow]:
    """Faults that Fleet has given to people, the newest first."""
    return faults(actor, ListFilter((("phase", "NeedsPerson"),)), limit=limit)[:limit]


def of_machine(machine_id: int) -> list[Json]:
    """Live faults of a machine with the remediation that works on each, the worst first: one query for the page."""
    found = rows(
        f"""SELECT f.id, f.name, f.type, f.category, f.severity, f.phase, f.rule, f.shadow, f.count, f.first_seen, f.last_seen, f.held_since, f.confirmed_at, f.sources::text AS sources,
          f.status::text AS status, f.spec::text AS spec, r.name AS remediation, r.phase AS remediation_phase, r.rung + 1 AS rung, r.status::text AS remediation_status, r.phase_at, r.playbook
        FROM recovery_fault f LEFT JOIN LATERAL (SELECT * FROM recovery_remediation r WHERE r.fault_id = f.id ORDER BY r.id DESC LIMIT 1) r ON true
        WHERE f.machine_id = %s AND {IS_LIVE} ORDER BY f.shadow, (f.phase <> 'NeedsPerson'), f.severity DESC, f.id""",
        [machine_id],
    )
    for row in found:
        for key in ("sources", "status", "spec", "remediation_status"):
            row[key] = orjson.loads(row[key]) if row[key] else {}
    return found


_BEFORE: Final = """
SELECT r.name, r.spec ->> 'fault' AS fault, r.playbook, r.phase, r.rung + 1 AS rung, r.created_at, r.ended_at, coalesce(r.status ->> 'message', '') AS message, coalesce(r.status -> 'rungs', '[]')::text AS rungs,
  r.spec ->> 'machine' AS machine
FROM recovery_remediation r WHERE {same} AND r.id <> %s AND {scope} ORDER BY r.id DESC LIMIT %s
"""


def before(actor: Actor, machine_id: int, serial: str, but: int, limit: int = 20) -> list[Json]:
    """What was tried before on a machine, or on its serial number under another name."""
    where, params = scoped(actor, "r.cluster_id")
    same = "(r.machine_id = %s OR (r.serial_number = %s AND r.serial_number <> ''))" if serial else "r.machine_id = %s"
    found = rows(
        _BEFORE.format(same=same, scope=where), [machine_id, *([serial] if serial else []), but, *params, limit]
    )
    return [{**r, "rungs": orjson.loads(r["rungs"])} for r in found]


def evidence_of(uids: Sequence[str]) -> list[Json]:
    """What hosts showed of themselves before these Operations: where it lies, not its text."""
    return rows(
        "SELECT operation_uid::text AS operation, step, at, length(content) AS size FROM machine_evidence WHERE operation_uid = ANY (%s::uuid[]) ORDER BY at, step",
        [list(uids)],
    )


def rungs_of(playbook: str) -> dict[str, Json]:
    """How each rung of a playbook ended in the last 30 days, by its name. The last rung of a repair that is open runs, and has neither helped nor failed."""
    found = rows(
        """SELECT t.rung, count(*) FILTER (WHERE NOT t.runs) AS tried, count(*) FILTER (WHERE t.helped) AS helped, count(*) FILTER (WHERE t.runs) AS running,
          percentile_cont(0.5) WITHIN GROUP (ORDER BY t.seconds) FILTER (WHERE t.helped) AS seconds
        FROM (
          SELECT e ->> 'name' AS rung, r.ended_at IS NULL AND e.nth = jsonb_array_length(r.status -> 'rungs') AND coalesce(e ->> 'outcome', '') = '' AS runs,
            r.phase = 'Succeeded' AND e.nth = jsonb_array_length(r.status -> 'rungs') AS helped, extract(epoch FROM r.ended_at - r.created_at) AS seconds
          FROM recovery_remediation r, jsonb_array_elements(coalesce(r.status -> 'rungs', '[]')) WITH ORDINALITY AS e(e, nth)
          WHERE r.playbook = %s AND r.created_at > now() - interval '30 days') t GROUP BY 1""",
        [playbook],
    )
    return {r["rung"]: r for r in found}


def figures_of(playbook: str) -> Json:
    """How the repairs by a playbook stand now and ended in the last 30 days, as its status tells it."""
    found = rows(
        f"SELECT {OUTCOMES} FROM recovery_remediation m WHERE m.playbook = %s AND m.created_at > now() - interval '30 days'",
        [playbook],
    )
    return found[0]


_LENGTHS: Final = (60, 300, 900, 3_600, 14_400)  # seconds
LENGTHS: Final = ("under 1 min", "to 5 min", "to 15 min", "to 1 h", "to 4 h", "longer")


def lengths_of(playbook: str) -> list[int]:
    """Repairs of the last 30 days that helped, by how long they took: one number for each of `LENGTHS`."""
    found = rows(
        """SELECT width_bucket(extract(epoch FROM ended_at - created_at)::float8, %s::float8[]) AS bucket, count(*) AS n FROM recovery_remediation
        WHERE playbook = %s AND phase = 'Succeeded' AND created_at > now() - interval '30 days' GROUP BY 1""",
        [list(_LENGTHS), playbook],
    )
    out = [0] * len(LENGTHS)
    for row in found:
        out[row["bucket"]] = int(row["n"])
    return out


def days_of(rule: str, days: int = 30) -> list[tuple[int, int]]:
    """(confirmed, fleeting) faults of a rule on each of the last days, the newest last."""
    found = rows(
        """SELECT (current_date - f.created_at::date) AS back, count(*) FILTER (WHERE f.confirmed_at IS NOT NULL) AS confirmed,
          count(*) FILTER (WHERE f.confirmed_at IS NULL AND f.phase = 'Resolved') AS fleeting
        FROM recovery_fault f WHERE f.rule = %s AND f.created_at > now() - %s * interval '1 day' GROUP BY 1""",
        [rule, days],
    )
    out = [(0, 0)] * days
    for row in found:
        if 0 <= row["back"] < days:
            out[days - 1 - row["back"]] = (int(row["confirmed"]), int(row["fleeting"]))
    return out


def sentence(total: Cell, phases: dict[str, int]) -> list[Word]:
    """What needs a person, what Fleet repairs, what waits."""
    if not total.n:
        return [Word("No fault is seen now.")]
    said: list[Word] = []
    if total.needs:
        said = [Word(count(total.needs, "fault"), "/faults?q=phase:NeedsPerson", "bad"), Word(f" {'needs' if total.needs == 1 else 'need'} you; ")]  # fmt: skip
    running = sum(phases.values())
    waiting = phases.get("Waiting", 0)
    said.append(Word(f"Fleet repairs {count(running, 'machine')}" if running else "Fleet repairs nothing", "/remediations"))  # fmt: skip
    if waiting:
        said += [Word(", "), Word(f"{waiting:,} of them {'waits' if waiting == 1 else 'wait'}", "/remediations?q=phase:Waiting", "held")]  # fmt: skip
    rest = total.n - total.needs - total.recovering
    return [*said, Word(f"; {count(rest, 'more fault')} {'is' if rest == 1 else 'are'} seen and not worked on." if rest else ".")]  # fmt: skip


def address(kind: str, name: str) -> str:
    """The page of a fault or remediation."""
    return f"/{kind}/{quote(name, safe='')}"


@dataclass(frozen=True, slots=True)
class Now:
    """What the overview asks in one query. `stuck`: clusters whose control plane needs a person, the longest first; `repairs`: open remediations by phase; `untaken`: notices that nobody took."""

    stopped: bool
    why: str
    by: str
    stuck: list[Json]
    repairs: dict[str, int]
    untaken: int = 0


def now(actor: Actor, limit: int = 20) -> Now:
    """The kill switch, stalled clusters and repairs."""
    where, parameters = scoped(actor, "k.id")
    repaired, more = scoped(actor, "m.cluster_id")
    names = None if actor.clusters is None else sorted(actor.clusters)
    row = rows(
        f"""SELECT stopped, coalesce(stopped_why, '') AS why, coalesce(stopped_by, '') AS by,
          (SELECT coalesce(jsonb_agg(s ORDER BY s.since, s.name), '[]')::text FROM (
            SELECT k.name, c ->> 'reason' AS reason, c ->> 'message' AS message, c ->> 'lastTransitionTime' AS since
            FROM clusters_cluster k, jsonb_array_elements(CASE WHEN jsonb_typeof(k.status -> 'conditions') = 'array' THEN k.status -> 'conditions' ELSE '[]' END) c
            WHERE c ->> 'type' = 'Stalled' AND c ->> 'status' = 'True' AND {where} ORDER BY 4, 1 LIMIT %s) s) AS stuck,
          (SELECT coalesce(jsonb_object_agg(r.phase, r.n), '{{}}')::text FROM (
            SELECT m.phase, count(*) AS n FROM recovery_remediation m WHERE m.ended_at IS NULL AND {repaired} GROUP BY 1) r) AS repairs,
          (SELECT count(*) FROM notice n WHERE n.cleared_at IS NULL AND n.acked_at IS NULL AND (%s::text[] IS NULL OR n.cluster = ANY (%s))) AS untaken
        FROM ledger WHERE id = 1""",
        [*parameters, limit, *more, names, names],
    )[0]
    return Now(
        row["stopped"], row["why"], row["by"], orjson.loads(row["stuck"]), orjson.loads(row["repairs"]), row["untaken"]
    )
