"""What the pages show, read set-based and by kept counters; nothing here grows with the fleet but by pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from django.db import connection

from fleet.api.rights import Actor
from fleet.api.selectors import FieldSelector
from fleet.api.storage import ListQuery, cluster_ids, storage_for
from fleet.console import words
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


def failed(actor: Actor, limit: int = 100) -> list[dict[str, Any]]:
    """Machines that need a person, by name."""
    query = ListQuery(fields=FieldSelector((("status.phase", "=", "Failed"),)), limit=limit, clusters=actor.clusters)
    return [with_state(o) for o in storage_for("machines").page(query).objects]


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
    where, parameters = _scoped(actor, "r.cluster_id")
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
    where, parameters = _scoped(actor, "CASE WHEN layer = 'cluster' THEN object_id ELSE -1 END")
    return rows(
        f"""SELECT r.layer, r.state, r.message, r.failed_machine, r.created_at, r.updated_at, coalesce(c.name, k.name, '') AS name,
          r.from_versions::text AS was, r.to_versions::text AS becomes, coalesce(m.name, '') AS canary
        FROM layer_rollout r LEFT JOIN clusters_cluster c ON r.layer = 'cluster' AND c.id = r.object_id
        LEFT JOIN machines_machineclass k ON r.layer <> 'cluster' AND k.id = r.object_id LEFT JOIN machine m ON m.id = r.canary_id
        WHERE r.state NOT IN ('Done', 'Pending') AND {where} ORDER BY r.updated_at DESC LIMIT 20""",
        parameters,
    )


def work_in_hand(actor: Actor) -> list[dict[str, Any]]:
    """Operations that run, by verb and by who wants them; read from the index of started ones."""
    where, parameters = _scoped(actor, "cluster_id")
    return rows(
        f"""SELECT coalesce(nullif(status ->> 'verb', ''), spec ->> 'verb') AS verb, owner_class, count(*) AS n, min(started_at) AS since
        FROM machines_operation WHERE started_at IS NOT NULL AND ended_at IS NULL AND {where} GROUP BY 1, 2 ORDER BY n DESC LIMIT 6""",
        parameters,
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
        "SELECT name FROM safety_hold WHERE deleted_at IS NULL AND spec #>> '{target,machine}' = %s ORDER BY name", [name]
    )
    return [r["name"] for r in found]


def events(
    actor: Actor, *, machine: int = 0, before: int = 0, text: str = "", limit: int = 100
) -> list[dict[str, Any]]:
    """Events, newest first."""
    where, parameters = ["true"], list[Any]()
    ids = scope_ids(actor)
    if ids is not None:
        where.append("(cluster_id = 0 OR cluster_id = ANY (%s))")
        parameters.append(ids)
    if machine:
        where.append(
            "((kind = 1 AND object_id = %s) OR (kind = 3 AND object_id = ANY (ARRAY(SELECT id FROM machines_operation WHERE machine_id = %s ORDER BY id DESC LIMIT 200))))"
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


_TOLD = {
    "operation.succeeded": "Done: all steps, and a new look at the host shows what was wanted.",
    "machine.drifted/NoDrift": "Nothing differs any more.",
    "machine.held/NotHeld": "Not held any more.",
    "machine.stalled/NotStalled": "Needs nobody any more.",
}


def _said(what: str, data: dict[str, Any]) -> str:
    """The event's sentence; where it only repeats a condition, one that people would say."""
    known = _TOLD.get(f"{what}/{data.get('reason', '')}") or (_TOLD.get(what) if not data.get("message") else None)
    return known or str(data.get("message") or "")


def _told(row: dict[str, Any]) -> dict[str, Any]:
    data = orjson.loads(row["data"]) if isinstance(row["data"], str) else row["data"] or {}
    what = row["type"].removeprefix("dev.fleet.")
    message = _said(what, data) or (f"Went from {data['from']} to {data['to']}." if "from" in data else what)
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
        "person": bool(data.get("by")) and not str(data["by"]).startswith("system:"),
        "ended": what.startswith("operation.") and what.endswith(("failed", "cancelled")) or what.startswith("layer"),
    }


def notable(actor: Actor, limit: int, look: int = 400) -> list[dict[str, Any]]:
    """Of the last events those that people want to hear of: what went wrong, what people did, what ended."""
    return [e for e in events(actor, limit=look) if e["severity"] > 0 or e["person"] or e["ended"]][:limit]


def audit(before: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """Audit rows, newest first."""
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
