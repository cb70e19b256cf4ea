"""Phases: the declaration, and what conditions amount to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines import phases
from machines.phases import PHASES, Signs, phase_of
from tests.machines.world import LEGAL

SIGNS = st.builds(
    Signs,
    deleted=st.booleans(),
    retired=st.booleans(),
    stalled=st.booleans(),
    met=st.booleans(),
    ever_met=st.booleans(),
    begun=st.booleans(),
    work=st.sampled_from(["", "change", "repair"]),
    calm_seconds=st.floats(0, 100),
)


def test_the_declared_moves_are_those_of_the_design() -> None:
    assert set(phases.LEGAL) == set(LEGAL)


@given(st.sampled_from(PHASES), SIGNS)
def test_whatever_is_seen_the_next_phase_is_a_legal_one(now: str, signs: Signs) -> None:
    following = phase_of(now, signs)
    assert following == now or f"{now}>{following}" in LEGAL


@given(st.sampled_from(PHASES[:7]), st.booleans())
def test_a_machine_that_is_as_wanted_ends_up_running(now: str, ever: bool) -> None:
    for _ in range(4):
        now = phase_of(now, Signs(met=True, ever_met=ever, calm_seconds=60))
    assert now == "Running"


@given(st.sampled_from(PHASES[:7]))
def test_a_machine_that_needs_a_person_ends_up_failed(now: str) -> None:
    for _ in range(4):
        now = phase_of(now, Signs(stalled=True))
    assert now == "Failed"


@given(st.sampled_from(PHASES), SIGNS)
def test_a_deleted_machine_is_decommissioned_and_never_comes_back(now: str, signs: Signs) -> None:
    deleted = Signs(deleted=True, retired=signs.retired)
    assert phase_of(now, deleted) in ("Decommissioning", "Retired")


@pytest.mark.parametrize(
    ("now", "signs", "following"),
    [
        pytest.param("Pending", Signs(), "Pending", id="nothing happened yet"),
        pytest.param("Pending", Signs(begun=True, work="change"), "Provisioning", id="the first step began"),
        pytest.param("Pending", Signs(met=True), "Running", id="it was as wanted already"),
        pytest.param("Running", Signs(work="change", ever_met=True), "Updating", id="a new set"),
        pytest.param("Running", Signs(work="repair", ever_met=True), "Repairing", id="drift"),
        pytest.param("Repairing", Signs(met=True), "Probation", id="put right"),
        pytest.param("Probation", Signs(met=True, calm_seconds=5), "Probation", id="not long enough"),
        pytest.param("Probation", Signs(met=True, calm_seconds=31), "Running", id="long enough"),
        pytest.param("Probation", Signs(work="repair"), "Repairing", id="it broke again"),
        pytest.param("Probation", Signs(work="change"), "Running", id="an update goes by way of Running"),
        pytest.param("Failed", Signs(work="change", ever_met=True), "Updating", id="a new set after a failure"),
        pytest.param("Failed", Signs(work="change"), "Provisioning", id="a new set for one that never ran"),
        pytest.param("Running", Signs(), "Running", id="not seen is no news"),
    ],
)
def test_a_phase_follows_from_what_is_seen(now: str, signs: Signs, following: str) -> None:
    assert phase_of(now, signs) == following
