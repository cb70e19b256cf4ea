"""The state machine of an Operation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.control.kinds import Json
from machines.analyze import Leftover, compare
from machines.hosts import Facts, StepResult, StepState
from machines.operation_moves import Move, Scene
from machines.operations import advance, polls
from machines.plan import converge, reboot, restart
from machines.rows import OperationRow
from tests.machines.sets import UID, facts, pouch_set

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = pouch_set()


def operation(status: Json, **changes: Any) -> OperationRow:
    plain = OperationRow(
        1, "op-uid", "m1-1", 0, "Running", {"machine": "m1", "verb": "Reconcile"}, status, NOW, None, 1
    )
    return replace(plain, **changes)


def bare() -> Facts:
    """A host that holds nothing yet."""
    return facts(BODY, packages={}, files={}, units={}, health={})


def converging() -> Json:
    return converge(compare(BODY, bare(), (), Leftover()), BODY).status(7, "change")


def scene(seen: Facts, **changes: Any) -> Scene:
    plain = Scene(UID, seen, BODY, compare(BODY, seen, (), Leftover()), NOW, 7)
    return replace(plain, **changes)


def told(status: Json, state: StepState, reason: str = "", message: str = "") -> Facts:
    """The bare host, which says that of the step that runs."""
    (ref,) = polls(operation(status))
    return replace(bare(), steps={ref.folder: StepResult(ref, state, reason, message)})


def begun(status: Json, **changes: Any) -> Json:
    """The status after the next step began."""
    move = advance(operation(status), scene(bare(), **changes))
    assert move.start is not None
    return move.status


def step(status: Json, verb: str) -> Json:
    found: Json = next(s for s in status["steps"] if s["verb"] == verb)
    return found


def test_staging_comes_first_and_needs_no_permit() -> None:
    move = advance(operation(converging()), scene(bare()))
    assert move.start is not None
    assert (move.start.action.verb, move.start.free, move.ask) == ("stage-package", True, "")


def test_after_staging_a_permit_is_asked_for_and_nothing_begins_without() -> None:
    status = begun(converging())
    move = advance(operation(status), scene(told(status, "Succeeded")))
    assert (move.ask, move.start) == ("Restart", None)


def test_with_the_permit_the_next_step_begins() -> None:
    status = begun(converging())
    move = advance(operation(status | {"permit": "permit-1"}), scene(told(status, "Succeeded")))
    assert move.start is not None
    assert move.start.action.verb == "install-package"
    assert step(move.status, "permit")["status"] == "True"


def test_a_host_that_is_not_fit_waits_at_the_pre_check() -> None:
    status = begun(converging())
    move = advance(
        operation(status | {"permit": "p"}), scene(told(status, "Succeeded"), preflight=("DiskFull", "No room."))
    )
    assert (move.start, step(move.status, "pre-check")["reason"]) == (None, "DiskFull")


@pytest.mark.parametrize(
    ("state", "reason", "ended", "attempt", "starts"),
    [
        pytest.param("Running", "", "", 1, False, id="it runs"),
        pytest.param("Unknown", "Garbled", "", 1, False, id="nobody knows: look again"),
        pytest.param("Unknown", "NoSuchStep", "", 1, True, id="the order never arrived: the same attempt"),
        pytest.param("Interrupted", "", "", 2, True, id="interrupted: a new attempt"),
        pytest.param("Refused", "StepRunning", "", 1, False, id="another step runs: later"),
        pytest.param("Failed", "DownloadFailed", "Failed", 1, False, id="it failed"),
        pytest.param("Refused", "IdentityMismatch", "Failed", 1, False, id="the wrong host"),
    ],
)
def test_what_becomes_of_a_step_that_runs(
    state: StepState, reason: str, ended: str, attempt: int, starts: bool
) -> None:
    status = begun(converging())
    move = advance(operation(status), scene(told(status, state, reason, "Said.")))
    assert (move.ended, step(move.status, "stage-package")["attempt"], move.start is not None) == (
        ended,
        attempt,
        starts,
    )


def test_a_step_is_not_tried_for_ever() -> None:
    status = begun(converging())
    step(status, "stage-package")["attempt"] = 3
    assert advance(operation(status), scene(told(status, "Interrupted"))).ended == "Failed"


def test_a_step_whose_end_is_never_told_runs_out_of_time() -> None:
    status = begun(converging())
    move = advance(operation(status), scene(told(status, "Running"), now=NOW + timedelta(hours=2)))
    assert (move.ended, move.reason) == ("Failed", "StepTimeout")


def test_a_step_that_runs_is_let_end_before_an_operation_is_cancelled() -> None:
    status = begun(converging())
    superseded = ("Cancelled", "Cancelled by ana.")
    running = advance(operation(status), scene(told(status, "Running"), superseded=superseded))
    after = advance(operation(status), scene(told(status, "Succeeded"), superseded=superseded))
    assert (running.ended, after.ended, after.reason) == ("", "Cancelled", "Cancelled")


def test_a_held_machine_begins_nothing_and_keeps_its_operation() -> None:
    move = advance(operation(converging()), scene(bare(), halt=("Held", "Hold h1.")))
    assert (move.start, move.ended, move.reason) == (None, "", "Held")


def last_but_one() -> Json:
    """Everything done but the post-check."""
    status = converging()
    for each in status["steps"][:-1]:
        each["status"] = "True"
    return status


def test_done_is_what_a_new_look_shows_not_what_steps_say() -> None:
    wrong = advance(operation(last_but_one()), scene(bare()))
    right = advance(operation(last_but_one()), scene(facts(BODY)))
    assert (wrong.ended, wrong.reason) == ("Failed", "StillDiffers")
    assert right.ended == "Succeeded"


def installing(**changes: Any) -> tuple[Json, Scene]:
    """A status whose install step just failed, and the scene with a previous version."""
    body = pouch_set(rollbackOnFailure=True)
    old = {**body, "packages": [{**body["packages"][0], "version": "0.9"}]}
    status = begun(converging()) | {"permit": "p"}
    status = begun_install(status)
    seen = told(status, "Failed", "InstallFailed", "postinst returned 1")
    return status, replace(scene(seen), body=body, previous=old, **changes)


def begun_install(status: Json) -> Json:
    move = advance(operation(status), scene(told(status, "Succeeded")))
    assert move.start is not None
    return move.status


def test_a_failed_package_is_put_back_by_steps_of_the_same_operation() -> None:
    status, at = installing()
    move = advance(operation(status), at)
    assert move.start is not None
    assert move.start.action.package is not None
    assert (move.start.action.verb, move.start.action.package.version) == ("stage-package", "0.9")
    for each in move.status["steps"]:
        each["status"] = "True"
    end = advance(operation(move.status), at)
    assert (end.ended, end.reason) == ("Failed", "RolledBack")
    assert "postinst returned 1" in end.message


def test_without_a_previous_version_a_failure_is_a_failure() -> None:
    status, at = installing()
    assert advance(operation(status), replace(at, previous=None)).ended == "Failed"


def rebooting(**changes: Any) -> Move:
    """What is made of a look at a host whose reboot was ordered."""
    status = reboot().status(0, "person") | {"permit": "p"}
    first = advance(operation(status), scene(bare()))
    assert first.start is not None
    (ref,) = polls(operation(first.status))
    answers = {ref.folder: StepResult(ref, changes.pop("state", "Succeeded"))}
    later = NOW + timedelta(seconds=changes.pop("after", 60))
    return advance(operation(first.status), scene(replace(bare(), steps=answers, **changes), now=later))


def test_a_reboot_is_proved_by_another_boot_id_only() -> None:
    assert rebooting(boot_id="boot-2").ended == "Succeeded"
    assert rebooting().ended == ""


def test_a_host_with_the_same_boot_id_after_the_timeout_never_rebooted() -> None:
    assert rebooting(after=1_000).reason == "NeverRebooted"


def test_a_host_that_still_starts_is_not_done() -> None:
    assert rebooting(boot_id="boot-2", system_state="starting").ended == ""


def test_an_artifact_that_fits_no_host_is_named() -> None:
    move = advance(operation(converging()), scene(replace(bare(), os_family="rhel")))
    assert (move.ended, move.reason) == ("Failed", "NoArtifact")


def test_a_persons_restart_asks_for_its_class() -> None:
    move = advance(operation(restart(["pouch.service"]).status(0, "person")), scene(facts(BODY)))
    assert move.ask == "Restart"
