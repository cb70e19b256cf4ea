"""Events and the audit trail as the pages show them, and both together as the story of one machine."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import orjson

from fleet.api.rights import Actor
from fleet.console import diffs, event_search, words
from fleet.console.event_filters import EventFilter, Range
from fleet.console.queries import rows
from fleet.control.kinds import CLUSTER, FAULT, HOLD, MACHINE, OPERATION_BATCH, PLAYBOOK, READINESS_RULE, REMEDIATION
from fleet.events.log import cloud_event, row_of

# where an object of a kind has a page
_PAGES: Final = {
    MACHINE: "/machines/{}/why", CLUSTER: "/clusters/{}", READINESS_RULE: "/gates/{}", HOLD: "/safety/holds", FAULT: "/faults/{}", REMEDIATION: "/remediations/{}",
    PLAYBOOK: "/playbooks/{}", OPERATION_BATCH: "/batches/{}",
}  # fmt: skip
# who tells of a machine: (word, key in the address)
ORIGINS: Final = {"fleet": "Fleet", "people": "People", "reporters": "Reporters", "tools": "Other tools"}
_OURS: Final = (
    "/machines",
    "/operations",
    "/clusters",
    "/safety",
    "/holds",
    "/recovery",
    "/faults",
    "/remediations",
    "/permits",
    "/fleet",
)
LOOKED_AT: Final = 20_000  # newest audit rows that are looked through for what has no event

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


def told(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the log as pages show it."""
    data = orjson.loads(row["data"]) if isinstance(row["data"], str) else row["data"] or {}
    what = row["type"].removeprefix("dev.fleet.")
    message = _said(what, data) or (f"Went from {data['from']} to {data['to']}." if "from" in data else what)
    tone = ("off", "warn", "bad")[min(int(row["severity"]), 2)]
    if data.get("to") in ("Running", "Succeeded"):
        tone = "ok"
    origin = origin_of(row, data)
    return {
        **row,
        "data": data,
        "what": what,
        "message": message,
        "tone": tone,
        "name": data.get("name", ""),
        "href": address_of(int(row["kind"]), str(data.get("name", ""))),
        "id": f"row-{row['pos']}-{row['n']}",
        "origin": origin,
        "severe": ("", "Warning", "Error")[min(int(row["severity"]), 2)],
        "icon": "person" if origin == "people" else tone,
        "by": data.get("by") or (row["source"] or "").strip("/"),
        "person": origin == "people",
        "ended": what.startswith("operation.") and what.endswith(("failed", "cancelled")) or what.startswith("layer"),
    }


def origin_of(row: dict[str, Any], data: dict[str, Any]) -> str:
    """Who tells it: a key of `ORIGINS`."""
    if row["type"] == "dev.fleet.machine.condition":
        return "reporters"
    if data.get("by") and not str(data["by"]).startswith("system:"):
        return "people"
    return "fleet" if str(row["source"] or "").startswith(_OURS) or str(row["type"]).startswith("dev.fleet.") and row["source"] != "/kubernetes" else "tools"  # fmt: skip


def address_of(kind: int, name: str) -> str:
    """The page of an object; without one, its events."""
    return _PAGES.get(kind, "/events?q=name:{}").format(quote(name, safe=""))


def envelope(row: dict[str, Any]) -> str:
    """The row as the CloudEvent that subscribers get, to be read."""
    columns = ("pos", "n", "at", "object_id", "cluster_id", "kind", "severity", "type", "source", "data")
    whole = orjson.loads(cloud_event(row_of([row[c] for c in columns])))
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode()


def events(actor: Actor, limit: int) -> list[dict[str, Any]]:
    """The newest events, newest first."""
    return [told(r) for r in event_search.find(actor, EventFilter(), Range(), limit=limit).rows]


_AUDITED: Final = "SELECT pos, n, at, actor, address, verb, kind, name, before, after FROM audit WHERE"
_ACTS: Final = f"""
{_AUDITED} pos = ANY (%(known)s) AND name = %(name)s AND kind = 'Machine'
UNION ALL
SELECT * FROM (SELECT pos, n, at, actor, address, verb, kind, name, before, after FROM audit ORDER BY pos DESC, n DESC LIMIT {LOOKED_AT}) a
WHERE pos >= %(oldest)s AND actor NOT LIKE 'system:%%' AND ((kind = 'Machine' AND name = %(name)s)
  OR (kind = 'Hold' AND coalesce(after, before) #>> '{{spec,target,machine}}' = %(name)s) OR (kind = 'Operation' AND coalesce(after, before) #>> '{{spec,machine}}' = %(name)s))
"""


def story(actor: Actor, name: str, limit: int, *, audited: bool, origin: str = "") -> list[dict[str, Any]]:
    """Everything that happened to a machine, newest first: the log's events, and what people did as the audit trail has it.

    An act that both tell of is one entry, with the difference that it made. `origin`: a key of `ORIGINS`, "" = all.
    """
    parsed = EventFilter((("machine", name),))
    found = [told(r) for r in event_search.find(actor, parsed, Range(), limit=limit).rows]
    if audited:
        found = _with_acts(found, name, whole=len(found) < limit)
    return [e for e in found if not origin or e["origin"] == origin]


def _with_acts(found: list[dict[str, Any]], name: str, *, whole: bool) -> list[dict[str, Any]]:
    oldest = 0 if whole or not found else found[-1]["pos"]
    known = [e["pos"] for e in found if e["person"]]
    acts = {(a["pos"], a["name"]): a for a in rows(_ACTS, {"known": known, "name": name, "oldest": oldest})}
    out = []
    for event in found:
        act = acts.pop((event["pos"], event["name"]), None) if event["person"] else None
        out.append({**event, **_difference(act)} if act else event)
    out += [_act(a) for a in acts.values()]
    return sorted(out, key=lambda e: (e["at"], e["pos"]), reverse=True)


def _difference(act: dict[str, Any]) -> dict[str, Any]:
    before, after = (orjson.loads(act[p]) if isinstance(act[p], str) else act[p] for p in ("before", "after"))
    shown = diffs.of_objects(before, after) if before or after else []
    return {"lines": shown, "address": act["address"], "audit": act["pos"]}


_DID: Final = {"create": "made", "update": "changed", "patch": "changed", "apply": "applied", "delete": "deleted", "reconcile": "asked for a look at"}  # fmt: skip


def _act(act: dict[str, Any]) -> dict[str, Any]:
    """An act that no event tells of."""
    did = _DID.get(act["verb"], act["verb"])
    message = f"{act['actor']} {did} {act['kind']} {act['name']}."
    shown = {
        "at": act["at"],
        "pos": act["pos"],
        "n": act["n"],
        "kind": 0,
        "message": message,
        "what": f"audit.{act['verb']}",
    }
    who = {"icon": "person", "tone": "off", "by": "audit", "origin": "people", "person": True}
    return {**shown, **who, "name": act["name"], "id": f"act-{act['pos']}-{act['n']}", **_difference(act)}


def notable(actor: Actor, limit: int, look: int = 400) -> list[dict[str, Any]]:
    """Of the last events those that people want to hear of: what went wrong, what people did, what ended. The same from many objects is one."""
    out: list[dict[str, Any]] = []
    for event in events(actor, look):
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
