"""Batches as people ask for them: the list is frozen with the insert, a second person's word is taken, the list is shown."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.conf import settings

from fleet.api import errors
from fleet.api.approval import APPROVE, approve
from fleet.api.rights import Actor
from fleet.api.storage import Storage, Stored, storage_for
from fleet.control import clock
from fleet.control.digests import hex64
from fleet.control.kinds import Json, Problem
from fleet.control.times import format_time
from fleet.events.publish import Cursor
from fleet.safety import permits
from machines.batches import schema, targets
from machines.batches.alone import approval_needed
from machines.batches.sql import DONE, FAILED, OPEN, SKIPPED, WAITING
from machines.models import OperationBatch
from machines.storage import MachineStorage, fetch

SHOWN: Final = 1_000  # machines that an answer about the list names
_FORESEEN: Final = 1_000  # machines that the ledger is asked for in a dry run
STATES: Final = ("Waiting", "Open", "Succeeded", "Failed", "Skipped")


class OperationBatchStorage(Storage):
    """OperationBatches."""

    def __init__(self) -> None:
        super().__init__(schema.OPERATION_BATCH_KIND, OperationBatch)

    def default(self, obj: Json, by: Actor) -> None:
        """Who asks. A word of approval that the author brings along counts for nothing."""
        obj["metadata"].get("annotations", {}).pop(APPROVE, None)
        obj["status"] = {"author": by.name}

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """A cluster that is there."""
        cluster = new["spec"].get("clusterName", "")
        if old is None and cluster and not self.cluster_id(new):
            return [Problem("spec.clusterName", f'"{cluster}": there is no cluster of that name')]
        return ()

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """Operators delete machines one at a time; an approver's word must name the hash and be another person's."""
        cluster = new["spec"].get("clusterName", "")
        if old is None:
            if new["spec"]["verb"] == "Decommission" and not by.may("deletecollection", self.kind, cluster):
                why = "operators delete one machine at a time; many at once take the role admin"
                raise errors.forbidden(by.name, "create", self.kind, new["metadata"].get("name"), why)
            return
        if APPROVE in new["metadata"].get("annotations", {}) and old["status"]["approval"] != "Needed":
            raise errors.conflict(
                self.kind, new["metadata"]["name"], f"it is {old['status']['phase']}: there is nothing to approve"
            )
        approve(self.kind, new, old, by, old["status"]["hash"])
        if new["status"].get("approvedBy") and old["status"]["approval"] == "Needed":
            new["status"] |= {
                "approval": "Given",
                "phase": schema.RUNNING,
                "message": f"Approved by {by.name}.",
                "startTime": _now(),
            }
        if new["spec"].get("cancelled") and not old["spec"].get("cancelled"):
            if "endTime" in old["status"]:
                raise errors.conflict(self.kind, new["metadata"]["name"], f"it is {old['status']['phase']} already")
            new["status"] = {**new["status"], "cancelledBy": by.name}

    def insert(self, obj: Json) -> Stored:
        """The list is found and frozen in the same transaction."""
        machines = storage_for("machines")
        assert isinstance(machines, MachineStorage)
        try:
            found = targets.find(machines, obj["spec"])
        except targets.TargetError as error:
            path = f"spec.target.{error.path}".rstrip(".")
            raise errors.invalid(self.kind, obj["metadata"].get("name", ""), [Problem(path, error.message)]) from None
        obj["status"] = _first_status(obj, found)
        self._check_expected(obj, len(found))
        stored = super().insert(obj)
        targets.keep(stored.id, found)
        return stored

    def _check_expected(self, obj: Json, count: int) -> None:
        wanted = obj["spec"].get("expect", {})
        if (
            wanted.get("hash", obj["status"]["targetsHash"]) == obj["status"]["targetsHash"]
            and wanted.get("count", count) == count
        ):
            return
        then = f", not the {wanted['count']:,}" if wanted.get("count", count) != count else " and not those"
        why = f"the machines that match are {count:,} now{then} that spec.expect names; count them again"
        raise errors.conflict(self.kind, obj["metadata"]["name"], why)

    def columns(self, obj: Json) -> Mapping[str, Any]:
        return {"cluster_id": self.cluster_id(obj)}

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """What runs is cancelled first."""
        if "endTime" not in obj["status"]:
            raise errors.conflict(
                self.kind, obj["metadata"]["name"], "it has not ended; set spec.cancelled: true first"
            )

    def after_remove(self, cursor: Cursor, stored: Stored) -> None:
        cursor.execute("DELETE FROM operation_batch_target WHERE batch_id = %s", [stored.id])

    def foresee(self, new: Json, old: Json | None) -> Sequence[str]:
        """How many, what the ledger would say of them now, and whether a second person is asked."""
        return foreseen(new) if old is None else ()


def _now() -> str:
    return format_time(clock.now())


def _first_status(obj: Json, found: Sequence[targets.Target]) -> Json:
    spec, author = obj["spec"], obj["status"]["author"]
    listed = targets.digest((t.name, t.id) for t in found)
    what = hex64([spec["verb"], spec.get("units", []), spec.get("drain", {}), listed])
    needed = approval_needed(spec["verb"], len(found), author)
    out = {
        "count": len(found), "targetsHash": listed, "hash": what, "author": author, "clusters": targets.by_cluster(found),
        "waiting": len(found), "open": 0, "succeeded": 0, "failed": 0, "skipped": 0,
    }  # fmt: skip
    if needed:
        text = f"Another approver than {author} must approve it: {APPROVE}={what}"
        return out | {"phase": schema.AWAITING, "approval": "Needed", "message": text}
    return out | {"phase": schema.RUNNING, "approval": "NotNeeded", "message": "Begins.", "startTime": _now()}


def foreseen(obj: Json) -> list[str]:
    """Sentences about a batch that is in its dry run's transaction."""
    spec, status = obj["spec"], obj["status"]
    count = status["count"]
    where = [f"{c['count']:,} in {c['name'] or 'no cluster'}" for c in status["clusters"][:5]]
    more = f" and {len(status['clusters']) - 5} more clusters" if len(status["clusters"]) > 5 else ""
    out = [
        f"list: {count:,} machine{'s' if count != 1 else ''} ({', '.join(where)}{more}), hash {status['targetsHash']}"
    ]
    if status["approval"] == "Needed":
        out.append(
            f"approval: over {settings.FLEET_APPROVAL_OVER} machines another approver than {status['author']} is asked"
        )
    else:
        out.append("approval: none is needed")
    if spec["verb"] in schema.HARMLESS:
        return [*out, "permits: none is needed, a look takes nothing away"]
    sql = "SELECT t.machine_id FROM operation_batch_target t JOIN machines_operationbatch b ON b.id = t.batch_id WHERE b.name = %s ORDER BY t.machine_id LIMIT %s"
    ids = [row[0] for row in fetch(sql, [obj["metadata"]["name"], _FORESEEN])]
    asks = [permits.Ask(id_, spec["verb"], False, str(uuid.uuid4())) for id_ in ids]
    of = f" of the first {len(ids):,}" if len(ids) < count else ""
    for n, reason, message in permits.foresee(asks):
        out.append(
            f"permits: {n:,}{of} would get a permit now"
            if not reason
            else f"permits: {n:,}{of} would wait ({reason}): {message}"[:500]
        )
    return out


