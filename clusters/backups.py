"""Snapshots of etcd and the data of deleted clusters: what is kept, for how long, and where it stands in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import orjson
from django.conf import settings
from django.db import connection

from clusters import keep
from clusters.cases import Case
from clusters.planes import Snapshot
from clusters.planning import BACKUPS
from fleet.control.kinds import Json


def path_of(case: Case, name: str) -> Path:
    """The file of a snapshot."""
    return Path(settings.FLEET_CLUSTERS_DIR) / case.uid / "snapshots" / name


def note(case: Case, snapshot: Snapshot, why: str, version: str) -> None:
    """Store a snapshot that was taken; those beyond the number that is kept go, the oldest first."""
    most = case.spec.get("backups", {}).get("keep", BACKUPS)
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO cluster_snapshot (cluster_uid, name, why, path, size, sha256, revision, package_version) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (cluster_uid, name) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256, revision = excluded.revision""",
            [
                case.uid,
                snapshot.path.name,
                why,
                str(snapshot.path),
                snapshot.size,
                snapshot.sha256,
                snapshot.revision,
                version,
            ],
        )
        cursor.execute(
            """DELETE FROM cluster_snapshot WHERE id IN (SELECT id FROM cluster_snapshot WHERE cluster_uid = %s ORDER BY taken_at DESC, id DESC OFFSET %s)
               RETURNING path""",
            [case.uid, most],
        )
        for (path,) in cursor.fetchall():
            Path(path).unlink(missing_ok=True)


def listed(uid: str) -> list[Json]:
    """Snapshots of a control plane as they stand in its status, the youngest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT name, to_char(taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), why, size, sha256, package_version FROM cluster_snapshot
               WHERE cluster_uid = %s ORDER BY taken_at DESC, id DESC LIMIT 20""",
            [uid],
        )
        names = ("name", "takenAt", "why", "size", "sha256", "packageVersion")
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def last(uid: str) -> datetime | None:
    """When the youngest snapshot was taken."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(taken_at) FROM cluster_snapshot WHERE cluster_uid = %s", [uid])
        found: datetime | None = cursor.fetchone()[0]
        return found


def find(uid: str, name: str) -> tuple[Snapshot, str] | None:
    """A snapshot by its name, and the ClusterPackageVersion of its time."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT path, sha256, size, revision, package_version FROM cluster_snapshot WHERE cluster_uid::text = %s AND name = %s",
            [uid, name],
        )
        row = cursor.fetchone()
    return (Snapshot(Path(row[0]), row[1], row[2], row[3]), str(row[4])) if row else None


def lay_down(case: Case) -> None:
    """The cluster is stopped: its data and its keys stay for a day, for a new Cluster with restoreFrom."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO deleted_cluster (uid, name, spec, status, purge_at) VALUES (%s, %s, %s, %s, now() + %s * interval '1 hour')
               ON CONFLICT (uid) DO NOTHING""",
            [
                case.uid,
                case.name,
                orjson.dumps(case.spec).decode(),
                orjson.dumps(case.status).decode(),
                settings.FLEET_UNDO_HOURS,
            ],
        )


def take_up(uid: str) -> Json | None:
    """The status of the deleted cluster whose data is taken up; None = it is gone, or another cluster has it."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM deleted_cluster WHERE uid = %s AND purge_at > now() RETURNING status", [uid])
        row = cursor.fetchone()
    if row is None:
        return None
    status: Json = orjson.loads(row[0]) if isinstance(row[0], str) else row[0]
    return status


def due_for_purge() -> Sequence[tuple[str, str, Json]]:
    """Deleted clusters whose time is over: uid, name, spec."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT uid::text, name, spec FROM deleted_cluster WHERE purge_at <= now() ORDER BY purge_at LIMIT 20"
        )
        return [(u, n, orjson.loads(s) if isinstance(s, str) else s) for u, n, s in cursor.fetchall()]


def purged(uid: str) -> None:
    """Nothing of the control plane is left."""
    keep.forget(uid)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM cluster_snapshot WHERE cluster_uid = %s", [uid])
        cursor.execute("DELETE FROM deleted_cluster WHERE uid = %s", [uid])
