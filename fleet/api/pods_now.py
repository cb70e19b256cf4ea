"""What limits on starting pods would do with the present numbers: those that watchers show in `podStarts` of Clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.db import connection

from fleet.safety import pods

_RULE: Final = "SELECT percent, at_least, seconds, off, policy FROM breaker_pods(%s)"
_OF_ONE: Final = "SELECT name, status #>> '{podStarts,tried}', status #>> '{podStarts,failed}', status #>> '{podStarts,windowSeconds}' FROM clusters_cluster WHERE id = %s"
# of the clusters that no policy of their own speaks of
_OF_ALL: Final = """
SELECT c.name, c.status #>> '{podStarts,tried}', c.status #>> '{podStarts,failed}', c.status #>> '{podStarts,windowSeconds}' FROM clusters_cluster c WHERE c.deleted_at IS NULL
AND NOT EXISTS (SELECT FROM safety_scopes() s WHERE s.dim = 'cluster' AND s.key = c.id AND s.spec #> '{breaker,podSuccess}' IS NOT NULL) ORDER BY c.name"""
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """The strictest of what policies say of some clusters. `policies`: whose words they are."""

    percent: float
    at_least: int
    seconds: int
    off: bool
    policies: str

    @property
    def said(self) -> str:
        of = f" (the strictest of {self.policies})" if "," in self.policies else ""
        return f"opens the breaker when under {self.percent:g} % start, of at least {self.at_least:,} tried within {span(self.seconds)}{of}"

    def opens(self, tried: int, failed: int) -> bool:
        """Whether it does where they failed on two nodes: `podStarts` does not say on how many."""
        return tried >= self.at_least and 100.0 * (tried - failed) / tried < self.percent


def pods_now(cluster: int) -> str:
    """What policies say of the pods of a cluster (0 = of all that have no policy of their own) beside how many start there now."""
    limits = _limits(cluster)
    if limits.off:
        return "off: pods that do not start open no breaker."
    rows = _rows(_OF_ONE, [cluster]) if cluster else _rows(_OF_ALL, [])
    numbers = {
        str(name): (int(tried or 0), int(failed or 0), int(seconds or 0)) for name, tried, failed, seconds in rows
    }
    return f"{limits.said}. {_of_one(limits, *next(iter(numbers.values()), (0, 0, 0))) if cluster else _of_all(limits, numbers)}"


def span(seconds: int) -> str:
    """10 min; 90 s."""
    return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"


def _of_one(limits: Limits, tried: int, failed: int, seconds: int) -> str:
    if not tried:
        return "None was tried lately."
    now = f"Of {tried:,} tried within {span(seconds)} {tried - failed:,} started, {_percent(tried, failed)} %"
    if limits.opens(tried, failed):
        return f"{now}: it would open now, if they failed on two nodes or more."
    return f"{now}: it stays closed{', for too few were tried' if tried < limits.at_least else ''}."


def _of_all(limits: Limits, numbers: dict[str, tuple[int, int, int]]) -> str:
    clusters = f"{len(numbers):,} cluster{'' if len(numbers) == 1 else 's'} without limits of {'its' if len(numbers) == 1 else 'their'} own"
    if not numbers:
        return "Every cluster has limits of its own."
    found = [f"{name} ({_percent(tried, failed)} %)" for name, (tried, failed, _) in numbers.items() if limits.opens(tried, failed)]  # fmt: skip
    if not found:
        return f"It would open in none of {clusters}."
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f"It would open now in {len(found):,} of {clusters}, if pods failed on two nodes or more there: {', '.join(found[:_NAMED])}{more}."


def _percent(tried: int, failed: int) -> str:
    return f"{int(1000 * (tried - failed) / tried) / 10:g}"


def _limits(cluster: int) -> Limits:
    percent, at_least, seconds, off, policies = _rows(_RULE, [cluster])[0]
    return Limits(
        float(pods.PERCENT if percent is None else percent), at_least or pods.AT_LEAST, seconds or pods.WINDOW_SECONDS, off, policies
    )  # fmt: skip


def _rows(sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found
