"""What a policy means against the present, in sentences."""

from __future__ import annotations

from typing import Final

from django.db import connection

from fleet.api.openings import openings
from fleet.api.pods_now import pods_now
from fleet.api.safety_status import limit_in_machines

_NOW: Final = """
SELECT safety_place_in(s.dim, coalesce(pl.name, '')), u.total, u.gone, b.max_count, b.max_percent, k.state, k.off, k.most, k.hit,
  (s.spec ->> 'minSchedulable')::numeric::int, s.dim, s.key, s.spec #> '{breaker,podSuccess}' IS NOT NULL,
  ARRAY(SELECT format('%%s: %%s begun of %%s within %%s s', r.v ->> 'verb', (SELECT count(*) FROM verb_start t WHERE t.verb = lower(r.v ->> 'verb') AND t.at > now() - make_interval(secs => (r.v ->> 'windowSeconds')::numeric::int)
    AND s.key = CASE s.dim WHEN 'fleet' THEN 0 WHEN 'cluster' THEN t.cluster_id WHEN 'idc' THEN t.idc_id WHEN 'model' THEN t.model_id ELSE t.rack_id END), r.v ->> 'count', r.v ->> 'windowSeconds')
    FROM jsonb_array_elements(coalesce(s.spec -> 'rates', '[]')) AS r(v))
FROM safety_scopes() s LEFT JOIN safety_place pl ON pl.dim = s.dim AND pl.key = s.key LEFT JOIN safety_budgets() b ON b.policy = s.policy
LEFT JOIN LATERAL safety_usage(s.dim, ARRAY[s.key]) u ON true LEFT JOIN LATERAL breaker_read(ARRAY[s.dim], ARRAY[s.key], now(), true) k ON s.dim <> 'model' AND s.spec ? 'breaker'
WHERE s.policy = %s AND s.key IS NOT NULL"""


def policy_now(name: str) -> list[str]:
    """What a policy means against the present, in sentences: for a dry run, inside its transaction."""
    with connection.cursor() as cursor:
        cursor.execute(_NOW, [name])
        row = cursor.fetchone()
    if row is None or not row[1]:
        return ["No machine in service belongs to its scope now: it would guard nothing."]
    where, total, gone, count, percent, state, off, most, hit, least, dim, key, of_pods, rates = row
    said = [f"Now {gone} of {total} machines {where} are unavailable."]
    if count is not None:
        limit = limit_in_machines(total, int(count), float(percent))
        planned = 0 if limit == 0 else max(1, limit - limit // 4)
        said.append(
            f"maxUnavailable: {limit} may be; {max(0, limit - gone)} more would be granted now, {max(0, planned - gone)} of them to planned changes."
        )
    if state is not None:
        counted = (
            f"it would open at {_machines(most)}, and {hit} {'is' if hit == 1 else 'are'} counted now; it is {state}."
        )
        said.append(f"breaker: {'off, nothing stops a storm of repairs but the budgets.' if off else counted}")
    if of_pods:
        said.append(f"podSuccess: {'off with the breaker.' if off and dim == 'cluster' else pods_now(key)}")
    if least is not None:
        said.append(f"minSchedulable: {max(0, total - gone - least)} more could go before {least} are left.")
    return [*said, *(f"windows: {each.tell(total)}" for each in openings(name)), *(f"rates: {text}." for text in rates)]


def _machines(n: int) -> str:
    return f"{n} machine{'' if n == 1 else 's'}"
