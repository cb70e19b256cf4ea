"""Hardware tickets: a part that a person has to replace, posted to their system, signed, until it is taken. Nothing waits for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import orjson
from django.conf import settings

from fleet.control import clock, db
from fleet.control.db import Connection
from fleet.control.kinds import Json
from fleet.control.networks import allowed_networks
from fleet.control.operators import Seat
from fleet.control.work import backoff
from fleet.events.schema import secret_bytes
from fleet.events.webhooks import Answer, Poster, url_problem
from recovery.beside import beside
from recovery.playbooks import ladder_of, task_of
from recovery.types import SEVERITIES

log = logging.getLogger("fleet.recovery")
SECONDS: Final = 10.0
CLAIM_SECONDS: Final = 60.0  # a process that dies with a ticket in its hand leaves it to the others
CONTENT_TYPE: Final = "application/json"
_AT_A_TIME: Final = 20

# Faults that wait for a person because their ladder ends with Replace, and whose ticket of this confirmation was not taken yet.
_DUE: Final[LiteralString] = """
WITH due AS MATERIALIZED (
  SELECT f.id, f.uid::text || '-' || coalesce(extract(epoch FROM f.confirmed_at)::bigint, 0) AS number, coalesce(r.ladder, p.spec) AS ladder, r.name AS remediation
  FROM recovery_fault f
  LEFT JOIN LATERAL (SELECT spec -> 'ladder' AS ladder, name FROM recovery_remediation WHERE fault_id = f.id ORDER BY id DESC LIMIT 1) r ON true
  LEFT JOIN recovery_playbook p ON p.name = f.spec ->> 'playbook'
  LEFT JOIN recovery_ticket t ON t.fault_id = f.id
  WHERE f.phase = 'NeedsPerson' AND NOT f.shadow AND 'PersonAsked' IN (f.status ->> 'reason', f.status #>> '{repair,reason}')
    AND jsonb_path_exists(coalesce(r.ladder, p.spec), '$.rungs[last].steps[*] ? (@.action == "Replace")')
    AND (t.fault_id IS NULL OR t.due_at <= now() AND (t.sent_at IS NULL OR t.sent_at < f.confirmed_at)) ORDER BY f.id LIMIT %(limit)s),
mine AS (
  INSERT INTO recovery_ticket AS t (fault_id, number, due_at) SELECT id, number, now() + %(claim)s * interval '1 s' FROM due
  ON CONFLICT (fault_id) DO UPDATE SET number = excluded.number, due_at = excluded.due_at, sent_at = NULL, tries = CASE WHEN t.number = excluded.number THEN t.tries ELSE 0 END
  WHERE t.due_at <= now() RETURNING fault_id, tries)
SELECT f.id, due.number, mine.tries, due.ladder, due.remediation, f.name, f.type, f.category, f.severity, coalesce(f.status ->> 'seen', f.status ->> 'message', ''), f.sources, f.evidence, f.first_seen, f.confirmed_at,
  f.spec ->> 'machine', m.uid::text, coalesce(m.serial_number, ''), coalesce(m.spec ->> 'hardwareModel', ''), coalesce(m.spec ->> 'idc', ''), coalesce(m.spec ->> 'rack', ''), coalesce(f.spec ->> 'clusterName', '')
FROM mine JOIN due ON due.id = mine.fault_id JOIN recovery_fault f ON f.id = due.id JOIN machine m ON m.id = f.machine_id ORDER BY f.id
"""
_SAY: Final[LiteralString] = """
WITH t AS (UPDATE recovery_ticket SET tries = tries + 1, sent_at = CASE WHEN %(sent)s THEN now() END, due_at = now() + %(wait)s * interval '1 s' WHERE fault_id = %(fault)s),
st AS MATERIALIZED (SELECT id, cluster_id, rv FROM recovery_fault WHERE id = %(fault)s AND status -> 'ticket' IS DISTINCT FROM %(said)s::jsonb FOR NO KEY UPDATE),
n AS MATERIALIZED (SELECT id, cluster_id, greatest(fleet_pos(4), rv + 1) AS rv FROM st),
up AS (UPDATE recovery_fault f SET rv = n.rv, status = f.status || jsonb_build_object('ticket', %(said)s::jsonb) FROM n WHERE f.id = n.id)
INSERT INTO change (rv, object_id, cluster_id, kind, op) SELECT rv, id, cluster_id, 14, 2 FROM n
"""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One to be posted; `number` is the same for each try."""

    fault: int
    number: str
    tries: int
    body: Json


async def claim(conn: Connection) -> list[Ticket]:
    """Tickets whose turn it is; for a minute they are this process's."""
    found = await conn.execute(_DUE, {"limit": _AT_A_TIME, "claim": CLAIM_SECONDS}, prepare=True)
    return [_ticket(row) for row in await found.fetchall()]


def _ticket(row: Sequence[Any]) -> Ticket:
    (
        id_, number, tries, ladder, remediation, name, type_, category, severity, message, sources, evidence, first, confirmed,
        machine, uid, serial, model, idc, rack, cluster,
    ) = row  # fmt: skip
    where = {"name": machine, "uid": uid, "serialNumber": serial, "hardwareModel": model, "idc": idc, "rack": rack, "clusterName": cluster}  # fmt: skip
    what = {
        "name": name, "type": type_, "category": category, "severity": SEVERITIES[severity], "message": message, "sources": sources,
        "firstSeenTime": first.isoformat(), "confirmedTime": confirmed.isoformat() if confirmed else "",
    }  # fmt: skip
    body: Json = {
        "id": number, "machine": {k: v for k, v in where.items() if v}, "fault": what, "evidence": evidence,
        "task": task_of(ladder_of("", ladder).rungs[-1]),
    }  # fmt: skip
    return Ticket(id_, number, tries, body | ({"remediation": remediation} if remediation else {}))


async def post(conn: Connection, poster: Poster, tickets: Sequence[Ticket]) -> None:
    """Each once; what became of it is shown at its fault."""
    key = secret_bytes(settings.FLEET_TICKET_SECRET) if settings.FLEET_TICKET_SECRET else None
    why = url_problem(settings.FLEET_TICKET_URL, allowed_networks())
    for ticket in tickets:
        if key is None:
            answer = Answer("NoSecret", "FLEET_TICKET_SECRET holds no key: tickets are not posted unsigned.")
        elif why:
            answer = Answer("NotAllowed", f"FLEET_TICKET_URL {why}")
        else:
            body = orjson.dumps(ticket.body)
            answer = await poster.post(settings.FLEET_TICKET_URL, key, f"ticket_{ticket.number}", body, CONTENT_TYPE)
        await _say(conn, ticket, answer)


async def _say(conn: Connection, ticket: Ticket, answer: Answer) -> None:
    sent = answer.verdict == "Delivered"
    said = {"id": ticket.number, "state": "Posted" if sent else answer.verdict, "message": answer.message}
    if not sent:
        log.warning("the ticket %s waits: %s", ticket.number, answer.message)
    wait = max(answer.retry_seconds, backoff(ticket.tries + 1, first=10, most=3_600))
    values = {"fault": ticket.fault, "sent": sent, "wait": wait, "said": orjson.dumps(said).decode()}
    await conn.execute(_SAY, values)


async def post_due(seat: Seat) -> None:
    """Begin to post the tickets that are due, unless the last ones still are under way."""
    jobs = beside(seat)
    if settings.FLEET_TICKET_URL and not jobs.busy("tickets") and (tickets := await claim(seat.conn)):
        jobs.begin("tickets", _post(tickets))


async def _post(tickets: Sequence[Ticket]) -> None:
    conn, poster = await db.connect(), Poster(allowed_networks(), clock.unix)
    try:
        await post(conn, poster, tickets)
    finally:
        await poster.close()
        await conn.close()
