"""Storages of clusters and of what they consist of: references checked, deletion in two steps, nothing in use goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from django.db import connection

from clusters import access, backups, hosted_storage
from clusters.cases import FINALIZER
from clusters.kubelets import problems_of_cluster
from clusters.lifecycle import PARTS
from clusters.manifests import problems as manifest_problems
from clusters.models import Cluster, ClusterPackageVersion, Idc
from clusters.preflight import Hop, refusals
from clusters.schema import IDC_KIND
from clusters.schema_cluster import CLUSTER_KIND, IMPORTED, MADE, OPERATED, hosted_on, provider_of
from clusters.schema_versions import CLUSTER_PACKAGE_VERSION_KIND
from clusters.wanted import values_in
from fleet.api import errors
from fleet.api.actions import Write, change_object
from fleet.api.approval import approve, authored, hash_of, usable
from fleet.api.credentials import may_refer
from fleet.api.models import Credential
from fleet.api.rights import SYSTEM, Actor
from fleet.api.storage import Storage, Stored
from fleet.control import work
from fleet.control.kinds import CLUSTER, Json, Problem
from fleet.events.publish import Cursor

RESTORE: Final = "fleet.dev/restore"
CONFIRM: Final = "fleet.dev/confirm-delete"


class ClusterStorage(Storage):
    """Clusters."""

    def __init__(self) -> None:
        super().__init__(CLUSTER_KIND, Cluster)

    def default(self, obj: Json, by: Actor) -> None:
        """A control plane of Fleet's making keeps its object until it is stopped."""
        _guard(obj)

    def settle(self, new: Json, old: Json) -> Json:
        """A group of plain hosts that gets a control plane is guarded from then on."""
        if "deletionTimestamp" not in old["metadata"]:
            _guard(new)
        return new

    def problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        """What the spec refers to is there, and the way to it is one that Fleet goes."""
        spec = new.get("spec", {})
        if provider_of(spec) == IMPORTED:
            return _kubeconfig_problems(new["metadata"]["name"], str(spec["kubeconfigCredential"]))
        carried = hosted_storage.meta_problems(new, old)
        return [*(carried or self._version_problems(new, old)), *_content_problems(new, old)]

    def _version_problems(self, new: Json, old: Json | None) -> Sequence[Problem]:
        spec = new.get("spec", {})
        wanted = spec.get("packageVersion")
        if wanted is None or (old is not None and old["spec"].get("packageVersion") == wanted):
            return _restore_problems(spec, old)
        version = ClusterPackageVersion.objects.filter(name=wanted).first()
        if version is None:
            return [
                Problem(
                    "spec.packageVersion", f'"{wanted}": there is no such ClusterPackageVersion', "FieldValueNotFound"
                )
            ]
        if not usable(version.status):
            text = (
                f'"{wanted}": waits for approval by another person than its author; its hash is {hash_of(version.spec)}'
            )
            return [Problem("spec.packageVersion", text, "FieldValueForbidden")]
        imageless = hosted_storage.image_problems(spec, wanted, version.spec)
        if imageless:
            return imageless
        now = ((old or {}).get("status") or {}).get("packageVersion")
        before = ClusterPackageVersion.objects.filter(name=now).first() if now else None
        if before is None or old is None:
            return _restore_problems(spec, old)
        known = list(ClusterPackageVersion.objects.values_list("name", "kubernetes_version"))
        if _goes_back_with_its_data(new, wanted):
            return ()
        hop = Hop(before.spec, version.spec, old["status"].get("emulatedVersion", ""), known)
        return [Problem("spec.packageVersion", f'"{wanted}": {text}', "FieldValueForbidden") for text in refusals(hop)]

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        """Who restores names a snapshot that is there."""
        word = new["metadata"].get("annotations", {}).get(RESTORE)
        if not word or word == ((old or {}).get("metadata") or {}).get("annotations", {}).get(RESTORE):
            return
        name = new["metadata"]["name"]
        snapshots = [s["name"] for s in new.get("status", {}).get("snapshots", [])]
        if word not in snapshots:
            there = f"there are {', '.join(snapshots[:5])}" if snapshots else "there is none yet"
            raise errors.conflict(self.kind, name, f"{RESTORE}={word} names no snapshot of it; {there}")

    def after_write(self, cursor: Cursor, stored: Stored, old: Stored | None) -> None:
        """Clusters with a control plane are in the loop."""
        if provider_of(stored.obj["spec"]) in OPERATED:
            work.ensure(cursor, CLUSTER, stored.id, cluster_id=stored.id)

    def after_remove(self, cursor: Cursor, stored: Stored) -> None:
        work.forget(cursor, CLUSTER, stored.id)
        access.forget(stored.id)

    def after_commit(self, stored: Stored) -> None:
        if provider_of(stored.obj["spec"]) in OPERATED:
            work.wake(CLUSTER, [stored.id])

    def admit_delete(self, obj: Json, by: Actor) -> None:
        """The annotation must name the cluster, and no machine may be left in it."""
        name = obj["metadata"]["name"]
        carrying = hosted_storage.carrying(name)  # said first: its machines clear away what it carries, so they go last
        if carrying:
            raise errors.conflict(self.kind, name, carrying)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM (SELECT 1 FROM machine JOIN clusters_cluster c ON c.id = machine.cluster_id WHERE c.name = %s LIMIT 100) q",
                [name],
            )
            left = int(cursor.fetchone()[0])
        if left:
            count = f"{left}" if left < 100 else "100 or more"
            raise errors.conflict(
                self.kind, name, f"{count} machines still name it; delete them or move them out first"
            )
        if obj["metadata"].get("annotations", {}).get(CONFIRM) != name:
            raise errors.conflict(
                self.kind, name, f"deleting a cluster takes two steps: first annotate it with {CONFIRM}={name}"
            )


