"""Which Events of pods count, how often, how long, and from when on they are too many."""

from __future__ import annotations

from typing import Any

import pytest

from machines.watch import starts
from machines.watch.seen import Involved, KubeEvent, Meta, Source
from machines.watch.starts import Rate, Rule, Starts, complaint, fails

SANDBOX = "FailedCreatePodSandBox"


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def event(uid: str, reason: str = "Started", *, kind: str = "Pod", node: str = "n1", message: str = "") -> KubeEvent:
    """An Event about a pod, as its kubelet tells it."""
    return KubeEvent(Meta(), Involved(kind, uid, uid), reason, message, source=Source(node))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told(clock: Clock) -> Starts:
    return Starts(clock)


def tell(told: Starts, *uids: str, again: bool = False, **more: Any) -> None:
    for uid in uids:
        told.take(event(uid, **more), again=again)


def test_a_pod_counts_once_however_many_containers_it_has(told: Starts) -> None:
    tell(told, "a", "a", "a", "b")
    assert told.rate(600) == Rate(2)


def test_a_failing_pod_counts_once_however_often_it_is_tried(told: Starts, clock: Clock) -> None:
    tell(told, "a", "a", reason=SANDBOX)
    tell(told, "a", again=True, reason="NetworkNotReady", node="n2")
    clock.now += 60
    assert told.rate(600) == Rate(1, 1, 1)


def test_a_pod_is_undecided_for_a_minute_after_it_failed_first(told: Starts, clock: Clock) -> None:
    tell(told, "a", "b", reason=SANDBOX)
    tell(told, "c")
    clock.now += 59
    assert told.rate(600) == Rate(1)
    tell(told, "a")  # its node's network is up
    clock.now += 1
    assert told.rate(600) == Rate(3, 1, 1)


def test_pods_leave_with_the_window_that_they_were_tried_in(told: Starts, clock: Clock) -> None:
    tell(told, "early")
    tell(told, "stuck", reason=SANDBOX)
    clock.now += 400
    tell(told, "late")
    tell(told, "stuck", reason=SANDBOX)
    clock.now += 200
    assert told.rate(600) == Rate(1)
    assert len(told) == 2  # who is stuck stays known, or it would be tried anew
    tell(told, "stuck", reason=SANDBOX)
    assert told.rate(600) == Rate(1)
    clock.now += 600
    assert told.rate(600) == Rate() and not len(told)


def test_a_repetition_of_what_was_never_heard_is_an_old_try(told: Starts) -> None:
    tell(told, "crash-looping", again=True)
    tell(told, "stuck", again=True, reason=SANDBOX)
    assert len(told) == 0


def test_a_pod_that_ran_and_cannot_be_made_again_has_failed(told: Starts, clock: Clock) -> None:
    tell(told, "a")
    tell(told, "a", reason=SANDBOX)
    clock.now += 60
    assert told.rate(600).failed == 1


def test_memory_is_bounded_and_the_oldest_go_first(told: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_MOST", 10)
    tell(told, *(f"p{n}" for n in range(100)))
    assert told.rate(600) == Rate(10)


def test_nothing_is_left_of_a_stream_that_began_anew(told: Starts) -> None:
    tell(told, "a")
    told.clear()
    assert told.rate(600) == Rate()


@pytest.mark.parametrize(
    ("kind", "reason", "message", "answer"),
    [
        ("Pod", "Started", "", False),
        ("Pod", SANDBOX, "", True),
        ("Pod", "FailedCreatePodContainer", "", True),
        ("Pod", "FailedKillPod", "", True),
        ("Pod", "NetworkNotReady", "", True),
        ("Pod", "Failed", "Error: ErrImagePull", None),
        ("Pod", "Failed", "Error: ImagePullBackOff", None),
        ("Pod", "BackOff", "Back-off restarting failed container", None),
        ("Pod", "CrashLoopBackOff", "", None),
        ("Pod", "InspectFailed", 'Failed to apply default image tag "Bad Name"', None),
        ("Pod", "FailedMount", 'secret "nobody-made-it" not found', None),
        ("Pod", "FailedScheduling", "0/3 nodes are available: 3 Insufficient cpu.", None),
        ("ReplicaSet", "FailedCreate", 'pods "a-" is forbidden: exceeded quota: q', None),
        ("ReplicaSet", "FailedCreate", 'admission webhook "w" denied the request: no owner', None),
        ("ReplicaSet", "FailedCreate", "Internal error occurred: failed calling webhook: EOF", True),
        ("DaemonSet", "FailedCreate", "etcdserver: request timed out", True),
        ("Job", "Started", "", None),
        ("Widget", "FailedCreate", "Internal error occurred", None),
    ],
)
def test_only_what_nodes_or_the_control_plane_are_to_blame_for_counts(
    kind: str, reason: str, message: str, answer: bool | None
) -> None:
    assert fails(event("x", reason, kind=kind, message=message)) is answer


@pytest.mark.parametrize(
    ("rate", "rule", "opens"),
    [
        (Rate(20, 5, 2), Rule(), True),
        (Rate(20, 4, 2), Rule(), False),
        (Rate(19, 19, 9), Rule(), False),
        (Rate(20, 20, 1), Rule(), False),
        (Rate(20, 20, 0, True), Rule(), True),
        (Rate(20, 20, 9), Rule(disabled=True), False),
        (Rate(20, 4, 2), Rule(percent=90), True),
        (Rate(5, 5, 2), Rule(at_least=5), True),
        (Rate(20, 20, 9), Rule(percent=0), False),
    ],
    ids=["under", "at the limit", "few pods", "one node", "control plane", "disabled", "stricter", "from five on", "zero"],
)  # fmt: skip
def test_the_breaker_opens_under_the_limit_from_enough_pods_on(rate: Rate, rule: Rule, opens: bool) -> None:
    assert bool(complaint(rate, rule)) is opens


def test_the_sentence_has_the_numbers() -> None:
    assert complaint(Rate(40, 17, 9, True), Rule(85, 20, 90, policy="strict")) == (
        "17 of 40 pods tried within 90 s did not start, on 9 nodes and before they had a node, by no fault of their own: "
        "57.5 % started, and at least 85 % must (SafetyPolicy strict)."
    )
