"""`/metrics`: how Fleet stands, for Prometheus. Counted when asked, by a few cheap statements; no per-machine series."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from django.db import connection
from django.http import HttpRequest, HttpResponse
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from fleet.api import errors, full
from fleet.api.authentication import request_actor
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.safety_door import safety_now
from fleet.control.kinds import Json

STATES: Final = {"closed": 0, "off": 0, "half-open": 1, "open": 2}
_MACHINES: Final = """
SELECT coalesce(c.name, ''), q.phase, q.n FROM (SELECT cluster_id, phase, sum(n)::bigint AS n FROM (SELECT cluster_id, phase, n FROM count_total UNION ALL SELECT cluster_id, phase, n FROM count_delta) t GROUP BY 1, 2 HAVING sum(n) <> 0) q
LEFT JOIN clusters_cluster c ON c.id = q.cluster_id"""
_LOOP: Final = """
SELECT count(*) FILTER (WHERE holder IS NULL), coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE holder IS NULL)), 0)::float8,
  (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 FROM pg_stat_activity WHERE backend_xid IS NOT NULL),
  (SELECT count(*) FROM permit WHERE released_at IS NULL AND draws), (SELECT count(*) FROM permit WHERE released_at IS NULL AND draws AND expires_at <= now()),
  (SELECT count(*) FROM worker WHERE seen_at > now() - interval '30 s')
FROM work_item WHERE due_at <= now()"""


def metrics_view(request: HttpRequest) -> HttpResponse:
    """GET /metrics, with the token of a user who sees the whole fleet."""
    actor = request_actor(request)
    if request.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed(request.method or "")
    if actor.clusters is not None:
        raise ApiError(403, "Forbidden", f'User "{actor.name}" does not see the whole fleet, which /metrics shows.')
    registry = CollectorRegistry()
    registry.register(_Fleet())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Fleet(Collector):
    """All of it, read at once."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _safety(safety_now(SYSTEM))
        yield from _rest()


def gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """One family with its series."""
    family = GaugeMetricFamily(f"fleet_{name}", text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _safety(now: Json) -> Iterator[Metric]:
    yield gauge("stopped", "1 while the kill switch is on.", (), [((), float(now["switch"]["stopped"]))])
    breakers: list[Json] = now["breakers"]
    yield gauge(
        "breaker_state",
        "0 closed, 1 half-open, 2 open.",
        ("dim", "place"),
        [((b["dim"], b["place"]), STATES[b["state"]]) for b in breakers],
    )
    yield gauge(
        "breaker_off",
        "1 where a policy switched the breaker off.",
        ("dim", "place"),
        [((b["dim"], b["place"]), float(b["state"] == "off")) for b in breakers],
    )
    yield gauge(
        "breaker_machines",
        "Machines counted in the window.",
        ("dim", "place"),
        [((b["dim"], b["place"]), b["count"]) for b in breakers],
    )
    yield gauge(
        "breaker_threshold",
        "Machines that open it.",
        ("dim", "place"),
        [((b["dim"], b["place"]), b["threshold"]) for b in breakers],
    )
    budgets: list[Json] = now["budgets"]
    for field, text in (
        ("total", "Machines in service."),
        ("unavailable", "Unavailable machines."),
        ("limit", "Machines that may be unavailable."),
    ):
        yield gauge(
            f"budget_{field}",
            text,
            ("dim", "name", "policy"),
            [((b["dim"], b["name"], b["policy"]), b[field]) for b in budgets],
        )
    yield gauge(
        "refused_machines",
        "Machines whose last ask was refused, by reason.",
        ("reason",),
        [((r["reason"],), r["machines"]) for r in now["refusals"]],
    )


def _rest() -> Iterator[Metric]:
    with connection.cursor() as cursor:
        cursor.execute(_MACHINES)
        machines = cursor.fetchall()
        cursor.execute(_LOOP)
        loop: tuple[Any, ...] = cursor.fetchone()
        cursor.execute(
            "SELECT coalesce(status ->> 'phase', ''), count(*) FROM safety_hold WHERE deleted_at IS NULL GROUP BY 1"
        )
        holds = cursor.fetchall()
    yield gauge(
        "machines",
        "Machines by cluster and phase.",
        ("cluster", "phase"),
        [((c, phase), n) for c, phase, n in machines],
    )
    yield gauge("holds", "Holds by phase.", ("phase",), [((phase,), n) for phase, n in holds])
    names = (
        ("work_due", "Objects that are due and wait for a worker."),
        ("work_oldest_seconds", "How long the oldest of them waits."),
        ("oldest_write_seconds", "Age of the longest open writing transaction: readers of the log are that far behind."),
        ("permits_open", "Permits that take capacity and are not given back."),
        ("permits_expired", "Those whose right ended while the machine is not seen well."),
        ("workers", "Workers seen within 30 s."),
    )  # fmt: skip
    for (name, text), number in zip(names, loop, strict=True):
        yield gauge(name, text, (), [((), float(number))])
    text = "When this process last could not store something because the database's disk is full; 0 = never."
    yield gauge("database_full_timestamp_seconds", text, (), [((), full.last())])
    yield gauge(
        "heartbeat_timestamp_seconds",
        "When this was read: Fleet answers and its database does.",
        (),
        [((), time.time())],
    )
