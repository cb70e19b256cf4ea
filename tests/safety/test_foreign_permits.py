"""Permits that people and foreign tools ask for: the same ledger, names of their own, a lease that ends the right and not the count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from fleet.api.actions import Write, change_object, create_object, delete_object
from fleet.api.errors import ApiError
from fleet.api.foreign_permits import settle_requests
from fleet.api.rights import SYSTEM, Actor
from fleet.api.schema import prune, validate
from fleet.api.selectors import FieldSelector
from fleet.api.storage import ListQuery, storage_for
from fleet.control.kinds import API_VERSION
from fleet.safety import switch
from fleet.safety.permits import permit_sync
from fleet.safety.schema_permit import PERMIT_KIND

Json = dict[str, Any]
pytestmark = pytest.mark.usefixtures("fleet_db")
OPER = Actor("kured", bindings=(("operator", "a"),))


def run(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def machines(fleet_db: None) -> list[int]:
    """Cluster a of a-1 to a-33, where one may be away; loose-1 outside every cluster."""
    run(
        "INSERT INTO clusters_cluster (id, uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (7, gen_random_uuid(), 'a', 0, 1, '{}', '{}', '[]', '[]', '{}', '{}', now())"
    )
    run("INSERT INTO machine (name, cluster_id, spec) SELECT 'a-' || i, 7, '{}' FROM generate_series(1, 33) i")
    run("INSERT INTO machine (name, spec) VALUES ('loose-1', '{}')")
    run("INSERT INTO machine_state (id, name, cluster_id) SELECT id, name, cluster_id FROM machine")
    run(
        "INSERT INTO capacity (machine_id, cluster_id, in_service, down) SELECT id, cluster_id, true, false FROM machine"
    )
    return [row[0] for row in run("SELECT id FROM machine ORDER BY id")]


def ask(name: str, machine: str = "a-1", *, by: Actor = OPER, **spec: Any) -> Json:
    meta = {"name": name}
    full = {"machine": machine, "verb": "Reboot", **spec}
    create_object(
        "permits", {"apiVersion": API_VERSION, "kind": "Permit", "metadata": meta, "spec": full}, write=Write(by)
    )
    return shown(name)


def shown(name: str) -> Json:
    found = storage_for("permits").read(name)
    assert found is not None
    assert validate(PERMIT_KIND, prune(PERMIT_KIND, found.obj)[0], found.obj) == []
    return found.obj


def why(obj: Json) -> tuple[str, str, str]:
    (condition,) = obj["status"]["conditions"]
    return obj["status"]["phase"], condition["status"], condition["reason"]


def later(seconds: float) -> None:
    run(
        "UPDATE permit SET granted_at = granted_at - %s * interval '1 s', expires_at = expires_at - %s * interval '1 s'",
        seconds,
        seconds,
    )
    run(
        "UPDATE safety_permitrequest SET status = jsonb_set(status, '{pendingTime}', to_jsonb(to_char((status ->> 'pendingTime')::timestamptz AT TIME ZONE 'UTC' - %s * interval '1 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))) WHERE status ? 'pendingTime'",
        seconds,
    )


def renew(name: str, by: Actor = OPER, **more: Any) -> Json:
    def change(live: Json) -> Json:
        live["spec"] |= {"renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **more}
        return live

    change_object("permits", name, change, write=Write(by), verb="patch")
    return shown(name)


def test_one_is_granted_at_once_counts_in_the_budget_and_is_no_second_object(machines: list[int]) -> None:
    mine = ask("kured-1")
    assert why(mine) == ("Granted", "True", "Granted")
    assert mine["spec"] | {"ttlSeconds": 600, "owner": "kured", "clusterName": "a"} == mine["spec"]
    assert (mine["status"]["takesCapacity"], mine["status"]["cost"]) == (True, 1)
    assert [o["metadata"]["name"] for o in storage_for("permits").page(ListQuery()).objects] == ["kured-1"]
    run("SELECT * FROM permit_batch('Reload', false, 'op', '1 hour', %s)", machines[5:8])
    pages, after = [], ""
    while True:
        page = storage_for("permits").page(ListQuery(limit=3, after=after))
        pages += [o["metadata"]["name"] for o in page.objects]
        after = page.next_name
        if not after:
            break
    assert len(pages) == len(set(pages)) == 4
    assert pages == sorted(pages)
    granted = storage_for("permits").page(
        ListQuery(fields=FieldSelector.parse("status.phase=Granted,spec.verb=Reboot", PERMIT_KIND))
    )
    assert [o["metadata"]["name"] for o in granted.objects] == ["kured-1"]


def test_one_that_is_refused_waits_says_why_and_is_granted_when_there_is_room(machines: list[int]) -> None:
    ask("first")
    second = ask("second", "a-2")
    assert why(second) == ("Pending", "False", "ClusterBudget")
    assert (
        second["status"]["conditions"][0]["message"]
        == "In cluster a 1 of 33 machines is unavailable, and at most 1 may be: this waits until one is back."
    )
    assert settle_requests() == 0
    delete_object("permits", "first", write=Write(OPER))
    assert settle_requests() == 1
    assert why(shown("second")) == ("Granted", "True", "Granted")
    assert why(ask("third", "a-2"))[2] == "OperationInProgress"
    assert "Reboot of kured (permit/second) is still under way" in shown("third")["status"]["conditions"][0]["message"]


def test_who_waited_longest_comes_first(machines: list[int]) -> None:
    ask("zero")
    for n, name in enumerate(("z-first", "a-second")):
        ask(name, f"a-{n + 2}")
        later(5)
    delete_object("permits", "zero", write=Write(OPER))
    settle_requests()
    assert [shown(n)["status"]["phase"] for n in ("z-first", "a-second")] == ["Granted", "Pending"]


def test_a_wait_ends_with_its_lease_and_a_renewal_asks_again(machines: list[int]) -> None:
    ask("first")
    ask("second", "a-2", ttlSeconds=60)
    later(61)
    run("UPDATE permit SET expires_at = now() + interval '1 hour'")
    settle_requests()
    assert why(shown("second")) == ("Refused", "False", "ClusterBudget")
    assert shown("second")["status"]["conditions"][0]["message"].endswith(
        "It is no longer asked for; renew it to ask again."
    )
    delete_object("permits", "first", write=Write(OPER))
    settle_requests()
    assert shown("second")["status"]["phase"] == "Refused"
    assert why(renew("second")) == ("Granted", "True", "Granted")


def test_its_lease_ends_the_right_and_the_machine_counts_until_it_is_well(machines: list[int]) -> None:
    ask("mine", ttlSeconds=60)
    run("UPDATE capacity SET down = true WHERE machine_id = %s", machines[0])
    later(61)
    settle_requests()
    assert why(shown("mine")) == ("Expired", "False", "RightEnded")
    assert why(ask("next", "a-2"))[2] == "ClusterBudget"
    run("UPDATE capacity SET down = false")
    settle_requests()
    assert why(shown("mine")) == ("Released", "False", "Released")
    settle_requests()
    assert shown("next")["status"]["phase"] == "Granted"


def test_a_renewal_lengthens_the_right(machines: list[int]) -> None:
    mine = ask("mine", ttlSeconds=60)
    later(50)
    again = renew("mine", ttlSeconds=3600)
    assert again["status"]["permit"] == mine["status"]["permit"]
    (lasts,) = run("SELECT expires_at > now() + interval '50 minutes' FROM permit")[0]
    assert lasts
    assert again["status"]["renewTime"] == again["spec"]["renewTime"]
    switch.stop("olga", "fire")
    refused = renew("mine")
    switch.resume("olga")
    assert why(refused) == ("Granted", "True", "RenewalRefused")


def test_a_right_that_ended_may_be_taken_over_by_another(machines: list[int]) -> None:
    ask("mine", ttlSeconds=60)
    run("UPDATE capacity SET down = true WHERE machine_id = %s", machines[0])
    later(61)
    run("SELECT * FROM permit_batch('Reboot', true, 'repair', '1 hour', %s)", machines[:1])
    settle_requests()
    assert why(shown("mine")) == ("Released", "False", "TakenOver")
    delete_object("permits", "mine", write=Write(OPER))
    assert run("SELECT owner, released_at IS NULL FROM permit") == [("repair", True)]


def test_the_kill_switch_keeps_it_waiting(machines: list[int]) -> None:
    switch.stop("olga", "fire")
    assert why(ask("mine")) == ("Pending", "False", "Stopped")
    switch.resume("olga")
    settle_requests()
    assert shown("mine")["status"]["phase"] == "Granted"


def test_repairs_of_foreign_tools_count_in_the_breaker(machines: list[int]) -> None:
    run("UPDATE capacity SET down = true")
    phases = [ask(f"p{n}", f"a-{n}", unplanned=True)["status"]["phase"] for n in range(1, 10)]
    assert phases == ["Granted"] * 7 + ["Pending"] * 2
    assert why(shown("p9"))[2] == "ClusterBreaker"


def test_permits_of_fleet_itself_are_written_by_nobody(machines: list[int]) -> None:
    run("SELECT * FROM permit_batch('Reload', false, 'op', '1 hour', %s)", machines[:1])
    admin = Actor("root", bindings=(("admin", ""),))
    with pytest.raises(ApiError, match="Fleet's own") as refused:
        delete_object("permits", "permit-1", write=Write(admin))
    assert refused.value.code == 403
    with pytest.raises(ApiError) as refused:
        renew("permit-1", admin)
    assert refused.value.code == 403
    with pytest.raises(ApiError, match="Fleet's own") as refused:
        ask("permit-7", by=admin)
    assert refused.value.code == 422


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"machine": "typo"}, 422),
        ({"verb": "Re boot"}, 422),
        ({"verb": ""}, 422),
        ({"ttlSeconds": 86_401}, 422),
        ({"machine": "loose-1"}, 403),
    ],
    ids=str,
)
def test_nonsense_and_machines_of_others_are_refused(machines: list[int], spec: Json, code: int) -> None:
    with pytest.raises(ApiError) as refused:
        ask("mine", **spec)
    assert refused.value.code == code
    assert run("SELECT * FROM permit") == []


@pytest.mark.parametrize(
    "changed", [{"machine": "a-2"}, {"verb": "Wipe"}, {"owner": "x"}, {"unplanned": True}], ids=str
)
def test_what_was_asked_for_never_changes(machines: list[int], changed: Json) -> None:
    ask("mine")
    with pytest.raises(ApiError, match="make another permit"):
        renew("mine", **changed)


def test_a_grant_whose_ask_was_deleted_meanwhile_is_given_back(
    machines: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    switch.stop("olga", "fire")
    ask("mine")
    switch.resume("olga")

    def deleted_then_granted(conn: Any, wanted: Any) -> Any:
        answer = permit_sync(conn, wanted)
        run("DELETE FROM safety_permitrequest")
        return answer

    monkeypatch.setattr("fleet.api.foreign_permits.permit_sync", deleted_then_granted)
    settle_requests()
    assert run("SELECT released_at IS NOT NULL FROM permit") == [(True,)]


def test_what_ended_a_week_ago_is_forgotten(machines: list[int]) -> None:
    ask("mine", ttlSeconds=60)
    later(61)
    settle_requests()
    run(
        "UPDATE safety_permitrequest SET status = jsonb_set(status, '{conditions,0,lastTransitionTime}', to_jsonb(%s::text))",
        (datetime.now(UTC) - timedelta(days=8)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    settle_requests()
    assert storage_for("permits").read("mine") is None


def test_watchers_of_permits_see_chosen_names_only(machines: list[int]) -> None:
    ask("mine")
    delete_object("permits", "mine", write=Write(SYSTEM))
    rows = run("SELECT DISTINCT object_id FROM change WHERE kind = 10 AND op <> 3")
    assert list(storage_for("permits").by_ids([row[0] for row in rows])) == []
    assert run("SELECT name FROM tombstone WHERE kind = 10") == [("mine",)]