def _guard(obj: Json) -> None:
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if provider_of(obj.get("spec", {})) in MADE and FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    if not finalizers:
        del obj["metadata"]["finalizers"]


def _kubeconfig_problems(name: str, credential: str) -> Sequence[Problem]:
    """The Credential is there, is a kubeconfig, and is for this cluster."""
    field = "spec.kubeconfigCredential"
    row = Credential.objects.filter(name=credential).first()
    if row is None:
        return [Problem(field, f'"{credential}": there is no such Credential', "FieldValueNotFound")]
    if row.spec.get("type") != "kubeconfig":
        return [Problem(field, f'"{credential}": is of type {row.spec.get("type")}, not kubeconfig')]
    if not may_refer({"spec": row.spec}, name):
        return [
            Problem(
                field,
                f'"{credential}": is not for cluster {name}; its spec.clusters says for whom it is',
                "FieldValueForbidden",
            )
        ]
    return ()


def _content_problems(new: Json, old: Json | None) -> Sequence[Problem]:
    """Of what the cluster adds to its ClusterPackageVersion: variables that its addons name, and the kubelet's version."""
    spec, before = new.get("spec", {}), (old or {}).get("spec", {})
    fields = ("packageVersion", "variables", "machineVersions")
    if all(spec.get(f) == before.get(f) for f in fields) or provider_of(spec) not in MADE:
        return ()
    wanted, reached = spec.get("packageVersion"), new.get("status", {}).get("packageVersion")
    packages = dict(
        ClusterPackageVersion.objects.filter(name__in=[n for n in (wanted, reached) if n]).values_list("name", "spec")
    )
    out = [*problems_of_cluster(spec, (packages[n]["kubernetesVersion"] for n in sorted(packages)))]
    if wanted in packages:
        values = values_in(new["metadata"]["name"], spec, wanted, packages[wanted], "https://")
        field = (
            "spec.packageVersion" if spec.get("packageVersion") != before.get("packageVersion") else "spec.variables"
        )
        out += [Problem(field, f'"{wanted}": {why}') for why in manifest_problems(packages[wanted], values)]
    return out


def _goes_back_with_its_data(new: Json, wanted: str) -> bool:
    """Whether the same write restores a snapshot of that version: then the data is of that time too."""
    uid = new["spec"].get("restoreFrom") or new["metadata"].get("uid", "")
    found = backups.find(uid, new["metadata"].get("annotations", {}).get(RESTORE, ""))
    return found is not None and found[1] == wanted


def _restore_problems(spec: Json, old: Json | None) -> Sequence[Problem]:
    """`restoreFrom` names a deleted cluster whose data is still there."""
    uid = spec.get("restoreFrom")
    if not uid or old is not None:
        return ()
    with connection.cursor() as cursor:
        cursor.execute("SELECT spec FROM deleted_cluster WHERE uid::text = %s AND purge_at > now()", [uid])
        row = cursor.fetchone()
    if row is None:
        text = f'"{uid}": no cluster of this uid was deleted lately; its data is gone'
        return [Problem("spec.restoreFrom", text, "FieldValueNotFound")]
    before: Json = orjson.loads(row[0]) if isinstance(row[0], str) else row[0]
    if (provider_of(before), hosted_on(before)) != (provider_of(spec), hosted_on(spec)):
        where = " ".join(filter(None, [provider_of(before), hosted_on(before) and f"on {hosted_on(before)}"]))
        return [Problem("spec.restoreFrom", f'"{uid}": its data is {where}, and cannot be taken up elsewhere')]
    return ()


class ClusterPackageVersionStorage(Storage):
    """Package versions of clusters: approved by a second person, kept while a cluster points at them or stands on them."""

    def __init__(self) -> None:
        super().__init__(CLUSTER_PACKAGE_VERSION_KIND, ClusterPackageVersion)

    def columns(self, obj: Json) -> Mapping[str, Any]:
        return {"kubernetes_version": obj["spec"]["kubernetesVersion"]}

    def default(self, obj: Json, by: Actor) -> None:
        """Who wrote it, and what an approver names."""
        obj["status"] = authored(obj, by)

    def admit(self, new: Json, old: Json | None, by: Actor) -> None:
        if old is not None:
            approve(self.kind, new, old, by, hash_of(new["spec"]))

    def admit_delete(self, obj: Json, by: Actor) -> None:
        name = obj["metadata"]["name"]
        sql = """SELECT name FROM clusters_cluster WHERE spec ->> 'packageVersion' = %s OR status ->> 'packageVersion' = %s
                   OR status -> 'componentVersions' @> ANY (SELECT jsonb_build_object(c, %s::text) FROM unnest(%s::text[]) c) ORDER BY name LIMIT 4"""
        with connection.cursor() as cursor:
            cursor.execute(sql, [name, name, name, list(PARTS)])
            users = [f"cluster {row[0]}" for row in cursor.fetchall()]
        if users:
            shown = ", ".join(users[:3]) + (" and others" if len(users) > 3 else "")
            raise errors.conflict(self.kind, name, f"it is in use by {shown}")


def let_go(name: str) -> None:
    """Remove Fleet's finalizer from a cluster whose control plane is stopped; without others of upper apps it is gone."""

    def change(live: Json) -> Json:
        live["metadata"]["finalizers"] = [f for f in live["metadata"].get("finalizers", []) if f != FINALIZER]
        return live

    change_object("clusters", name, change, write=Write(by=SYSTEM, manager="fleet"), verb="update")


def storages() -> list[Storage]:
    """One per kind of this app."""
    return [ClusterStorage(), ClusterPackageVersionStorage(), Storage(IDC_KIND, Idc)]
