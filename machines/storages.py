"""Storages of machines and the kinds around them: classes, package versions, configuration versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection

from clusters.kubelets import problems_of_class
from fleet.api import errors
from fleet.api.approval import approve, authored, hash_of
from fleet.api.rights import Actor
from fleet.api.storage import Storage, Stored
from fleet.control import work
from fleet.control.kinds import MACHINE, Json, Kind, Problem
from machines.admission import AdmittedMachines
from machines.batches.storage import OperationBatchStorage
from machines.conditions import BIT
from machines.models import MachineClass, MachineConfigVersion, MachinePackageVersion
from machines.operation_storage import OperationStorage
from machines.rule_storage import RuleStorage
from machines.schema import (
    CONFIG_VERSION_KIND,
    MACHINE_CLASS_KIND,
    PACKAGE_VERSION_KIND,
    artifacts_of,
    config_version,
    package_version,
)


def _first_names(sql: str, parameters: list[Any]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [str(r[0]) for r in cursor.fetchall()]


def _refuse_in_use(kind: Kind, obj: Json, users: Sequence[str]) -> None:
    if users:
        shown = ", ".join(users[:3]) + (" and others" if len(users) > 3 else "")
        raise errors.conflict(kind, obj["metadata"]["name"], f"it is in use by {shown}")


def wake_unresolved() -> None:
    """Machines that waited for a version, a configuration or a class are due: it may be the new one."""
    bit = 1 << BIT["VersionsResolved"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM machine_state WHERE cond_false & %s <> 0 ORDER BY id", [bit])
        waiting = [row[0] for row in cursor.fetchall()]
    work.wake(MACHINE, waiting)


class MachineClassStorage(Storage):
    """Classes: not deleted while machines name them."""

    def __init__(self) -> None:
        super().__init__(MACHINE_CLASS_KIND, MachineClass)

    def after_commit(self, stored: Stored) -> None:
        wake_unresolved()

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """A kubelet that it brings must suit the API servers of the clusters that its machines are in."""
        versions = new.get("spec", {}).get("versions", {})
        if versions == (old or {}).get("spec", {}).get("versions", {}):
            return ()
        return problems_of_class(new["metadata"].get("name", ""), versions)

    def admit_delete(self, obj: Json, by: Actor) -> None:
        users = _first_names(
            "SELECT name FROM machine WHERE spec ->> 'className' = %s LIMIT 4", [obj["metadata"]["name"]]
        )
        _refuse_in_use(self.kind, obj, [f"machine {u}" for u in users])


class PackageVersionStorage(Storage):
    """Package versions: unique by (packageName, version), not deleted while an accepted set holds them."""

    def __init__(self) -> None:
        super().__init__(PACKAGE_VERSION_KIND, MachinePackageVersion)

    def after_commit(self, stored: Stored) -> None:
        wake_unresolved()

    def columns(self, obj: Json) -> Mapping[str, Any]:
        return {"package_name": obj["spec"]["packageName"], "version": package_version(obj)}

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        if old is not None:
            return ()
        taken = (
            MachinePackageVersion.objects.filter(package_name=new["spec"]["packageName"], version=package_version(new))
            .exclude(name=new["metadata"].get("name", ""))
            .first()
        )
        if taken is None:
            return ()
        return [
            Problem(
                "spec.version", f"{taken.package_name} {taken.version} is {taken.name} already", "FieldValueDuplicate"
            )
        ]

    def default(self, obj: Json, by: Actor) -> None:
        """An artifact without checksum and signature is accepted and never installed: the status says so from the start."""
        bare = [a["url"] for a in artifacts_of(obj["spec"]) if not a.get("sha256") and not a.get("gpgKey")]
        status, reason = ("False", "NoChecksum") if bare else ("True", "Verifiable")
        message = (
            f"{bare[0]} has neither sha256 nor gpgKey; it is never installed."
            if bare
            else "Each artifact has a checksum or a signature."
        )
        verifiable = {"type": "Verifiable", "status": status, "reason": reason, "message": message}
        obj["status"] = {**authored(obj, by), "conditions": [verifiable]}

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        if old is not None:
            approve(self.kind, new, old, by, hash_of(new["spec"]))

    def admit_delete(self, obj: Json, by: Actor) -> None:
        name, version = obj["spec"]["packageName"], package_version(obj)
        wanted = '[{"name": "' + name + '", "version": "' + version + '"}]'
        sql = """SELECT m.name FROM accepted_set s JOIN machine_state m ON m.desired_hash = s.hash WHERE s.body -> 'packages' @> %s::jsonb LIMIT 4"""
        _refuse_in_use(self.kind, obj, [f"machine {u}" for u in _first_names(sql, [wanted])])


class ConfigVersionStorage(Storage):
    """Configuration versions: unique by (configName, version), not deleted while a package version points at them."""

    def __init__(self) -> None:
        super().__init__(CONFIG_VERSION_KIND, MachineConfigVersion)

    def after_commit(self, stored: Stored) -> None:
        wake_unresolved()

    def columns(self, obj: Json) -> Mapping[str, Any]:
        return {"config_name": obj["spec"]["configName"], "version": config_version(obj)}

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        if old is not None:
            return ()
        taken = (
            MachineConfigVersion.objects.filter(config_name=new["spec"]["configName"], version=config_version(new))
            .exclude(name=new["metadata"].get("name", ""))
            .first()
        )
        if taken is None:
            return ()
        return [
            Problem(
                "spec.version", f"{taken.config_name} {taken.version} is {taken.name} already", "FieldValueDuplicate"
            )
        ]

    def default(self, obj: Json, by: Actor) -> None:
        """Who wrote it, and what an approver names."""
        obj["status"] = authored(obj, by)

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        if old is not None:
            approve(self.kind, new, old, by, hash_of(new["spec"]))

    def admit_delete(self, obj: Json, by: Actor) -> None:
        wanted = '[{"name": "' + obj["spec"]["configName"] + '", "value": "' + config_version(obj) + '"}]'
        users = _first_names(
            "SELECT name FROM machines_machinepackageversion WHERE spec -> 'configMaps' @> %s::jsonb LIMIT 4", [wanted]
        )
        _refuse_in_use(self.kind, obj, [f"package version {u}" for u in users])


def storages() -> list[Storage]:
    """One per kind that this module serves."""
    return [
        AdmittedMachines(),
        MachineClassStorage(),
        PackageVersionStorage(),
        ConfigVersionStorage(),
        OperationStorage(),
        RuleStorage(),
        OperationBatchStorage(),
    ]
