"""Where faults, rules, playbooks and remediations lie, and what people may do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection

from fleet.api import errors
from fleet.api.rights import Actor
from fleet.api.storage import PHASE_COLUMN, Storage, Stored
from fleet.control import clock, work
from fleet.control.kinds import REMEDIATION, Json, Problem
from fleet.control.times import format_time
from fleet.events.publish import Cursor, publish
from machines.evidence import evidence
from machines.models import Machine, Operation
from recovery.models import Fault, FaultRule, Playbook, Remediation
from recovery.people import CLEAR, RETRY, clear_faults, retry_fault
from recovery.schema import FAULT_KIND, REMEDIATION_KIND
from recovery.schema_rules import FAULT_RULE_KIND, PLAYBOOK_KIND
from recovery.types import CONFIRMED, LIVE, NEEDS_PERSON, RECOVERING, RULES, SEVERITIES, TYPES


class FaultStorage(Storage):
    """Faults; those that people declare are confirmed at once: a person's word needs no second source."""

    field_columns = PHASE_COLUMN

    def __init__(self) -> None:
        super().__init__(FAULT_KIND, Fault)

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """The machine and the playbook must exist."""
        if old is not None:
            return ()
        spec = new["spec"]
        out = []
        if not Machine.objects.filter(name=spec["machine"], deleted_at=None).exists():
            out.append(Problem("spec.machine", f'"{spec["machine"]}": there is no machine of that name'))
        if spec.get("playbook") and not Playbook.objects.filter(name=spec["playbook"]).exists():
            out.append(Problem("spec.playbook", f'"{spec["playbook"]}": there is no playbook of that name'))
        return out

    def default(self, obj: Json, by: Actor) -> None:
        """What the type means, and who said it: Fleet's words, whatever was sent."""
        spec = obj["spec"]
        known = TYPES.get(spec["type"])
        for set_by_fleet in ("clusterName", "rule"):
            spec.pop(set_by_fleet, None)
        machine = Machine.objects.filter(name=spec["machine"]).only("spec").first()
        if machine is not None and machine.spec.get("clusterName"):
            spec["clusterName"] = machine.spec["clusterName"]
        spec["declaredBy"] = by.name
        if known is not None:
            spec.setdefault("category", known.category)
            spec.setdefault("severity", SEVERITIES[known.severity])
            spec.setdefault("playbook", known.playbook)
        spec.setdefault("severity", "warning")

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """One live fault of a type on a machine; a word that cannot be followed now is refused."""
        if old is not None:
            words, phase = new["metadata"].get("annotations", {}), old["status"]["phase"]
            if CLEAR in words and phase == RECOVERING:
                text = f"{old['status'].get('remediation')} works on it; cancel that first"
                raise errors.conflict(self.kind, new["metadata"]["name"], text)
            if RETRY in words and phase != NEEDS_PERSON:
                raise errors.conflict(
                    self.kind, new["metadata"]["name"], f"it is {phase}; only what needs a person is tried again"
                )
            return
        spec = new["spec"]
        machine = Machine.objects.get(name=spec["machine"])
        there = Fault.objects.filter(machine_id=machine.pk, type=spec["type"], phase__in=LIVE).first()
        if there is not None:
            raise errors.conflict(self.kind, new["metadata"].get("name", ""), f"{there.name} is that fault already")

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """A fault that is worked on is ended by its remediation, or that by a person."""
        if obj["status"]["phase"] == RECOVERING:
            name = obj["metadata"]["name"]
            raise errors.conflict(self.kind, name, f"{obj['status'].get('remediation')} works on it; cancel that first")

    def columns(self, obj: Json) -> Mapping[str, Any]:
        if "uid" in obj["metadata"]:
            return {"status": {k: v for k, v in obj.get("status", {}).items() if k in _KEPT}}
        spec, now = obj["spec"], clock.now()
        machine = Machine.objects.get(name=spec["machine"])
        source = f"person:{spec['declaredBy']}"
        said = spec.get("message") or f"{spec['declaredBy']} declared it."
        evidence = {
            "type": "declared",
            "status": "True",
            "reason": spec["type"],
            "message": said,
            "source": source,
            "since": format_time(now),
        }
        return {
            "machine_id": machine.pk, "cluster_id": machine.cluster_id, "type": spec["type"], "category": spec["category"],
            "severity": SEVERITIES.index(spec["severity"]), "phase": CONFIRMED, "sources": [source, "word-of-a-person"], "first_seen": now, "last_seen": now,
            "held_since": now, "confirmed_at": now, "due_at": now, "evidence": [evidence], "status": {"reason": "Declared", "message": said},
        }  # fmt: skip

    def after_write(self, cursor: Cursor, stored: Stored, old: Stored | None) -> None:
        """Told on the machine, as every fault. A person's word that it is over, or to be tried again, is used at once."""
        fault = Fault.objects.get(pk=stored.id)
        words = stored.obj["metadata"].get("annotations", {})
        if CLEAR in words:
            clear_faults(fault.machine_id, "", "A person", name=fault.name)
        elif RETRY in words:
            retry_fault(fault.machine_id, fault.name, "A person")
        if old is not None:
            return
        spec = stored.obj["spec"]
        data = {
            "reason": spec["type"],
            "message": stored.obj["status"]["message"],
            "name": spec["machine"],
            "fault": fault.name,
            "by": spec["declaredBy"],
        }
        publish(
            cursor, pos=stored.rv, n=1, kind=1, object_id=fault.machine_id, cluster_id=fault.cluster_id, type="dev.fleet.fault.confirmed",
            severity=fault.severity, source="/faults", data=data,
        )  # fmt: skip

    def to_json(self, row: Any) -> Json:
        """With phase, times and evidence, which are columns."""
        out = super().to_json(row)
        status: Json = {
            "phase": row.phase,
            **row.status,
            "count": row.count,
            "sources": row.sources,
            "evidence": row.evidence,
        }
        status |= {"firstSeenTime": format_time(row.first_seen), "lastSeenTime": format_time(row.last_seen)}
        if row.shadow:
            status["shadow"] = True
        if row.confirmed_at is not None:
            status["confirmedTime"] = format_time(row.confirmed_at)
        if row.resolved_at is not None:
            status["resolvedTime"] = format_time(row.resolved_at)
        return out | {"status": status}


