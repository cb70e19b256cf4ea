"""What people must be told: a breaker is open, a hold is overdue, machines need a person. Grouped, repeated until somebody acknowledges it.

Events tell everything to whoever subscribes; a notice is a state that lasts until it is over, told to those whom the settings name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from django.conf import settings
from django.core.mail import send_mail
from django.db import connection
from psycopg import AsyncConnection

from fleet.control.addresses import literal_refusal
from fleet.control.guarded import GuardedResolver
from fleet.control.networks import allowed_networks
from fleet.control.times import format_time

log = logging.getLogger(__name__)
Connection = AsyncConnection[Any]
TURN_SECONDS: Final = 15.0
_ANSWER_SECONDS: Final = 5.0
_AT_ONCE: Final = 50  # of one message; the rest is counted

_COLUMNS: Final = (
    "n.id, n.reason, n.severity, n.subject, n.message, n.cluster, n.since, n.cleared_at, n.acked_by, n.acked_at"
)
# Due to a channel: never told there; told, and it says something else for a quarter of an hour or nobody took it for four hours; over, and not told so.
_DUE: Final = f"""
SELECT {_COLUMNS} FROM notice n LEFT JOIN notice_told t ON t.notice_id = n.id AND t.channel = %s
WHERE CASE WHEN n.cleared_at IS NOT NULL THEN t.notice_id IS NOT NULL AND NOT t.over
  ELSE t.notice_id IS NULL OR t.over OR n.acked_at IS NULL AND (t.at < now() - interval '4 hours' OR t.message <> n.message AND t.at < now() - interval '15 minutes') END
