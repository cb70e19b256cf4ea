"""One verb on many machines: the frozen list, the second person, how many begin, what stops the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from fleet.api.actions import Write, change_object, create_object, delete_object
from fleet.api.approval import APPROVE
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM, Actor
from fleet.api.storage import storage_for
from fleet.control.db import Connection
from fleet.control.kinds import API_VERSION, Json
from fleet.control.threads import in_thread
from fleet.safety import notices
from machines.batches import schema
from machines.batches.storage import list_of
from machines.batches.turns import APPROVAL_HOURS, advance, turn
from tests.machines.loop import Loop
from tests.machines.world import make, sql

OLGA = Actor("olga", 1, (("operator", ""),))
ANA = Actor("ana", 2, (("approver", ""),))
BEN = Actor("ben", 3, (("admin", ""),))
BOTH = Actor("both", 4, (("operator", ""), ("approver", "")))
VIC = Actor("vic", 5, (("viewer", ""),))
NOBODY = dict.fromkeys(("waiting", "open", "succeeded", "failed", "skipped"), 0)
Settings = Any


@pytest.fixture(autouse=True)
def two_people(settings: Settings) -> None:
    settings.FLEET_REQUIRE_APPROVAL, settings.FLEET_APPROVAL_OVER = True, 3


def ask(by: Actor = OLGA, *, dry_run: bool = False, **spec: Any) -> tuple[Json, list[str]]:
    """(the batch, warnings)."""
    plain: Json = {"verb": "Reboot", "target": {"namePrefix": "m-"}, "reason": "new kernel"}
    obj = {"apiVersion": API_VERSION, "kind": "OperationBatch", "metadata": {"name": "b1"}, "spec": plain | spec}
    write = Write(by=by, dry_run=dry_run)
    return create_object("operationbatches", obj, write=write), write.warnings


def change(by: Actor, edit: Callable[[Json], object], name: str = "b1") -> Json:
    def edited(live: Json) -> Json:
        edit(live)
        return live

    return change_object("operationbatches", name, edited, write=Write(by=by), verb="patch")[0]


def say(by: Actor, word: str) -> Json:
    return change(by, lambda live: live["metadata"].setdefault("annotations", {}).update({APPROVE: word}))


def batch(name: str = "b1") -> Json:
    stored = storage_for("operationbatches").read(name)
    assert stored is not None
    return stored.obj


def operations() -> list[tuple[str, str]]:
    return [(m, p) for m, p in sql("SELECT spec ->> 'machine', phase FROM machines_operation ORDER BY 1")]


def end(machine: str, phase: str = "Succeeded") -> None:
    """Its Operation ended so."""
    sql("UPDATE machines_operation SET phase = %s, ended_at = now() WHERE spec ->> 'machine' = %s AND ended_at IS NULL", phase, machine)  # fmt: skip


# -- the next turn, pure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "approval", "counts", "hours", "phase", "begins", "ended"),
    [
        ({}, "Needed", {"waiting": 9}, 0, schema.AWAITING, False, False),
        ({}, "Needed", {"waiting": 9}, APPROVAL_HOURS + 1, schema.EXPIRED, False, True),
        ({}, "Given", {"waiting": 9}, APPROVAL_HOURS + 1, schema.RUNNING, True, False),
        ({}, "NotNeeded", {"open": 2}, 0, schema.RUNNING, False, False),
        ({}, "NotNeeded", {"succeeded": 2, "skipped": 1}, 0, schema.SUCCEEDED, False, True),
        ({}, "NotNeeded", {"succeeded": 2, "failed": 1}, 0, schema.FAILED, False, True),
        ({}, "NotNeeded", {"waiting": 1, "failed": 3}, 0, schema.RUNNING, True, False),
        ({}, "NotNeeded", {"waiting": 1, "failed": 4}, 0, schema.STALLED, False, False),
        ({"maxFailed": 4}, "NotNeeded", {"waiting": 1, "failed": 4}, 0, schema.RUNNING, True, False),
        ({"maxFailed": 0}, "NotNeeded", {"waiting": 1, "failed": 1}, 0, schema.STALLED, False, False),
        ({"paused": True}, "NotNeeded", {"waiting": 1, "open": 1}, 0, schema.PAUSED, False, False),
        ({"cancelled": True}, "NotNeeded", {"waiting": 5, "open": 1}, 0, schema.RUNNING, False, False),
        ({"cancelled": True}, "Needed", {"waiting": 5}, 0, schema.CANCELLED, False, True),
    ],
)
def test_what_a_batch_does_next(
    spec: Json, approval: str, counts: Json, hours: int, phase: str, begins: bool, ended: bool
) -> None:
    status = {"phase": schema.RUNNING, "approval": approval, "author": "olga", "hash": "ab", "cancelledBy": "olga"}
    step = advance(spec, status, NOBODY | counts, timedelta(hours=hours))
    assert (step.phase, step.begin, step.ended) == (phase, begins, ended)
    assert step.message.endswith((".", "=ab"))


# -- the list ---------------------------------------------------------------------------------------------------------


async def test_the_list_is_what_was_counted_and_nothing_that_came_later(conn: Connection) -> None:
    await in_thread(lambda: make(3))
    made, _ = await in_thread(ask)
    assert (made["status"]["count"], made["status"]["approval"]) == (3, "NotNeeded")
    await in_thread(lambda: make(2, prefix="m-late", cluster_id=9))
    sql("UPDATE machine SET deleted_at = now() WHERE name = 'm-0002'")
    await turn(conn)
    assert operations() == [("m-0000", "Pending"), ("m-0001", "Pending")]
    told = await in_thread(lambda: list_of(batch(), SYSTEM))
    assert [(t["machine"], t["state"]) for t in told["items"]] == [("m-0000", "Open"), ("m-0001", "Open"), ("m-0002", "Skipped")]  # fmt: skip
    (spec,) = sql("SELECT spec FROM machines_operation WHERE spec ->> 'machine' = 'm-0000'")[0]
    assert (spec["owner"], spec["batch"], spec["reason"]) == ("olga", "b1", "b1: new kernel")
    end("m-0000")
    end("m-0001")
    await turn(conn)
    done = (await in_thread(batch))["status"]
    assert (done["phase"], done["succeeded"], done["skipped"]) == (schema.SUCCEEDED, 2, 1)
    assert "endTime" in done
    assert [r[0] for r in sql("SELECT type FROM event WHERE kind = 19 ORDER BY pos")] == [
        "dev.fleet.operationbatch.created",
        "dev.fleet.operationbatch.succeeded",
    ]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"target": {}}, "spec.target"),
        ({"target": {"machines": []}}, "spec.target.machines"),
        ({"target": {"labelSelector": ""}}, "spec.target.labelSelector"),
        ({"target": {"namePrefix": ""}}, "spec.target.namePrefix"),
        ({"target": {"labelSelector": "  "}}, "spec.target.labelSelector"),
        ({"target": {"fieldSelector": " , "}}, "spec.target.fieldSelector"),
        ({"target": {"fieldSelector": ",", "namePrefix": "m-"}}, "spec.target.fieldSelector"),
        ({"target": {"matchAll": False}}, "spec.target.matchAll"),
        ({"target": {"matchAll": True, "namePrefix": "m"}}, "spec.target"),
        ({"target": {"labelSelector": "a=b=c"}}, "spec.target.labelSelector"),
        ({"target": {"fieldSelector": "spec.secret=1"}}, "spec.target.fieldSelector"),
        ({"target": {"namePrefix": "nobody"}}, "spec.target"),
        ({"target": {"machines": ["m-0000", "m-0009"]}}, "spec.target.machines"),
        ({"clusterName": "gone"}, "spec.clusterName"),
        ({"verb": "Restart"}, "spec.units"),
        ({"units": ["a.service"]}, "spec.units"),
        ({"reason": "  "}, "spec.reason"),
        ({"cancelled": True}, "spec.cancelled"),
    ],
)
def test_what_means_no_list_is_refused_by_field(fleet_db: None, spec: Json, field: str) -> None:
    make(1)
    with pytest.raises(ApiError) as refused:
        ask(**spec)
    assert refused.value.code == 422
    assert [c["field"] for c in (refused.value.details or {})["causes"]] == [field]
    assert sql("SELECT count(*) FROM operation_batch_target") == [(0,)]


def test_each_way_of_saying_which(fleet_db: None) -> None:
    make(2)
    make(2, prefix="n", rack="r7", idc="b")
    sql("UPDATE machine SET labels = '{\"pool\": \"web\"}' WHERE name = 'm-0001'")
    for number, (target, found) in enumerate(
        [
            ({"machines": ["n-0001", "m-0000"]}, ["m-0000", "n-0001"]),
            ({"labelSelector": "pool=web"}, ["m-0001"]),
            ({"labelSelector": "pool!=web", "namePrefix": "m-"}, ["m-0000"]),
            ({"fieldSelector": "spec.rack=r7"}, ["n-0000", "n-0001"]),
            ({"matchAll": True}, ["m-0000", "m-0001", "n-0000", "n-0001"]),
        ]
    ):
        obj = {
            "apiVersion": API_VERSION, "kind": "OperationBatch", "metadata": {"name": f"b{number}"},
            "spec": {"verb": "Reconcile", "target": target, "reason": "look"},
        }  # fmt: skip
        made = create_object("operationbatches", obj, write=Write(by=OLGA))
        assert [t["machine"] for t in list_of(made, SYSTEM)["items"]] == found


def test_another_list_than_expected_is_refused(fleet_db: None) -> None:
    make(3)
    counted = ask(dry_run=True)[0]["status"]
    make(1, prefix="m-more", cluster_id=9)
    with pytest.raises(ApiError) as refused:
        ask(expect={"count": counted["count"], "hash": counted["targetsHash"]})
    assert refused.value.code == 409
    assert "are 4 now, not the 3" in refused.value.message


def test_a_dry_run_counts_says_what_the_ledger_would_and_leaves_nothing(fleet_db: None) -> None:
    make(5)
    sql("UPDATE capacity SET in_service = true")
    made, told = ask(dry_run=True)
    assert told[0] == f"list: 5 machines (5 in no cluster), hash {made['status']['targetsHash']}"
    assert told[1] == "approval: over 3 machines another approver than olga is asked"
    assert told[2].startswith("permits: ")
    assert sum(int(t.split()[1]) for t in told[2:]) == 5
    for table in ("machines_operationbatch", "operation_batch_target", "permit", "refusal"):
        assert sql(f"SELECT count(*) FROM {table}") == [(0,)], table


# -- the second person ------------------------------------------------------------------------------------------------


async def test_over_the_limit_nothing_begins_before_another_person_approved_that_list(conn: Connection) -> None:
    await in_thread(lambda: make(4))
    made, _ = await in_thread(lambda: ask(BOTH))
    assert (made["status"]["phase"], made["status"]["approval"]) == (schema.AWAITING, "Needed")
    await turn(conn)
    assert operations() == []
    word = made["status"]["hash"]
    approved = await in_thread(lambda: say(ANA, word))
    assert (approved["status"]["approval"], approved["status"]["approvedBy"]) == ("Given", "ana")
    assert APPROVE not in approved["metadata"].get("annotations", {})
    await turn(conn)
    assert len(operations()) == 4


@pytest.mark.parametrize(
    ("by", "right", "code"),
    [(BOTH, True, 403), (OLGA, True, 403), (VIC, True, 403), (ANA, False, 409), (ANA, True, 200), (BEN, True, 200)],
    ids=["its author", "an operator", "a viewer", "another hash", "an approver", "an admin"],
)
def test_whose_word_counts(fleet_db: None, by: Actor, right: bool, code: int) -> None:
    make(4)
    made, _ = ask(BOTH)
    word = made["status"]["hash"] if right else "0" * 16
    if code == 200:
        assert say(by, word)["status"]["phase"] == schema.RUNNING
        return
    with pytest.raises(ApiError) as refused:
        say(by, word)
    assert refused.value.code == code
    assert batch()["status"]["phase"] == schema.AWAITING


def test_a_word_brought_along_by_the_author_counts_for_nothing(fleet_db: None) -> None:
    make(4)
    hash_ = ask(BEN, dry_run=True)[0]["status"]["hash"]
    obj = {
        "apiVersion": API_VERSION, "kind": "OperationBatch", "metadata": {"name": "b1", "annotations": {APPROVE: hash_}},
        "spec": {"verb": "Reboot", "target": {"namePrefix": "m-"}, "reason": "new kernel"},
    }  # fmt: skip
    made = create_object("operationbatches", obj, write=Write(by=BEN))
    assert made["status"]["phase"] == schema.AWAITING


@pytest.mark.parametrize(("verb", "n", "needed"), [("Reboot", 3, False), ("Reboot", 4, True), ("Reconcile", 9, False)])
def test_the_limit_is_of_what_takes_capacity_away(fleet_db: None, verb: str, n: int, needed: bool) -> None:
    make(n)
    assert (ask(verb=verb)[0]["status"]["approval"] == "Needed") is needed


async def test_what_nobody_approves_lapses(conn: Connection) -> None:
    await in_thread(lambda: make(4))
    await in_thread(ask)
    sql("UPDATE machines_operationbatch SET created_at = now() - interval '25 hours'")
    await turn(conn)
    lapsed = await in_thread(batch)
    assert lapsed["status"]["phase"] == schema.EXPIRED
    with pytest.raises(ApiError) as refused:
        await in_thread(lambda: change(OLGA, lambda live: live["spec"].update(cancelled=True)))
    assert refused.value.code == 409


async def test_people_are_told_of_what_waits_for_them(conn: Connection) -> None:
    await in_thread(lambda: make(4))
    made, _ = await in_thread(ask)
    await notices.turn(conn)
    sql_ = "SELECT reason, severity, subject, message FROM notice WHERE cleared_at IS NULL"
    assert sql(sql_) == [("BatchAwaitsApproval", 1, "Reboot of 4 machines waits for approval", "olga asks: new kernel. Another approver looks at operationbatch/b1.")]  # fmt: skip
    await in_thread(lambda: say(ANA, made["status"]["hash"]))
    await notices.turn(conn)
    assert sql(sql_) == []
    sql('UPDATE machines_operationbatch SET status = status || \'{"phase": "Stalled", "message": "4 failed."}\'')
    await notices.turn(conn)
    assert sql(sql_) == [("BatchStopped", 2, "Reboot of 4 machines has stopped", "operationbatch/b1: 4 failed.")]


def test_a_batch_of_one_cluster_is_that_clusters(fleet_db: None) -> None:
    make(1)
    away = Actor("away", 9, (("operator", "elsewhere"), ("approver", "elsewhere")))
    with pytest.raises(ApiError) as refused:
        ask(away)
    assert refused.value.code == 403


# -- how many begin, what stops the rest ------------------------------------------------------------------------------


async def test_a_few_of_each_cluster_are_open_at_a_time(conn: Connection) -> None:
    await in_thread(lambda: make(3, cluster_id=1, prefix="m-a"))
    await in_thread(lambda: make(3, cluster_id=2, prefix="m-b"))
    made, _ = await in_thread(lambda: ask(parallel=2))
    await in_thread(lambda: say(ANA, made["status"]["hash"]))
    await turn(conn)
    await turn(conn)
    assert [m for m, _ in operations()] == ["m-a-0000", "m-a-0001", "m-b-0000", "m-b-0001"]
    end("m-b-0000")
    await turn(conn)
    assert len(operations()) == 5


async def test_too_many_failures_stop_the_rest_until_a_person_says_go_on(conn: Connection) -> None:
    await in_thread(lambda: make(3))
    await in_thread(lambda: ask(parallel=1, maxFailed=0))
    await turn(conn)
    end("m-0000", "Failed")
    await turn(conn)
    stalled = (await in_thread(batch))["status"]
    assert (stalled["phase"], stalled["failed"], stalled["waiting"]) == (schema.STALLED, 1, 2)
    assert len(operations()) == 1
    await in_thread(lambda: change(OLGA, lambda live: live["spec"].update(maxFailed=1)))
    await turn(conn)
    assert len(operations()) == 2


async def test_a_machine_with_another_persons_operation_is_left_for_later(conn: Connection) -> None:
    await in_thread(lambda: make(2))
    op = {"apiVersion": API_VERSION, "kind": "Operation", "metadata": {"name": "mine"}, "spec": {"machine": "m-0000", "verb": "Reboot"}}  # fmt: skip
    await in_thread(lambda: create_object("operations", op, write=Write(by=OLGA)))
    await in_thread(ask)
    await turn(conn)
    assert sorted(m for m, _ in operations()) == ["m-0000", "m-0001"]
    told = {t["machine"]: t["message"] for t in (await in_thread(lambda: list_of(batch(), SYSTEM)))["items"]}
    assert told["m-0000"] == "Another Operation waits for this machine already."


async def test_cancelled_means_nothing_more_and_what_runs_ends(conn: Connection) -> None:
    await in_thread(lambda: make(3))
    await in_thread(lambda: ask(parallel=1))
    await turn(conn)
    await in_thread(lambda: change(OLGA, lambda live: live["spec"].update(cancelled=True)))
    await turn(conn)
    assert sql("SELECT spec ->> 'cancelledBy' FROM machines_operation") == [("olga",)]
    end("m-0000", "Cancelled")
    await turn(conn)
    ended = (await in_thread(batch))["status"]
    assert (ended["phase"], ended["skipped"], ended["message"]) == (schema.CANCELLED, 3, "Cancelled by olga: 3 skipped.")  # fmt: skip
    with pytest.raises(ApiError):
        await in_thread(lambda: change(OLGA, lambda live: live["spec"].update(cancelled=False)))


async def test_what_it_does_never_changes_and_what_runs_is_not_deleted(conn: Connection) -> None:
    await in_thread(lambda: make(1))
    await in_thread(ask)
    for spec in ({"verb": "Drain"}, {"target": {"matchAll": True}}, {"reason": "other"}):
        with pytest.raises(ApiError) as refused:
            await in_thread(lambda spec=spec: change(OLGA, lambda live: live["spec"].update(spec)))  # type: ignore[misc]
        assert refused.value.code == 422
    with pytest.raises(ApiError) as refused:
        await in_thread(lambda: delete_object("operationbatches", "b1", write=Write(by=OLGA)))
    assert refused.value.code == 409
    await turn(conn)
    end("m-0000")
    await turn(conn)
    await in_thread(lambda: delete_object("operationbatches", "b1", write=Write(by=OLGA)))
    assert sql("SELECT count(*) FROM operation_batch_target") == [(0,)]


async def test_two_processes_open_one_operation_a_machine(conn: Connection, other: Connection) -> None:
    await in_thread(lambda: make(40))
    made, _ = await in_thread(lambda: ask(parallel=30))
    await in_thread(lambda: say(ANA, made["status"]["hash"]))
    for _ in range(5):
        await asyncio.gather(turn(conn), turn(other))
        assert len(operations()) == 30
    assert sql("SELECT count(*) FROM operation_batch_target WHERE state = 1") == [(30,)]


async def test_on_machines_it_runs_to_its_end(conn: Connection) -> None:
    loop = Loop(conn)
    for n in range(2):
        await loop.machine(f"m-{n}")
    await loop.run(4)
    await in_thread(lambda: ask(parallel=1))
    for _ in range(60):
        await turn(conn)
        await loop.step(10)
        if "endTime" in (await in_thread(batch))["status"]:
            break
    done = (await in_thread(batch))["status"]
    assert (done["phase"], done["succeeded"]) == (schema.SUCCEEDED, 2), done
    assert [await loop.phase(f"m-{n}") for n in range(2)] == ["Running", "Running"]


# -- deletions --------------------------------------------------------------------------------------------------------


async def test_a_decommission_deletes_them_and_is_done_when_they_are_gone(conn: Connection) -> None:
    loop = Loop(conn)
    for n in range(2):
        await loop.machine(f"m-{n}")
    await loop.run(4)
    await in_thread(lambda: ask(BEN, verb="Decommission"))
    await turn(conn)
    deleting = sql("SELECT name FROM machine WHERE deleted_at IS NOT NULL ORDER BY 1")
    assert deleting == [("m-0",), ("m-1",)]
    for _ in range(30):
        await loop.step(10)
    await turn(conn)
    done = (await in_thread(batch))["status"]
    assert (done["phase"], done["succeeded"]) == (schema.SUCCEEDED, 2), done
    assert sql("SELECT DISTINCT actor FROM audit WHERE verb = 'delete' AND kind = 'Machine'") == [("ben",)]


async def test_a_decommission_whose_turn_died_after_its_commit_goes_on(conn: Connection) -> None:
    loop = Loop(conn)
    await loop.machine("m-0")
    await in_thread(lambda: ask(BEN, verb="Decommission"))
    sql("UPDATE operation_batch_target SET state = 1")  # as the commit left it
    await turn(conn)
    assert sql("SELECT count(*) FROM machine WHERE deleted_at IS NOT NULL") == [(1,)]


def test_operators_do_not_decommission_many(fleet_db: None) -> None:
    make(2)
    with pytest.raises(ApiError) as refused:
        ask(OLGA, verb="Decommission")
    assert refused.value.code == 403


async def test_in_small_portions_is_no_way_around_the_second_person(conn: Connection) -> None:
    await in_thread(lambda: make(6))

    def portion(name: str, machines: list[str], verb: str = "Reboot", by: Actor = BEN) -> str:
        spec = {"verb": verb, "target": {"machines": machines}, "reason": "new kernel"}
        obj = {"apiVersion": API_VERSION, "kind": "OperationBatch", "metadata": {"name": name}, "spec": spec}
        return str(create_object("operationbatches", obj, write=Write(by=by))["status"]["approval"])

    assert await in_thread(lambda: portion("b1", ["m-0000", "m-0001"])) == "NotNeeded"
    assert await in_thread(lambda: portion("look", ["m-0002", "m-0003"], "Reconcile")) == "NotNeeded"
    assert await in_thread(lambda: portion("b2", ["m-0002"], "Drain")) == "NotNeeded"
    assert await in_thread(lambda: portion("b3", ["m-0003"], "Drain")) == "Needed"
    assert await in_thread(lambda: portion("b4", ["m-0003"], by=OLGA)) == "NotNeeded"  # a count of their own
    sql("UPDATE machines_operationbatch SET created_at = now() - interval '2 hours'")
    assert await in_thread(lambda: portion("b5", ["m-0003"])) == "NotNeeded"
    await in_thread(lambda: [delete_object("machines", f"m-000{n}", write=Write(by=BEN)) for n in range(2)])
    assert await in_thread(lambda: portion("b6", ["m-0005"], "Decommission")) == "Needed"


async def test_what_another_person_approved_is_not_counted_as_ones_own(conn: Connection) -> None:
    await in_thread(lambda: make(9))
    names = [f"m-{n:04}" for n in range(5)]
    made, _ = await in_thread(lambda: ask(BEN, verb="Decommission", target={"machines": names}))
    assert made["status"]["approval"] == "Needed"
    await in_thread(lambda: say(ANA, made["status"]["hash"]))
    for _ in range(3):
        await turn(conn)
    assert sql("SELECT count(*) FROM audit WHERE actor = 'ben' AND verb = 'delete' AND kind = 'Machine'") == [(5,)]
    await in_thread(lambda: [delete_object("machines", f"m-000{n}", write=Write(by=BEN)) for n in (5, 6, 7)])
    with pytest.raises(ApiError, match="3 within the last hour"):
        await in_thread(lambda: delete_object("machines", "m-0008", write=Write(by=BEN)))


def test_one_by_one_is_no_way_around_the_second_person(fleet_db: None, settings: Settings) -> None:
    make(5)
    for n in range(3):
        delete_object("machines", f"m-000{n}", write=Write(by=OLGA))
        delete_object("machines", f"m-000{n}", write=Write(by=OLGA))  # the same again is no other one
    with pytest.raises(ApiError) as refused:
        delete_object("machines", "m-0003", write=Write(by=OLGA))
    assert refused.value.code == 403
    assert "at most 3 machines in an hour" in refused.value.message
    assert "OperationBatch" in refused.value.message
    delete_object("machines", "m-0003", write=Write(by=BEN))  # another person has a count of their own
    settings.FLEET_REQUIRE_APPROVAL = False
    delete_object("machines", "m-0004", write=Write(by=OLGA))
