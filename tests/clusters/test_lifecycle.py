"""The life cycle of a control plane: each component verified before the next, put back when it fails, resumable anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters import lifecycle
from clusters.lifecycle import ADDONS, PARTS, Move, Progress, Wish, next_move, order
from clusters.planes import APISERVER, COMPONENTS, CONTROLLER_MANAGER, ETCD, SCHEDULER, ComponentSeen

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Plane:
    """A control plane that behaves: components start in time, unless they are broken at a version."""

    target: str = "old"
    generation: int = 1
    down: bool = False
    refusals: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Progress)
    running: dict[str, str] = field(default_factory=dict)
    up_at: dict[str, datetime] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)
    blind: bool = False
    crashing: set[tuple[str, str]] = field(default_factory=set)  # end as soon as they are started
    replicas: int = 1
    now: datetime = NOW
    log: list[str] = field(default_factory=list)

    def wish(self) -> Wish:
        digests = {n: f"{n}@{v}" for n, v in self.progress.versions.items()}
        step = self.progress.step(ADDONS)
        is_late = step is not None and self.now - step.start > timedelta(seconds=100)
        lost = "the addon crashes" if is_late and (ADDONS, self.running.get(ADDONS)) in self.broken else ""
        return Wish(self.target, self.generation, digests, self.refusals, self.waits, self.down, lost)

    def seen(self) -> dict[str, ComponentSeen]:
        if self.blind:
            return {n: ComponentSeen(n, ready=None) for n in PARTS}
        out = {}
        for name, version in self.running.items():
            if (name, version) in self.crashing:
                out[name] = ComponentSeen(name, "", version, False, 0, 1, f"{name} has ended: unknown flag")
                continue
            needs = [ETCD] if name == APISERVER else [] if name == ETCD else [APISERVER]
            ready = self.up_at[name] <= self.now and (name, version) not in self.broken
            ready = ready and all(n in self.running for n in needs)
            out[name] = ComponentSeen(name, f"{name}@{version}", version, ready, replicas=self.replicas)
        return out

    def act(self, move: Move) -> None:
        """What the operator does of a move; the intent first."""
        wish, p, name = self.wish(), self.progress, move.component
        if move.verb not in ("wait", "rest", "done", "late", "refuse"):
            self.log.append(f"{move.verb} {name}".strip())
        if move.verb == "begin":
            self.progress = replace(p, versions=dict.fromkeys(COMPONENTS, self.target))
        elif move.verb == "snapshot":
            self.progress = replace(p, snapshot_for=self.target)
        elif move.verb == "intend":
            self.progress = lifecycle.intended(p, wish, name)
        elif move.verb == "apply":
            self.progress = lifecycle.started(p, name, wish.digests[name], self.now)
            self.running[name] = p.versions[name]
            self.up_at[name] = self.now + self.replicas * timedelta(seconds=20 if self.replicas == 1 else 75)
        elif move.verb == "done":
            self.progress = lifecycle.ended(p, name, self.now, ok=True)
        elif move.verb == "put-back":
            self.progress = lifecycle.put_back(p, wish, move, self.now)
        elif move.verb == "finish":
            self.progress = lifecycle.finished(p, wish, None)

    def step(self) -> Move:
        move = next_move(self.wish(), self.progress, self.seen(), self.now)
        self.act(move)
        self.now += timedelta(seconds=5)
        return move

    def settle(self) -> Move:
        """Until it rests, refuses or is late; bounded."""
        for _ in range(400):
            move = self.step()
            if move.verb in ("rest", "refuse", "late"):
                return move
        raise AssertionError(f"it never came to rest: {self.log}")

    def versions(self) -> set[str]:
        return set(self.running.values())


def ready(version: str = "old") -> Plane:
    plane = Plane(target=version)
    assert plane.settle().verb == "rest"
    plane.log.clear()
    return plane


def test_a_new_control_plane_comes_up_from_etcd_on() -> None:
    plane = Plane()
    assert plane.settle().verb == "rest"
    assert plane.log == ["begin", *(f"apply {n}" for n in COMPONENTS), "intend addons", "apply addons", "finish"]
    assert plane.progress.reached == "old"


def test_an_upgrade_takes_a_snapshot_and_moves_one_component_after_the_other() -> None:
    plane = ready()
    plane.target, plane.generation = "new", 2
    assert plane.settle().verb == "rest"
    moves = [m for n in PARTS for m in (f"intend {n}", f"apply {n}")]
    assert plane.log == ["snapshot", *moves, "finish"]
    assert plane.versions() == {"new"}


def test_going_back_takes_the_reverse_order() -> None:
    plane = ready("new")
    plane.target, plane.generation, plane.down = "old", 2, True
    plane.settle()
    assert [e for e in plane.log if e.startswith("intend")] == [f"intend {n}" for n in order(True)]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_does_not_get_ready_is_put_back_and_the_change_stops_with_the_reason(name: str) -> None:
    plane = ready()
    plane.broken.add((name, "new"))
    plane.target, plane.generation = "new", 2
    assert plane.settle().verb == "rest"
    assert plane.running[name] == "old"
    assert plane.progress.reached == "old"
    reason = "AddonsNotReady" if name == ADDONS else "ComponentNotReady"
    assert (plane.progress.stopped["component"], plane.progress.stopped["reason"]) == (name, reason)
    assert all(plane.running[part] == ("new" if i < PARTS.index(name) else "old") for i, part in enumerate(PARTS))


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_that_ends_each_time_it_is_started_is_put_back_soon_with_its_last_words(name: str) -> None:
    plane = ready()
    plane.crashing.add((name, "new"))
    plane.target, plane.generation = "new", 2
    begun = plane.now
    assert plane.settle().verb == "rest"
    assert plane.log.count(f"apply {name}") == 5 + 1
    assert plane.now - begun < timedelta(minutes=10)
    assert plane.running[name] == "old"
    assert plane.progress.stopped["message"] == f"{name} has ended: unknown flag"


def test_a_component_that_crashes_at_rest_is_started_again_for_ever_but_not_all_the_time() -> None:
    plane = ready()
    plane.crashing.add((SCHEDULER, "old"))
    for _ in range(100):
        plane.step()
    assert 20 < plane.log.count(f"apply {SCHEDULER}") < 60
    assert (
        next_move(plane.wish(), plane.progress, plane.seen(), plane.now).message
        == f"{SCHEDULER} has ended: unknown flag"
    )
    plane.crashing.clear()
    assert plane.settle().verb == "rest"


def test_several_replicas_have_the_time_of_each_because_one_goes_after_the_other() -> None:
    plane = ready()
    plane.replicas, plane.target, plane.generation = 3, "new", 2
    assert plane.settle().verb == "rest"
    assert plane.versions() == {"new"}
    plane.broken.add((APISERVER, "newest"))
    plane.target, plane.generation = "newest", 3
    assert plane.settle().verb == "rest"
    assert plane.progress.stopped["component"] == APISERVER


def test_a_stopped_change_begins_anew_with_a_new_wish_only() -> None:
    plane = ready()
    plane.broken.add((APISERVER, "new"))
    plane.target, plane.generation = "new", 2
    plane.settle()
    plane.broken.clear()
    plane.log.clear()
    assert plane.step().verb == "rest"
    assert plane.log == []
    plane.generation = 3
    plane.settle()
    assert plane.versions() == {"new"}
    assert plane.progress.stopped == {}


def test_pointing_back_in_the_middle_of_an_upgrade_brings_back_what_was_moved() -> None:
    plane = ready()
    plane.target, plane.generation = "new", 2
    while plane.running[APISERVER] != "new":
        plane.step()
    plane.target, plane.generation, plane.down = "old", 3, True
    plane.settle()
    assert plane.versions() == {"old"}
    assert plane.progress.reached == "old"
    assert plane.running[SCHEDULER] == plane.running[CONTROLLER_MANAGER] == "old"


def test_a_refused_change_touches_nothing_and_goes_on_once_the_reason_is_gone() -> None:
    plane = ready()
    plane.target, plane.generation, plane.refusals = "new", 2, ("etcd is not known to be healthy",)
    move = plane.settle()
    assert (move.verb, move.message) == ("refuse", "etcd is not known to be healthy")
    assert plane.log == []
    plane.refusals = ()
    plane.settle()
    assert plane.versions() == {"new"}


def test_a_change_that_waits_for_machines_touches_nothing_and_goes_on_by_itself() -> None:
    plane = ready("new")
    plane.target, plane.generation, plane.down, plane.waits = (
        "old",
        2,
        True,
        ("waits for machines: 3 kubelets are newer",),
    )
    for _ in range(50):
        move = plane.step()
        assert (move.verb, move.reason) == ("wait", "WaitsForMachines")
    assert plane.log == []
    plane.waits = ()
    plane.settle()
    assert plane.versions() == {"old"}


def test_after_addons_were_put_back_pointing_back_brings_the_components_back_too() -> None:
    plane = ready()
    plane.broken.add((ADDONS, "new"))
    plane.target, plane.generation = "new", 2
    plane.settle()
    assert plane.progress.stopped["component"] == ADDONS
    plane.log.clear()
    plane.target, plane.generation, plane.down = "old", 3, True
    assert plane.settle().verb == "rest"
    assert plane.versions() == {"old"}
    assert [e for e in plane.log if e.startswith("intend")] == [f"intend {n}" for n in reversed(COMPONENTS)]
    assert plane.progress.stopped == {}


def test_addons_that_broke_at_rest_hold_no_change_up() -> None:
    plane = ready()
    plane.broken.add((ADDONS, "old"))
    assert plane.settle().verb == "rest"
    plane.target, plane.generation = "new", 2
    plane.settle()
    assert plane.versions() == {"new"}


def test_addons_of_a_new_control_plane_that_fail_are_reported_and_another_version_mends_them() -> None:
    plane = Plane()
    plane.broken.add((ADDONS, "old"))
    move = plane.settle()
    assert (move.verb, move.component, move.message) == ("late", ADDONS, "the addon crashes")
    plane.target, plane.generation = "new", 2
    assert plane.settle().verb == "rest"
    assert plane.versions() == {"new"}


def test_a_cluster_of_before_there_were_addons_gets_them_without_a_change_of_its_components() -> None:
    plane = ready()
    plane.progress = replace(plane.progress, versions=dict.fromkeys(COMPONENTS, "old"))
    del plane.running[ADDONS]
    plane.settle()
    assert plane.log == ["intend addons", "apply addons"]


def test_what_cannot_be_looked_at_is_waited_for_and_never_put_back() -> None:
    plane = ready()
    plane.target, plane.generation = "new", 2
    while plane.running[ETCD] != "new":
        plane.step()
    plane.blind = True
    for _ in range(200):
        assert plane.step().verb == "wait"
    plane.blind = False
    plane.settle()
    assert plane.versions() == {"new"}


def test_a_component_that_is_gone_is_started_again_where_it_stood_first_what_others_need() -> None:
    plane = ready()
    del plane.running[ETCD], plane.running[SCHEDULER]
    plane.settle()
    assert plane.log == [f"apply {ETCD}", f"apply {SCHEDULER}"]


def test_the_first_start_of_a_broken_component_is_reported_and_nothing_is_put_back() -> None:
    plane = Plane()
    plane.broken.add((APISERVER, "old"))
    move = plane.settle()
    assert (move.verb, move.component) == ("late", APISERVER)
    assert plane.progress.stopped == {}


@settings(deadline=None)  # how long one takes is how many steps it needs
@given(st.lists(st.sampled_from(["step", "crash-etcd", "crash-apiserver", "lost-effect", "late"]), max_size=60))
def test_whatever_is_cut_off_an_upgrade_ends_whole_or_stopped(happenings: list[str]) -> None:
    """Crashes of components, and passes that wrote their intent and never came to the effect."""
    plane = ready()
    plane.target, plane.generation = "new", 2
    for happening in happenings:
        if happening == "crash-etcd":
            plane.running.pop(ETCD, None)
        elif happening == "crash-apiserver":
            plane.running.pop(APISERVER, None)
        elif happening == "late":
            plane.now += timedelta(seconds=100)
        elif happening == "lost-effect":
            before = dict(plane.running)
            plane.step()
            plane.running = before
        else:
            plane.step()
    while plane.settle().verb == "late":  # what ended too often is started again after a while
        plane.now += timedelta(seconds=15)
    whole = plane.versions() == {"new"} and plane.progress.reached == "new"
    assert whole or (plane.progress.reached == "old" and plane.progress.stopped)
    assert set(plane.running) == set(PARTS)
    assert plane.running == plane.progress.versions
