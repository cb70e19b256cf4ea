"""Faults and remediations as the loop leaves them, written straight into their tables."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
from django.db import connection
from django.utils import timezone

from fleet.api.actions import Write, create_object
from fleet.api.rights import SYSTEM
from fleet.control.kinds import API_VERSION, Json
from machines.models import Machine
from recovery.models import Fault, Remediation

WRITE = Write(by=SYSTEM)
RUNGS: list[Json] = [
    {"name": "restart", "steps": [{"action": "Isolate"}, {"action": "RestartUnits", "units": ["kubelet.service"]}], "verifySeconds": 90},
    {"name": "reboot", "steps": [{"action": "Drain"}, {"action": "Reboot"}]},
    {"name": "ask", "steps": [{"action": "AskPerson", "task": "Reseat the card."}]},
]  # fmt: skip


def playbook(name: str = "fix") -> None:
    spec = {"rungs": RUNGS, "probationSeconds": 30, "description": "Started again, then rebooted."}
    obj = {"apiVersion": API_VERSION, "kind": "Playbook", "metadata": {"name": name}, "spec": spec}
    create_object("playbooks", obj, write=WRITE)


def rule(name: str = "crash", **spec: Any) -> None:
    body = {"faultType": "ComponentCrash", "when": [{"condition": "ComponentsHealthy", "status": "False", "reasons": ["UnitNotRunning"]}], "target": {"matchAll": True}, **spec}  # fmt: skip
    obj = {"apiVersion": API_VERSION, "kind": "FaultRule", "metadata": {"name": name}, "spec": body}
    create_object("faultrules", obj, write=WRITE)


def fault(machine: str, type_: str = "ComponentCrash", phase: str = "Confirmed", *, minutes: int = 5, **more: Any) -> Fault:  # fmt: skip
    """One fault of a machine; `more`: columns, with `repair` for why it is not repaired and `message`."""
    row = Machine.objects.get(name=machine)
    now = timezone.now() - timedelta(minutes=minutes)
    cluster = row.spec.get("clusterName", "")
    name = more.pop("name", f"{machine}-{type_.lower()}")
    status = {"reason": type_, "message": more.pop("message", "pouch.service does <not> run")}
    if repair := more.pop("repair", None):
        status["repair"] = {"reason": repair[0], "message": repair[1], "since": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    if remediation := more.pop("remediation", ""):
        status["remediation"] = remediation
    spec = {"machine": machine, "clusterName": cluster, "type": type_, "category": more.get("category", "Component"), "severity": "warning", "playbook": "fix", "rule": more.get("rule", "")}  # fmt: skip
    made: Fault = Fault.objects.create(
        name=name, spec=spec, status=status, machine_id=row.pk, cluster_id=row.cluster_id, type=type_, phase=phase, first_seen=now, last_seen=timezone.now(), held_since=now,
        confirmed_at=None if phase in ("Open", "Suspected") else now, resolved_at=timezone.now() if phase == "Resolved" else None, created_at=now,
        evidence=[{"type": "ComponentsHealthy", "status": "False", "reason": "UnitNotRunning", "message": "pouch.service failed", "source": "fleet", "since": now.isoformat()}],
        **{"category": "Component", "sources": ["fleet"], **more},
    )  # fmt: skip
    return made


def remediation(of: Fault, phase: str = "Repairing", *, rung: int = 0, tried: list[Json] | None = None, minutes: int = 4, message: str = "Restart is under way.", **more: Any) -> Remediation:  # fmt: skip
    """A repair of a fault by the playbook `fix`."""
    now = timezone.now() - timedelta(minutes=minutes)
    ended = timezone.now() if phase in ("Succeeded", "Escalated", "Cancelled") else None
    machine, cluster = of.spec["machine"], of.spec["clusterName"]
    name = more.pop("name", f"{machine}-{of.pk}")
    made: Remediation = Remediation.objects.create(
        name=name, spec={"machine": machine, "clusterName": cluster, "fault": of.name, "playbook": "fix", "ladder": {"rungs": RUNGS, "probationSeconds": 30}},
        status={"reason": "RungRuns", "message": message, "rungs": tried or []}, fault_id=of.pk, machine_id=of.machine_id, cluster_id=of.cluster_id, phase=phase, playbook="fix",
        rung=rung, phase_at=now, ended_at=ended, created_at=now, **more,
    )  # fmt: skip
    return made


def operation(machine: str, name: str, uid: str) -> None:
    """The Operation of a rung, ended, with what the host showed before it."""
    spec = {"machine": machine, "verb": "Repair", "owner": "remediation/x", "steps": RUNGS[0]["steps"]}
    step = {"name": "03-collect-evidence", "verb": "collect-evidence", "status": "True", "reason": "Done", "startTime": "2026-11-26T15:00:00Z", "endTime": "2026-11-26T15:00:04Z"}  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO machines_operation (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at, machine_id, machine_uid, cluster_id, owner_class, phase, epoch, started_at, ended_at)
            SELECT %s, %s, fleet_pos(), 1, '{}', '{}', '[]', '[]', %s::jsonb, %s::jsonb, now(), id, uid, cluster_id, 2, 'Succeeded', 0, now(), now() FROM machine WHERE name = %s""",
            [uid, name, orjson.dumps(spec).decode(), orjson.dumps({"phase": "Succeeded", "message": "All steps are done.", "steps": [step]}).decode(), machine],
        )  # fmt: skip
        cursor.execute("INSERT INTO machine_evidence (operation_uid, step, machine_id, content) SELECT %s, '03-collect-evidence-1', id, 'dmesg: <nothing>' FROM machine WHERE name = %s", [uid, machine])  # fmt: skip
