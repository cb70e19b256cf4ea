"""Fleet's own looks at machines of which something speaks for a fault: whether their ports answer, and what their controllers say.

What is found is evidence like any other. A look lasts seconds: it is taken beside the loop, and written in one statement.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from fleet.control import db
from fleet.control.addresses import refusal
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.networks import allowed_networks
from fleet.control.operators import Seat
from machines.bmc import Bmc, BmcError, Bmcs, Health
from machines.controllers import SIMULATED, BmcLogins, kept_bmcs, read_bmc_logins
from recovery.beside import beside
from recovery.detecting import detect

PROBER: Final = "prober"
BMC: Final = "bmc"
SECONDS: Final = 5.0  # between two rounds over machines with a live fault
IDLE_SECONDS: Final = 60.0  # between two rounds over those without
PORT_SECONDS: Final = 2.0
AT_ONCE: Final = 100
BMCS_AT_ONCE: Final = 32
BMC_LIVE_SECONDS: Final = 15.0
BMC_IDLE_SECONDS: Final = 300.0
KEPT_SECONDS: Final = 60  # how long a port's answer counts
BMC_KEPT_SECONDS: Final = 900
KUBELET_PORT: Final = 10250

# Who was looked at longest ago comes first; a row's `until` tells when that was.
_PORTS: Final[LiteralString] = """
SELECT DISTINCT ON (v.until, s.id) s.id, m.spec ->> 'ip', coalesce((m.spec #>> '{driver,port}')::int, (SELECT (c.spec #>> '{driver,port}')::int FROM clusters_cluster c WHERE c.id = s.cluster_id), 22), s.is_node
FROM recovery_fault f
CROSS JOIN LATERAL (SELECT * FROM machine_state WHERE id = f.machine_id AND NOT simulated OFFSET 0) s
CROSS JOIN LATERAL (SELECT * FROM machine WHERE id = f.machine_id AND deleted_at IS NULL OFFSET 0) m
LEFT JOIN recovery_evidence v ON v.machine_id = f.machine_id AND v.type = 'Probe/ssh' AND v.source = 'prober'
WHERE f.phase <> 'Resolved' AND m.spec ->> 'ip' <> '' ORDER BY v.until NULLS FIRST, s.id LIMIT 500
"""
_WITH_BMC: Final[LiteralString] = """
SELECT s.id, m.uid::text, m.name, coalesce((SELECT c.name FROM clusters_cluster c WHERE c.id = s.cluster_id), ''), m.spec -> 'bmc', coalesce(m.serial_number, ''), s.simulated
"""
_BMCS_LIVE: Final[LiteralString] = (
    _WITH_BMC
    + """FROM (SELECT DISTINCT machine_id FROM recovery_fault WHERE phase <> 'Resolved') f
CROSS JOIN LATERAL (SELECT * FROM machine WHERE id = f.machine_id AND deleted_at IS NULL AND spec #>> '{bmc,address}' IS NOT NULL OFFSET 0) m
CROSS JOIN LATERAL (SELECT * FROM machine_state WHERE id = f.machine_id OFFSET 0) s
LEFT JOIN recovery_evidence v ON v.machine_id = f.machine_id AND v.type = 'Redfish/Power' AND v.source = 'bmc'
WHERE v.until IS NULL OR v.until < now() + %(rest)s * interval '1 s' ORDER BY v.until NULLS FIRST, s.id LIMIT 200
"""
)
_BMCS_IDLE: Final[LiteralString] = (
    _WITH_BMC
    + """FROM machine m JOIN machine_state s ON s.id = m.id
LEFT JOIN recovery_evidence v ON v.machine_id = m.id AND v.type = 'Redfish/Power' AND v.source = 'bmc'
WHERE m.spec #>> '{bmc,address}' IS NOT NULL AND m.deleted_at IS NULL AND s.phase NOT IN ('Pending', 'Provisioning', 'Decommissioning', 'Retired')
  AND (v.until IS NULL OR v.until < now() + %(rest)s * interval '1 s') ORDER BY v.until NULLS FIRST, m.id LIMIT 1000
"""
)
# What is said anew keeps its age; rows in the order of their key. Answers with machines of which something else is said now.
_WRITE: Final[LiteralString] = """
WITH r AS MATERIALIZED (SELECT * FROM unnest(%(machine)s::bigint[], %(type)s::text[], %(source)s::text[], %(status)s::text[], %(reason)s::text[], %(message)s::text[], %(kept)s::int[])
  AS r(machine, type, source, status, reason, message, kept) ORDER BY machine, type, source),
old AS MATERIALIZED (SELECT r.machine, r.type, r.source, v.status, v.reason FROM r JOIN recovery_evidence v ON v.machine_id = r.machine AND v.type = r.type AND v.source = r.source),
up AS (
  INSERT INTO recovery_evidence AS v (machine_id, type, source, status, reason, message, until)
  SELECT machine, type, source, status, reason, message, now() + kept * interval '1 s' FROM r
  ON CONFLICT (machine_id, type, source) DO UPDATE SET status = excluded.status, reason = excluded.reason, message = excluded.message, until = excluded.until,
    since = CASE WHEN v.status = excluded.status THEN v.since ELSE now() END, count = v.count + CASE WHEN v.status = excluded.status THEN 0 ELSE 1 END)
SELECT DISTINCT r.machine FROM r LEFT JOIN old ON (old.machine, old.type, old.source) = (r.machine, r.type, r.source)
WHERE (old.status, old.reason) IS DISTINCT FROM (r.status, r.reason) AND (old.status IS NOT NULL OR r.status = 'False')
"""


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that a look told of a machine."""

    machine: int
    type: str
    source: str
    status: str
    reason: str
    message: str = ""
    kept_seconds: int = KEPT_SECONDS


# -- ports --------------------------------------------------------------------------------------------------------------


async def probe_ports(rows: Sequence[Sequence[Any]]) -> list[Said]:
    """Whether sshd greets and the kubelet shakes hands; a kernel that only completes connections is no answer."""
    networks, turns = allowed_networks(), asyncio.Semaphore(AT_ONCE)

    async def one(machine: int, address: str, port: int, type_: str, ask: Asking) -> Said | None:
        if refusal(address, networks) is not None:
            return None
        async with turns:
            reason, message = await _asked(address, port, ask)
        return Said(machine, type_, PROBER, "False" if reason else "True", reason or "Answers", message)

    asked = [one(id_, ip, port, "Probe/ssh", _greets) for id_, ip, port, _ in rows]
    asked += [one(id_, ip, KUBELET_PORT, "Probe/kubelet", _shakes) for id_, ip, _, is_node in rows if is_node]
    return [s for s in await asyncio.gather(*asked) if s is not None]


Asking = Callable[[str, int], Coroutine[Any, Any, bool]]


async def _asked(address: str, port: int, ask: Asking) -> tuple[str, str]:
    try:
        async with asyncio.timeout(PORT_SECONDS):
            good = await ask(address, port)
    except TimeoutError:
        return "Timeout", f"Port {port} gives no answer within {PORT_SECONDS:g} s."
    except ConnectionRefusedError:
        return "ConnectionRefused", f"Nothing listens at port {port}."
    except OSError as error:  # also what TLS does not like
        return "NoAnswer", f"Port {port}: {type(error).__name__}."
    return ("", "") if good else ("NoAnswer", f"Port {port} accepts and says nothing that is expected.")


async def _greets(address: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return (await reader.read(4)).startswith(b"SSH")
    finally:
        writer.close()


async def _shakes(address: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent: whether it lives is asked
    _, writer = await asyncio.open_connection(address, port, ssl=context)
    writer.close()
    return True


# -- controllers --------------------------------------------------------------------------------------------------------


async def probe_bmcs(rows: Sequence[Sequence[Any]], logins: BmcLogins, bmcs: Mapping[str, Bmcs]) -> list[Said]:
    """What controllers say of power and parts. One that does not answer leaves everything unknown."""
    turns = asyncio.Semaphore(BMCS_AT_ONCE)

    async def one(row: Sequence[Any]) -> list[Said]:
        id_, uid, name, cluster, spec, serial, simulated = row
        try:
            access = logins.access(uid=uid, name=name, cluster=cluster, bmc=spec, serial=serial, simulated=simulated)
            bmc: Bmc = bmcs[SIMULATED if simulated else "ssh"].bmc(access)
            async with turns:
                return _told(id_, await bmc.health())
        except BmcError as error:
            return [Said(id_, t, BMC, "Unknown", error.reason, error.message[:400], BMC_KEPT_SECONDS) for t in _TYPES]

    return [s for said in await asyncio.gather(*map(one, rows)) for s in said]


_PARTS: Final = ("Drives", "Memory", "Board", "Network", "Supply")
_TYPES: Final = ("Redfish/Power", *(f"Redfish/{p}" for p in _PARTS))


def _told(machine: int, health: Health) -> list[Said]:
    on = {"On": "True", "Off": "False", "Changing": "Unknown"}[health.power]
    text = f"The controller says that the power is {health.power.lower()}."
    out = [Said(machine, "Redfish/Power", BMC, on, health.power, text, BMC_KEPT_SECONDS)]
    for name in _PARTS:
        part = health.parts.get(name)
        well = part.well if part is not None else None
        status = "Unknown" if well is None else "True" if well else "False"
        reason = "NotTold" if well is None else "OK" if well else "Critical"
        message = part.message if part is not None else ""
        out.append(Said(machine, f"Redfish/{name}", BMC, status, reason, message, BMC_KEPT_SECONDS))
    return out


# -- rounds -------------------------------------------------------------------------------------------------------------


async def write(conn: Connection, said: Iterable[Said], *, now: datetime | None = None) -> int:
    """Store what was told, and look at machines of which something else is said than before; faults that moved."""
    rows = list(said)
    if not rows:
        return 0
    values: dict[str, list[Any]] = {
        "machine": [s.machine for s in rows], "type": [s.type for s in rows], "source": [s.source for s in rows], "status": [s.status for s in rows],
        "reason": [s.reason for s in rows], "message": [s.message[:400] for s in rows], "kept": [s.kept_seconds for s in rows],
    }  # fmt: skip
    changed = [row[0] for row in await (await conn.execute(_WRITE, values, prepare=True)).fetchall()]
    return (await detect(conn, changed, now=now)).moved if changed else 0


async def ports_due(conn: Connection) -> list[tuple[Any, ...]]:
    """(machine, address, port of sshd, is a node) of those with a live fault: also while one is repaired, for what was said False must be said True."""
    return list(await (await conn.execute(_PORTS, prepare=True)).fetchall())


async def bmcs_due(conn: Connection, *, live: bool) -> list[tuple[Any, ...]]:
    """Machines whose controller was not looked at lately: those with a live fault, or all."""
    sql, rest = (_BMCS_LIVE, BMC_LIVE_SECONDS) if live else (_BMCS_IDLE, BMC_IDLE_SECONDS)
    found = await conn.execute(sql, {"rest": BMC_KEPT_SECONDS - rest}, prepare=True)
    return list(await found.fetchall())


async def _look(looking: Coroutine[Any, Any, list[Said]]) -> None:
    """What a look tells is written by a connection of its own."""
    said = await looking
    conn = await db.connect()
    try:
        await write(conn, said)
    finally:
        await conn.close()


async def look_at_ports(seat: Seat) -> None:
    """Begin a round over the ports that are due, unless the last one still lasts."""
    jobs = beside(seat)
    if not jobs.busy("ports") and (rows := await ports_due(seat.conn)):
        jobs.begin("ports", _look(probe_ports(rows)))


async def look_at_bmcs(seat: Seat, *, live: bool) -> None:
    """Begin a round over the controllers that are due, unless the last one still lasts."""
    jobs, name = beside(seat), "controllers" if live else "calm-controllers"
    if jobs.busy(name) or not (rows := await bmcs_due(seat.conn, live=live)):
        return
    specs: list[Json] = [row[4] for row in rows]
    logins = await read_bmc_logins(seat.conn, {str(s.get("credential", "")) for s in specs})
    jobs.begin(name, _look(probe_bmcs(rows, logins, kept_bmcs(seat))))
