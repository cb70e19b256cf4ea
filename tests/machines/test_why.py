"""Why, and why not."""

from __future__ import annotations

from fleet.control.kinds import Json
from machines.why import why


def machine(**conditions: tuple[str, str, str]) -> Json:
    found = [{"type": t, "status": s, "reason": r, "message": m} for t, (s, r, m) in conditions.items()]
    return {"metadata": {"name": "m1"}, "spec": {}, "status": {"conditions": found}}


GOOD = dict.fromkeys(("VersionsResolved", "Verifiable", "Reachable", "PackagesUpToDate", "ConfigUpToDate", "KernelUpToDate", "HostHealthy", "UpToDate", "Preflight", "Ready"), ("True", "Good", ""))  # fmt: skip
CALM = dict.fromkeys(("Held", "Stalled", "RemovalHeld"), ("False", "No", ""))


def answers(ladder: Json) -> list[str]:
    return [rung["answer"] for rung in ladder["rungs"]]


def test_of_a_machine_at_its_final_state_every_rung_holds() -> None:
    final, way = why(machine(**GOOD, **CALM), {}, None)
    assert set(answers(final)) == {"holds"}
    assert answers(way)[-1] == "notAsked"


def test_the_first_rung_that_does_not_hold_is_the_answer_and_nothing_below_is_asked() -> None:
    broken = GOOD | {"Reachable": ("False", "NoRoute", "No route.")}
    final, _ = why(machine(**broken, **CALM), {}, None)
    assert answers(final) == ["holds", "holds", "no"] + ["notAsked"] * 5
    assert final["rungs"][2]["explanation"] == "No route."


def test_what_nobody_said_is_unknown() -> None:
    final, way = why(machine(), {}, None)
    assert answers(final)[0] == "unknown"
    assert answers(way)[0] == "unknown"


def test_a_removal_that_waits_names_the_word_that_confirms_it() -> None:
    held = CALM | {"RemovalHeld": ("True", "NeedsConfirmation", "two would go")}
    _, way = why(machine(**GOOD, **held), {"removalHash": "abc"}, None)
    rung = next(r for r in way["rungs"] if r.get("condition") == "RemovalHeld")
    assert (rung["answer"], rung["actions"][0]["annotation"], rung["actions"][0]["value"]) == (
        "no",
        "fleet.dev/confirm-removal",
        "abc",
    )


def test_an_adopted_host_names_the_difference_to_accept() -> None:
    stalled = CALM | {"Stalled": ("True", "Adopted", "set up by somebody else")}
    _, way = why(machine(**GOOD, **stalled), {"diffHash": "abc"}, None)
    rung = next(r for r in way["rungs"] if r.get("condition") == "Stalled")
    assert rung["actions"][0]["annotation"] == "fleet.dev/accept-diff"


def test_an_open_operation_shows_the_step_and_what_it_waits_for() -> None:
    status = {"steps": [{"name": "01-permit", "verb": "permit", "status": "Unknown", "message": "No budget left."}]}
    operation = {"name": "m1-1", "phase": "Pending", "spec": {"owner": "ana"}, "status": status}
    refused = GOOD | {"ChangeAllowed": ("False", "BudgetExhausted", "No budget left.")}
    _, way = why(machine(**refused, **CALM), {}, operation)
    assert way["rungs"][-2]["explanation"] == "No budget left."
    assert way["rungs"][-1]["text"] == "m1-1: step 01-permit"


def test_a_machine_that_is_deleted_says_first_why_it_is_not_gone() -> None:
    obj = machine(Decommissioned=("False", "NoRoute", "The host must answer."))
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert why(obj, {}, None)[0]["rungs"][0]["explanation"] == "The host must answer."
