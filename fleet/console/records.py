"""Events and the audit trail as the pages show them."""

from __future__ import annotations

from typing import Any

import orjson
from django.db import connection

from fleet.api.event_sight import sight_of
from fleet.api.rights import Actor
from fleet.console import diffs, words
from fleet.console.queries import rows

_EVENT = "SELECT pos, n, at, kind, severity, type, source, data FROM event WHERE"
_OF_MACHINE = f"""({_EVENT} kind = 1 AND object_id = %(id)s ORDER BY pos DESC, n LIMIT %(limit)s) UNION ALL
  ({_EVENT} kind = 3 AND object_id = ANY (ARRAY(SELECT id FROM machines_operation WHERE machine_id = %(id)s ORDER BY id DESC LIMIT 200)) ORDER BY pos DESC, n LIMIT %(limit)s)
  ORDER BY pos DESC, n LIMIT %(limit)s"""
SEARCHED = 20_000  # events that a search by words looks through at a time


def events_of(machine_id: int, limit: int) -> list[dict[str, Any]]:
    """Events of a machine and of its last Operations, newest first, each from its index."""
    with connection.cursor() as cursor:
        cursor.execute(_OF_MACHINE, {"id": machine_id, "limit": limit})
        names = [c[0] for c in cursor.description]
        return [_told(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def events(actor: Actor, *, before: int = 0, text: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """Events, newest first; with a text, those of the next `SEARCHED` that have it."""
    scope, parameters = "true", list[Any]()
    sight = sight_of(actor)
    if sight is not None:
        scope = "(cluster_id = ANY (%s) OR (cluster_id = 0 AND kind = ANY (%s)))"
        parameters = [list(sight.clusters), list(sight.fleet_wide_kinds)]
    if before:
        scope, parameters = f"{scope} AND pos < %s", [*parameters, before]
    if not text:
        return [_told(r) for r in rows(f"{_EVENT} {scope} ORDER BY pos DESC, n LIMIT %s", [*parameters, limit])]
    like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    found = rows(
        f"""WITH e AS MATERIALIZED ({_EVENT} {scope} ORDER BY pos DESC, n LIMIT %s)
        SELECT * FROM e WHERE type ILIKE %s OR data ->> 'name' ILIKE %s OR data ->> 'message' ILIKE %s ORDER BY pos DESC, n LIMIT %s""",
        [*parameters, SEARCHED, like, like, like, limit],
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
    return known or words.plainly(str(data.get("message") or ""))


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
        "icon": "person" if str(data.get("by", "system:")).partition(":")[0] != "system" else tone,
        "by": data.get("by") or (row["source"] or "").strip("/"),
        "person": bool(data.get("by")) and not str(data["by"]).startswith("system:"),
        "ended": what.startswith("operation.") and what.endswith(("failed", "cancelled")) or what.startswith("layer"),
    }


def notable(actor: Actor, limit: int, look: int = 400) -> list[dict[str, Any]]:
    """Of the last events those that people want to hear of: what went wrong, what people did, what ended. The same from many objects is one."""
    out: list[dict[str, Any]] = []
    for event in events(actor, limit=look):
        if not (event["severity"] > 0 or event["person"] or event["ended"]):
            continue
        same = (event["type"], event["data"].get("reason"))
        if out and out[-1]["same"] == same:
            if event["name"] not in out[-1]["names"]:
                out[-1]["names"].add(event["name"])
            continue
        if len(out) == limit:
            break
        out.append({**event, "same": same, "names": {event["name"]}})
    return [{**e, "others": len(e["names"]) - 1} for e in out]


def audit(before: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """Audit rows, newest first."""
    found = rows(
        "SELECT pos, n, at, actor, address, verb, kind, name, cluster, before, after FROM audit WHERE (%s = 0 OR pos < %s) ORDER BY pos DESC, n DESC LIMIT %s",
        [before, before, limit],
    )
    for row in found:
        for part in ("before", "after"):
            row[part] = orjson.loads(row[part]) if isinstance(row[part], str) else row[part]
        row["lines"] = diffs.of_objects(row["before"], row["after"])
    return found
