"""`/metrics`, and the alert rules that are shipped: no rule speaks of a metric that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from django.db import connection
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from fleet.api.metrics import _Fleet

pytestmark = pytest.mark.usefixtures("fleet_db")
RULES = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "prometheus-rules.yaml").read_text())["groups"][0][
    "rules"
]


def scraped() -> dict[str, dict[tuple[str, ...], float]]:
    registry = CollectorRegistry()
    registry.register(_Fleet())
    text = generate_latest(registry).decode()
    return {
        f.name: {tuple(s.labels.values()): s.value for s in f.samples} for f in text_string_to_metric_families(text)
    }


def test_the_state_of_safety_is_told_in_numbers() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO capacity (machine_id, cluster_id, in_service, down) SELECT i, 0, true, false FROM generate_series(1, 50) i"
        )
        cursor.execute("INSERT INTO capacity_total (cluster_id, n) VALUES (0, 50)")
        cursor.execute("SELECT * FROM permit_batch('Restart', true, 'op', '0 seconds', ARRAY[1, 2]::bigint[])")
        cursor.execute("SELECT breaker_trip('cluster', 0, 'x')")
    seen = scraped()
    assert seen["fleet_breaker_state"] == {("fleet", "fleet"): 0, ("cluster", "cluster/"): 2}
    assert seen["fleet_breaker_machines"][("cluster", "cluster/")] == 1
    assert seen["fleet_budget_unavailable"] == {("cluster", "", ""): 1}
    assert seen["fleet_refused_machines"] == {("ClusterBudget",): 1}
    assert seen["fleet_permits_expired"] == {(): 1}
    assert seen["fleet_stopped"] == {(): 0}


@pytest.mark.parametrize("rule", RULES, ids=[r["alert"] for r in RULES])
def test_a_rule_speaks_of_metrics_that_exist_and_says_what_is_wrong(rule: dict[str, object]) -> None:
    assert set(re.findall(r"fleet_\w+", str(rule["expr"]))) <= set(scraped())
    assert str(rule["annotations"]["summary"]).endswith(".")  # type: ignore[index]
