"""What the pages show, read set-based and by kept counters; nothing here grows with the fleet but by pages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from fleet.api.rights import Actor
from fleet.api.storage import ListQuery, cluster_ids, storage_for
from fleet.console import words
from fleet.control.kinds import Json
from machines.conditions import BIT
from machines.schema import state_of

MACHINE_PAGE = 100
NEWEST = 5  # Operations that the overview shows
BY_NAME = 2_000  # names with the same beginning that one page looks through


def rows(sql: str, parameters: list[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or [])
        names = [c[0] for c in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


class TooSlow(Exception):
    """A statement took longer than it was given."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """One transaction whose statements are given up after so long: for what people may ask and no index answers."""
    try:
        with transaction.atomic():
            rows("SELECT set_config('statement_timeout', %s, true)", [f"{seconds * 1000:.0f}"])
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise TooSlow from error
        raise


def scope_ids(actor: Actor) -> list[int] | None:
    """Ids of the clusters that the actor sees; None = all."""
    return None if actor.clusters is None else sorted(cluster_ids(actor.clusters).values())


def scoped(actor: Actor, column: str) -> tuple[str, list[Any]]:
    ids = scope_ids(actor)
    return ("true", []) if ids is None else (f"{column} = ANY (%s)", [ids])


def phase_counts(actor: Actor) -> dict[int, Counter[str]]:
    """Machines by cluster id and phase, from the kept counters."""
    where, parameters = scoped(actor, "cluster_id")
    out: dict[int, Counter[str]] = {}
    for row in rows(
        f"SELECT cluster_id, phase, sum(n)::bigint AS n FROM (SELECT * FROM count_total UNION ALL SELECT * FROM count_delta) t WHERE {where} GROUP BY 1, 2 HAVING sum(n) > 0",
        parameters,
    ):
        out.setdefault(row["cluster_id"], Counter())[row["phase"]] += int(row["n"])
    return out


_STALLED = 1 << BIT["Stalled"]


def in_need(actor: Actor, limit: int = 100) -> tuple[list[dict[str, Any]], int, int]:
    """Machines that need a person (Failed, or Stalled in any phase), how many there are, and how many are not yet as
    declared; from partial indexes, both counted up to 10,000."""
    where, parameters = scoped(actor, "cluster_id")
    found = rows(
        f"""WITH n AS MATERIALIZED (
          (SELECT id, name FROM machine_state WHERE phase <> 'Running' AND phase = 'Failed' AND {where} LIMIT 10000)
          UNION (SELECT id, name FROM machine_state WHERE drift <> 0 AND cond_true & %s <> 0 AND phase NOT IN ('Decommissioning', 'Retired') AND {where} LIMIT 10000))
        SELECT n.id, t.total, d.drifted FROM (SELECT count(*) AS total FROM n) t
        CROSS JOIN (SELECT count(*) AS drifted FROM (SELECT 1 FROM machine_state WHERE drift <> 0 AND {where} LIMIT 10000) x) d
        LEFT JOIN n ON true ORDER BY n.name LIMIT %s""",
        [*parameters, _STALLED, *parameters, *parameters, limit],
    )
    ids = [r["id"] for r in found if r["id"] is not None]
    objects = storage_for("machines").by_ids(ids) if ids else {}
    shown = [with_state(objects[id_]) for id_ in ids if id_ in objects]
    return shown, int(found[0]["total"]), int(found[0]["drifted"])


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is refused now for one reason at one place."""

    reason: str
    cluster: str
    n: int
    since: datetime
    message: str

    @property
    def word(self) -> str:
        return words.REFUSED.get(self.reason, self.reason)

    @property
    def frees(self) -> str:
        return words.frees(self.reason)


def refusals(actor: Actor, limit: int = 20, cluster_id: int | None = None) -> list[Refusal]:
    """What is refused now, by reason and cluster."""
    where, parameters = scoped(actor, "r.cluster_id")
    if cluster_id is not None:
        where, parameters = f"{where} AND r.cluster_id = %s", [*parameters, cluster_id]
    found = rows(
        f"""SELECT r.reason, coalesce(c.name, '') AS cluster, count(*) AS n, min(r.since) AS since, min(r.message) AS message
        FROM refusal r LEFT JOIN clusters_cluster c ON c.id = r.cluster_id WHERE {where} GROUP BY 1, 2 ORDER BY n DESC LIMIT %s""",
        [*parameters, limit],
    )
    return [Refusal(**r) for r in found]


