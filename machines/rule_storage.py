"""Where ReadinessRules lie, whom they wake, and how many machines they hold: one statement a rule, never one a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from django.db import connection

from fleet.api.storage import Storage, Stored, storage_for
from fleet.control import clock
from fleet.control.conditions import Condition
from fleet.control.kinds import MACHINE, Json
from fleet.control.operators import Chore, register_chore
from fleet.control.work import CHUNK
from fleet.safety.schema import describe_target
from machines.conditions import BIT
from machines.gates import BOOTSTRAP_ONLY, REQUIRE_TRUE
from machines.models import ReadinessRule
from machines.rules import Rule, rule_of
from machines.schema_rules import READINESS_RULE_KIND

REFRESH_SECONDS: Final = 10.0
_CLUSTERS: Final = "ANY (ARRAY(SELECT id::int FROM clusters_cluster WHERE name = ANY (%s)))"

# Whom a rule means, a chunk of them after the last; due at once, or right after the pass that runs.
_WAKE: Final = """
WITH c AS MATERIALIZED (SELECT s.id FROM machine_state s {join} WHERE s.id > %s AND {where} ORDER BY s.id LIMIT %s),
lk AS MATERIALIZED (SELECT w.object_id FROM work_item w JOIN c ON w.kind = %s AND w.object_id = c.id ORDER BY w.object_id FOR NO KEY UPDATE OF w),
up AS (UPDATE work_item w SET wake = true, due_at = CASE WHEN w.holder IS NULL THEN now() ELSE w.due_at END FROM lk WHERE w.kind = %s AND w.object_id = lk.object_id)
SELECT count(*), max(id) FROM c
"""
_COUNT: Final = """
SELECT count(*), count(*) FILTER (WHERE says = %s OR done), count(*) FILTER (WHERE says = %s AND NOT done) FROM (
  SELECT {says} AS says, {done} AS done FROM machine_state s {join} WHERE s.phase NOT IN ('Retired', 'Decommissioning') AND {where}) t
"""


class RuleStorage(Storage):
    """Rules bind from their commit on: passes read them with the other shared objects."""

    def __init__(self) -> None:
        super().__init__(READINESS_RULE_KIND, ReadinessRule)

    def after_commit(self, stored: Stored) -> None:
        """What it means in machines, and a look at each of them; also of a rule that is gone, which gives them free."""
        refresh_rules([stored.id])
        wake_covered(rule_of(stored.obj["metadata"]["name"], stored.obj["spec"]))


def wake_covered(rule: Rule) -> int:
    """Make the machines of a rule due, in chunks; how many."""
    where, params, join = target_sql(rule)
    woken = last = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_WAKE.format(join=join, where=where), [last, *params, CHUNK, MACHINE, MACHINE])
            count, highest = cursor.fetchone()
            woken += int(count)
            if count < CHUNK:
                return woken
            last = int(highest)


def refresh_rules(ids: Sequence[int] | None = None) -> int:
    """Status of these rules (None: all) from the machines as they are; how many changed."""
    rows = ReadinessRule.objects.all() if ids is None else ReadinessRule.objects.filter(pk__in=list(ids))
    statuses = {row.pk: _status(row) for row in rows}
    return len(storage_for("readinessrules").write_status(statuses)) if statuses else 0


def _status(row: ReadinessRule) -> Json:
    rule = rule_of(row.name, row.spec)
    machines, released, held = counted(rule)
    fact = _effective(rule, describe_target(row.spec["target"]), machines, held)
    return {
        "observedGeneration": row.generation, "machines": machines, "held": held, "released": released, "unknown": machines - released - held,
        "conditions": [fact.kept(row.status, row.generation, clock.now())],
    }  # fmt: skip


def _effective(rule: Rule, what: str, machines: int, held: int) -> Condition:
    if not machines:
        return Condition("Effective", "False", "MatchesNothing", f"There is no machine that is {what}.")
    if rule.dry_run:
        text = f"It only counts: in force it would hold {held} of {machines} machines."
        return Condition("Effective", "False", "DryRun", text)
    return Condition("Effective", "True", "InForce", f"Asks {machines} machine{'s' if machines != 1 else ''}.")


def counted(rule: Rule) -> tuple[int, int, int]:
    """How many machines a rule means: (covered, released, held)."""
    where, params, join = target_sql(rule)
    says, values = says_sql(rule)
    if rule.ttl_seconds is not None:
        join += " LEFT JOIN report rp ON rp.machine_id = s.id AND rp.type = %s"
        says = f"CASE WHEN rp.received_at < now() - %s * interval '1 s' THEN '' ELSE {says} END"
        values, params = [rule.ttl_seconds, *values], [rule.type, *params]
    good, bad = ("True", "False") if rule.polarity == REQUIRE_TRUE else ("False", "True")
    done = "s.is_node AND s.open" if rule.mode == BOOTSTRAP_ONLY else "false"
    with connection.cursor() as cursor:
        sql = _COUNT.format(says=says, done=done, join=join, where=where)
        cursor.execute(sql, [good, bad, *values, *params])
        machines, released, held = cursor.fetchone()
    return machines, released, held


def target_sql(rule: Rule) -> tuple[str, list[Any], str]:
    """(conditions on machine_state s, parameters, what must be joined)."""
    if rule.match_all:
        return "true", [], ""
    if rule.clusters:
        return f"s.cluster_id = {_CLUSTERS}", [sorted(rule.clusters)], ""
    labels = orjson.dumps(dict(rule.labels)).decode()
    return "m.labels @> %s::jsonb AND %s", [labels, bool(rule.labels)], "JOIN machine m ON m.id = s.id"


def says_sql(rule: Rule) -> tuple[str, list[Any]]:
    """The condition's status as SQL text: by the masks where it has a bit, else by the dictionary's ids in the packed arrays."""
    bit = BIT.get(rule.type)
    if bit is not None:
        mask = 1 << bit
        return (
            f"CASE WHEN s.cond_true & {mask} <> 0 THEN 'True' WHEN s.cond_false & {mask} <> 0 THEN 'False' ELSE '' END",
            [],
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(array_agg(id) FILTER (WHERE status = 'True'), '{}'), coalesce(array_agg(id) FILTER (WHERE status = 'False'), '{}') FROM condition_kind WHERE type = %s",
            [rule.type],
        )
        yes, no = cursor.fetchone()
    ids = "v >> 32 = ANY (%s::bigint[])"
    one = f"SELECT CASE WHEN {ids} THEN 'True' ELSE 'False' END FROM unnest(s.k_cond || s.x_cond) v WHERE {ids} LIMIT 1"
    return f"coalesce(({one}), '')", [yes, [*yes, *no]]


register_chore(Chore("readiness-rules", REFRESH_SECONDS, run_sync=refresh_rules))
