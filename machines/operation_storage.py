"""Operations as people create and see them: legal now or refused with the reason; a Cancel takes effect in its own transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.db import connection

from fleet.api import errors
from fleet.api.rights import Actor
from fleet.api.storage import PHASE_COLUMN, STRIDE, Storage, Stored
from fleet.control import clock, work
from fleet.control.kinds import MACHINE, OPERATION, Json, Problem
from fleet.control.times import format_time
from fleet.events.publish import MODIFIED, Cursor, note_change
from machines.models import Machine, MachineState, Operation, OwnerClass
from machines.schema import OPERATION_KIND, VERBS

CANCEL: Final = "Cancel"
_OPEN: Final = "SELECT id, name, started_at IS NOT NULL, owner_class FROM machines_operation WHERE machine_id = %s AND ended_at IS NULL ORDER BY started_at NULLS LAST"


class OperationStorage(Storage):
    """Operations; their steps and phases are the Machine-Operator's."""

    field_columns = PHASE_COLUMN

    def __init__(self) -> None:
        super().__init__(OPERATION_KIND, Operation)

    # -- checks --------------------------------------------------------------------------------------------------

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """The machine, and the Operation that is run again, must exist."""
        if old is not None:
            return ()
        spec = new["spec"]
        if spec["verb"] not in VERBS:
            return [Problem("spec.verb", f"{spec['verb']} is asked for by Fleet itself only", "FieldValueForbidden")]
        if not Machine.objects.filter(name=spec["machine"]).exists():
            return [Problem("spec.machine", f'"{spec["machine"]}": there is no machine of that name')]
        named = spec.get("operation")
        if named and not Operation.objects.filter(name=named, spec__machine=spec["machine"]).exists():
            return [Problem("spec.operation", f'"{named}": {spec["machine"]} has no Operation of that name')]
        return ()

    def default(self, obj: Json, by: Actor) -> None:
        """Who wants it, for which cluster, and what it runs again: Fleet's words, whatever was sent."""
        spec = obj["spec"]
        machine = Machine.objects.filter(name=spec["machine"]).only("spec").first()
        spec.pop("clusterName", None)
        spec.pop("cancelledBy", None)
        spec.pop("again", None)
        spec.pop("batch", None)
        if machine is not None and machine.spec.get("clusterName"):
            spec["clusterName"] = machine.spec["clusterName"]
        spec["owner"] = by.name
        if spec["verb"] == "RunAgain":
            earlier = Operation.objects.get(name=spec["operation"])
            spec["again"] = {
                "verb": earlier.spec.get("again", {}).get("verb", earlier.spec["verb"]),
                "units": earlier.spec.get("again", {}).get("units", earlier.spec.get("units", [])),
            }
            if "drain" in earlier.spec:
                spec.setdefault("drain", earlier.spec["drain"])

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """Legal at this moment, or 409 with the reason."""
        if old is not None:
            return
        spec, name = new["spec"], new["metadata"].get("name", "")
        machine = Machine.objects.get(name=spec["machine"])
        phase = MachineState.objects.values_list("phase", flat=True).get(pk=machine.pk)
        if machine.deleted_at is not None or phase in ("Decommissioning", "Retired"):
            raise errors.conflict(self.kind, name, f"machine {machine.name} is being decommissioned")
        with connection.cursor() as cursor:
            cursor.execute(_OPEN, [machine.pk])
            there = cursor.fetchall()
        if spec["verb"] == CANCEL:
            if not [o for o in there if spec.get("operation") in (None, "", o[1])]:
                raise errors.conflict(self.kind, name, f"machine {machine.name} has no open Operation to cancel")
            return
        waiting = next((o[1] for o in there if not o[2] and o[3] == OwnerClass.PERSON), None)
        if waiting:
            raise errors.conflict(
                self.kind, name, f"Operation {waiting} already waits for machine {machine.name}; cancel it first"
            )
        if spec["verb"] == "RunAgain":
            earlier = Operation.objects.get(name=spec["operation"])
            if earlier.phase not in ("Failed", "Cancelled", "Succeeded"):
                raise errors.conflict(self.kind, name, f"Operation {earlier.name} is {earlier.phase}, not ended")
            if earlier.spec["verb"] == "Decommission":
                raise errors.conflict(self.kind, name, "a decommission is run again by deleting the machine")

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """An open Operation is cancelled, not deleted: its machine must come to the end of a step."""
        if obj["status"]["phase"] in ("Pending", "Running"):
            raise errors.conflict(
                self.kind, obj["metadata"]["name"], "it is open; cancel it by an Operation with the verb Cancel"
            )

    # -- rows ----------------------------------------------------------------------------------------------------

    def columns(self, obj: Json) -> Mapping[str, Any]:
        """Typed columns of a new Operation; those of a stored one are the Machine-Operator's."""
        status = {k: v for k, v in obj.get("status", {}).items() if k not in _SHOWN}
        if "uid" in obj["metadata"]:
            return {"status": status}
        machine = Machine.objects.get(name=obj["spec"]["machine"])
        out: dict[str, Any] = {
            "machine_id": machine.pk, "machine_uid": machine.uid, "cluster_id": machine.cluster_id, "owner_class": OwnerClass.PERSON,
            "status": {"message": "Waits for its turn.", "steps": []},
        }  # fmt: skip
        if obj["spec"]["verb"] == CANCEL:
            now = clock.now()
            out |= {
                "phase": "Succeeded",
                "started_at": now,
                "ended_at": now,
                "status": {"message": "The other one ends before its next step.", "steps": []},
            }
        return out

    def after_write(self, cursor: Cursor, stored: Stored, old: Stored | None) -> None:
        """A Cancel marks what it cancels. A person's that has not begun ends at once; Fleet's own by its next pass, which
        remembers that it is not wanted."""
        spec = stored.obj["spec"]
        if old is not None or spec["verb"] != CANCEL:
            return
        machine = Machine.objects.get(name=spec["machine"])
        cursor.execute(
            """UPDATE machines_operation SET spec = spec || jsonb_build_object('cancelledBy', %s::text), rv = greatest(fleet_pos(%s), rv + 1),
                 phase = CASE WHEN started_at IS NULL AND owner_class = 3 THEN 'Cancelled' ELSE phase END,
                 ended_at = CASE WHEN started_at IS NULL AND owner_class = 3 THEN now() END
               WHERE machine_id = %s AND ended_at IS NULL AND id <> %s AND (%s = '' OR name = %s) RETURNING id, rv, cluster_id""",
            [spec["owner"], STRIDE, machine.pk, stored.id, spec.get("operation", ""), spec.get("operation", "")],
        )
        for operation, rv, cluster in cursor.fetchall():  # type: ignore[attr-defined]
            note_change(cursor, rv, operation, cluster, OPERATION, MODIFIED)

    def after_commit(self, stored: Stored) -> None:
        """Its machine is due."""
        machine = Operation.objects.filter(pk=stored.id).values_list("machine_id", flat=True).first()
        if machine is not None:
            work.wake(MACHINE, [machine])

    def to_json(self, row: Any) -> Json:
        """With phase, permit and times, which are columns."""
        out = super().to_json(row)
        status: Json = {"phase": row.phase, **row.status}
        if row.permit_id is not None:
            status["permit"] = f"permit-{row.permit_id}"
        if row.started_at is not None:
            status["startTime"] = format_time(row.started_at)
        if row.ended_at is not None:
            status["endTime"] = format_time(row.ended_at)
        return out | {"status": status}


_SHOWN: Final = frozenset({"phase", "startTime", "endTime"})
