"""Permits that people and foreign tools ask for: the ledger is asked until it grants or the wait is over; ended rights are given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from fleet.api.rights import SYSTEM
from fleet.api.safety_status import parsed
from fleet.api.storage import storage_for
from fleet.control import clock
from fleet.control.conditions import Condition
from fleet.control.db import connect_sync
from fleet.control.kinds import Json
from fleet.control.times import format_time, parse_time
from fleet.safety.models import PermitRequest
from fleet.safety.permits import FOREIGN, RELEASE, Answer, Ask, permit_sync

ASK_SECONDS: Final = 3.0
_AT_ONCE: Final = 500  # a turn; the others have theirs after them
_FORGET_DAYS: Final = 7
# What waits or may end, those that waited longest first: the ledger answers in the asker's order.
_LOAD: Final = """
SELECT r.id, r.name, r.generation, r.spec, r.status, r.machine_id, p.id, p.owner, p.granted_at, p.expires_at, p.released_at, p.cost, p.draws, coalesce(c.down, true)
FROM safety_permitrequest r LEFT JOIN permit p ON p.id = r.permit_id LEFT JOIN capacity c ON c.machine_id = r.machine_id
WHERE r.deleted_at IS NULL AND CASE WHEN %s::bigint[] IS NULL THEN r.status ->> 'phase' IN ('Pending', 'Granted', 'Expired') ELSE r.id = ANY (%s) END
ORDER BY r.status ->> 'phase' = 'Pending', r.status ->> 'pendingTime', r.id LIMIT %s"""
_OLD: Final = "SELECT name FROM safety_permitrequest WHERE status ->> 'phase' IN ('Released', 'Refused') AND status #>> '{conditions,0,lastTransitionTime}' < %s ORDER BY id LIMIT 100"
_GRANT: Final = "SELECT id, owner, granted_at, expires_at, released_at, cost, draws, false FROM permit WHERE id = %s"


def owner_of(spec: Json, name: str) -> str:
    """The owner of a permit's grant, for the ledger and for those who read whose turn it is."""
    return f"{spec['owner']} {FOREIGN}{name})"


@dataclass(slots=True)
class _Request:
    """One of them with its grant, as read."""

    id: int
    name: str
    generation: int
    spec: Json
    status: Json
    machine_id: int
    permit_id: int | None
    permit_owner: str | None
    granted_at: datetime | None
    expires_at: datetime | None
    released_at: datetime | None
    cost: int | None
    draws: bool | None
    down: bool

    @property
    def owner(self) -> str:
        """As the ledger knows it; people read it in refusals of others."""
        return owner_of(self.spec, self.name)

    @property
    def holds(self) -> bool:
        """Whether the grant is still its own: another may have taken an ended right over."""
        return self.permit_id is not None and self.released_at is None and self.permit_owner == self.owner


def settle_requests(ids: Sequence[int] | None = None) -> int:
    """Ask for what is Pending or renewed, end what ended (None: of all); how many statuses changed."""
    wanted = None if ids is None else list(ids)
    with connection.cursor() as cursor:
        cursor.execute(_LOAD, [wanted, wanted, _AT_ONCE])
        requests = [_Request(*(*r[:3], parsed(r[3]), parsed(r[4]), *r[5:])) for r in cursor.fetchall()]
    if ids is None:
        _forget(clock.now())
    if not requests:
        return 0
    now = clock.now()
    statuses: dict[int, Json] = {}
    with connect_sync() as conn:
        for each in requests:
            statuses[each.id] = _settled(conn, each, now)
    return len(storage_for("permits").write_status(statuses))


def _settled(conn: Any, each: _Request, now: datetime) -> Json:
    """The status of one after asking for it, or after its end."""
    renewed = each.spec.get("renewTime") != each.status.get("renewTime")
    if each.status.get("phase") == "Pending" or renewed:
        return _asked(conn, each, now)
    if not each.holds:
        taken = each.permit_id is not None and each.released_at is None
        said = f"{each.permit_owner} took it over after its right had ended." if taken else "It was given back."
        return _ended(each, "Released", "TakenOver" if taken else "Released", said, now)
    if each.expires_at is not None and each.expires_at > now:
        return each.status
    if each.draws and each.down:
        said = "Its right ended: nothing more may begin. The machine counts as unavailable until it was seen well."
        return _ended(each, "Expired", "RightEnded", said, now)
    conn.execute(RELEASE, ([each.permit_id],))
    return _ended(each, "Released", "Released", "Its right ended, and the machine is well.", now)


def _asked(conn: Any, each: _Request, now: datetime) -> Json:
    ttl = int(each.spec.get("ttlSeconds", 600))
    again = each.status.get("phase") != "Pending"
    answer = permit_sync(
        conn, Ask(each.machine_id, each.spec["verb"], bool(each.spec.get("unplanned")), each.owner, ttl)
    )
    if answer.ok:
        return _granted(conn, each, answer, now)
    if again and each.holds and each.expires_at is not None and each.expires_at > now:
        fact = Condition(
            "Granted", "True", "RenewalRefused", f"It lasts until its end and was not renewed. {answer.message}"
        )
        return each.status | {
            "renewTime": each.spec.get("renewTime"),
            "conditions": [fact.kept(each.status, each.generation, now)],
        }
    since = None if again else parse_time(str(each.status.get("pendingTime", "")))
    since = since or now
    over = since + timedelta(seconds=ttl) <= now
    said = f"{answer.message} It is no longer asked for; renew it to ask again." if over else answer.message
    fact = Condition("Granted", "False", answer.reason, said)
    out: Json = {"phase": "Refused" if over else "Pending", "pendingTime": format_time(since)}
    return _renewed(each, out) | {"conditions": [fact.kept(each.status, each.generation, now)]}


def _granted(conn: Any, each: _Request, answer: Answer, now: datetime) -> Json:
    row = conn.execute(_GRANT, (answer.permit_id,)).fetchone()
    if not PermitRequest.objects.filter(pk=each.id).update(permit_id=answer.permit_id):
        conn.execute(RELEASE, ([answer.permit_id],))  # deleted meanwhile
    fact = Condition("Granted", "True", "Granted", "It may begin. Delete this permit when the machine is back.")
    out: Json = {
        "phase": "Granted", "permit": answer.permit_id, "takesCapacity": row[6], "cost": row[5],
        "grantedTime": format_time(row[2]), "expiresTime": format_time(row[3]),
    }  # fmt: skip
    return _renewed(each, out) | {"conditions": [fact.kept(each.status, each.generation, now)]}


def _renewed(each: _Request, out: Json) -> Json:
    return out | ({"renewTime": each.spec["renewTime"]} if "renewTime" in each.spec else {})


def _ended(each: _Request, phase: str, reason: str, said: str, now: datetime) -> Json:
    out = {**each.status, "phase": phase}
    if phase == "Released":
        out.setdefault("releasedTime", format_time(each.released_at or now))
    return out | {"conditions": [Condition("Granted", "False", reason, said).kept(each.status, each.generation, now)]}


def _forget(now: datetime) -> None:
    """What ended long ago goes, as if its maker had deleted it."""
    from fleet.api.actions import Write, delete_object

    before = format_time(now - timedelta(days=_FORGET_DAYS))
    with connection.cursor() as cursor:
        cursor.execute(_OLD, [before])
        names = [row[0] for row in cursor.fetchall()]
    for name in names:
        delete_object("permits", name, write=Write(SYSTEM))