def layers(actor: Actor) -> list[dict[str, Any]]:
    """Layers that change now or have stopped; only who sees the whole fleet sees those of classes."""
    where, parameters = scoped(actor, "CASE WHEN layer = 'cluster' THEN object_id ELSE -1 END")
    return rows(
        f"""SELECT r.layer, r.state, r.message, r.failed_machine, r.created_at, r.updated_at, coalesce(c.name, k.name, '') AS name,
          r.from_versions::text AS was, r.to_versions::text AS becomes, coalesce(m.name, '') AS canary
        FROM layer_rollout r LEFT JOIN clusters_cluster c ON r.layer = 'cluster' AND c.id = r.object_id
        LEFT JOIN machines_machineclass k ON r.layer <> 'cluster' AND k.id = r.object_id LEFT JOIN machine m ON m.id = r.canary_id
        WHERE r.state NOT IN ('Done', 'Pending') AND {where} ORDER BY r.updated_at DESC LIMIT 20""",
        parameters,
    )


def work_in_hand(actor: Actor) -> list[dict[str, Any]]:
    """Operations that run, by verb and by who wants them, with the ids of the newest; read from the index of started ones."""
    where, parameters = scoped(actor, "cluster_id")
    return rows(
        f"""SELECT coalesce(nullif(status ->> 'verb', ''), spec ->> 'verb') AS verb, owner_class, count(*) AS n, min(started_at) AS since,
          (array_agg(id ORDER BY id DESC))[1:%s] AS newest
        FROM machines_operation o WHERE {_AT_WORK} AND {where} GROUP BY 1, 2 ORDER BY n DESC""",
        [NEWEST, *parameters],
    )


# An Operation that is refused its permit has started and does nothing: it is told under what is refused.
_AT_WORK = "started_at IS NOT NULL AND ended_at IS NULL AND NOT EXISTS (SELECT FROM refusal r WHERE r.machine_id = o.machine_id)"


def newest_operations(work: Iterable[dict[str, Any]]) -> list[Json]:
    """The newest of the Operations in hand."""
    ids = sorted((id_ for group in work for id_ in group["newest"]), reverse=True)[:NEWEST]
    objects = storage_for("operations").by_ids(ids) if ids else {}
    return [objects[id_] for id_ in ids if id_ in objects]


def operations_of(machine_id: int, limit: int = 6) -> list[Json]:
    """The last Operations of a machine, newest first."""
    found = rows(
        "SELECT id FROM machines_operation WHERE machine_id = %s ORDER BY id DESC LIMIT %s", [machine_id, limit]
    )
    objects = storage_for("operations").by_ids([r["id"] for r in found])
    return [objects[r["id"]] for r in found if r["id"] in objects]


def machine_extra(machine_id: int) -> Json:
    """When it was last seen, which layer each version comes from, and the hold that covers it (or None)."""
    row = rows(
        """SELECT f.at, (a.layers -> 'of')::text AS of, h.hold, h.reason, h.owner, CASE WHEN h.until < 'infinity' THEN h.until END AS until,
          coalesce((SELECT x.spec #>> '{target,machine}' = s.name FROM safety_hold x WHERE x.name = h.hold), false) AS own
        FROM machine_state s LEFT JOIN machine_fact f ON f.machine_id = s.id LEFT JOIN accepted a ON a.machine_id = s.id
        LEFT JOIN safety_held(ARRAY[%s]::bigint[]) h ON true WHERE s.id = %s""",
        [machine_id, machine_id],
    )
    found = row[0] if row else {"at": None, "of": None, "hold": None}
    hold = {k: found[k] for k in ("hold", "reason", "owner", "until", "own")} if found["hold"] else None
    return {"at": found["at"], "of": orjson.loads(found["of"] or "{}"), "hold": hold}


def holds_of(name: str) -> list[str]:
    """Names of the holds that name this machine."""
    found = rows(
        "SELECT name FROM safety_hold WHERE deleted_at IS NULL AND spec #>> '{target,machine}' = %s ORDER BY name",
        [name],
    )
    return [r["name"] for r in found]


