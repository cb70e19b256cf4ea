"""How many package downloads run at a time in one idc: a slot a machine, taken before the step begins, over all workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fleet.control.db import Connection
from fleet.control.kinds import Json
from machines.step_actions import SECONDS

STAGE: Final = "stage-package"
DOWNLOADS: Final = 20  # at a time in one idc, where the Idc says nothing else
_SLOT_SECONDS: Final = SECONDS[STAGE] + 120  # a worker that dies gives its slots back by this

# One taker an idc at a time: who comes second counts what the first one took. Idcs in order, so that two batches never wait in a ring.
_TAKE = """
WITH gone AS (DELETE FROM download WHERE expires_at < now()),
lk AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('download ' || idc, 0)) FROM (SELECT DISTINCT idc FROM unnest(%(idcs)s::text[]) AS i(idc) ORDER BY 1) i)
SELECT count(*) FROM lk
"""
_GRANT = """
WITH a AS (SELECT * FROM unnest(%(ids)s::bigint[], %(idcs)s::text[], %(caps)s::int[]) AS a(id, idc, cap)),
used AS (SELECT idc, count(*) AS n FROM download WHERE idc = ANY (%(idcs)s) AND expires_at >= now() AND machine_id <> ALL (%(ids)s) GROUP BY 1),
turn AS (SELECT a.*, row_number() OVER (PARTITION BY a.idc ORDER BY d.machine_id IS NULL, a.id) AS place FROM a LEFT JOIN download d ON d.machine_id = a.id AND d.expires_at >= now())
INSERT INTO download (machine_id, idc, expires_at)
SELECT t.id, t.idc, now() + %(seconds)s * interval '1 s' FROM turn t LEFT JOIN used u ON u.idc = t.idc WHERE t.place + coalesce(u.n, 0) <= t.cap ORDER BY t.id
ON CONFLICT (machine_id) DO UPDATE SET idc = excluded.idc, expires_at = excluded.expires_at RETURNING machine_id
"""


def downloading(status: Json) -> bool:
    """Whether a download of this Operation runs."""
    return any(s.get("running") and s["verb"] == STAGE for s in status.get("steps", []))


async def take(conn: Connection, wanted: Sequence[tuple[int, str]], caps: Mapping[str, int]) -> set[int]:
    """Slots for (machine, idc): ids of those who have one now. A machine that has its slot keeps it."""
    if not wanted:
        return set()
    values = {
        "ids": [machine for machine, _ in wanted],
        "idcs": [idc for _, idc in wanted],
        "caps": [caps.get(idc, DOWNLOADS) for _, idc in wanted],
        "seconds": _SLOT_SECONDS,
    }
    async with conn.transaction():
        await conn.execute(_TAKE, values)
        found = await (await conn.execute(_GRANT, values)).fetchall()
    return {int(row[0]) for row in found}


async def give_back(conn: Connection, ids: Sequence[int]) -> None:
    """Downloads of these machines have ended."""
    if ids:
        await conn.execute("DELETE FROM download WHERE machine_id = ANY (%s)", [sorted(ids)])
