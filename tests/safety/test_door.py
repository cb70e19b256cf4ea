"""`/api/safety` and people's word to a breaker: who sees what, who may, and what is written down."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM, Actor
from fleet.api.safety_door import reset_breaker, safety_now
from fleet.cli.safety import sparkline
from fleet.safety.breakers import read_breakers

pytestmark = pytest.mark.usefixtures("fleet_db")


def run(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def storm(fleet_db: None) -> None:
    """Clusters a and b of ten machines in rack i1/r1; two of a were taken by faults."""
    for id_, name in ((7, "a"), (8, "b")):
        run(
            "INSERT INTO clusters_cluster (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (%s, gen_random_uuid(), %s, 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now())",
            id_,
            name,
        )
    run("INSERT INTO place (id, dim, name) OVERRIDING SYSTEM VALUE VALUES (3, 'rack', 'i1/r1')")
    run(
        "INSERT INTO capacity (machine_id, cluster_id, rack_id, in_service, down) SELECT i, 7 + i / 11, 3, true, false FROM generate_series(1, 20) i"
    )
    run("SELECT * FROM permit_batch('Restart', true, 'op', '1 minute', ARRAY[1]::bigint[])")
    run("SELECT breaker_failed(ARRAY[2]::bigint[], ARRAY['no network'])")


@pytest.mark.usefixtures("storm")
def test_every_cluster_the_fleet_and_what_was_counted_within_the_hour_have_a_row() -> None:
    shown = {b.place: (b.state, b.count, b.threshold, b.series[-1], sum(b.series)) for b in read_breakers()}
    assert shown == {
        "fleet": ("closed", 2, 200, 2, 2),
        "cluster/a": ("open", 2, 2, 2, 2),
        "cluster/b": ("closed", 0, 2, 0, 0),
        "rack/i1/r1": ("closed", 2, 4, 2, 2),
    }


@pytest.mark.usefixtures("storm")
def test_the_door_shows_switch_breakers_budgets_and_refusals_by_reason() -> None:
    run("SELECT * FROM permit_batch('Restart', true, 'op', '1 minute', ARRAY[5, 6, 11, 12]::bigint[])")
    now = safety_now(SYSTEM)
    assert now["switch"]["stopped"] is False
    assert {(b["dim"], b["name"], b["limit"], b["total"], b["unavailable"]) for b in now["budgets"]} == {
        ("cluster", "a", 1, 10, 1),
        ("cluster", "b", 1, 10, 1),
    }
    assert [(r["reason"], r["machines"]) for r in now["refusals"]] == [("ClusterBreaker", 2), ("ClusterBudget", 1)]


@pytest.mark.usefixtures("storm")
def test_who_sees_one_cluster_sees_it_and_the_fleet() -> None:
    now = safety_now(Actor("v", bindings=(("viewer", "b"),)))
    assert [b["place"] for b in now["breakers"]] == ["fleet", "cluster/b"]
    assert [b["name"] for b in now["budgets"]] == ["b"]


@pytest.mark.usefixtures("storm")
def test_an_approver_of_the_cluster_resets_its_breaker_and_that_is_written_down() -> None:
    approver = Actor("ann", bindings=(("approver", "a"),))
    assert reset_breaker("cluster/a", approver)["state"] == "half-open"
    assert reset_breaker("cluster/a", approver)["state"] == "closed"
    with pytest.raises(ApiError, match="nothing to reset") as refused:
        reset_breaker("cluster/a", approver)
    assert refused.value.code == 409
    assert (
        run("SELECT actor, verb, kind, name, cluster FROM audit") == [("ann", "reset", "Breaker", "cluster/a", "a")] * 2
    )


@pytest.mark.usefixtures("storm")
@pytest.mark.parametrize("place", ["cluster/a", "fleet", "rack/i1/r1", "cluster/b"])
@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_who_is_no_approver_resets_nothing(place: str, role: str) -> None:
    with pytest.raises(ApiError) as refused:
        reset_breaker(place, Actor("x", bindings=((role, ""),)))
    assert refused.value.code == 403


@pytest.mark.usefixtures("storm")
def test_the_approver_of_one_cluster_resets_neither_another_nor_the_fleet() -> None:
    for place in ("cluster/b", "fleet", "cluster/"):
        with pytest.raises(ApiError) as refused:
            reset_breaker(place, Actor("ann", bindings=(("approver", "a"),)))
        assert refused.value.code == 403


@pytest.mark.usefixtures("storm")
@pytest.mark.parametrize("place", ["cluster/typo", "row/7", "", "fleet/x", "rack/", "cluster/\x00"])
def test_a_place_that_is_not_there_is_said(place: str) -> None:
    with pytest.raises(ApiError) as refused:
        reset_breaker(place, SYSTEM)
    assert refused.value.code == 404


@pytest.mark.usefixtures("storm")
def test_where_approval_is_asked_for_a_reset_takes_another_person(settings: Any) -> None:
    settings.FLEET_REQUIRE_APPROVAL = True
    ann, bob = (Actor(name, bindings=(("approver", ""),)) for name in ("ann", "bob"))
    assert reset_breaker("cluster/a", ann)["state"] == "asked"
    with pytest.raises(ApiError, match="another approver"):
        reset_breaker("cluster/a", ann)
    assert reset_breaker("cluster/a", bob)["state"] == "half-open"


def test_the_last_hour_is_drawn_in_twenty_characters() -> None:
    assert sparkline([0] * 60) == ""
    assert sparkline([0] * 57 + [1, 0, 0]) == " " * 19 + "█"