def machines_in(cluster_id: int) -> int:
    """How many machines name a cluster, from the kept counters."""
    found = rows(
        "SELECT coalesce(sum(n), 0)::bigint AS n FROM (SELECT * FROM count_total UNION ALL SELECT * FROM count_delta) t WHERE cluster_id = %s",
        [cluster_id],
    )
    return int(found[0]["n"])


def cluster_numbers(names: list[str]) -> dict[str, int]:
    """Ids of clusters by name."""
    return {r["name"]: r["id"] for r in rows("SELECT id, name FROM clusters_cluster WHERE name = ANY (%s)", [names])}


@dataclass(frozen=True, slots=True)
class Budget:
    """How many machines of a place may be unavailable, and how many are."""

    dim: str
    name: str
    cap: int
    total: int
    gone: int
    policy: str

    @property
    def tone(self) -> str:
        """Ink, amber from 80 % on, red at the limit."""
        return "s-bad" if self.gone >= self.cap else "s-warn" if self.gone >= self.cap * 0.8 else "s-ink"

    @property
    def width(self) -> int:
        """Of 200; the limit's mark stands at 160, so that overshoot has room."""
        return min(200, round(160 * self.gone / self.cap)) if self.cap else (200 if self.gone else 0)

    @property
    def said(self) -> str:
        """ "566 of 600 · 2.8 % of 20,000"."""
        share = self.gone / self.total * 100 if self.total else 0
        return f"{self.gone:,} of {self.cap:,} · {share:.1f} % of {self.total:,}"


def budgets(cluster_numbers: list[int] | None, limit: int = 100) -> list[Budget]:
    """Budgets of these clusters (None: all) and of what lies in them, the fullest first."""
    found = rows(
        """SELECT l.dim, l.name, l.cap, l.total, l.gone, l.policy FROM safety_limits(ARRAY(
          SELECT k.machine_id FROM clusters_cluster c, LATERAL (SELECT machine_id FROM capacity WHERE cluster_id = c.id AND in_service LIMIT 1) k
          WHERE %s::bigint[] IS NULL OR c.id = ANY (%s::bigint[]))) l WHERE l.dim <> 'cluster' OR l.name <> ''""",
        [cluster_numbers, cluster_numbers],
    )
    shown = [Budget(**r) for r in found]
    return sorted(shown, key=lambda b: (-b.gone / (b.cap or 0.5), b.name))[:limit]


_VERSIONS_SECONDS = 15.0
_versions: tuple[float, dict[tuple[str, str], int], datetime] | None = None


def versions_seen() -> tuple[dict[tuple[str, str], int], datetime]:
    """Machines by (package, version) seen, and when they were counted: one pass over the fleet, kept for a while."""
    global _versions
    if _versions is None or time.monotonic() - _versions[0] > _VERSIONS_SECONDS:
        found = rows(
            """SELECT v.key AS name, v.value AS version, sum(u.n)::bigint AS n FROM (SELECT seen_id, count(*) AS n FROM machine_state GROUP BY 1) u
            JOIN seen_set q ON q.id = u.seen_id, jsonb_each_text(coalesce(q.body -> 'versions', '{}')) v GROUP BY 1, 2"""
        )
        _versions = (time.monotonic(), {(r["name"], r["version"]): int(r["n"]) for r in found}, timezone.now())
    return _versions[1], _versions[2]


def holds(actor: Actor, limit: int = 100) -> list[Json]:
    """Holds, those that end first at the top; a hold shown may be released by who may write its cluster."""
    storage = storage_for("holds")
    objects = storage.page(ListQuery(limit=limit, clusters=actor.clusters)).objects
    objects.sort(key=lambda o: str(o["spec"].get("until", "")))
    return objects


def open_permits(actor: Actor, limit: int = 100) -> list[Json]:
    """Permits that still count, newest first."""
    where, parameters = scoped(actor, "cluster_id")
    found = rows(
        f"SELECT id FROM permit WHERE released_at IS NULL AND {where} ORDER BY id DESC LIMIT %s", [*parameters, limit]
    )
    objects = storage_for("permits").by_ids([r["id"] for r in found])
    return [objects[r["id"]] for r in found if r["id"] in objects]


