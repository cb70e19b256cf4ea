"""A system installed anew, round by round, and the host keys that only that may change."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from fleet.control.db import Connection
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.control.times import format_time
from machines import reinstall
from machines.analyze import Leftover, compare
from machines.gates import NodeRow
from machines.host_keys import enrol_new_keys, keys_of_new_system
from machines.hosts import Facts
from machines.operation_moves import Move, Scene
from machines.operations import advance, blind, unseen
from machines.plan import converge, repair
from machines.provisioner import Installation, ProvisionError
from machines.reinstall import late, patience, round_of
from machines.rounds import opened, troubled
from machines.rows import OperationRow
from tests.machines.loop import Loop
from tests.machines.sets import UID, facts, pouch_set

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = pouch_set()
RUNG: list[Json] = [{"action": "Isolate"}, {"action": "Drain"}, {"action": "Reinstall"}]
AT = format_time(NOW)


def ago(seconds: float) -> str:
    return format_time(NOW - timedelta(seconds=seconds))


# -- rounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "seen", "asks", "state", "reason"),
    [
        pytest.param({}, Installation("Unknown"), False, "Waiting", "Seen", id="looks before it asks"),
        pytest.param({"now": "install", "install": [AT]}, Installation("Unknown"), True, "Waiting", "Requested", id="asks"),
        pytest.param({"now": "install", "install": [AT]}, Installation("Running"), False, "Waiting", "Installing", id="asks nobody who works at it already"),
        pytest.param({"install": [ago(10)]}, Installation("Unknown"), False, "Waiting", "Requested", id="waits for what it asked for"),
        pytest.param({"install": [ago(60)]}, Installation("Unknown"), False, "Waiting", "Seen", id="asks again after a look and a while"),
        pytest.param({"install": [ago(200), ago(60)]}, Installation("Unknown"), False, "Failed", "RequestLost", id="not a third time"),
        pytest.param({"install": [ago(10)]}, Installation("Pending"), False, "Waiting", "Queued", id="waits in a queue"),
        pytest.param({"install": [ago(10)]}, Installation("Done"), False, "Waiting", "Installed", id="waits for the host"),
        pytest.param({"install": [ago(10)]}, Installation("Failed", "no image", "ImageInvalid"), False, "Failed", "ImageInvalid", id="says why it failed"),
    ],
)  # fmt: skip
def test_a_round_asks_once_and_only_after_a_look(
    progress: Json, seen: Installation, asks: bool, state: str, reason: str
) -> None:
    asked, told = round_of(progress, seen, NOW)
    assert (asked, told.state, told.reason) == (asks, state, reason)


def test_a_request_is_committed_before_it_may_be_made() -> None:
    _, told = round_of({}, Installation("Unknown"), NOW)
    assert not reinstall.touched(told.progress)
    assert opened(told.progress, NOW) == {"now": "install", "install": [AT]}
    assert opened({"now": "install", "install": [AT]}, NOW) == {"install": [AT]}  # left by one that died


def test_a_refused_request_counts_as_not_made_and_a_lost_one_as_made() -> None:
    progress = {"now": "install", "install": [AT]}
    refused, lost = ProvisionError("Busy", "It is busy."), ProvisionError("Lost", "No answer.", sent=True)
    assert troubled(progress, refused, NOW).progress["install"] == []
    assert troubled(progress, lost, NOW).progress["install"] == [AT]
    assert patience(progress, refused) < 600
    assert patience(progress, lost) == float("inf")
    assert patience({"install": [AT]}, refused) == float("inf")


@pytest.mark.parametrize(
    ("progress", "seen", "reason"),
    [
        ({"install": [ago(3_000)]}, False, ""),
        ({"install": [ago(4_000)]}, False, "InstallTimedOut"),
        ({"install": [ago(4_000)], "isDone": ago(100)}, False, ""),
        ({"install": [ago(4_000)], "isDone": ago(1_000)}, False, "NotBack"),
        ({"install": [ago(4_000)], "isDone": ago(1_000)}, True, "NotReinstalled"),
    ],
)
def test_what_does_not_come_to_its_end_is_late(progress: Json, seen: bool, reason: str) -> None:
    looked = facts(BODY) if seen else Facts(1, reason="NoRoute")
    assert late(progress, looked, NOW)[0] == reason


# -- the Operation ----------------------------------------------------------------------------------------------------------


def operation(status: Json, **more: Any) -> OperationRow:
    spec = {"machine": "m1", "verb": "Repair", "steps": RUNG}
    return replace(OperationRow(1, "op-uid", "m1-1", 2, "Running", spec, status, NOW, 7, 1), **more)


def scene(seen: Facts, **more: Any) -> Scene:
    diffs = compare(BODY, seen, (), Leftover())
    again = converge(diffs, BODY) if diffs else None
    return replace(Scene(UID, seen, BODY, diffs, NOW, 7, boot_id=seen.boot_id, again=again), **more)


def planned(*, joined: bool = False) -> Json:
    status = repair(RUNG, (), BODY, joined=joined).status(7, "recover")
    for step in status["steps"][: [s["verb"] for s in status["steps"]].index("reinstall")]:
        step.update(status="True", reason="Done")
    return status


def requested(**more: Any) -> Json:
    """The status once the installation was asked for and is done."""
    status = planned(**more)
    step = next(s for s in status["steps"] if s["verb"] == "reinstall")
    step.update(startTime=ago(300), silent=False, progress={"install": [ago(300)], "isDone": ago(20)})
    return status | {"bootIdBefore": "boot-before"}


def empty(**more: Any) -> Facts:
    return facts(BODY, packages={}, files={}, units={}, health={}, **{"marker": "", "boot_id": "boot-after"} | more)


def step(move: Move, verb: str) -> Json:
    found: Json = next(s for s in move.status["steps"] if s["verb"] == verb)
    return found


def test_the_plan_closes_drains_and_collects_before_it_wipes() -> None:
    plan = repair(RUNG, (), BODY, joined=True)
    assert [s.verb for s in plan.steps] == [
        "permit", "isolate", "drain", "collect-evidence", "reinstall", "delete-node", "provision", "post-check",
    ]  # fmt: skip
    assert plan.verb == "Reinstall"


def test_an_empty_host_is_filled_by_the_same_operation_and_what_was_on_its_disk_is_forgotten() -> None:
    move = advance(operation(requested()), scene(empty(), versions={"pouch": "1.0", "runc": "1.2"}))
    assert step(move, "reinstall")["reason"] == "Reinstalled"
    assert [(c.package, c.version) for c in move.inventory] == [("pouch", ""), ("runc", "")]
    verbs = [s["verb"] for s in move.status["steps"]]
    assert verbs[verbs.index("provision") :][:3] == ["provision", "stage-package", "install-package"]
    assert verbs[-1] == "post-check"
    assert verbs.count("permit") == 1
    assert len({s["name"] for s in move.status["steps"]}) == len(verbs)
    assert move.start is not None


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(empty(boot_id="boot-before"), id="the boot of before"),
        pytest.param(empty(marker=f"installation {UID}"), id="Fleet's marker is still there"),
        pytest.param(Facts(1, reason="NoRoute"), id="silent"),
    ],
)
def test_nothing_is_put_on_a_host_that_may_not_be_the_new_system(seen: Facts) -> None:
    move = advance(operation(requested()), scene(seen))
    assert step(move, "reinstall")["status"] == "Unknown"
    assert move.effect is not None and move.effect.verb == "reinstall"


def test_an_empty_host_is_not_believed_before_the_provisioner_is_done() -> None:
    status = requested()
    del next(s for s in status["steps"] if s["verb"] == "reinstall")["progress"]["isDone"]
    assert step(advance(operation(status), scene(empty())), "reinstall")["status"] == "Unknown"


def test_whoever_cancels_a_wiped_host_still_gets_it_back_and_its_old_node_away() -> None:
    status = requested(joined=True) | {"nodeBefore": "n1"}
    off = ("Cancelled", "Cancelled by anna.")
    move = advance(operation(status), scene(empty(), superseded=off, node=NodeRow("m1", "n1")))
    assert move.effect is not None and move.effect.verb == "delete-node"
    gone = advance(operation(move.status), scene(empty(), superseded=off))
    assert (gone.ended, step(gone, "delete-node")["reason"]) == ("Cancelled", "Gone")


def test_the_host_is_filled_only_after_its_old_node_is_gone() -> None:
    status = requested(joined=True) | {"nodeBefore": "n1"}
    move = advance(operation(status), scene(empty(), node=NodeRow("m1", "n1")))
    deleted = next(s for s in move.status["steps"] if s["verb"] == "delete-node")
    deleted.update(status="True", reason="Deleted")
    waits = advance(operation(move.status), scene(empty(), node=NodeRow("m1", "n1")))
    assert step(waits, "provision")["reason"] == "NodeNotGone"
    assert waits.start is None
    filled = advance(operation(waits.status), scene(empty()))
    assert "wait-for-node" in [s["verb"] for s in filled.status["steps"]]


@pytest.mark.parametrize("silent", [True, False])
def test_a_host_that_was_passed_over_for_its_silence_keeps_its_disk_when_it_answers(silent: bool) -> None:
    status = planned()
    reinstalls = next(s for s in status["steps"] if s["verb"] == "reinstall")
    drained = next(s for s in status["steps"] if s["verb"] == "drain")
    if silent:
        reinstalls.update(startTime=ago(5), silent=True, progress={})
    else:
        drained["reason"] = "HostSilent"
    move = advance(operation(status), scene(facts(BODY)))
    assert (move.ended, step(move, "reinstall")["reason"]) == ("Succeeded", "HostAnswers")


@pytest.mark.parametrize("why", [{"barred": ("Adopted", "It is not ours.")}, {"halt": ("Held", "A hold covers it.")}])
def test_nothing_is_asked_for_while_something_stands_against_it(why: dict[str, Any]) -> None:
    move = advance(operation(planned()), scene(facts(BODY), **why))
    assert move.effect is None
    assert step(move, "reinstall")["reason"] == next(iter(why.values()))[0]


def test_a_silent_host_does_not_hold_up_what_leads_to_its_installation() -> None:
    status = repair(RUNG, (), BODY).status(7, "recover")
    for each in status["steps"][:3]:
        each.update(status="True", reason="Done")
    assert blind(operation(status))
    move = advance(operation(status), scene(Facts(1, reason="NoRoute")))
    assert step(move, "collect-evidence")["reason"] == "NotCollected"
    assert move.effect is not None and move.effect.verb == "reinstall"


def test_another_set_that_is_accepted_meanwhile_is_planned_anew() -> None:
    move = advance(operation(requested()), scene(empty()))
    status = move.status
    for each in status["steps"]:
        each.pop("running", None)
    again = advance(operation(status), scene(empty(), want=8))
    assert again.status["want"] == "8"
    assert [s["verb"] for s in again.status["steps"]].count("provision") == 2


def test_the_silence_of_a_host_counts_from_the_last_step_that_ended() -> None:
    status = requested()
    for each, ended in zip(status["steps"], (4_000, 3_900, 3_800, 3_700, 100), strict=False):
        each.update(status="True", reason="Done", endTime=ago(ended))
    began = NOW - timedelta(seconds=4_000)
    assert unseen(operation(status, started_at=began), NOW) is None
    later = unseen(operation(status, started_at=began), NOW + timedelta(seconds=900))
    assert later is not None and later.reason == "HostSilent"


# -- host keys ----------------------------------------------------------------------------------------------------------------


def test_a_host_ca_goes_on_signing_and_keys_of_the_old_system_count_no_more() -> None:
    authority = "@cert-authority ssh-ed25519 AAAAca"
    assert keys_of_new_system((authority, "ssh-ed25519 AAAAold"), ("ssh-ed25519 AAAAnew",)) == (
        authority,
        "ssh-ed25519 AAAAnew",
    )


NEW = "ssh-ed25519 AAAAnew"
TOUCHED: Json = {"install": ["2026-01-01T00:00:00Z"]}


async def started(loop: Loop, steps: list[Json], *, ended: bool = False, machine: str = "m1") -> str:
    """An Operation of that machine with those steps; its uid."""
    await loop.machine(driver={"type": "simulated", "hostKeys": ["ssh-ed25519 AAAAold"]})
    await loop.machine("m2", driver={"type": "simulated", "hostKeys": ["ssh-ed25519 AAAAold"]})
    await loop.make({"kind": "Operation", "metadata": {"name": "op"}, "spec": {"machine": machine, "verb": "Reboot"}})
    row = await (
        await loop.conn.execute(
            "UPDATE machines_operation SET started_at = now(), ended_at = CASE WHEN %s THEN now() END, phase = 'Running', status = jsonb_build_object('steps', %s::jsonb) RETURNING uid::text",
            [ended, orjson.dumps(steps).decode()],
        )
    ).fetchone()
    assert row is not None
    return str(row[0])


async def keys(loop: Loop) -> list[str]:
    machine = await loop.get()
    assert machine is not None
    return list(machine["spec"]["driver"]["hostKeys"])


@pytest.mark.parametrize(
    "step",
    [
        pytest.param({"verb": "reinstall", "status": "Unknown", "reason": "Installing", "progress": TOUCHED}, id="while it is installed"),
        pytest.param({"verb": "reinstall", "status": "True", "reason": "Reinstalled"}, id="after it was"),
    ],
)  # fmt: skip
async def test_keys_change_inside_the_open_operation_that_installs_the_host_anew(conn: Connection, step: Json) -> None:
    loop = Loop(conn)
    uid = await started(loop, [step])
    await in_thread(lambda: enrol_new_keys("m1", uid, [NEW]))
    assert await keys(loop) == [NEW]


@pytest.mark.parametrize(
    ("step", "more"),
    [
        pytest.param({"verb": "reboot", "status": "Unknown", "reason": "Begun"}, {}, id="another Operation"),
        pytest.param({"verb": "reinstall", "status": "Unknown", "reason": "Waiting"}, {}, id="before it was asked for"),
        pytest.param({"verb": "reinstall", "status": "Unknown", "reason": "Busy", "progress": {"install": []}}, {}, id="after it was refused"),
        pytest.param({"verb": "reinstall", "status": "True", "reason": "HostAnswers"}, {}, id="not installed after all"),
        pytest.param({"verb": "reinstall", "status": "True", "reason": "Reinstalled"}, {"ended": True}, id="after its end"),
        pytest.param({"verb": "reinstall", "status": "True", "reason": "Reinstalled"}, {"machine": "m2"}, id="another machine's"),
    ],
)  # fmt: skip
async def test_keys_change_nowhere_else(conn: Connection, step: Json, more: dict[str, Any]) -> None:
    loop = Loop(conn)
    uid = await started(loop, [step], **more)
    with pytest.raises(PermanentError) as error:
        await in_thread(lambda: enrol_new_keys("m1", uid, [NEW]))
    assert error.value.reason == "HostKeyRefused"
    assert await keys(loop) == ["ssh-ed25519 AAAAold"]
