"""What a write of a Hosted cluster must agree with: its meta cluster, its neighbours there, images of its version."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from django.db import connection

from clusters.exposure import HOST_PORT, PORTS, base_port, exposure_of, namespace_of
from clusters.models import Cluster
from clusters.schema_cluster import HOSTED, OPERATED, hosted_on, provider_of
from fleet.control.kinds import Json, Problem

_META = "spec.controlPlane.metaCluster"


def meta_problems(new: Json, old: Json | None) -> Sequence[Problem]:
    """The meta cluster can carry it, and no other control plane there has its ports or its namespace."""
    spec, name = new.get("spec", {}), new["metadata"]["name"]
    meta = hosted_on(spec)
    if not meta or (old is not None and hosted_on(old["spec"])):
        return ()
    found = Cluster.objects.filter(name=meta).first()
    if meta == name:
        return [Problem(_META, f'"{meta}": a cluster cannot carry itself', "FieldValueForbidden")]
    if found is None:
        return [Problem(_META, f'"{meta}": there is no such Cluster', "FieldValueNotFound")]
    if found.deleted_at is not None:
        return [Problem(_META, f'"{meta}": is being deleted', "FieldValueForbidden")]
    if provider_of(found.spec) not in OPERATED:
        return [Problem(_META, f'"{meta}": has no control plane; it is a group of plain hosts', "FieldValueForbidden")]
    if provider_of(found.spec) == HOSTED:
        return [
            Problem(
                _META,
                f'"{meta}": is itself Hosted on {hosted_on(found.spec)}; one hop is the most',
                "FieldValueForbidden",
            )
        ]
    return _neighbours(name, str(spec.get("restoreFrom") or new["metadata"].get("uid", "")), spec)


def _neighbours(name: str, uid: str, spec: Json) -> Sequence[Problem]:
    """Control planes on the same meta cluster, and those whose data still lies there."""
    # A new object has no uid yet, from which ports that nobody wrote are made: those hardly ever meet.
    is_known = uid or (exposure_of(spec) == HOST_PORT and spec["controlPlane"]["exposure"].get("port"))
    first, out = base_port(spec, uid) if is_known else None, []
    for other, other_uid, theirs in carried_by(hosted_on(spec)):
        if other_uid == uid or other == name:
            continue
        taken = base_port(theirs, other_uid)
        if first is not None and abs(first - taken) < PORTS:
            text = (
                f"{first}: cluster {other} takes {taken} to {taken + PORTS - 1} on the nodes of the same meta cluster"
            )
            out.append(Problem("spec.controlPlane.exposure.port", text, "FieldValueForbidden"))
        if namespace_of(name, spec) == namespace_of(other, theirs):
            text = f'"{namespace_of(name, spec)}": is that of cluster {other}'
            out.append(Problem("spec.controlPlane.namespace", text, "FieldValueForbidden"))
    return out


def carried_by(meta: str) -> list[tuple[str, str, Json]]:
    """Name, uid of the control plane, and spec of each that a meta cluster carries, and of deleted ones whose data is kept there."""
    on = {"provider": HOSTED, "controlPlane": {"metaCluster": meta}}
    found = [
        (row.name, str(row.spec.get("restoreFrom") or row.uid), row.spec)
        for row in Cluster.objects.filter(spec__contains=on).order_by("name")
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, uid::text, spec FROM deleted_cluster WHERE spec ->> 'provider' = %s ORDER BY name", [HOSTED]
        )
        kept = cursor.fetchall()
    return found + [(n, u, s) for n, u, s in ((n, u, _json(s)) for n, u, s in kept) if hosted_on(s) == meta]


def _json(value: Json | str) -> Json:
    found: Json = orjson.loads(value) if isinstance(value, str) else value
    return found


def image_problems(spec: Json, wanted: str, version: Json) -> Sequence[Problem]:
    """Pods need images."""
    if provider_of(spec) != HOSTED:
        return ()
    without = [c["name"] for c in version["components"] if not c.get("image")]
    if not without:
        return ()
    text = f'"{wanted}": names no image for {", ".join(without)}; a Hosted control plane runs images'
    return [Problem("spec.packageVersion", text, "FieldValueForbidden")]


def carrying(name: str) -> str:
    """Why a cluster cannot go while it carries control planes, "" = it carries none."""
    found = carried_by(name)
    if not found:
        return ""
    shown = ", ".join(n for n, _, _ in found[:3]) + (" and others" if len(found) > 3 else "")
    return f"it carries the control planes of {shown}; delete them first (data of deleted ones is kept for a day)"