@dataclass(frozen=True, slots=True)
class Guard:
    """The chip of every page: the worst of kill switch, holds and refusals."""

    stopped: bool
    why: str
    by: str
    holds: int
    overdue: int = 0
    breakers: int = 0  # that are not closed
    faults: int = 0  # that need a person, of those that the reader sees
    escalated: int = 0  # of them those that a remediation gave up
    batches: int = 0  # that wait for a second person or have stopped, of those that the reader sees
    position: int = 0  # everything up to it is in what is read afterwards

    @property
    def tone(self) -> str:
        return "bad" if self.stopped or self.breakers else "held" if self.holds else "ok"

    @property
    def text(self) -> str:
        if self.stopped:
            return "All changes stopped"
        said = [f"{words.count(self.breakers, 'breaker')} open"] if self.breakers else []
        if self.holds:
            said.append(words.count(self.holds, "hold") + (f", {self.overdue} overdue" if self.overdue else ""))
        return " · ".join(said) or "No holds"


def guard(actor: Actor | None = None) -> Guard:
    """One query. Faults are counted as far as `actor` sees them; without one they are not counted."""
    where = (
        "false"
        if actor is None
        else "true"
        if actor.clusters is None
        else "f.cluster_id IN (SELECT id FROM clusters_cluster WHERE name = ANY (%s))"
    )
    params = [sorted(actor.clusters)] * 2 if actor is not None and actor.clusters is not None else []
    row = rows(
        f"""SELECT stopped, coalesce(stopped_why, '') AS why, coalesce(stopped_by, '') AS by, h.holds, h.overdue, (SELECT count(*) FROM breaker WHERE state <> 'closed') AS breakers,
          p.faults, p.escalated, q.batches, fleet_horizon() - 1 AS position
        FROM ledger, (SELECT count(*) AS holds, count(*) FILTER (WHERE status ->> 'phase' = 'Overdue') AS overdue FROM safety_hold WHERE deleted_at IS NULL) h,
          (SELECT count(*) AS faults, count(*) FILTER (WHERE f.status ? 'remediation') AS escalated FROM recovery_fault f WHERE f.phase = 'NeedsPerson' AND NOT f.shadow AND {where}) p,
          (SELECT count(*) AS batches FROM machines_operationbatch f WHERE NOT f.status ? 'endTime' AND f.status ->> 'phase' IN ('AwaitingApproval', 'Stalled') AND {where}) q WHERE id = 1""",
        params,
    )[0]
    return Guard(**row)


def meant(word: str) -> list[int] | None:
    """Ids of the machines whose name begins with a word or whose serial number it is; None = more than `BY_NAME`."""
    found = rows(
        """(SELECT id FROM machine WHERE name >= %s AND name < %s LIMIT %s)
        UNION (SELECT id FROM machine WHERE serial_number = %s AND serial_number <> '')""",
        [word, word + "\uffff", BY_NAME + 1, word],
    )
    return [r["id"] for r in found] if len(found) <= BY_NAME else None


def with_state(obj: Json) -> Json:
    """A machine with what lists show of it."""
    status = obj.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    return {
        "obj": obj,
        "name": obj["metadata"]["name"],
        "state": status.get("state") or state_of(obj),
        "why": first_no(conditions),
        "since": _since(conditions),
        "versions": sorted(status.get("versions", {}).items()),
        "spec": obj["spec"],
        "status": status,
        "conditions": conditions,
    }


def _since(conditions: dict[str, Json]) -> str:
    """Since when it is as it is: the last move of Ready, of what stops it, or of a hold."""
    moved = [conditions[t].get("lastTransitionTime", "") for t in ("Ready", "Stalled", "Held") if t in conditions]
    return max(moved, default="")


def first_no(conditions: dict[str, Json]) -> str:
    """The sentence of the first thing that is not as it shall be."""
    for type_, bad in (
        ("Stalled", "True"),
        ("Held", "True"),
        ("Reachable", "False"),
        ("Reachable", "Unknown"),
        ("VersionsResolved", "False"),
        ("Preflight", "False"),
        ("ChangeAllowed", "False"),
        ("Reconciling", "True"),
        ("Drifted", "True"),
    ):
        found = conditions.get(type_)
        if found and found["status"] == bad:
            return words.plainly(str(found.get("message") or found.get("reason", "")))
    ready = conditions.get("Ready")
    if ready is None:
        return "Not looked at yet."
    return "" if ready["status"] == "True" else words.plainly(str(ready.get("message", "")))
