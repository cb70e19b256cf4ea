"""The audit trail: one row per write, appended in its transaction; sealed into a hash chain once no earlier row can appear."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson
from django.db import connection, transaction

from fleet.api.redact import redact
from fleet.api.rights import Actor
from fleet.control.kinds import Json, Kind
from fleet.events.publish import Cursor

_SEAL_LOCK = 0x466C656574  # one sealer at a time: advisory lock of the transaction
_BATCH = 1_000


def _shown(kind: Kind, obj: Json | None) -> str | None:
    if obj is None:
        return None
    out = dict(redact(kind, obj))
    out["metadata"] = {k: v for k, v in out.get("metadata", {}).items() if k != "managedFields"}
    return orjson.dumps(out).decode()


def append(
    cursor: Cursor,
    pos: int,
    actor: Actor,
    verb: str,
    kind: Kind,
    before: Json | None,
    after: Json | None,
    cluster: str,
    n: int = 0,
) -> None:
    """Who did what to which object; secrets already replaced."""
    meta = (after or before or {}).get("metadata", {})
    cursor.execute(
        "INSERT INTO audit (pos, n, actor, address, verb, kind, name, uid, cluster, before, after) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb)",
        [
            pos,
            n,
            actor.name,
            actor.address,
            verb,
            kind.kind,
            meta.get("name", ""),
            meta.get("uid"),
            cluster,
            _shown(kind, before),
            _shown(kind, after),
        ],
    )


def note(cursor: Cursor, actor: Actor, verb: str, subject: str, name: str, detail: Json, cluster: str = "") -> None:
    """An act that changes no object of a kind: a token made, the kill switch pulled, a role given."""
    cursor.execute(
        "INSERT INTO audit (pos, actor, address, verb, kind, name, cluster, after) VALUES (fleet_pos(), %s, %s, %s, %s, %s, %s, %s::jsonb)",
        [actor.name, actor.address, verb, subject, name, cluster, orjson.dumps(detail).decode()],
    )


_COLUMNS = "pos, n, at, actor, address, verb, kind, name, uid, cluster, before, after"


def _digest(previous: bytes, row: tuple[Any, ...]) -> bytes:
    """sha256 over the previous digest and the row; JSON escapes CR and LF, so a row cannot be split into two."""
    body = orjson.dumps(
        [str(v) if not isinstance(v, dict | list | int | None) else v for v in row], option=orjson.OPT_SORT_KEYS
    )
    return hashlib.sha256(previous + body).digest()


def seal() -> int:
    """Chain the rows below the horizon; the number of rows sealed. A second sealer finds the lock taken and leaves."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_SEAL_LOCK])
        if not cursor.fetchone()[0]:
            return 0
        cursor.execute("SELECT seq, pos, n, digest FROM audit_seal ORDER BY seq DESC LIMIT 1")
        seq, pos, n, digest = cursor.fetchone() or (0, 0, 0, b"")
        digest = bytes(digest)
        cursor.execute(
            f"SELECT {_COLUMNS} FROM audit WHERE (pos, n) > (%s, %s) AND pos < fleet_horizon() ORDER BY pos, n LIMIT %s",
            [pos, n, _BATCH],
        )
        rows = [_decoded(r) for r in cursor.fetchall()]
        sealed = []
        for row in rows:
            seq, digest = seq + 1, _digest(digest, row)
            sealed.append((seq, row[0], row[1], digest))
        cursor.executemany("INSERT INTO audit_seal (seq, pos, n, digest) VALUES (%s, %s, %s, %s)", sealed)
        return len(sealed)


def _decoded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Django's raw cursor gives jsonb as text: parse it, so that spacing never matters."""
    at = row[2].isoformat()
    return (
        row[0],
        row[1],
        at,
        *row[3:8],
        str(row[8]) if row[8] else None,
        row[9],
        *(orjson.loads(v) if isinstance(v, str) else v for v in row[10:12]),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: rows checked, last sealed position, and the first thing that is wrong (or nothing)."""

    rows: int
    position: int
    problem: str = ""


def verify() -> Verdict:
    """Recompute the chain: finds rows edited, deleted, inserted late or put in another order."""
    digest, seq, last = b"", 0, (0, 0)
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT seq, pos, n, digest FROM audit_seal WHERE seq > %s ORDER BY seq LIMIT %s", [seq, _BATCH]
            )
            seals = cursor.fetchall()
            if not seals:
                break
            cursor.execute(
                f"SELECT {_COLUMNS} FROM audit WHERE (pos, n) > (%s, %s) AND (pos, n) <= (%s, %s) ORDER BY pos, n",
                [*last, seals[-1][1], seals[-1][2]],
            )
            rows = [_decoded(r) for r in cursor.fetchall()]
            for number, (seal_seq, pos, n, expected) in enumerate(seals):
                if seal_seq != seq + 1:
                    return Verdict(seq, last[0], f"seal {seq + 1} is missing")
                row = rows[number] if number < len(rows) else None
                if row is None or (row[0], row[1]) != (pos, n):
                    return Verdict(
                        seq, last[0], f"the row at position {pos}/{n} was deleted, or another was put in before it"
                    )
                digest = _digest(digest, row)
                if digest != bytes(expected):
                    return Verdict(
                        seq,
                        last[0],
                        f"the row at position {pos}/{n} ({row[3]} {row[5]} {row[6]} {row[7]}) was changed after it was sealed",
                    )
                seq, last = seal_seq, (pos, n)
    return Verdict(seq, last[0])
