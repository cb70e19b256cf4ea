"""Keys, certificates and files of control planes at rest, by the plane's uid: public parts readable, the rest sealed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from django.db import connection

from fleet.api.credentials import seal, unseal

_PUBLIC: Final = (".crt", ".pub")


def files(uid: str) -> dict[str, str]:
    """All files of a plane by name, opened: in a worker only."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, public, sealed FROM cluster_secret WHERE cluster_uid = %s", [uid])
        rows = cursor.fetchall()
    return {
        name: unseal(f"{name} of the control plane", bytes(sealed))["value"] if sealed else public
        for name, public, sealed in rows
    }


def store(uid: str, changed: Mapping[str, str], not_after: Mapping[str, datetime]) -> None:
    """Keep files that are new or renewed; `not_after` of certificates by name."""
    with connection.cursor() as cursor:
        for name, text in sorted(changed.items()):
            is_public = name.endswith(_PUBLIC)
            cursor.execute(
                """INSERT INTO cluster_secret (cluster_uid, name, public, sealed, not_after) VALUES (%s, %s, %s, %s, %s)
                   ON CONFLICT (cluster_uid, name) DO UPDATE SET public = excluded.public, sealed = excluded.sealed, not_after = excluded.not_after""",
                [
                    uid,
                    name,
                    text if is_public else "",
                    None if is_public else seal({"value": text}),
                    not_after.get(name),
                ],
            )


def ends(uid: str) -> list[tuple[str, datetime]]:
    """Certificates of a plane and when they end, the first to end first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, not_after FROM cluster_secret WHERE cluster_uid = %s AND not_after IS NOT NULL ORDER BY not_after, name",
            [uid],
        )
        return [(str(name), at) for name, at in cursor.fetchall()]


def forget(uid: str) -> None:
    """The plane is gone for good."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM cluster_secret WHERE cluster_uid = %s", [uid])
