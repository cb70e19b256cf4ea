"""Whatever is written as a target: it is refused, or it names something; everything is `matchAll: true` and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet.api.schema import prune, validate
from fleet.safety.schema import HOLD_KIND, describe_target
from fleet.safety.schema_policy import SAFETY_POLICY_KIND

WORDS = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.booleans(),
    st.integers(),
    st.just("a"),
    st.lists(st.text(max_size=2), max_size=2),
)
LABELS = st.one_of(WORDS, st.dictionaries(st.text(max_size=4), WORDS, max_size=2), st.just({"rack": "r1"}))
SELECTORS = st.one_of(WORDS, st.fixed_dictionaries({}, optional={"matchLabels": LABELS, "matchExpressions": WORDS}))
TARGETS = st.one_of(
    WORDS,
    st.fixed_dictionaries(
        {},
        optional={
            "machine": WORDS,
            "cluster": WORDS,
            "selector": SELECTORS,
            "matchAll": WORDS,
            "idc": WORDS,
            "rack": WORDS,
            "hardwareModel": WORDS,
        },
    ),
)
UNTIL = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def accepted(kind: Any, spec: dict[str, Any]) -> dict[str, Any] | None:
    """The pruned spec when the API would take it."""
    obj, _ = prune(kind, {"metadata": {"name": "x"}, "spec": spec})
    return None if validate(kind, obj) else obj["spec"]


def names_something(target: dict[str, Any]) -> bool:
    if target.get("matchAll"):
        return target == {"matchAll": True}
    labels = target.get("selector", {}).get("matchLabels", {})
    return len(target) == 1 and (bool(labels) or any(isinstance(value, str) and value for value in target.values()))


@given(TARGETS)
def test_a_hold_covers_everything_only_when_that_is_written_out(target: Any) -> None:
    spec = accepted(HOLD_KIND, {"target": target, "reason": "r", "until": UNTIL})
    assert spec is None or names_something(spec["target"])
    assert spec is None or describe_target(spec["target"])


@given(TARGETS)
def test_a_policy_binds_everything_only_when_that_is_written_out(scope: Any) -> None:
    spec = accepted(SAFETY_POLICY_KIND, {"scope": scope, "maxUnavailable": {"count": 1}})
    assert spec is None or names_something(spec["scope"])


def test_these_are_taken() -> None:
    good = [{"machine": "a"}, {"cluster": "a"}, {"selector": {"matchLabels": {"rack": "r1"}}}, {"matchAll": True}]
    assert all(accepted(HOLD_KIND, {"target": target, "reason": "r", "until": UNTIL}) for target in good)