_KEPT = frozenset({"reason", "message", "remediation", "repair", "seen", "ticket"})


class RemediationStorage(Storage):
    """Remediations: made by Fleet, cancelled by people."""

    field_columns = PHASE_COLUMN

    def __init__(self) -> None:
        super().__init__(REMEDIATION_KIND, Remediation)

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """Nobody but Fleet makes one, and nothing but its end is asked of it."""
        name = new["metadata"].get("name", "")
        if old is None:
            why = "remediations are made by Fleet; declare a Fault, or ask for an Operation"
            raise errors.forbidden(by.name, "create", self.kind, name or None, why)
        fixed = {k: v for k, v in old["spec"].items() if k not in ("cancelled", "cancelledBy")}
        if {k: v for k, v in new["spec"].items() if k not in ("cancelled", "cancelledBy")} != fixed:
            raise errors.conflict(self.kind, name, "only spec.cancelled can be changed")
        if new["spec"].get("cancelled") and not old["spec"].get("cancelled"):
            if old["status"].get("endTime"):
                raise errors.conflict(self.kind, name, f"it has ended already ({old['status']['phase']})")
            new["spec"]["cancelledBy"] = by.name

    def admit_delete(self, obj: Json, by: Actor) -> None:
        if not obj["status"].get("endTime"):
            raise errors.conflict(self.kind, obj["metadata"]["name"], "it is open; cancel it by spec.cancelled")

    def columns(self, obj: Json) -> Mapping[str, Any]:
        return {"status": {k: v for k, v in obj.get("status", {}).items() if k in ("reason", "message", "rungs")}}

    def after_commit(self, stored: Stored) -> None:
        """Its pass is due."""
        work.wake(REMEDIATION, [stored.id])

    def to_json(self, row: Any) -> Json:
        """With phase, rung and times, which are columns."""
        out = super().to_json(row)
        status: Json = {
            "phase": row.phase,
            **row.status,
            "rung": row.rung + 1,
            "startTime": format_time(row.created_at),
        }
        if row.ended_at is not None:
            status["endTime"] = format_time(row.ended_at)
        return out | {"status": status}


class PlaybookStorage(Storage):
    """Playbooks; one that a rule names is not deleted under it."""

    def __init__(self) -> None:
        super().__init__(PLAYBOOK_KIND, Playbook)

    def admit_delete(self, obj: Json, by: Actor) -> None:
        name = obj["metadata"]["name"]
        users = list(FaultRule.objects.filter(spec__playbook=name).values_list("name", flat=True)[:4])
        if users:
            shown = ", ".join(users[:3]) + (" and others" if len(users) > 3 else "")
            raise errors.conflict(self.kind, name, f"it is in use by rule {shown}")


class FaultRuleStorage(Storage):
    """Rules; the playbook that one names must be there. After a change every machine is looked at."""

    def __init__(self) -> None:
        super().__init__(FAULT_RULE_KIND, FaultRule)

    def after_commit(self, stored: Stored) -> None:
        look_anew()

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        name = new["spec"].get("playbook")
        if name and not Playbook.objects.filter(name=name).exists():
            return [Problem("spec.playbook", f'"{name}": there is no playbook of that name')]
        return ()


def look_anew() -> None:
    """The next turn of detection looks at every machine."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO slot (name, slot, pos) VALUES (%s, 0, 1) ON CONFLICT (name) DO UPDATE SET pos = slot.pos + 1",
            [RULES],
        )


def evidence_of(obj: Json, actor: Actor) -> Json:
    """What was collected in all rungs of one remediation."""
    names = [r["operation"] for r in obj.get("status", {}).get("rungs", [])]
    uids = [str(u) for u in Operation.objects.filter(name__in=names).values_list("uid", flat=True)]
    return evidence(uids)


def storages() -> tuple[Storage, ...]:
    """One of each kind."""
    return FaultStorage(), FaultRuleStorage(), PlaybookStorage(), RemediationStorage()
