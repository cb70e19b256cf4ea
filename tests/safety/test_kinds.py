"""Hold, SafetyPolicy and Permit as people and clients write and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.api.actions import Write, change_object, create_object, delete_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM, Actor
from fleet.api.safety_status import refresh_holds, refresh_policies
from fleet.api.schema import prune, validate
from fleet.api.selectors import FieldSelector
from fleet.api.storage import ListQuery, storage_for
from fleet.control.kinds import API_VERSION
from fleet.safety.schema import HOLD_KIND
from fleet.safety.schema_permit import PERMIT_KIND
from fleet.safety.schema_policy import SAFETY_POLICY_KIND

Json = dict[str, Any]
pytestmark = pytest.mark.usefixtures("fleet_db")
WRITE = Write(SYSTEM)


def soon(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).strftime("%Y-%m-%dT%H:%M:%SZ")


def fresh(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def hold(target: Any, name: str = "h", **spec: Any) -> Json:
    return fresh("Hold", name, {"target": target, "reason": "disks", "until": soon(days=1), **spec})


def policy(scope: Any, limits: Any, name: str = "p") -> Json:
    return fresh("SafetyPolicy", name, {"scope": scope, "maxUnavailable": limits})


def run(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def machines() -> list[int]:
    """Cluster a with a-1 to a-3, labelled rack r1, in service; loose-1 outside every cluster."""
    run(
        "INSERT INTO clusters_cluster (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (7, gen_random_uuid(), 'a', 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now())"
    )
    run(
        "INSERT INTO machine (name, cluster_id, labels, spec) SELECT 'a-' || i, 7, '{\"rack\": \"r1\"}', '{}' FROM generate_series(1, 3) i"
    )
    run("INSERT INTO machine (name, spec) VALUES ('loose-1', '{}')")
    run("INSERT INTO machine_state (id, name, cluster_id) SELECT id, name, cluster_id FROM machine")
    run(
        "INSERT INTO capacity (machine_id, cluster_id, in_service, down) SELECT id, cluster_id, true, false FROM machine"
    )
    run("INSERT INTO work_item (kind, object_id, due_at) SELECT 1, id, now() + interval '1 hour' FROM machine")
    return [row[0] for row in run("SELECT id FROM machine ORDER BY name")]


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"selector": {}},
        {"selector": {"matchLabels": {}}},
        {"matchAll": False},
        {"machine": "a", "cluster": "b"},
        {"machine": ""},
        {"cluster": None},
        {"selector": None},
    ],
    ids=str,
)
def test_a_hold_that_selects_nothing_or_two_things_is_refused_and_never_means_everything(target: Json) -> None:
    with pytest.raises(ApiError) as refused:
        create_object("holds", hold(target), write=WRITE)
    assert refused.value.code == 422
    assert "spec.target" in str(refused.value)


@pytest.mark.parametrize(
    ("until", "words"),
    [
        (soon(days=31), "more than 30 days"),
        (soon(days=-1), "is past"),
        ("tomorrow", "must be a time"),
        ("2026-13-01T00:00:00Z", "no such time"),
    ],
    ids=["too far", "past", "no time", "no such time"],  # the times themselves differ from worker to worker
)
def test_a_hold_ends_within_thirty_days(until: str, words: str) -> None:
    with pytest.raises(ApiError, match=words):
        create_object("holds", hold({"matchAll": True}, until=until), write=WRITE)


def test_a_hold_without_a_word_why_is_refused() -> None:
    with pytest.raises(ApiError, match="say why"):
        create_object("holds", hold({"matchAll": True}, reason="  "), write=WRITE)


def test_what_a_hold_covers_never_changes(machines: list[int]) -> None:
    create_object("holds", hold({"machine": "a-1"}), write=WRITE)

    def wider(live: Json) -> Json:
        live["spec"]["target"] = {"cluster": "a"}
        return live

    with pytest.raises(ApiError, match="make another hold"):
        change_object("holds", "h", wider, write=WRITE, verb="update")


def test_a_hold_says_what_it_covers_is_owned_by_its_maker_and_wakes_its_machines(machines: list[int]) -> None:
    create_object(
        "holds", hold({"selector": {"matchLabels": {"rack": "r1"}}}), write=Write(Actor("olga", is_system=True))
    )
    found = storage_for("holds").read("h")
    assert found is not None
    assert found.obj["spec"]["owner"] == "olga"
    assert found.obj["status"] | {"conditions": 0} == {
        "phase": "Effective",
        "machines": 3,
        "overdue": False,
        "conditions": 0,
    }
    assert found.obj["status"]["conditions"][0]["message"] == "Covers 3 machines."
    assert run("SELECT count(*) FROM work_item WHERE wake") == [(3,)]
    delete_object("holds", "h", write=WRITE)
    assert run("SELECT count(*) FROM safety_held(%s)", machines) == [(0,)]


@pytest.mark.parametrize("target", [{"machine": "a-2"}, {"machine": "nobody"}])
def test_a_hold_of_one_machine_reads_no_other(machines: list[int], target: Json) -> None:
    """Hundreds are held one by one: a scan of the fleet for each would take minutes."""
    run("INSERT INTO machine (name, spec) SELECT 'm-' || i, '{}' FROM generate_series(1, 3000) i")
    run(
        "INSERT INTO machine_state (id, name, cluster_id) SELECT id, name, cluster_id FROM machine ON CONFLICT DO NOTHING"
    )
    run("ANALYZE machine")
    run("ANALYZE machine_state")
    with CaptureQueriesContext(connection) as asked:
        create_object("holds", hold(target), write=WRITE)
    reads = [q["sql"] for q in asked.captured_queries if "safety_target" in q["sql"]]
    assert len(reads) >= 2
    for sql in reads:
        ((plan,),) = run(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.replace('%', '%%')}")
        assert _read(plan[0]["Plan"]) < 10, sql


def _read(plan: Any) -> int:
    """Rows of machines that a plan looked at."""
    own = 0
    if plan.get("Relation Name") in ("machine", "machine_state"):
        own = int((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return own + sum(_read(p) for p in plan.get("Plans", []))


def test_a_guard_that_matches_nothing_says_so(machines: list[int]) -> None:
    create_object("holds", hold({"machine": "typo"}), write=WRITE)
    create_object("safetypolicies", policy({"cluster": "typo"}, {"count": 1}), write=WRITE)
    for plural, name in (("holds", "h"), ("safetypolicies", "p")):
        found = storage_for(plural).read(name)
        assert found is not None
        effective = found.obj["status"]["conditions"][0]
        assert (effective["status"], effective["reason"]) == ("False", "MatchesNothing")


def test_a_hold_past_its_time_is_overdue_and_told_once(machines: list[int]) -> None:
    create_object("holds", hold({"machine": "a-1"}), write=WRITE)
    run("UPDATE safety_hold SET spec = jsonb_set(spec, '{until}', '\"2020-01-01T00:00:00Z\"')")
    assert len(refresh_holds()) == 1
    assert refresh_holds() == []
    found = storage_for("holds").read("h")
    assert found is not None
    assert found.obj["status"]["phase"] == "Overdue"


@pytest.mark.parametrize(
    ("scope", "limits"),
    [
        ({}, {"count": 1}),
        ({"cluster": "a", "idc": "b"}, {"count": 1}),
        ({"matchAll": False}, {"count": 1}),
        ({"cluster": "a"}, {}),
        ({"cluster": "a"}, {"count": -1}),
        ({"cluster": "a"}, {"percent": 101}),
        ({"cluster": "a"}, {"count": 1.5}),
    ],
    ids=str,
)
def test_a_policy_needs_one_scope_and_a_sane_limit(scope: Json, limits: Json) -> None:
    with pytest.raises(ApiError) as refused:
        create_object("safetypolicies", policy(scope, limits), write=WRITE)
    assert refused.value.code == 422


def test_a_policy_of_zero_warns_and_shows_its_limit_in_machines(machines: list[int]) -> None:
    write = Write(SYSTEM)
    create_object("safetypolicies", policy({"cluster": "a"}, {"count": 0}), write=write)
    assert "no change that takes a machine away is ever allowed" in write.warnings[0]
    create_object("safetypolicies", policy({"matchAll": True}, {"percent": 50}, "all"), write=WRITE)
    statuses = {
        name: (s["limit"], s["total"], s["unavailable"])
        for name, s in (
            (o["metadata"]["name"], o["status"]) for o in storage_for("safetypolicies").page(ListQuery()).objects
        )
    }
    assert statuses == {"all": (2, 4, 0), "p": (0, 3, 0)}
    run("UPDATE capacity SET down = true")
    assert len(refresh_policies()) == 2


def test_operators_hold_within_their_cluster_only_and_see_no_other(machines: list[int]) -> None:
    oper = Actor("oper", bindings=(("operator", "a"),))
    create_object("holds", hold({"machine": "a-1"}, "mine"), write=Write(oper))
    create_object("holds", hold({"cluster": "a"}, "ours"), write=Write(oper))
    for target in (
        {"machine": "loose-1"},
        {"matchAll": True},
        {"cluster": "b"},
        {"selector": {"matchLabels": {"rack": "r1"}}},
    ):
        with pytest.raises(ApiError) as refused:
            create_object("holds", hold(target, "other"), write=Write(oper))
        assert refused.value.code == 403
    create_object("holds", hold({"matchAll": True}, "all"), write=WRITE)
    seen = storage_for("holds").page(ListQuery(clusters=oper.clusters)).objects
    assert [o["metadata"]["name"] for o in seen] == ["mine", "ours"]
    with pytest.raises(ApiError) as refused:
        create_object("safetypolicies", policy({"cluster": "a"}, {"count": 9}), write=Write(oper))
    assert refused.value.code == 403


def test_permits_of_fleet_itself_are_listed_in_pages_and_filtered(machines: list[int]) -> None:
    run("SELECT * FROM permit_batch('Reload', false, 'op-1', '1 hour', %s)", machines)
    run("UPDATE permit SET expires_at = now() WHERE machine_id = %s", machines[1])
    storage = storage_for("permits")
    first = storage.page(ListQuery(limit=3))
    rest = storage.page(ListQuery(limit=3, after=first.next_name))
    names = [o["metadata"]["name"] for o in [*first.objects, *rest.objects]]
    assert names == ["permit-1", "permit-2", "permit-3", "permit-4"]
    expired = storage.page(ListQuery(fields=FieldSelector.parse("status.phase=Expired", PERMIT_KIND)))
    assert [o["spec"]["machine"] for o in expired.objects] == ["a-2"]
    in_a = storage.page(ListQuery(clusters=frozenset({"a"}))).objects
    assert {o["spec"]["clusterName"] for o in in_a} == {"a"}
    assert len(in_a) == 3
    one = storage.read("permit-1")
    assert one is not None
    assert one.obj == storage.by_ids([1])[1]
    assert validate(PERMIT_KIND, prune(PERMIT_KIND, one.obj)[0], one.obj) == []


@pytest.mark.parametrize("kind", [HOLD_KIND, SAFETY_POLICY_KIND, PERMIT_KIND], ids=lambda kind: kind.kind)
def test_examples_are_right_and_columns_bear_a_bare_object(kind: Any) -> None:
    example = {**kind.example, "spec": {**kind.example["spec"]}}
    example["spec"] |= {"until": soon(days=2)} if kind is HOLD_KIND else {}
    assert prune(kind, example)[1] == []
    assert validate(kind, example) == []
    assert all(isinstance(column.value({"spec": {}}, datetime.now(UTC)), str | int | None) for column in kind.columns)


def test_a_policy_shows_its_breaker_and_says_loudly_that_it_is_off(machines: list[int]) -> None:
    create_object(
        "safetypolicies", fresh("SafetyPolicy", "b", {"scope": {"cluster": "a"}, "breaker": {"count": 2}}), write=WRITE
    )
    shown = storage_for("safetypolicies").read("b")
    assert shown is not None
    assert shown.obj["status"]["breaker"] == {"state": "closed", "threshold": 2, "count": 0}
    run("SELECT * FROM permit_batch('Reboot', true, 'op', '1 hour', %s)", machines[:1])
    run("SELECT breaker_trip('cluster', 7, 'Pods cannot be created.')")
    refresh_policies()
    shown = storage_for("safetypolicies").read("b")
    assert shown is not None
    assert shown.obj["status"]["breaker"] | {"since": ""} == {
        "state": "open", "threshold": 2, "count": 1, "since": "", "message": "Pods cannot be created.",
    }  # fmt: skip
    write = Write(SYSTEM)
    create_object(
        "safetypolicies",
        fresh("SafetyPolicy", "off", {"scope": {"matchAll": True}, "breaker": {"disabled": True}}),
        write=write,
    )
    assert "nothing stops a storm of repairs" in write.warnings[0]
    shown = storage_for("safetypolicies").read("off")
    assert shown is not None
    conditions = {c["type"]: (c["status"], c["reason"]) for c in shown.obj["status"]["conditions"]}
    assert conditions == {"Effective": ("True", "InForce"), "BreakerClosed": ("False", "Off")}
    assert validate(SAFETY_POLICY_KIND, prune(SAFETY_POLICY_KIND, shown.obj)[0]) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"scope": {"cluster": "a"}},
        {"scope": {"cluster": "a"}, "breaker": {}},
        {"scope": {"hardwareModel": "m"}, "breaker": {"count": 1}},
        {"scope": {"cluster": "a"}, "breaker": {"count": 0}},
        {"scope": {"cluster": "a"}, "breaker": {"windowSeconds": 1}},
        {"scope": {"cluster": "a"}, "breaker": {"podSuccess": {}}},
        {"scope": {"cluster": "a"}, "breaker": {"podSuccess": {"percent": 101}}},
        {"scope": {"cluster": "a"}, "breaker": {"podSuccess": {"windowSeconds": 60}}},
        {"scope": {"idc": "i"}, "breaker": {"podSuccess": {"percent": 90}}},
    ],
    ids=str,
)
def test_a_policy_that_says_nothing_or_nonsense_of_a_breaker_is_refused(spec: Json) -> None:
    with pytest.raises(ApiError) as refused:
        create_object("safetypolicies", fresh("SafetyPolicy", "p", spec), write=WRITE)
    assert refused.value.code == 422


def test_a_dry_run_of_a_policy_says_what_it_would_mean_now_and_stores_nothing(machines: list[int]) -> None:
    run("UPDATE capacity SET down = true WHERE machine_id = %s", machines[0])
    spec = {
        "scope": {"cluster": "a"},
        "maxUnavailable": {"percent": 70},
        "breaker": {"count": 2},
        "minSchedulable": 1,
        "windows": [{"start": "00:00", "durationMinutes": 1440}],
        "rates": [{"verb": "Drain", "count": 3, "windowSeconds": 60}],
    }
    write = Write(SYSTEM, dry_run=True)
    create_object("safetypolicies", fresh("SafetyPolicy", "p", spec), write=write)
    assert write.warnings == [
        "Now 1 of 3 machines in cluster a are unavailable.",
        "maxUnavailable: 2 may be; 1 more would be granted now, 1 of them to planned changes.",
        "breaker: it would open at 2 machines, and 0 are counted now; it is closed.",
        "minSchedulable: 1 more could go before 1 are left.",
        "windows: open at all times.",
        "rates: Drain: 0 begun of 3 within 60 s.",
    ]
    assert storage_for("safetypolicies").read("p") is None
    nowhere = Write(SYSTEM, dry_run=True)
    create_object("safetypolicies", policy({"cluster": "typo"}, {"count": 1}), write=nowhere)
    assert nowhere.warnings == ["No machine in service belongs to its scope now: it would guard nothing."]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"windows": [{"start": "22:00", "durationMinutes": 60, "timeZone": "Mars/Olympus"}]}, "no time zone"),
        ({"windows": [{"start": "24:00", "durationMinutes": 60}]}, "time of day"),
        ({"windows": [{"start": "22:00", "durationMinutes": 60, "jitterMinutes": 60}]}, "may never be open"),
        ({"windows": []}, "windows"),
        ({"windows": [{"start": "22:00", "durationMinutes": 60, "days": ["Monday"]}]}, "days"),
        ({"rates": [{"verb": "Reboot", "count": 1}]}, "windowSeconds"),
        ({"domain": "row"}, "domain"),
        ({"domain": "idc", "scope": {"rack": "i/r"}}, "is said of a cluster"),
        ({"minSchedulable": 0}, "minSchedulable"),
    ],
    ids=str,
)
def test_a_policy_of_nonsense_is_refused_by_field(spec: Json, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        create_object("safetypolicies", fresh("SafetyPolicy", "p", {"scope": {"cluster": "a"}} | spec), write=WRITE)
    assert refused.value.code == 422
