"""What a report may say, and that the documentation's examples are such."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.schema_cluster import CLUSTER_KIND
from fleet.api.schema import prune, validate
from fleet.control.conditions import Condition
from machines.reporters import MESSAGE, Refused, Reporter, declared, read_entry, voices
from machines.watch.leases import Lease
from machines.watch.maps import read
from machines.watch.reports import Reports
from machines.watch.seen import ConditionMap

DOCS: Final = Path(__file__).parents[2] / "docs"
GPU: Final = Reporter("gpu", frozenset({"GPUHealthy", "example.com/Links"}), "fleet-reports")


@pytest.mark.parametrize("form", ["object", "list", "with more"])
def test_an_entry_is_an_object_with_conditions_or_the_list_alone(form: str) -> None:
    said = [
        {"type": "example.com/Links", "status": "False", "reason": "LinkDown", "message": "eth3", "since": "ever"},
        {"type": "GPUHealthy", "status": "True"},
    ]
    text = {"object": {"conditions": said}, "list": said, "with more": {"time": "now", "conditions": said}}[form]
    assert read_entry(orjson.dumps(text).decode(), GPU) == (
        Condition("GPUHealthy", "True", "Reported", ""),
        Condition("example.com/Links", "False", "LinkDown", "eth3"),
    )


def test_long_messages_are_cut_and_have_no_nul() -> None:
    text = orjson.dumps([{"type": "GPUHealthy", "status": "True", "message": "\0x" * MESSAGE}]).decode()
    message = read_entry(text, GPU)[0].message
    assert (len(message) <= MESSAGE, "\0" in message, message[:2]) == (True, False, "xx")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["conditions", "type", "status", "reason", "message"]), inner, max_size=5),
)  # fmt: skip


@given(ANY_JSON.map(lambda v: orjson.dumps(v).decode()) | st.text(max_size=200))
def test_whatever_an_entry_holds_it_is_read_or_refused(text: str) -> None:
    try:
        found = read_entry(text, GPU)
    except Refused as refused:
        assert re.fullmatch("[A-Z][A-Za-z]+", refused.reason)
    else:
        assert {c.type for c in found} <= GPU.types


def test_an_unchanged_value_is_not_read_again_and_a_refused_one_stays_refused() -> None:
    said = declared({"conditionNamespaces": ["n"], "reporters": [{"name": "gpu", "namespace": "n", "conditionTypes": ["GPUHealthy"]}]})  # fmt: skip
    good = '[{"type": "GPUHealthy", "status": "True"}]'
    first = read(ConditionMap(1, "n", "m", "gpu", "1", {"a": good, "b": "{"}), said, None)
    second = read(ConditionMap(1, "n", "m", "gpu", "2", {"a": good, "b": "{"}), said, first)
    assert second.entries["a"] is first.entries["a"]
    assert second.refused["b"] is first.refused["b"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_examples_of_the_documentation_are_taken() -> None:
    cluster, config = (yaml.safe_load(text) for text in blocks("condition-configmaps.md", "yaml")[:2])
    assert (validate(CLUSTER_KIND, cluster), prune(CLUSTER_KIND, cluster)[1]) == ([], [])
    assert list(CLUSTER_KIND.validate(cluster, None)) == []
    meta = config["metadata"]
    found = ConditionMap(
        1, meta["namespace"], meta["name"], meta["annotations"]["fleet.dev/reporter"], "1", config["data"]
    )
    held = read(found, declared(cluster["spec"]), None)
    assert (sorted(held.entries), held.refused) == (["node-17", "node-18"], {})
    text = (DOCS / "examples/reporter-daemonset.yaml").read_text()
    head = yaml.safe_load("\n".join(line[4:] for line in text.splitlines() if line.startswith("#   ")))
    assert list(CLUSTER_KIND.validate({"spec": head["spec"]}, None)) == []
    (daemon,) = (o for o in yaml.safe_load_all(text) if o["kind"] == "DaemonSet")
    mine = next(r for r in head["spec"]["reporters"] if r["daemonSet"] == daemon["metadata"]["name"])
    environment = {e["name"]: e.get("value") for e in daemon["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert (mine["name"], mine["conditionTypes"]) == (environment["REPORTER"], [environment["CONDITION_TYPE"]])


# -- many maps --------------------------------------------------------------------------------------------------------

MANY: Final = declared(
    {
        "conditionNamespaces": ["n"],
        "reporters": [
            {"name": "x", "namespace": "n", "conditionTypes": ["A", "B"]},
            {"name": "y", "namespace": "n", "conditionTypes": ["C"]},
        ],
    }
)
VALUES: Final = st.sampled_from(
    [*(orjson.dumps([{"type": t, "status": "True"} for t in types]).decode() for types in ("A", "B", "AB", "C")), "{"]
)  # fmt: skip
DATA: Final = st.dictionaries(st.sampled_from(["n1", "n2"]), VALUES, min_size=1, max_size=2)
STEP: Final = st.tuples(
    st.sampled_from(["m1", "m2", "m3"]), st.none() | DATA | DATA | DATA, st.sampled_from(["x"] * 6 + ["y", "z"])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, min_size=3, max_size=12), st.integers(0, 25))
def test_whatever_maps_say_each_condition_has_one_map_and_none_waits_for_nobody(
    steps: list[tuple[str, dict[str, str] | None, str]], restart_at: int
) -> None:
    seen = Reports(Lease(1, 1, 1))
    seen.declare(MANY)
    for number, (name, data, reporter) in enumerate(steps):
        if number == restart_at:  # another watcher: it knows who held what, and reads all maps anew
            seen = again(seen)
        if data is None:
            seen.gone(f"n/{name}")
        else:
            seen.take(ConditionMap(1, "n", name, reporter, str(number), data))
        held_by = {(n, t): key for n, types in seen._from.items() for t, key in types.items()}
        by_map = {(key, n) for (n, _), key in held_by.items()}
        assert by_map == {(key, n) for key, nodes in seen._by_map.items() for n in nodes}
        for key, held in seen._maps.items():
            for node, conditions in held.entries.items():
                if node not in held.refused and "" not in held.refused:
                    assert {held_by[node, c.type] for c in conditions} == {key}
            for node, conditions in held.doubled.items():
                assert "" in held.refused or seen._rival(key, node, conditions)


def again(old: Reports) -> Reports:
    """What another watcher makes of the same maps, with what the first one wrote."""
    new = Reports(Lease(1, 2, 2))
    new.declare(MANY)
    for node, types in old._from.items():
        for type_, key in types.items():
            new._hold(node, type_, key)
    new._rvs = {key: held.rv for key, held in old._maps.items()}
    return new


def test_who_can_speak_for_both_is_one_voice() -> None:
    apart = [{"name": "a", "namespace": "n", "daemonSet": "a", "conditionTypes": ["A", "B"]}, {"name": "b", "namespace": "n", "daemonSet": "b", "conditionTypes": ["C"]}]  # fmt: skip
    assert voices(apart) == {"A": "a", "B": "a", "C": "b"}
    anybody = [{"name": "a", "namespace": "n", "conditionTypes": ["A"]}, {"name": "b", "namespace": "n", "conditionTypes": ["B"]}]  # fmt: skip
    assert voices(anybody) == {"A": "a", "B": "a"}
    by_hand = [{"name": "a", "user": "x", "conditionTypes": ["A"]}, {"name": "b", "user": "x", "namespace": "n", "conditionTypes": ["B"]}]  # fmt: skip
    assert voices(by_hand) == {"A": "a", "B": "a"}
    assert voices([]) == {}
