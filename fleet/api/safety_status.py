"""Statuses of holds and policies: they follow from the ledger and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from django.db import connection

from fleet.api.storage import storage_for
from fleet.control import clock
from fleet.control.conditions import Condition
from fleet.control.kinds import Json
from fleet.control.times import format_time
from fleet.safety.schema import describe_target


def refresh_holds(ids: Sequence[int] | None = None) -> list[int]:
    """Status of these holds (None: all) from what they match and the clock; ids that changed."""
    wanted = None if ids is None else list(ids)
    with connection.cursor() as cursor:
        cursor.execute(
            # a target that is one machine by the index of names: there may be hundreds, and a scan of the fleet for each
            """SELECT h.id, h.generation, h.status, h.spec, CASE WHEN (h.spec -> 'target') - 'machine'::text = '{}'
                THEN (SELECT count(*) FROM safety_target t WHERE t.name = h.spec #>> '{target,machine}')
                ELSE (SELECT count(*) FROM safety_target t WHERE safety_matches(h.spec -> 'target', t.name, t.cluster, t.labels)) END,
              CASE WHEN pg_input_is_valid(h.spec ->> 'until', 'timestamptz') THEN (h.spec ->> 'until')::timestamptz <= now() ELSE false END
            FROM safety_hold h WHERE %s::bigint[] IS NULL OR h.id = ANY (%s)""",
            [wanted, wanted],
        )
        rows = cursor.fetchall()
    now = clock.now()
    statuses: dict[int, Json] = {}
    for id_, generation, status, spec, machines, over in rows:
        spec, status = parsed(spec), parsed(status)
        what = describe_target(spec.get("target", {}))
        if over:
            fact = Condition(
                "Effective", "False", "Ended", f"Its time ended at {spec['until']}; remove it or make another."
            )
        elif not machines:
            fact = Condition("Effective", "False", "MatchesNothing", f"There is no machine that is {what}.")
        else:
            fact = Condition(
                "Effective", "True", "InForce", f"Covers {machines} machine{'s' if machines != 1 else ''}."
            )
        phase = "Overdue" if over else "Effective" if machines else "NoMatch"
        statuses[id_] = {
            "phase": phase,
            "machines": machines,
            "overdue": over,
            "conditions": [fact.kept(status, generation, now)],
        }
    return storage_for("holds").write_status(statuses) if statuses else []


_POLICIES: Final = """
SELECT p.id, p.generation, p.status, p.spec, coalesce(u.total, 0), coalesce(u.gone, 0), b.max_count, b.max_percent,
  k.state, k.off, k.most, k.hit, k.since, k.why, k.policy
FROM safety_safetypolicy p LEFT JOIN safety_scopes() s ON s.policy = p.name LEFT JOIN safety_budgets() b ON b.policy = p.name
LEFT JOIN LATERAL safety_usage(s.dim, ARRAY[s.key]) u ON s.key IS NOT NULL
LEFT JOIN LATERAL breaker_read(ARRAY[s.dim], ARRAY[s.key], now(), true) k ON s.key IS NOT NULL AND s.dim <> 'model'
WHERE %s::bigint[] IS NULL OR p.id = ANY (%s)"""


def refresh_policies(ids: Sequence[int] | None = None) -> list[int]:
    """Status of these policies (None: all): their limit in machines, how far it is used, the breaker; ids that changed."""
    wanted = None if ids is None else list(ids)
    with connection.cursor() as cursor:
        cursor.execute(_POLICIES, [wanted, wanted])
        rows = cursor.fetchall()
    now = clock.now()
    statuses: dict[int, Json] = {}
    for id_, generation, status, spec, total, gone, count, percent, *breaker in rows:
        spec, status = parsed(spec), parsed(status)
        out: Json = {"total": total, "unavailable": gone}
        facts = [_effective(spec, total, gone)]
        if count is not None:
            out["limit"] = limit_in_machines(total, int(count), float(percent))
            facts = [_effective(spec, total, gone, f"; {out['limit']} may be")]
        if breaker[0] is not None:
            out["breaker"], fact = _breaker(*breaker)
            facts.append(fact)
        statuses[id_] = out | {"conditions": [fact.kept(status, generation, now) for fact in facts]}
    return storage_for("safetypolicies").write_status(statuses) if statuses else []


def limit_in_machines(total: int, count: int, percent: float) -> int:
    """A budget in machines, as the ledger computes it: at least one unless it says zero."""
    return 0 if count == 0 or percent == 0 else max(1, min(count, int(total * percent / 100)))


def _effective(spec: Json, total: int, gone: int, limit: str = "") -> Condition:
    if total:
        return Condition("Effective", "True", "InForce", f"{gone} of {total} machines are unavailable{limit}.")
    what = describe_target(spec.get("scope", {}))
    return Condition("Effective", "False", "MatchesNothing", f"No machine in service belongs to {what}.")


def _breaker(
    state: str, off: bool, most: int, hit: int, since: datetime | None, why: str, policy: str
) -> tuple[Json, Condition]:
    """The breaker of a policy's scope, and the condition that says loudly when nothing breaks any more."""
    out: Json = {"state": "off" if off else state, "threshold": most, "count": hit}
    if since is not None:
        out["since"] = format_time(since)
    if off:
        said = f"Switched off by {policy}: nothing stops a storm of repairs here but the budgets."
        return out, Condition("BreakerClosed", "False", "Off", said)
    if state == "closed":
        said = f"It opens at {most} machines that faults take, or that fail a change."
        return out, Condition("BreakerClosed", "True", "Closed", said)
    return out | {"message": why}, Condition("BreakerClosed", "False", "Open" if state == "open" else "HalfOpen", why)


def parsed(value: Any) -> Json:
    """A jsonb column as Django's cursor gives it."""
    found: Json = orjson.loads(value) if isinstance(value, str | bytes) else value
    return found


def refresh_statuses() -> int:
    """All statuses that move with the clock and the ledger; how many changed."""
    return len(refresh_holds()) + len(refresh_policies())
