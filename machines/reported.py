"""Reports by the API: `PUT …/machines/<name>/conditions`, for exactly the user whom the Cluster declares, and exactly its types."""

from __future__ import annotations

from typing import Any, Final

import orjson
from django.db import connection, transaction

from fleet.api import audit, errors
from fleet.api.actions import Write
from fleet.api.errors import ApiError
from fleet.api.rights import Actor
from fleet.control import work
from fleet.control.kinds import API_VERSION, MACHINE, Json, Problem
from fleet.control.times import format_time
from fleet.events.publish import hint
from machines.reporters import Declared, Refused, Reporter, declared, read_conditions
from machines.reports import Report, learn, write_one
from machines.schema import MACHINE_KIND

KIND: Final = "ConditionReport"
_REPORTED: Final = """SELECT r.type, r.status, r.reason, r.message, r.source, r.received_at, r.expires_at FROM report r JOIN machine m ON m.id = r.machine_id
  WHERE m.name = %s ORDER BY r.type"""
_CLUSTER: Final = (
    "SELECT m.id, c.name, c.spec FROM machine m JOIN clusters_cluster c ON c.id = m.cluster_id WHERE m.name = %s"
)


def conditions_of(obj: Json, actor: Actor) -> Json:
    """What reporters say of a machine, from whom, and when it was received."""
    name = obj["metadata"]["name"]
    with connection.cursor() as cursor:
        cursor.execute(_REPORTED, [name])
        rows = cursor.fetchall()
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "conditions": [_shown(*r) for r in rows]}  # fmt: skip


def _shown(type_: str, status: str, reason: str, message: str, source: str, received: Any, expires: Any) -> Json:
    out = {
        "type": type_, "status": status, "reason": reason, "message": message, "source": source, "receivedTime": format_time(received),
    }  # fmt: skip
    return out if expires is None else out | {"expiresTime": format_time(expires)}


def report_conditions(obj: Json, write: Write, body: Any) -> Json:
    """Take a report; all of it or nothing. Audited; wakes the machine when something moved."""
    name = obj["metadata"]["name"]
    machine, cluster, said = _asked(name)
    reporter = said.by_user(write.by.name)
    if reporter is None:
        raise _forbidden(write.by, name, f"no reporter of its cluster {cluster or '(it has none)'} names this user")
    conditions = _read(body, reporter, write.by, name)
    found = []
    for each in conditions:
        owner = said.owners[each.type]
        found.append(Report(machine, each.type, each, owner.name, ttl_seconds=owner.ttl_seconds, renew=True))
    if not write.dry_run:
        ready = learn(found)
        detail = {"reporter": reporter.name, "conditions": [c.json() for c in conditions]}
        with transaction.atomic():
            moved = write_one(ready)
            with connection.cursor() as cursor:
                audit.note(cursor, write.by, "report", MACHINE_KIND.kind, name, detail, cluster)
        work.wake(MACHINE, moved)
        with connection.cursor() as cursor:
            hint(cursor)
    shown = conditions_of(obj, write.by)
    return shown | {
        "conditions": [c for c in shown["conditions"] if c["type"] in reporter.types]
    }  # others' are not for everybody


def _asked(name: str) -> tuple[int, str, Declared]:
    """(machine, its cluster, who may report there)."""
    with connection.cursor() as cursor:
        cursor.execute(_CLUSTER, [name])
        row = cursor.fetchone()
    if row is None:
        return 0, "", Declared()
    return row[0], row[1], declared(orjson.loads(row[2]) if isinstance(row[2], str) else row[2])


def _read(body: Any, reporter: Reporter, by: Actor, name: str) -> Any:
    if not isinstance(body, dict):
        raise errors.bad_request(f"the body must be a {KIND}")
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if body.get(field, wanted) != wanted:
            raise errors.bad_request(f"{field} must be {wanted}")
    try:
        return read_conditions(body.get("conditions"), reporter)
    except Refused as refused:
        if refused.reason == "NotDeclared":
            raise _forbidden(by, name, str(refused)) from None
        raise errors.invalid(MACHINE_KIND, name, [Problem("conditions", str(refused))]) from None


def _forbidden(by: Actor, name: str, why: str) -> ApiError:
    return errors.forbidden(by.name, "update", MACHINE_KIND, f"{name}/conditions", why)
