"""From a unit that fell over to a machine that is well again, with everything on the way."""

from __future__ import annotations

import orjson
import pytest

from fleet.control.conditions import Condition
from fleet.control.db import Connection
from machines.reports import Report, write
from tests.machines.world_of_one import running
from tests.recovery.world import World, stopped


@pytest.fixture
def world(conn: Connection) -> World:
    return World(conn)


async def test_a_unit_that_fell_over_is_found_permitted_restarted_verified_and_told(world: World) -> None:
    await world.playbook()
    await world.rule()
    await running(world)
    stopped(await world.box())
    await world.step()
    assert await world.condition("ComponentsHealthy") == (
        "False",
        "UnitNotRunning",
        "pouch.service does not run (failed).",
    )
    await world.detect()
    fault = await world.fault()
    assert fault["status"]["phase"] == "Confirmed"
    assert fault["status"]["sources"] == ["fleet"]
    ordered = await world.order()
    assert len(ordered.machines) == 1
    assert await world.permits() == 1
    await world.turn(12)
    fault, remediation = await world.fault(), await world.remediation()
    assert (fault["status"]["phase"], remediation["status"]["phase"]) == ("Resolved", "Succeeded"), (fault, remediation)
    assert (await world.box()).units["pouch.service"]["active"] == "active"
    (operation,) = await world.operations()
    assert [s["verb"] for s in operation["status"]["steps"]] == [
        "permit",
        "isolate",
        "collect-evidence",
        "set-units",
        "post-check",
    ]
    assert operation["status"]["phase"] == "Succeeded"
    await world.turn(3)
    assert await world.permits() == 0
    assert await world.condition("Faultless") == ("True", "NoFault", "No confirmed fault is open.")
    assert await world.events("dev.fleet.fault.") == ["dev.fleet.fault.confirmed", "dev.fleet.fault.resolved"]
    assert await world.events("dev.fleet.remediation.") == [
        "dev.fleet.remediation.started", "dev.fleet.remediation.verifying", "dev.fleet.remediation.probation", "dev.fleet.remediation.succeeded",
    ]  # fmt: skip


async def test_a_repair_that_was_refused_is_asked_for_again_whoever_looks_at_the_machine_meanwhile(
    world: World,
) -> None:
    await world.playbook()
    await world.rule()
    await running(world)
    stopped(await world.box())
    await world.step()
    await world.detect()
    await world.conn.execute("INSERT INTO breaker (dim, key, state, why) VALUES ('fleet', 0, 'open', 'x')")
    assert (await world.order()).machines == ()
    assert (await world.fault())["status"]["repair"]["reason"] == "FleetBreaker"
    due = "SELECT due_at FROM recovery_fault WHERE phase = 'Confirmed'"
    before = await (await world.conn.execute(due)).fetchall()
    assert await world.detect() == 0
    assert await (await world.conn.execute(due)).fetchall() == before != [(None,)]


@pytest.mark.parametrize(("second", "phase"), [("agent-b", "Confirmed"), ("agent-a", "Suspected")])
async def test_two_declared_reporters_are_two_sources_and_one_under_two_names_is_one(
    world: World, second: str, phase: str
) -> None:
    owners = [
        {"name": "smart", "user": "agent-a", "conditionTypes": ["DiskBad"]},
        {"name": "raid", "user": second, "conditionTypes": ["ArrayBad"]},
    ]
    await world.playbook()
    await world.rule("disk", "DiskFailure", when=[{"condition": "DiskBad"}, {"condition": "ArrayBad"}], sources=2)
    await running(world)
    cluster = orjson.dumps({"provider": "Imported", "reporters": owners}).decode()
    await world.conn.execute(
        "INSERT INTO clusters_cluster (uid, name, rv, generation, labels, annotations, finalizers, managed_fields, spec, status, created_at) VALUES (gen_random_uuid(), 'far', 1, 1, '{}', '{}', '[]', '[]', %s, '{}', now())",
        [cluster],
    )
    await world.conn.execute("UPDATE machine_state SET cluster_id = (SELECT id FROM clusters_cluster)")
    (machine,) = await world.ids()
    said = [Report(machine, t, Condition(t, "True", "Smart"), "api") for t in ("DiskBad", "ArrayBad")]
    await write(world.conn, said)
    await world.detect()
    status = (await world.fault())["status"]
    expected = ["reporter:raid", "reporter:smart"] if phase == "Confirmed" else ["reporter:smart"]
    assert (status["phase"], status["sources"]) == (phase, expected)


async def test_a_playbook_is_followed_as_it_is_when_a_repair_begins(world: World) -> None:
    await world.playbook()
    await world.rule()
    await running(world)
    rungs = []
    for name in ("restart-units", "once-more"):
        await world.conn.execute(
            "UPDATE recovery_playbook SET rv = rv + 4, spec = jsonb_set(spec::jsonb, '{rungs,0,name}', to_jsonb(%s::text))",
            [name],
        )
        stopped(await world.box())
        await world.step()
        await world.detect()
        await world.order()
        rungs.append([r["spec"]["ladder"]["rungs"][0]["name"] for r in await world.faults("remediations")])
        await world.turn(12)
        assert {f["status"]["phase"] for f in await world.faults()} == {"Resolved"}
    assert rungs == [["restart-units"], ["restart-units", "once-more"]]


async def test_evidence_of_a_repair_is_read_through_the_api(world: World) -> None:
    from fleet.api.rights import SYSTEM
    from fleet.control.threads import in_thread
    from recovery.storages import evidence_of

    await world.playbook()
    await world.rule()
    await running(world)
    stopped(await world.box())
    await world.turn(12)
    (operation,) = await world.operations()
    row = (operation["metadata"]["uid"], "03-collect-evidence-1", "==== kernel ====")
    await world.conn.execute(
        "INSERT INTO machine_evidence (operation_uid, step, machine_id, content) VALUES (%s, %s, 1, %s) ON CONFLICT DO NOTHING",
        row,
    )
    remediation = await world.remediation()
    found = (await in_thread(lambda: evidence_of(remediation, SYSTEM)))["evidence"]
    assert [(e["step"], e["content"]) for e in found] == [(row[1], row[2])]


async def test_the_look_at_everything_finds_what_no_message_told_and_follows_a_new_rule_at_once(world: World) -> None:
    from fleet.control.operators import Seat
    from recovery.tasks import find_faults, look_at_all

    await running(world)
    stopped(await world.box())
    await world.step()
    seat = Seat(world.conn, 1)
    await find_faults(seat)  # the cursors begin here: nothing that was before is told again
    assert await world.faults() == []
    await world.playbook()
    await world.rule()
    await find_faults(seat)
    assert (await world.fault())["status"]["phase"] in ("Confirmed", "Recovering")
    await look_at_all(seat)
    assert await look_at_all(seat) == 0  # what stays as it is is not written again
