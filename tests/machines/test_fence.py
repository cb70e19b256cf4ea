"""The real fence.sh in a folder, with systemd's part played by shims; the lab runs it under a real systemd."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from machines import fence, host_reasons
from machines.hosts import StepRef
from tests.machines.sandbox import NONCE, Sandbox, order

COUNT = 'echo effect >>"$FLEET_ROOT/effects"\n'


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "host")
    yield sandbox
    sandbox.kill_units()


def effects(host: Sandbox) -> int:
    path = host.root / "effects"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_step_runs_and_tells_facts_exit_code_and_log(host: Sandbox) -> None:
    script = 'echo working\nprintf "fact installedVersion 1.0-1\\nmessage done well\\n" >>"$FLEET_STEP/outcome"\n'
    result = host.start(script, order())
    assert (result.state, result.reason, result.message, result.exit_code) == ("Succeeded", "", "done well", 0)
    assert result.facts == {"installedVersion": "1.0-1"}
    assert result.output == "working\n"


def test_a_failed_step_without_words_of_its_own_says_its_last_line(host: Sandbox) -> None:
    result = host.start("echo first\necho no such thing >&2\nexit 7\n", order())
    assert (result.state, result.reason, result.exit_code) == ("Failed", "StepFailed", 7)
    assert result.message == "ended with code 7: no such thing"


def test_a_failed_step_keeps_the_reason_that_it_gave(host: Sandbox) -> None:
    script = 'printf "reason DiskFull\\nmessage no room\\n" >>"$FLEET_STEP/outcome"\nexit 1\n'
    result = host.start(script, order())
    assert (result.state, result.reason, result.message) == ("Failed", "DiskFull", "no room")


def test_the_first_start_marks_the_host_and_remembers_the_epoch(host: Sandbox) -> None:
    host.start(COUNT, order(epoch=4))
    assert (host.state / "identity").read_text() == "inst-1 uid-1\n"
    assert (host.state / "fence").read_text() == "1 4 uid-1\n"


def test_the_same_attempt_started_again_is_only_reported(host: Sandbox) -> None:
    first = host.start(COUNT, order())
    again = host.start(COUNT, order(epoch=9))
    assert (first, effects(host)) == (again, 1)


def test_many_simultaneous_starts_have_one_effect(host: Sandbox) -> None:
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda _: host.start(COUNT, order()), range(5)))
    assert {result.state for result in results} <= {"Running", "Succeeded"}
    assert host.wait(order().ref).state == "Succeeded"
    assert effects(host) == 1


@pytest.mark.parametrize(
    ("incarnation", "epoch", "state"),
    [(1, 5, "Succeeded"), (1, 6, "Succeeded"), (2, 1, "Succeeded"), (1, 4, "Refused"), (0, 99, "Refused")],
    ids=["same epoch", "newer epoch", "newer incarnation", "older epoch", "older incarnation"],
)
def test_only_the_newest_owner_acts(host: Sandbox, incarnation: int, epoch: int, state: str) -> None:
    host.start(COUNT, order(epoch=5))
    result = host.start(COUNT, order(operation="op-2", incarnation=incarnation, epoch=epoch))
    assert (result.state, result.reason) == (state, "StaleEpoch" if state == "Refused" else "")
    assert effects(host) == (1 if state == "Refused" else 2)


@pytest.mark.parametrize(
    ("uid", "installation"), [("uid-2", "inst-1"), ("uid-1", "inst-2")], ids=["uid", "installation"]
)
def test_a_host_of_somebody_else_is_refused(host: Sandbox, uid: str, installation: str) -> None:
    host.start(COUNT, order())
    result = host.start(COUNT, order(operation="op-2", uid=uid, installation=installation, epoch=99))
    assert (result.state, result.reason, effects(host)) == ("Refused", "IdentityMismatch", 1)
    assert "belongs to machine uid-1 of installation inst-1" in result.message


def test_a_take_over_names_the_old_uid_or_fails(host: Sandbox) -> None:
    host.start(COUNT, order(epoch=50))
    wrong = host.start(COUNT, order(uid="uid-2", operation="op-2", take_over="uid-7"))
    right = host.start(COUNT, order(uid="uid-2", operation="op-3", take_over="uid-1"))
    assert (wrong.reason, right.state) == ("IdentityMismatch", "Succeeded")
    assert (host.state / "identity").read_text() == "inst-1 uid-2\n"
    old = host.start(COUNT, order(operation="op-4", epoch=51))
    assert old.reason == "IdentityMismatch"


def test_a_unit_that_comes_late_does_not_act_for_a_stale_epoch(host: Sandbox) -> None:
    (host.root / "delay").write_text("3")
    stale = order(epoch=1)
    assert host.start(COUNT, stale).state == "Running"
    claimed = host.sh(f'/bin/sh "$FLEET_ROOT{fence.PLACE}" claim inst-1 uid-1 1 2')
    assert claimed.stdout == "state Succeeded\n"
    result = host.wait(stale.ref)
    assert (result.state, result.reason, effects(host)) == ("Refused", "StaleEpoch", 0)


def test_a_step_cut_off_in_the_middle_is_interrupted_for_good(host: Sandbox) -> None:
    cut = order()
    assert host.start(COUNT + "sleep 60\n" + COUNT, cut).state == "Running"
    host.kill_units()
    assert (host.poll(cut.ref).state, host.poll(cut.ref).reason) == ("Interrupted", "Interrupted")
    assert host.start(COUNT, cut).state == "Interrupted"
    again = host.start(COUNT, order(attempt=2))
    assert (again.state, effects(host)) == ("Succeeded", 2)


def test_a_folder_without_unit_is_interrupted_and_a_late_unit_leaves_it(host: Sandbox) -> None:
    host.start(COUNT, order())
    lost = StepRef("op-2", "01-step", 1)
    folder = host.state / "op" / lost.folder
    folder.mkdir(parents=True)
    (folder / "meta").write_text("uid-1 1 1\n")
    (folder / "script").write_text(COUNT)
    assert host.poll(lost).state == "Interrupted"
    host.sh(f'/bin/sh "$FLEET_ROOT{fence.PLACE}" run op-2 01-step 1')
    assert (host.poll(lost).state, effects(host)) == ("Interrupted", 1)


def test_a_failure_while_the_host_goes_down_is_no_result(host: Sandbox) -> None:
    (host.root / "system-state").write_text("stopping\n")
    down = order()
    host.start("exit 1\n", down)
    assert host.wait(down.ref).state == "Interrupted"


def test_one_step_at_a_time(host: Sandbox) -> None:
    long = order()
    host.start("sleep 60\n", long)
    other = host.start(COUNT, order(operation="op-2", epoch=2))
    assert (other.state, other.reason, effects(host)) == ("Refused", "StepRunning", 0)
    assert host.poll(long.ref).state == "Running"


def test_an_unreachable_systemd_is_not_called_an_interruption(host: Sandbox) -> None:
    long = order()
    host.start("sleep 60\n", long)
    (host.root / "no-systemd").touch()
    assert (host.poll(long.ref).state, host.poll(long.ref).reason) == ("Unknown", "SystemdUnreachable")
    (host.root / "no-systemd").unlink()
    assert host.poll(long.ref).state == "Running"


def test_a_unit_that_systemd_does_not_start_is_failed_at_once(host: Sandbox) -> None:
    (host.root / "refuse-units").touch()
    result = host.start(COUNT, order())
    assert (result.state, result.reason, effects(host)) == ("Failed", "CannotStart", 0)
    assert "Failed to start transient service unit" in result.message


def test_a_script_that_did_not_arrive_whole_is_not_run(host: Sandbox) -> None:
    whole = fence.start_script(order(), COUNT * 50, NONCE)
    done = host.sh(whole[: len(whole) - 400])
    assert (done.stdout, effects(host)) == ("", 0)
    damaged = whole.replace("echo effect", "echo defect", 1)
    result = fence.parse_answer(order().ref, host.sh(damaged).stdout.split("\n"))
    assert (result.state, result.reason, effects(host)) == ("Refused", "Truncated", 0)
    assert host.poll(order().ref).reason == "NoSuchStep"


def test_a_time_out_is_told_by_the_stop_hook(host: Sandbox) -> None:
    slow = order()
    host.start("sleep 60\n", slow)
    host.kill_units()
    host.sh(f'SERVICE_RESULT=timeout /bin/sh "$FLEET_ROOT{fence.PLACE}" finish op-1 01-step 1')
    result = host.poll(slow.ref)
    assert (result.state, result.reason) == ("Failed", "StepTimeout")


def test_forgetting_frees_the_host_but_not_for_the_old_owner(host: Sandbox) -> None:
    host.start(COUNT, order(epoch=7))
    last = host.start('/bin/sh "$FLEET_FENCE" forget uid-1\n', order(operation="op-2", epoch=8))
    assert last.state == "Succeeded"
    assert not (host.state / "identity").exists()
    assert host.start(COUNT, order(operation="op-3", epoch=8)).reason == "StaleEpoch"
    assert host.start(COUNT, order(operation="op-4", uid="uid-2")).state == "Succeeded"


def test_a_policy_left_behind_is_taken_away_and_a_foreign_one_put_back(host: Sandbox) -> None:
    policy = host.root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\n# marked by fleet\nexit 101\n")
    host.start(COUNT, order())
    assert not policy.exists()
    policy.write_text("#!/bin/sh\n# marked by fleet\nexit 101\n")
    policy.with_name("policy-rc.d.fleet-saved").write_text("the host's own")
    host.start(COUNT, order(operation="op-2"))
    assert policy.read_text() == "the host's own"


def test_the_script_is_not_kept_after_its_end(host: Sandbox) -> None:
    host.start(COUNT, order())
    assert [p.name for p in sorted((host.state / "op/op-1/01-step-1").iterdir())] == ["log", "meta", "result"]


def test_the_fence_is_reinstalled_when_its_hash_differs(host: Sandbox) -> None:
    host.start(COUNT, order())
    place = Path(f"{host.root}{fence.PLACE}")
    place.write_text("#!/bin/sh\necho tampered\n")
    assert host.start(COUNT, order(operation="op-2")).state == "Succeeded"
    assert place.read_text() == fence.SCRIPT


def test_poll_of_an_untouched_host_changes_nothing(host: Sandbox) -> None:
    assert host.poll(StepRef("op", "step", 1)).reason == "NoSuchStep"
    assert not host.state.exists()


@pytest.mark.parametrize("field", ["operation", "step", "uid", "installation", "take_over"])
@pytest.mark.parametrize("value", ["a b", "$(id)", "../x", "-x", "a;b", "a\nb", "é", "x" * 101])
def test_words_that_are_not_plain_are_refused_before_anything_is_sent(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field):
        fence.start_script(order(**{field: value}), COUNT, NONCE)  # type: ignore[arg-type]


def test_the_fence_itself_refuses_words_that_are_not_plain(host: Sandbox) -> None:
    host.start(COUNT, order())
    done = host.sh(f"/bin/sh \"$FLEET_ROOT{fence.PLACE}\" poll '../../etc' x 1")
    assert "reason BadRequest" in done.stdout


@pytest.mark.parametrize(
    "lines",
    [[""], ["state Nonsense"], ["no state"], ["state\x00 Running"], ["output !!!", "exit x"]],
    ids=["empty", "unknown state", "no state", "NUL", "noise"],
)
def test_an_answer_that_is_none_is_unknown(lines: list[str]) -> None:
    result = fence.parse_answer(StepRef("o", "s"), lines)
    assert (result.state, result.reason) == ("Unknown", "Garbled")


def test_every_reason_of_the_fence_is_explained() -> None:
    used = set(re.findall(r"(?:refuse|reason|set --) ([A-Z][A-Za-z]+)", fence.SCRIPT))
    assert len(used) > 10
    assert used - {"DiskFull", "X"} <= set(host_reasons.FENCE)