ORDER BY n.severity DESC, n.id"""
_TOLD: Final = """
INSERT INTO notice_told AS t (notice_id, channel, at, message, over) SELECT n.id, %s, now(), n.message, n.cleared_at IS NOT NULL FROM notice n WHERE n.id = ANY (%s)
ON CONFLICT (notice_id, channel) DO UPDATE SET at = excluded.at, message = excluded.message, over = excluded.over"""


@dataclass(frozen=True, slots=True)
class Notice:
    """One state that somebody should look at. `severity`: 1 a warning, 2 now."""

    id: int
    reason: str
    severity: int
    subject: str
    message: str
    cluster: str
    since: datetime
    cleared_at: datetime | None
    acked_by: str
    acked_at: datetime | None = None

    def json(self) -> dict[str, Any]:
        """For webhooks and the API."""
        return {
            "id": self.id, "reason": self.reason, "severity": "page" if self.severity > 1 else "warning", "subject": self.subject, "message": self.message,
            "clusterName": self.cluster, "since": _time(self.since), "over": _time(self.cleared_at), "acknowledgedBy": self.acked_by, "acknowledgedTime": _time(self.acked_at),
        }  # fmt: skip


def _time(moment: datetime | None) -> str | None:
    return format_time(moment) if moment else None


async def turn(conn: Connection) -> int:
    """Bring notices up to the present and tell what is due; how many were told, each channel counted. `conn` is in autocommit."""
    await conn.execute("SELECT notice_turn()")
    channels: dict[str, Callable[[Sequence[Notice]], Awaitable[None]]] = {}
    if settings.FLEET_NOTIFY_WEBHOOK:
        channels["webhook"] = _webhook
    if settings.FLEET_NOTIFY_MAIL:
        channels["mail"] = _mail
    told = sum([await _tell(conn, name, channel) for name, channel in channels.items()])
    if settings.FLEET_NOTIFY_ALERTMANAGER:
        rows = await (
            await conn.execute(
                f"SELECT {_COLUMNS} FROM notice n WHERE n.cleared_at IS NULL ORDER BY n.id LIMIT 1000".encode()
            )
        ).fetchall()
        await _tried("Alertmanager", _alerts([Notice(*row) for row in rows]))
    if settings.FLEET_HEARTBEAT_URL:
        await _tried("the heartbeat", _post(settings.FLEET_HEARTBEAT_URL, b"", {}))
    return told


async def _tell(conn: Connection, channel: str, send: Callable[[Sequence[Notice]], Awaitable[None]]) -> int:
    """One message for all that is due; what is not taken is due again at the next turn."""
    found = [Notice(*row) for row in await (await conn.execute(_DUE.encode(), (channel,))).fetchall()]
    if not found or not await _tried(channel, send(found)):
        return 0
    await conn.execute(_TOLD, (channel, [n.id for n in found]))
    return len(found)


async def _tried(what: str, sending: Awaitable[None]) -> bool:
    try:
        await sending
    except (OSError, aiohttp.ClientError, TimeoutError) as error:
        log.warning("people are not told: %s does not take it: %s", what, error or type(error).__name__)
        return False
    return True


def words(notices: Sequence[Notice]) -> tuple[str, str]:
    """(subject, text) of one message about all of them."""
    news = [n for n in notices if n.cleared_at is None]
    over = [n for n in notices if n.cleared_at is not None]
    head = (
        news[0].subject
        if len(news) == 1
        else f"{len(news)} things need somebody"
        if news
        else "over: " + over[0].subject
    )
    lines = [f"{n.subject}: {n.message} (since {_time(n.since)})" for n in news[:_AT_ONCE]] + [
        f"over: {n.subject}" for n in over[:_AT_ONCE]
    ]
    more = len(notices) - len(lines)
    return f"Fleet: {head}", "\n".join([*lines, *([f"and {more} more"] if more else [])])


async def _webhook(notices: Sequence[Notice]) -> None:
    """JSON with `text`, which chats show, and the notices; signed by FLEET_NOTIFY_SECRET where there is one."""
    subject, text = words(notices)
    body = json.dumps({"text": f"{subject}\n{text}", "notices": [n.json() for n in notices]}).encode()
    headers = {"Content-Type": "application/json"}
    if settings.FLEET_NOTIFY_SECRET:
        signed = hmac.new(settings.FLEET_NOTIFY_SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Fleet-Signature"] = f"sha256={signed}"
    await _post(settings.FLEET_NOTIFY_WEBHOOK, body, headers)


async def _mail(notices: Sequence[Notice]) -> None:
    subject, text = words(notices)
    await asyncio.to_thread(send_mail, subject, text, settings.DEFAULT_FROM_EMAIL, list(settings.FLEET_NOTIFY_MAIL))


async def _alerts(notices: Sequence[Notice]) -> None:
    """Everything that lasts, again and again, as Alertmanager wants it; with a watchdog, so that it tells when nothing comes any more."""
    alerts: list[dict[str, Any]] = [
        {
            "labels": {"alertname": "FleetNoticesWatchdog", "severity": "none"},
            "annotations": {"summary": "Fleet tells what it has to tell."},
        }
    ]
    alerts += [
        {
            "labels": {"alertname": f"Fleet{n.reason}", "severity": "page" if n.severity > 1 else "warning", "cluster": n.cluster, "notice": str(n.id)},
            "annotations": {"summary": f"{n.subject}: {n.message}", "acknowledgedBy": n.acked_by},
            "startsAt": _time(n.since),
        }
        for n in notices
    ]  # fmt: skip
    url = settings.FLEET_NOTIFY_ALERTMANAGER.rstrip("/") + "/api/v2/alerts"
    await _post(url, json.dumps(alerts).encode(), {"Content-Type": "application/json"})


async def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    """One POST to an address under Fleet's rules, never redirected; OSError for an answer that is no success."""
    networks = allowed_networks()
    why = literal_refusal(urlsplit(url).hostname or "", networks)
    if why:
        raise OSError(None, why)
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(networks))
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    async with (
        aiohttp.ClientSession(connector=connector, trust_env=False, timeout=timeout) as session,
        session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
    ):
        if answer.status >= 300:
            raise OSError(None, f"it answers {answer.status}")


def read_notices() -> list[Notice]:
    """What lasts now, the gravest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM notice n WHERE n.cleared_at IS NULL ORDER BY n.severity DESC, n.since LIMIT 1000"
        )
        return [Notice(*row) for row in cursor.fetchall()]


def acknowledge(notice_id: int, by: str) -> bool:
    """Somebody takes it: it is not repeated. False when it is over or another was first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE notice SET acked_by = %s, acked_at = now() WHERE id = %s AND cleared_at IS NULL AND acked_at IS NULL",
            [by, notice_id],
        )
        return bool(cursor.rowcount)