def list_of(obj: Json, actor: Actor) -> Json:
    """The frozen list with what became of each: failed first, then open, waiting, skipped, done; at most SHOWN."""
    # The page first, then its Operations: each by its key.
    order = f"array_position(ARRAY[{FAILED}, {OPEN}, {WAITING}, {SKIPPED}, {DONE}]::smallint[], {{}}state)"
    sql = f"""WITH t AS MATERIALIZED (
      SELECT name, state, said, operation_id FROM operation_batch_target WHERE batch_id = (SELECT id FROM machines_operationbatch WHERE name = %s)
      ORDER BY {order.format("")}, name LIMIT %s)
    SELECT t.name, t.state, t.said, coalesce(o.name, ''), coalesce(o.message, '') FROM t
    LEFT JOIN LATERAL (SELECT name, status ->> 'message' AS message FROM machines_operation WHERE id = t.operation_id OFFSET 0) o ON true
    ORDER BY {order.format("t.")}, t.name"""
    rows = fetch(sql, [obj["metadata"]["name"], SHOWN])
    items = [
        {"machine": name, "state": STATES[state], "operation": operation, "message": said or (message if state == OPEN else "")}
        for name, state, said, operation, message in rows
    ]  # fmt: skip
    return {
        "kind": "OperationBatchTargets",
        "apiVersion": "fleet.dev/v1",
        "count": obj["status"]["count"],
        "items": items,
    }
