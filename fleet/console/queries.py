"""What the pages show, read set-based and by kept counters; nothing here grows with the fleet but by pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.db import connection

from fleet.api.rights import Actor
from fleet.api.selectors import FieldSelector
from fleet.api.storage import ListQuery, cluster_ids, storage_for
from fleet.control.kinds import Json
from machines.schema import state_of

MACHINE_PAGE = 100


def rows(sql: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or [])
        names = [c[0] for c in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def scope_ids(actor: Actor) -> list[int] | None:
    """Ids of the clusters that the actor sees; None = all."""
    return None if actor.clusters is None else sorted(cluster_ids(actor.clusters).values())


def _scoped(actor: Actor, column: str) -> tuple[str, list[Any]]:
    ids = scope_ids(actor)
    return ("true", []) if ids is None else (f"{column} = ANY (%s)", [ids])


@dataclass(frozen=True, slots=True)
class Counts:
    """Machines by phase, of the whole scope."""

    phases: Counter[str]

    @property
    def total(self) -> int:
        return self.phases.total()


def phase_counts(actor: Actor) -> dict[int, Counter[str]]:
    """Machines by cluster id and phase, from the kept counters."""
    where, parameters = _scoped(actor, "cluster_id")
    out: dict[int, Counter[str]] = {}
    for row in rows(
        f"SELECT cluster_id, phase, sum(n)::bigint AS n FROM (SELECT * FROM count_total UNION ALL SELECT * FROM count_delta) t WHERE {where} GROUP BY 1, 2 HAVING sum(n) > 0",
        parameters,
    ):
        out.setdefault(row["cluster_id"], Counter())[row["phase"]] += int(row["n"])
    return out


def drift_count(actor: Actor) -> int:
    """Machines whose accepted set is not met, from the partial index, counted up to 10,000."""
    where, parameters = _scoped(actor, "cluster_id")
    return int(
        rows(
            f"SELECT count(*) AS n FROM (SELECT 1 FROM machine_state WHERE drift <> 0 AND {where} LIMIT 10000) q",
            parameters,
        )[0]["n"]
    )


def failed(actor: Actor, limit: int = 8) -> list[Json]:
    """Machines that need a person, the longest first."""
    query = ListQuery(fields=FieldSelector((("status.phase", "=", "Failed"),)), limit=limit, clusters=actor.clusters)
    return storage_for("machines").page(query).objects


def refusals(actor: Actor, limit: int = 20) -> list[dict[str, Any]]:
    """What is refused now, by reason and cluster."""
    where, parameters = _scoped(actor, "r.cluster_id")
    return rows(
        f"""SELECT r.reason, coalesce(c.name, '') AS cluster, count(*) AS n, min(r.since) AS since, min(r.message) AS message
        FROM refusal r LEFT JOIN clusters_cluster c ON c.id = r.cluster_id WHERE {where} GROUP BY 1, 2 ORDER BY n DESC LIMIT %s""",
        [*parameters, limit],
    )


def open_operations(actor: Actor, limit: int = 12) -> list[Json]:
    """Operations that run, the newest first."""
    where, parameters = _scoped(actor, "cluster_id")
    found = rows(
        f"SELECT id FROM machines_operation WHERE started_at IS NOT NULL AND ended_at IS NULL AND {where} ORDER BY id DESC LIMIT %s",
        [*parameters, limit],
    )
    objects = storage_for("operations").by_ids([r["id"] for r in found])
    return [objects[r["id"]] for r in found if r["id"] in objects]


def operations_of(name: str, limit: int = 5) -> list[Json]:
    """The last Operations of a machine, newest first."""
    found = rows(
        "SELECT o.id FROM machines_operation o JOIN machine m ON m.id = o.machine_id WHERE m.name = %s ORDER BY o.id DESC LIMIT %s",
        [name, limit],
    )
    objects = storage_for("operations").by_ids([r["id"] for r in found])
    return [objects[r["id"]] for r in found if r["id"] in objects]


def events(
    actor: Actor, *, machine: str = "", before: int = 0, text: str = "", limit: int = 100
) -> list[dict[str, Any]]:
    """Events, newest first."""
    where, parameters = ["true"], list[Any]()
    ids = scope_ids(actor)
    if ids is not None:
        where.append("(cluster_id = 0 OR cluster_id = ANY (%s))")
        parameters.append(ids)
    if machine:
        where.append(
            "((kind = 1 AND object_id = (SELECT id FROM machine WHERE name = %s)) OR (kind = 3 AND object_id IN (SELECT o.id FROM machines_operation o JOIN machine m ON m.id = o.machine_id WHERE m.name = %s)))"
        )
        parameters += [machine, machine]
    if before:
        where.append("pos < %s")
        parameters.append(before)
    if text:
        where.append("(type ILIKE %s OR data ->> 'name' ILIKE %s OR data ->> 'message' ILIKE %s)")
        parameters += [f"%{text}%"] * 3
    found = rows(
        f"SELECT pos, n, at, kind, severity, type, source, data FROM event WHERE {' AND '.join(where)} ORDER BY pos DESC, n LIMIT %s",
        [*parameters, limit],
    )
    return [_told(row) for row in found]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    import orjson

    data = orjson.loads(row["data"]) if isinstance(row["data"], str) else row["data"] or {}
    what = row["type"].removeprefix("dev.fleet.")
    message = data.get("message") or (f"Went from {data['from']} to {data['to']}." if "from" in data else what)
    tone = ("off", "warn", "bad")[min(int(row["severity"]), 2)]
    if data.get("to") in ("Running", "Succeeded"):
        tone = "ok"
    return {
        **row,
        "data": data,
        "what": what,
        "message": message,
        "tone": tone,
        "name": data.get("name", ""),
        "by": data.get("by") or (row["source"] or "").strip("/"),
    }


def audit(before: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """Audit rows, newest first."""
    import orjson

    found = rows(
        "SELECT pos, n, at, actor, address, verb, kind, name, cluster, before, after FROM audit WHERE (%s = 0 OR pos < %s) ORDER BY pos DESC, n DESC LIMIT %s",
        [before, before, limit],
    )
    for row in found:
        for part in ("before", "after"):
            row[part] = orjson.loads(row[part]) if isinstance(row[part], str) else row[part]
    return found


@dataclass(frozen=True, slots=True)
class Guard:
    """The chip of every page: the worst of kill switch, holds and refusals."""

    stopped: bool
    why: str
    by: str
    holds: int

    @property
    def tone(self) -> str:
        return "bad" if self.stopped else "held" if self.holds else "ok"

    @property
    def text(self) -> str:
        if self.stopped:
            return "All changes stopped"
        return f"{self.holds} hold{'s' if self.holds != 1 else ''}" if self.holds else "No holds"


def guard() -> Guard:
    """One query."""
    row = rows(
        "SELECT stopped, coalesce(stopped_why, '') AS why, coalesce(stopped_by, '') AS by, (SELECT count(*) FROM safety_hold WHERE deleted_at IS NULL) AS holds FROM ledger WHERE id = 1"
    )[0]
    return Guard(row["stopped"], row["why"], row["by"], int(row["holds"]))


def with_state(obj: Json) -> Json:
    """A machine with what lists show of it."""
    status = obj.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    return {
        "obj": obj,
        "name": obj["metadata"]["name"],
        "state": status.get("state") or state_of(obj),
        "why": first_no(conditions),
        "spec": obj["spec"],
        "status": status,
        "conditions": conditions,
    }


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
            return str(found.get("message") or found.get("reason", ""))
    ready = conditions.get("Ready")
    if ready is None:
        return "Not looked at yet."
    return "" if ready["status"] == "True" else str(ready.get("message", ""))
